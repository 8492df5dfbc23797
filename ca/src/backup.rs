//! Backups of a CA: its files and one moment of its database, encrypted with a passphrase.
//!
//! A backup is a tar archive inside an age file, so that `age -d backup.age | tar x` gets everything back without this
//! program. Keys stay sealed inside, as they are in the directory; those in a token stay there. A database on
//! PostgreSQL is not in it: it has backups of its own.

use crate::authority::{InitError, in_new_directory};
use crate::directory::{self, DATABASE};
use crate::keys::Passphrase;
use crate::ledger;
use crate::store::{self, Database, Restoration, StoreError};
use age::{Opening, Sealing};
use identity::TrustBundle;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tar::{Archive, Builder, EntryType, Header};
use zeroize::Zeroizing;

mod age;
mod restored;

#[cfg(test)]
mod tests;

/// The first file of a backup: what it is a backup of.
const MANIFEST: &str = "backup.json";
const FORMAT: u32 = 1;
/// Keys, certificates and the like. The database is the one large file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
const MAX_FILES: usize = 256;

/// What a backup says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    format: u32,
    pub trust_domain: String,
    /// Seconds since the Unix epoch.
    pub made_at: u64,
    /// The last audit record in it.
    pub ledger_seq: i64,
    /// Its hash, lower-case hexadecimal.
    pub ledger_hash: String,
}

/// Writes a backup of the CA in `directory` to `file`, which must not exist. A server may run: the backup has one moment
/// of its database.
///
/// # Errors
/// When something cannot be read or written, or the database is PostgreSQL's. No file is left then.
pub fn backup(
    directory: &Path,
    database: &Database,
    file: &Path,
    passphrase: &Passphrase,
) -> Result<Manifest, BackupError> {
    if matches!(database, Database::Postgres(_)) {
        return Err(BackupError::Postgres);
    }
    let io = |source| BackupError::Io {
        path: file.to_owned(),
        source,
    };
    directory::write_new(file, b"").map_err(io)?;
    // The snapshot is as large as the database, and goes where there is room for one.
    let written = in_scratch(file, "snapshot", |snapshot| {
        write(directory, database, file, snapshot, passphrase)
    });
    if written.is_err() {
        // Why it failed is worth more than why this might.
        let _ = fs::remove_file(file);
    }
    written
}

/// Has `work` use a directory beside `file` that is made for it and thrown away afterwards: nobody else's, nor what a
/// process that was killed has left.
fn in_scratch<T>(
    file: &Path,
    purpose: &str,
    work: impl FnOnce(&Path) -> Result<T, BackupError>,
) -> Result<T, BackupError> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).expect("AWS-LC's generator aborts rather than fail");
    let mut scratch = file.as_os_str().to_owned();
    scratch.push(format!(".{purpose}-{:016x}", u64::from_ne_bytes(random)));
    let scratch = PathBuf::from(scratch);
    let io = |source| BackupError::Io {
        path: scratch.clone(),
        source,
    };
    directory::create(&scratch).map_err(io)?;
    let done = work(&scratch);
    let removed = fs::remove_dir_all(&scratch).map_err(io);
    // Why the work failed is worth more than why this might.
    done.and_then(|value| removed.map(|()| value))
}

fn write(
    directory: &Path,
    database: &Database,
    file: &Path,
    snapshot: &Path,
    passphrase: &Passphrase,
) -> Result<Manifest, BackupError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Io { path, source }
    };
    let names = small_files(directory).map_err(io(directory))?;
    let files = read_all(directory, &names)?;
    store::snapshot(database, &snapshot.join(DATABASE)).map_err(BackupError::Store)?;
    // Files and database of one moment: a rotation in between would make two CAs of them.
    if small_files(directory).map_err(io(directory))? != names
        || read_all(directory, &names)? != files
    {
        return Err(BackupError::Changed);
    }
    let manifest = describe(snapshot)?;
    let out = File::options()
        .write(true)
        .open(file)
        .map(BufWriter::new)
        .map_err(io(file))?;
    let archive = || {
        let mut archive = Builder::new(Sealing::begin(out, passphrase)?);
        let text = serde_json::to_vec_pretty(&manifest).map_err(io::Error::other)?;
        append(&mut archive, MANIFEST, text.len() as u64, text.as_slice())?;
        for (name, bytes) in &files {
            append(&mut archive, name, bytes.len() as u64, bytes.as_slice())?;
        }
        let database = File::open(snapshot.join(DATABASE))?;
        let length = database.metadata()?.len();
        append(&mut archive, DATABASE, length, database)?;
        let mut out = archive.into_inner()?.finish()?;
        out.flush()?;
        out.get_ref().sync_all()?;
        directory::sync_parent(file)
    };
    archive().map_err(io(file))?;
    Ok(manifest)
}

