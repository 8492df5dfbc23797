//! `tipstaff check`: loads a configuration and its policy, says what they mean, and runs nothing.

use super::{print, print_json};
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
            print(format_args!("identity  {}\n", config.identity.id))?;
            for inbound in &config.proxy.inbound {
                print(format_args!(
                    "inbound   {} -> app {}\n",
                    inbound.listen, inbound.app
                ))?;
            }
            for service in config
                .proxy
                .outbound
                .iter()
                .flat_map(|outbound| &outbound.services)
            {
                print(format_args!(
                    "outbound  {} -> {}\n",
                    service.hosts.join(", "),
                    service.identity
                ))?;
            }
            print(format_args!(
                "policy    {} grants, {} guards, {} limits\n",
                counts.grants, counts.guards, counts.limits
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
