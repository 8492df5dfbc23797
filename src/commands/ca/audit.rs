//! `tipstaff ca audit ...`.

use super::{Output, answer, configured, database, print, print_json};
use crate::cli::ca::audit::{AuditArchiveArgs, AuditCommand, AuditListArgs, AuditVerifyArgs};
use anyhow::Context;
use std::process::ExitCode;
use std::time::SystemTime;

pub(super) fn run(command: &AuditCommand) -> anyhow::Result<ExitCode> {
    match command {
        AuditCommand::Verify(arguments) => verify(arguments),
        AuditCommand::List(arguments) => list(arguments),
        AuditCommand::Archive(arguments) => archive(arguments),
    }
}

fn verify(arguments: &AuditVerifyArgs) -> anyhow::Result<ExitCode> {
    let database = database::of(&configured(&arguments.dir)?)?;
    let report = match &arguments.archive {
        Some(folder) => ca::ledger::verify_with_archive(&database, folder)?,
        None => ca::ledger::verify(&database)?,
    };
    match arguments.output.output {
        Output::Json => print_json(&report)?,
        Output::Text => print(format_args!("{report}\n"))?,
    }
    Ok(answer(report.is_intact()))
}

fn list(arguments: &AuditListArgs) -> anyhow::Result<ExitCode> {
    let database = database::of(&configured(&arguments.dir)?)?;
    let records = ca::ledger::records(&database, arguments.from, arguments.limit)?;
    match arguments.output.output {
        Output::Json => print_json(&records)?,
        Output::Text => {
            for record in &records {
                print(format_args!("{record}\n"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn archive(arguments: &AuditArchiveArgs) -> anyhow::Result<ExitCode> {
    let database = database::of(&configured(&arguments.dir)?)?;
    let before = SystemTime::now()
        .checked_sub(arguments.older_than)
        .context("--older-than: too long")?;
    let mut segments = Vec::new();
    while let Some(segment) = ca::ledger::archive(&database, &arguments.to, before)? {
        if let Output::Text = arguments.output.output {
            print(format_args!("{}\n", segment.file.display()))?;
        }
        segments.push(segment);
    }
    if let Output::Json = arguments.output.output {
        print_json(&segments)?;
    }
    Ok(ExitCode::SUCCESS)
}