/// The names of what belongs to the CA beside its database: neither locks nor what is being written.
fn small_files(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_file() && is_ours(&name) && !name.starts_with(DATABASE) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Whether a file of this name may be in a CA's directory and in a backup.
fn is_ours(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    name == DATABASE
        || [".pem", ".key", ".csr"]
            .iter()
            .any(|end| name.ends_with(end))
            && !name.starts_with('.')
            && name.len() <= 96
            && name.bytes().all(plain)
}

/// Keys may be among them, in plaintext where that was asked for.
type Files = Vec<(String, Zeroizing<Vec<u8>>)>;

fn read_all(directory: &Path, names: &[String]) -> Result<Files, BackupError> {
    let mut files = Vec::new();
    for name in names {
        let path = directory.join(name);
        let mut bytes = Zeroizing::new(Vec::new());
        let read = File::open(&path).and_then(|file| {
            let length = file.metadata()?.len().min(MAX_FILE_BYTES) + 1;
            // At once, as a vector that grows leaves copies behind.
            bytes.reserve_exact(usize::try_from(length).unwrap_or(0));
            file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)
        });
        match read {
            Err(source) => return Err(BackupError::Io { path, source }),
            Ok(length) if length as u64 > MAX_FILE_BYTES => {
                return Err(BackupError::TooLarge(path));
            }
            Ok(_) => files.push((name.clone(), bytes)),
        }
    }
    Ok(files)
}

fn append<W: Write>(
    archive: &mut Builder<W>,
    name: &str,
    length: u64,
    content: impl Read,
) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_size(length);
    header.set_mode(0o600);
    header.set_mtime(now());
    archive.append_data(&mut header, name, content)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// What the snapshot in `directory` is of. Its audit chain has to hold.
fn describe(directory: &Path) -> Result<Manifest, BackupError> {
    let database = Database::from(directory);
    let report = ledger::verify(&database).map_err(BackupError::Store)?;
    if !report.is_intact() {
        return Err(BackupError::Ledger(report.to_string()));
    }
    let (bundle, _) = store::read_settings(&database).map_err(BackupError::Store)?;
    let head = store::head(&database).map_err(BackupError::Store)?;
    Ok(Manifest {
        format: FORMAT,
        trust_domain: bundle.trust_domain().to_string(),
        made_at: now(),
        ledger_seq: head.seq,
        ledger_hash: report.head,
    })
}

/// How a CA is to go on from a backup.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Where it is known what was revoked since: directories of the CA as it was, CRLs that it has signed (PEM or DER). A CRL
    /// names certificates alone, not identities, lineages and authorities.
    pub revocations: Vec<PathBuf>,
    /// Gives up what was recorded since, so that what sidecars remember of it stops nothing.
    pub accept_rollback: bool,
}

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    #[serde(flatten)]
    pub manifest: Manifest,
    /// Join tokens that are void: they were not used by then, and may have been since.
    pub void_tokens: u64,
    /// Revocations from after the backup.
    pub revocations: u64,
}

/// Unpacks a backup into `directory`, which must not exist, once all of it has been read and its audit chain holds, and
/// records that it was restored.
///
/// # Errors
/// When the file is no backup, was changed or cut off, or its passphrase is another, or revocations cannot be read. Nothing is
/// left then.
pub fn restore(
    file: &Path,
    directory: &Path,
    passphrase: &Passphrase,
    options: &RestoreOptions,
) -> Result<Restored, BackupError> {
    let mut unpacked = None;
    let made = in_new_directory(directory, |directory| {
        let restored = unpack(file, directory, passphrase)
            .and_then(|manifest| settle(directory, manifest, options));
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

/// In the directory that nobody serves from yet.
fn settle(
    directory: &Path,
    manifest: Manifest,
    options: &RestoreOptions,
) -> Result<Restored, BackupError> {
    let sources = options.revocations.iter();
    let revoked = sources.map(|source| restored::revoked(source, directory));
    let restoration = Restoration {
        seq: manifest.ledger_seq,
        revoked: revoked.collect::<Result<_, _>>()?,
        accept_rollback: options.accept_rollback,
    };
    let database = Database::from(directory);
    let settled =
        store::settle(&database, &restoration, SystemTime::now()).map_err(BackupError::Store)?;
    Ok(Restored {
        manifest,
        void_tokens: settled.tokens,
        revocations: settled.revocations,
    })
}

/// Reads a whole backup, and holds the CA in it against what it says of itself, in a directory that is thrown away. Gives the
/// trust bundle in it, too.
///
/// # Errors
/// As [`restore`].
pub(crate) fn check(
    file: &Path,
    passphrase: &Passphrase,
) -> Result<(Manifest, TrustBundle), BackupError> {
    in_scratch(file, "drill", |scratch| {
        let manifest = unpack(file, scratch, passphrase)?;
        let settings = store::read_settings(&Database::from(scratch));
        let (bundle, _) = settings.map_err(BackupError::Store)?;
        Ok((manifest, bundle))
    })
}

fn unpack(file: &Path, into: &Path, passphrase: &Passphrase) -> Result<Manifest, BackupError> {
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
    let manifest = manifest.ok_or(BackupError::NotABackup)?;
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
    Ok(manifest)
}

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("cannot use {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot read the CA's database")]
    Store(#[source] StoreError),
    #[error(
        "the CA's records are in PostgreSQL, which has backups of its own (pg_basebackup, pg_dump)"
    )]
    Postgres,
    #[error("expected a file of at most {MAX_FILE_BYTES} bytes in {0}")]
    TooLarge(PathBuf),
    #[error("the CA's files were changed meanwhile; try again")]
    Changed,
    #[error("expected an intact audit chain: {0}")]
    Ledger(String),
    #[error("expected a backup of a CA, found something else in the age file")]
    NotABackup,
    #[error(
        "expected the directory of this CA or a CRL signed by an authority that is in the backup, found something else in {0}"
    )]
    Revocations(PathBuf),
    #[error("cannot make the CA's directory")]
    Directory(#[source] InitError),
}
