//! `tipstaff check`: loads a configuration, a sidecar's policy and endpoints, and a CA's entries, says what they mean, and runs
//! nothing. No secret is opened.

use super::{ca, print, print_fields, print_json};
use crate::cli::{CheckArgs, Output};
use crate::config::agent::{AgentConfig, Entry};
use crate::config::{Config, Kind};
use crate::policy_dir;
use policy::Policy;
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn run(arguments: &CheckArgs) -> anyhow::Result<ExitCode> {
    let (file, output) = (&arguments.config, arguments.output.output);
    match Kind::of(file)? {
        Kind::Sidecar => sidecar(file, output)?,
        Kind::Agent => agent(file, output)?,
        Kind::Ca => ca::explain(file, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn agent(file: &Path, output: Output) -> anyhow::Result<()> {
    let config = AgentConfig::load(file)?;
    let entries = config.entries.iter().map(|entry: &Entry| {
        serde_json::json!({"id": entry.identity.id.as_str(), "hint": entry.hint, "selectors": texts(&entry.selectors)})
    });
    let api = &config.workload_api;
    let report = serde_json::json!({
        "socket": api.socket,
        "mode": format!("{:04o}", api.mode),
        "maxConnections": api.max_connections,
        "admin": config.admin_listen.map(|address| address.to_string()),
        "entries": entries.collect::<Vec<_>>(),
    });
    match output {
        Output::Json => print_json(&report),
        Output::Text => print_fields(&report, ""),
    }
}

fn sidecar(file: &Path, output: Output) -> anyhow::Result<()> {
    let config = Config::load(file)?;
    let endpoints = config.proxy.check_files().map_err(anyhow::Error::from);
    let policy = policy_dir::load(&config.policy.dir, &config.policy.options());
    let policy = match (endpoints, policy.map_err(anyhow::Error::from)) {
        (Ok(()), Ok(policy)) => policy,
        // Who has repaired the one is not to learn of the other only then.
        (Err(endpoints), Err(policy)) => anyhow::bail!("{endpoints:#}\n{policy:#}"),
        (Err(error), Ok(_)) | (Ok(()), Err(error)) => return Err(error),
    };
    match output {
        Output::Json => print_json(&report(&config, &policy)),
        Output::Text => print_text(&config, &policy),
    }
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
