//! `tipstaff check`: loads a configuration and its policy, says what they mean, and runs nothing.

use super::print_json;
use crate::cli::{CheckArgs, Output};
use crate::config::Config;
use crate::policy_dir;
use std::process::ExitCode;

pub(crate) fn run(arguments: &CheckArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&arguments.config.config)?;
    let policy = policy_dir::load(&config.policy.dir, &config.policy.options())?;
    let counts = policy.counts();
    match arguments.output.output {
        Output::Json => {
            let report = serde_json::json!({
                "id": config.identity.id.as_str(),
                "policy": {"generation": policy.fingerprint(), "grants": counts.grants, "guards": counts.guards, "limits": counts.limits},
            });
            print_json(&report)?;
        }
        Output::Text => {
            println!("identity  {}", config.identity.id);
            for inbound in &config.proxy.inbound {
                println!("inbound   {} -> app {}", inbound.listen, inbound.app);
            }
            for service in config
                .proxy
                .outbound
                .iter()
                .flat_map(|outbound| &outbound.services)
            {
                println!(
                    "outbound  {} -> {}",
                    service.hosts.join(", "),
                    service.identity
                );
            }
            println!(
                "policy    {} grants, {} guards, {} limits",
                counts.grants, counts.guards, counts.limits
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
