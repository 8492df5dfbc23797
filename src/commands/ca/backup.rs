//! `tipstaff ca backup` and `tipstaff ca restore`.

use super::keys::{Ambient, secret};
use super::{configured, database, print_fields};
use crate::cli::Output;
use crate::cli::ca::backup::{BackupSecretArgs, CaBackupArgs, CaRestoreArgs};
use crate::commands::print_json;
use crate::config::ca::{SecretSource, Store};
use anyhow::{Context, bail};
use ca::backup::RestoreOptions;
use ca::keys::Passphrase;
use serde::Serialize;
use std::process::ExitCode;

pub(super) const BACKUP_PASSPHRASE: Ambient = Ambient {
    variable: "TIPSTAFF_CA_BACKUP_PASSPHRASE",
    credential: "tipstaff-ca-backup-passphrase",
};

pub(super) fn backup(arguments: &CaBackupArgs) -> anyhow::Result<ExitCode> {
    let config = configured(&arguments.dir)?;
    let passphrase = passphrase(&arguments.secret)?;
    let database = database::of(&config)?;
    let manifest = ca::backup::backup(&config.dir, &database, &arguments.to, &passphrase)?;
    eprintln!("wrote {}", arguments.to.display());
    describe(&manifest, arguments.output.output)
}

pub(super) fn restore(arguments: &CaRestoreArgs) -> anyhow::Result<ExitCode> {
    let config = configured(&arguments.dir)?;
    if !matches!(config.store, Store::Sqlite) {
        bail!(
            "expected a CA whose records are in its directory: PostgreSQL has backups of its own"
        );
    }
    let passphrase = passphrase(&arguments.secret)?;
    let options = RestoreOptions {
        revocations: arguments.revocations.clone(),
        accept_rollback: arguments.accept_rollback,
    };
    let restored = ca::backup::restore(&arguments.from, &config.dir, &passphrase, &options)?;
    eprintln!(
        "restored {}; of what came after audit record {}, {} revocations are in it, and nothing else; join tokens that were not used by then are void",
        config.dir.display(),
        restored.manifest.ledger_seq,
        restored.revocations
    );
    describe(&restored, arguments.output.output)
}

pub(super) fn passphrase(arguments: &BackupSecretArgs) -> anyhow::Result<Passphrase> {
    let source = match &arguments.backup_passphrase_file {
        Some(file) => SecretSource::File(file.clone()),
        None => SecretSource::Ambient,
    };
    let Some(passphrase) = secret(&source, &BACKUP_PASSPHRASE)? else {
        bail!(
            "expected a passphrase for backups: give --backup-passphrase-file, set {}, or load the systemd credential {}",
            BACKUP_PASSPHRASE.variable,
            BACKUP_PASSPHRASE.credential
        );
    };
    Ok(passphrase)
}

fn describe(of_backup: &impl Serialize, output: Output) -> anyhow::Result<ExitCode> {
    let json = serde_json::to_value(of_backup).context("describing the backup")?;
    match output {
        Output::Json => print_json(&json)?,
        Output::Text => print_fields(&json, "")?,
    }
    Ok(ExitCode::SUCCESS)
}
