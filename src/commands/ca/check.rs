//! `tipstaff ca check`: what a configuration says, without a CA to hold it against.

use crate::cli::Output;
use crate::cli::ca::CaCheckArgs;
use crate::commands::print_json;
use crate::config::ca::{CaConfig, PassphraseSource, Store};
use std::process::ExitCode;

pub(super) fn run(arguments: &CaCheckArgs) -> anyhow::Result<ExitCode> {
    let config = CaConfig::load(&arguments.config)?;
    let admin = config.admin_listen.map(|address| address.to_string());
    let passphrase = match &config.keys.passphrase {
        PassphraseSource::Environment => super::PASSPHRASE_VARIABLE.to_owned(),
        PassphraseSource::File(file) => file.display().to_string(),
    };
    let store = match config.store {
        Store::Sqlite => "sqlite",
    };
    let report = serde_json::json!({
        "dir": config.dir,
        "listen": config.listen.to_string(),
        "admin": admin,
        "passphrase": passphrase,
        "store": store,
    });
    match arguments.output.output {
        Output::Json => print_json(&report)?,
        Output::Text => super::print_fields(&report, "")?,
    }
    Ok(ExitCode::SUCCESS)
}
