//! Reads a backup, and holds what is in it against what it says of itself.

use super::age::Opening;
use super::files::is_ours;
use super::{BackupError, FORMAT, MANIFEST, MAX_FILE_BYTES, Manifest, describe, in_scratch};
use crate::directory;
use crate::keys::Passphrase;
use crate::store::{self, Database};
use identity::TrustBundle;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use tar::{Archive, EntryType};

const MAX_FILES: usize = 256;

/// What a backup that holds up has in it.
pub(crate) struct Contents {
    pub(crate) manifest: Manifest,
    pub(crate) bundle: TrustBundle,
    /// The version that its database was of.
    pub(crate) database_version: u32,
}

/// Reads a whole backup in a directory that is thrown away.
///
/// # Errors
/// As [`super::restore`].
pub(crate) fn check(file: &Path, passphrase: &Passphrase) -> Result<Contents, BackupError> {
    in_scratch(file, "drill", |scratch| {
        let (manifest, database_version) = unpack(file, scratch, passphrase)?;
        let settings = store::read_settings(&Database::from(scratch));
        let (bundle, _) = settings.map_err(BackupError::Store)?;
        Ok(Contents {
            manifest,
            bundle,
            database_version,
        })
    })
}

/// Unpacks a backup into a directory that is there and empty, and brings its database up to date. Gives which version that was
/// of.
///
/// # Errors
/// As [`super::restore`].
pub(super) fn unpack(
    file: &Path,
    into: &Path,
    passphrase: &Passphrase,
) -> Result<(Manifest, u32), BackupError> {
    let manifest = extract(file, into, passphrase)?;
    let database = Database::from(into);
    let version = store::bring_up_to_date(&database).map_err(BackupError::Store)?;
    let found = describe(into)?;
    let of = |manifest: &Manifest| {
        let Manifest {
            trust_domain,
            ledger_seq,
            ledger_hash,
            ..
        } = manifest;
        (trust_domain.clone(), *ledger_seq, ledger_hash.clone())
    };
    if of(&found) != of(&manifest) {
        return Err(BackupError::NotABackup);
    }
    Ok((manifest, version))
}

fn extract(file: &Path, into: &Path, passphrase: &Passphrase) -> Result<Manifest, BackupError> {
    let io = |source| BackupError::Io {
        path: file.to_owned(),
        source,
    };
    let source = File::open(file).map_err(io)?;
    let opening = Opening::begin(source, passphrase).map_err(io)?;
    let mut archive = Archive::new(opening);
    let mut manifest: Option<Manifest> = None;
    for (count, entry) in archive.entries().map_err(io)?.enumerate() {
        let mut entry = entry.map_err(io)?;
        let name = entry.path_bytes();
        let name = std::str::from_utf8(&name).map_err(|_| BackupError::NotABackup)?;
        let name = name.to_owned();
        if entry.header().entry_type() != EntryType::Regular || count > MAX_FILES {
            return Err(BackupError::NotABackup);
        }
        match &manifest {
            None if name == MANIFEST => {
                let mut text = Vec::new();
                entry
                    .take(MAX_FILE_BYTES)
                    .read_to_end(&mut text)
                    .map_err(io)?;
                let read = serde_json::from_slice(&text).ok();
                manifest = read.filter(|manifest: &Manifest| manifest.format == FORMAT);
                if manifest.is_none() {
                    return Err(BackupError::NotABackup);
                }
            }
            Some(_) if is_ours(&name) => {
                let path = into.join(&name);
                directory::write_new(&path, b"").map_err(io)?;
                let mut out = File::options().write(true).open(&path).map_err(io)?;
                io::copy(&mut entry, &mut out)
                    .and_then(|_| out.sync_all())
                    .map_err(io)?;
            }
            _ => return Err(BackupError::NotABackup),
        }
    }
    // What is behind the archive's end is padding; that the file ends here is authentic only once it was read.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(io)?;
    manifest.ok_or(BackupError::NotABackup)
}
