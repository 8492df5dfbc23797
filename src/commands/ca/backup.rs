//! `tipstaff ca backup` and `tipstaff ca restore`.

use super::keys::{Ambient, secret};
use super::{configured, database, print_fields};
use crate::cli::Output;
use crate::cli::ca::backup::{BackupSecretArgs, CaBackupArgs, CaRestoreArgs};
use crate::commands::print_json;
use crate::config::ca::{CaConfig, SecretSource, Store};
use anyhow::{Context, bail};
use ca::backup::{CrlRead, RestoreOptions, Settled, Source};
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
    let options = restore_options(arguments)?;
    match (&config.store, &arguments.from) {
        (Store::Sqlite, Some(file)) => {
            let passphrase = passphrase(&arguments.secret)?;
            let restored = ca::backup::restore(file, &config.dir, &passphrase, &options)?;
            eprintln!("restored {}", config.dir.display());
            say(&restored.settled);
            describe(&restored, arguments.output.output)
        }
        (Store::Postgres(_), None) => {
            let settled = ca::backup::settle(&config.dir, &database::of(&config)?, &options)?;
            say(&settled);
            describe(&settled, arguments.output.output)
        }
        (Store::Sqlite, None) => bail!("expected --from with the backup to restore"),
        (Store::Postgres(_), Some(_)) => bail!(
            "expected no --from for a CA whose records are on PostgreSQL: bring them back by its own means (pg_restore, a base backup), and then run this without"
        ),
    }
}

fn restore_options(arguments: &CaRestoreArgs) -> anyhow::Result<RestoreOptions> {
    let paths = arguments.revocations.iter().cloned().map(Source::Path);
    let records = arguments.revocations_config.iter().map(|file| {
        let config = CaConfig::load(file)?;
        Ok(Source::Records(database::of(&config)?))
    });
    Ok(RestoreOptions {
        revocations: paths
            .map(Ok)
            .chain(records)
            .collect::<anyhow::Result<_>>()?,
        accept_rollback: arguments.accept_rollback,
    })
}

fn say(settled: &Settled) {
    eprintln!(
        "of what came after audit record {}, {} revocations and {} frozen lineages are in it, and nothing else; join tokens that were not used by then are void",
        settled.ended_at, settled.revocations, settled.frozen_lineages
    );
    for CrlRead { path, made_at } in &settled.crls {
        let path = path.display();
        eprintln!("{path} was made at {made_at}: what was revoked later is not in it");
    }
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
