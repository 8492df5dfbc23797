//! `tipstaff ca check`, and `tipstaff check` of a CA's configuration: what it says, without a CA to hold it against.

use super::database::URL;
use super::keys::{Ambient, PASSPHRASE, PIN};
use crate::cli::Output;
use crate::cli::ca::CaCheckArgs;
use crate::commands::{print_fields, print_json};
use crate::config::ca::entries::load_dir;
use crate::config::ca::{CaConfig, SecretSource, Store, Transport};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

pub(super) fn run(arguments: &CaCheckArgs) -> anyhow::Result<ExitCode> {
    explain(&arguments.config, arguments.output.output)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what the configuration in `file` says.
pub(crate) fn explain(file: &Path, output: Output) -> anyhow::Result<()> {
    let config = CaConfig::load(file)?;
    let admin = config.admin_listen.map(|address| address.to_string());
    let crl = config.crl_listen.map(|address| address.to_string());
    let keys = &config.keys;
    let token = keys.pkcs11.as_ref().map(|token| {
        serde_json::json!({
            "module": token.module,
            "token": token.token,
            "pin": whence(&token.pin, &PIN),
        })
    });
    let store = match &config.store {
        Store::Sqlite => serde_json::json!("sqlite"),
        Store::Postgres(server) => serde_json::json!({"postgres": {
            "url": whence(&server.url, &URL),
            "transport": match &server.transport {
                Transport::Authorities(file) => format!("TLS by {}", file.display()),
                Transport::SameMachine => "this machine".to_owned(),
                Transport::InsecurePlaintext => "insecure plaintext".to_owned(),
            },
        }}),
    };
    let attest = &config.attest;
    let clusters: Vec<&str> = attest.kubernetes.iter().map(|one| &*one.name).collect();
    let providers: Vec<&str> = attest.oidc.iter().map(|one| &*one.name).collect();
    let outside: Vec<&str> = attest.x509pop.iter().map(|one| &*one.name).collect();
    let entries = match &config.entries {
        Some(dir) => load_dir(dir)?.len(),
        None => 0,
    };
    let administrators: Vec<&str> = config.administrators.iter().map(|id| id.as_str()).collect();
    let federation: Vec<&str> = config
        .federation
        .iter()
        .map(|one| one.trust_domain.as_str())
        .collect();
    let report = serde_json::json!({
        "dir": config.dir,
        "listen": config.listen.to_string(),
        "serverNames": config.server_names,
        "admin": admin,
        "crl": crl,
        "bundleEndpoint": config.bundle_endpoint.map(|endpoint| endpoint.listen.to_string()),
        "passphrase": whence(&keys.passphrase, &PASSPHRASE),
        "pkcs11": token,
        "store": store,
        "attest": {"kubernetes": clusters, "oidc": providers, "x509pop": outside},
        "entries": entries,
        "administrators": administrators,
        "jwt": config.jwt.as_ref().map(|jwt| serde_json::json!({"ttl": period(jwt.ttl)})),
        "rotation": rotation(&config.rotation),
        "federation": federation,
        "limits": limits(&config.limits),
        "archive": config.archive.as_ref().map(|archive| &archive.folder),
    });
    match output {
        Output::Json => print_json(&report),
        Output::Text => print_fields(&report, ""),
    }
}

fn rotation(options: &ca::rotation::Options) -> serde_json::Value {
    serde_json::json!({
        "automatic": options.automatic,
        "prepareAtPercent": options.prepare_at_percent,
        "acknowledgedPercent": options.acknowledged_percent,
        "activateAfter": period(options.activate_after),
        "retireAfter": period(options.retire_after),
        "rootLife": period(options.lives.root),
        "intermediateLife": period(options.lives.intermediate),
    })
}

/// Those that can be configured.
fn limits(options: &ca::server::Options) -> serde_json::Value {
    serde_json::json!({
        "certificatesPerMinute": options.certificates_per_minute,
        "certificatesPerMinutePerAddress": options.certificates_per_minute_per_address,
        "refusalsPerMinute": options.refusals_per_minute,
        "issuedAtOnce": options.issued_at_once,
        "waiting": options.waiting,
        "longestWait": period(options.longest_wait),
        "handshakesAtOnce": options.handshakes_at_once,
        "readsPerMinutePerAddress": options.reads_per_minute_per_address,
    })
}

/// In seconds, as a configuration may have it.
fn period(period: Duration) -> String {
    format!("{period:?}")
}

fn whence(source: &SecretSource, ambient: &Ambient) -> String {
    match source {
        SecretSource::Ambient => ambient.variable.to_owned(),
        SecretSource::File(file) => file.display().to_string(),
    }
}
