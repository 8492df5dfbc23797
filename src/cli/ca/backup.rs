//! `tipstaff ca backup`, `restore` and `drill`.

use super::{CaDirArgs, CaKeyArgs};
use crate::cli::OutputArgs;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct BackupSecretArgs {
    /// A file that holds the passphrase of backups (a final newline is not part of it). Without it,
    /// TIPSTAFF_CA_BACKUP_PASSPHRASE is read, and then the systemd credential tipstaff-ca-backup-passphrase.
    #[arg(long, value_name = "FILE")]
    pub(crate) backup_passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CaBackupArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// The file to write, which must not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    #[command(flatten)]
    pub(crate) secret: BackupSecretArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CaRestoreArgs {
    /// The CA whose directory is to be made; it must not exist. One that is there, if its records are on PostgreSQL.
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// The backup. Not for a CA whose records are on PostgreSQL: bring those back by its own means first; this settles how the
    /// CA goes on from them.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Where it is known what was revoked after the backup: the CA's directory as it was, moved aside, or a CRL that it has
    /// signed, which names certificates alone. May be given several times.
    #[arg(long, value_name = "PATH")]
    pub(crate) revocations: Vec<PathBuf>,
    /// The same by a configuration of the CA (YAML) whose store is the records as they were, such as the database on PostgreSQL
    /// under another name. May be given several times.
    #[arg(long, value_name = "FILE")]
    pub(crate) revocations_config: Vec<PathBuf>,
    /// Give up what was recorded after the backup. Without it the CA issues until the first sidecar shows that something was
    /// lost, and then nothing until `ca serve --accept-rollback SEQ`.
    #[arg(long)]
    pub(crate) accept_rollback: bool,
    #[command(flatten)]
    pub(crate) secret: BackupSecretArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CaDrillArgs {
    #[command(flatten)]
    pub(crate) keys: CaKeyArgs,
    /// A backup to try: it is decrypted, unpacked beside itself, verified and thrown away.
    #[arg(long, value_name = "FILE")]
    pub(crate) backup: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) secret: BackupSecretArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
