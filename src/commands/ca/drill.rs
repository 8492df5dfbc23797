//! `tipstaff ca drill`.

use super::{backup, configured_with_keys, keys};
use crate::cli::Output;
use crate::cli::ca::backup::CaDrillArgs;
use crate::commands::{answer, print, print_json};
use ca::drill::{BackupToTry, Report, drill};
use std::process::ExitCode;
use std::time::SystemTime;

pub(super) fn run(arguments: &CaDrillArgs) -> anyhow::Result<ExitCode> {
    let config = configured_with_keys(&arguments.keys)?;
    let options = keys::open_options(&config)?;
    let backup = match &arguments.backup {
        None => None,
        Some(file) => Some(BackupToTry {
            file,
            passphrase: backup::passphrase(&arguments.secret)?,
        }),
    };
    let report = drill(&config.dir, &options, backup.as_ref(), SystemTime::now());
    match arguments.output.output {
        Output::Json => print_json(&report)?,
        Output::Text => print_text(&report)?,
    }
    Ok(answer(report.is_well()))
}

fn print_text(report: &Report) -> anyhow::Result<()> {
    let known = |time: &Option<String>| time.clone().unwrap_or_else(|| "unknown".to_owned());
    print(format_args!(
        "issuer ends               {}\nfull lives until          {}\n",
        known(&report.issuer_ends),
        known(&report.full_lives_until)
    ))?;
    print(format_args!(
        "if the CA stopped now, of {} identities\n",
        report.identities
    ))?;
    for after in &report.failed_after {
        print(format_args!(
            "  {:>5} min later         {} had failed\n",
            after.minutes, after.identities
        ))?;
    }
    for first in &report.first_to_fail {
        print(format_args!("  {}  {}\n", first.at, first.spiffe_id))?;
    }
    print(format_args!(
        "audit records             {}\n",
        report.audit_records
    ))?;
    if let Some(free) = report.free_bytes {
        print(format_args!(
            "room on disk              {} MiB\n",
            free / (1024 * 1024)
        ))?;
    }
    if let Some(backup) = &report.backup {
        print(format_args!(
            "backup                    of {}, {} records behind, database of version {}\n",
            backup.made_at, backup.records_behind, backup.database_version
        ))?;
    }
    for problem in &report.problems {
        print(format_args!("problem: {problem}\n"))?;
    }
    Ok(())
}
