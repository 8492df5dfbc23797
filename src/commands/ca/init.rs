//! `tipstaff ca init`.

use super::{database, keys};
use crate::cli::ca::CaInitArgs;
use ca::config::InitOptions;
use std::process::ExitCode;

pub(super) fn run(arguments: &CaInitArgs) -> anyhow::Result<ExitCode> {
    let config = super::configured_with_keys(&arguments.keys)?;
    let dir = &config.dir;
    let protection = keys::protection(&config, arguments.insecure_plaintext_keys)?;
    let options = InitOptions {
        root_life: arguments.root_life,
        intermediate_life: arguments.intermediate_life,
        database: Some(database::of(&config)?),
        existing_key: arguments.existing_key.clone(),
        ..InitOptions::new(arguments.trust_domain.clone(), protection)
    };
    ca::init(dir, &options)?;
    eprintln!(
        "made a CA for {} in {}; give {} to its clients",
        arguments.trust_domain,
        dir.display(),
        dir.join("ca-bundle.pem").display()
    );
    Ok(ExitCode::SUCCESS)
}
