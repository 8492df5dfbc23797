//! `tipstaff check`: loads a configuration and its policy, says what they mean, and runs nothing.

use super::{print, print_json};
use crate::cli::{CheckArgs, Output};
use crate::config::Config;
use crate::policy_dir;
use policy::Policy;
use std::process::ExitCode;

pub(crate) fn run(arguments: &CheckArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(&arguments.config.config)?;
    config.proxy.check_files()?;
    let policy = policy_dir::load(&config.policy.dir, &config.policy.options())?;
    match arguments.output.output {
        Output::Json => print_json(&report(&config, &policy))?,
        Output::Text => print_text(&config, &policy)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn report(config: &Config, policy: &Policy) -> serde_json::Value {
    let inbound = config.proxy.inbound.iter().map(|inbound| {
        serde_json::json!({"listen": inbound.listen.to_string(), "app": inbound.app.to_string(), "protocol": inbound.protocol})
    });
    let services = config
        .proxy
        .outbound
        .iter()
        .flat_map(|outbound| &outbound.services);
    let outbound = services.map(|service| {
        serde_json::json!({"hosts": service.hosts, "identity": service.identity.as_str()})
    });
    let tcp = config
        .proxy
        .outbound
        .iter()
        .flat_map(|outbound| &outbound.tcp);
    let tcp = tcp.map(|service| {
        serde_json::json!({"listen": service.listen.as_ref().map(ToString::to_string), "destinations": texts(&service.destinations), "identity": service.identity.as_str()})
    });
    let counts = policy.counts();
    serde_json::json!({
        "id": config.identity.id.as_str(),
        "inbound": inbound.collect::<Vec<_>>(),
        "outbound": outbound.collect::<Vec<_>>(),
        "tcp": tcp.collect::<Vec<_>>(),
        "policy": {"generation": policy.fingerprint(), "grants": counts.grants, "guards": counts.guards, "limits": counts.limits},
    })
}

fn print_text(config: &Config, policy: &Policy) -> anyhow::Result<()> {
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
    for service in config
        .proxy
        .outbound
        .iter()
        .flat_map(|outbound| &outbound.tcp)
    {
        let listen = service.listen.as_ref().map(ToString::to_string);
        let ways: Vec<_> = listen
            .into_iter()
            .chain(texts(&service.destinations))
            .collect();
        print(format_args!(
            "tcp       {} -> {}\n",
            ways.join(", "),
            service.identity
        ))?;
    }
    let counts = policy.counts();
    print(format_args!(
        "policy    {} grants, {} guards, {} limits\n",
        counts.grants, counts.guards, counts.limits
    ))
}

fn texts(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}
