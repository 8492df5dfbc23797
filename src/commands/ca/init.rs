//! `tipstaff ca init`.

use super::{database, keys};
use crate::cli::ca::CaInitArgs;
use crate::commands::print;
use crate::config::ca::CaConfig;
use anyhow::Context;
use ca::config::{Hierarchy, InitOptions};
use std::path::Path;
use std::process::ExitCode;

pub(super) fn run(arguments: &CaInitArgs) -> anyhow::Result<ExitCode> {
    let config = super::configured_with_keys(&arguments.keys)?;
    match &arguments.finish {
        Some(chain) => finish(&config, chain)?,
        None => make(&config, arguments)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn make(config: &CaConfig, arguments: &CaInitArgs) -> anyhow::Result<()> {
    let trust_domain = arguments.trust_domain.clone();
    let trust_domain = trust_domain.context("expected --trust-domain")?;
    let protection = keys::protection(config, arguments.insecure_plaintext_keys)?;
    let options = InitOptions {
        root_life: arguments.root_life,
        intermediate_life: arguments.intermediate_life,
        hierarchy: match arguments.no_intermediate {
            true => Hierarchy::RootAlone,
            false => Hierarchy::Intermediate,
        },
        database: Some(database::of(config)?),
        existing_key: arguments.existing_key.clone(),
        ..InitOptions::new(trust_domain, protection)
    };
    let dir = &config.dir;
    if arguments.external_root {
        let request = ca::authority::request_intermediate(dir, &options)?;
        print(format_args!("{request}"))?;
        eprintln!(
            "made the issuing key in {}; have the request signed, with CA true and path length 0, and take the chain back with --finish",
            dir.display()
        );
        return Ok(());
    }
    ca::init(dir, &options)?;
    tell_made(config);
    Ok(())
}

fn finish(config: &CaConfig, chain: &Path) -> anyhow::Result<()> {
    let reading = || format!("reading {}", chain.display());
    let pem = std::fs::read(chain).with_context(reading)?;
    ca::authority::finish(&config.dir, &pem, &keys::open_options(config)?).with_context(reading)?;
    tell_made(config);
    Ok(())
}

fn tell_made(config: &CaConfig) {
    let dir = &config.dir;
    eprintln!(
        "made a CA in {}; give {} to its clients",
        dir.display(),
        dir.join("ca-bundle.pem").display()
    );
}
