//! `tipstaff ca audit ...`.

use super::super::{OutputArgs, duration};
use super::CaDirArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Walk the chain of records: exit 0 if it is whole and accounts for every certificate, 1 if not.
    Verify(AuditVerifyArgs),
    /// Show the records, oldest first: what was issued, refused and administered, to whom and when.
    List(AuditListArgs),
    /// Move old records, whose certificates are swept, from the database to files. The chain still holds.
    #[command(
        after_help = "Example:\n  tipstaff ca audit archive --dir ca --to /var/lib/tipstaff/audit --older-than 30d"
    )]
    Archive(AuditArchiveArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AuditVerifyArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// Where `audit archive` has put records: verify these, too.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) archive: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AuditListArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// The number of the first record to show.
    #[arg(long, default_value_t = 1, value_name = "SEQ")]
    pub(crate) from: i64,
    /// The most records to show.
    #[arg(long, default_value_t = 1000)]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArchiveArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// A folder that exists, the same each time: whoever can write to it can lose records, not change them unnoticed.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) to: PathBuf,
    /// Younger records stay.
    #[arg(long, default_value = "30d", value_parser = duration)]
    pub(crate) older_than: Duration,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
