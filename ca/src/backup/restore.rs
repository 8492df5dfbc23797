//! A CA goes on from an older state of itself: a backup of ours, or a database that PostgreSQL's own means brought back.

use super::revoked::{Known, known};
use super::unpack::unpack;
use super::{BackupError, Manifest};
use crate::authority::{InitError, in_new_directory};
use crate::keys::Passphrase;
use crate::store::{self, Database, Restoration};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[cfg(test)]
mod tests;

/// Where it is known what was revoked after a backup.
#[derive(Debug, Clone)]
pub enum Source {
    /// The CA's directory as it was, or a CRL that one of its authorities has signed (PEM or DER). A CRL names certificates
    /// alone, not identities, lineages and authorities.
    Path(PathBuf),
    /// The CA's records as they were.
    Records(Database),
}

/// How a CA is to go on from an older state.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    pub revocations: Vec<Source>,
    /// Gives up what was recorded since, so that what sidecars remember of it stops nothing.
    pub accept_rollback: bool,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    #[serde(flatten)]
    pub manifest: Manifest,
    #[serde(flatten)]
    pub settled: Settled,
}

/// A CRL that was read. What was revoked after it was made is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CrlRead {
    pub path: PathBuf,
    /// RFC 3339.
    pub made_at: String,
}

/// How it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settled {
    /// The last audit record of the older state.
    pub ended_at: i64,
    /// Join tokens that are void: they were not used by then, and may have been since.
    pub void_tokens: u64,
    /// Revocations from after it.
    pub revocations: u64,
    /// Lineages that were frozen after it.
    pub frozen_lineages: u64,
    /// The CRLs that revocations were taken from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crls: Vec<CrlRead>,
}

/// Unpacks a backup into `directory`, which must not exist, once all of it has been read and its audit chain holds, and
/// records that it was restored. A database from an earlier release is brought up to date.
///
/// # Errors
/// When the file is no backup, was changed or cut off, or its passphrase is another, it is of a later release, or revocations
/// cannot be read. Nothing is left then.
pub fn restore(
    file: &Path,
    directory: &Path,
    passphrase: &Passphrase,
    options: &RestoreOptions,
) -> Result<Restored, BackupError> {
    let mut unpacked = None;
    let made = in_new_directory(directory, |directory| {
        let restored = unpack(file, directory, passphrase).and_then(|(manifest, _)| {
            let settled = settle(directory, &Database::from(directory), options)?;
            Ok(Restored { manifest, settled })
        });
        unpacked = Some(restored);
        match &unpacked {
            Some(Ok(_)) => Ok(()),
            _ => Err(InitError::Abandoned),
        }
    });
    match (made, unpacked) {
        (Ok(()), Some(Ok(restored))) => Ok(restored),
        (_, Some(Err(error))) => Err(error),
        (Err(error), _) => Err(BackupError::Directory(error)),
        (Ok(()), None) => Err(BackupError::NotABackup),
    }
}

/// Has the CA in `directory` go on from records that were brought back by other means than ours, as those on PostgreSQL are:
/// takes what was revoked since, voids join tokens that were not used by then, and records it. Best before anybody serves from
/// them; a server that runs follows. A database from an earlier release is brought up to date.
///
/// # Errors
/// When revocations cannot be read, or nothing could be recorded. Nothing is changed then but the release.
pub fn settle(
    directory: &Path,
    database: &Database,
    options: &RestoreOptions,
) -> Result<Settled, BackupError> {
    store::bring_up_to_date(database).map_err(BackupError::Store)?;
    let Known { revoked, crls } = known(&options.revocations, directory, database)?;
    let restoration = Restoration {
        revoked,
        accept_rollback: options.accept_rollback,
    };
    let settled =
        store::settle(database, &restoration, SystemTime::now()).map_err(BackupError::Store)?;
    Ok(Settled {
        ended_at: settled.seq,
        void_tokens: settled.tokens,
        revocations: settled.revocations,
        frozen_lineages: settled.frozen,
        crls,
    })
}
