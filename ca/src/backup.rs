//! Backups of a CA: its files and one moment of its database, encrypted with a passphrase.
//!
//! A backup is a tar archive inside an age file, so that `age -d backup.age | tar x` gets everything back without this
//! program. Keys stay sealed inside, as they are in the directory; those in a token stay there. A database on
//! PostgreSQL is not in it: it has backups of its own.

use crate::authority::{InitError, OpenError};
use crate::directory::{self, DATABASE};
use crate::keys::Passphrase;
use crate::ledger;
use crate::store::{self, Database, StoreError};
use age::Sealing;
use files::{read_all, small_files};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tar::{Builder, Header};

mod age;
mod files;
mod restore;
mod revoked;
mod unpack;

#[cfg(test)]
mod tests;

pub use restore::{CrlRead, RestoreOptions, Restored, Settled, Source, restore, settle};
pub(crate) use unpack::{Contents, check};

/// The first file of a backup: what it is a backup of.
const MANIFEST: &str = "backup.json";
const FORMAT: u32 = 1;
/// Keys, certificates and the like. The database is the one large file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

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
    let manifest = describe_as_is(snapshot)?;
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

/// What the snapshot in `directory` is of, which stays as it is: the program of an earlier release, which made the database, has
/// to be able to go back to it.
fn describe_as_is(directory: &Path) -> Result<Manifest, BackupError> {
    let database = Database::from(directory);
    if !store::is_older(&database).map_err(BackupError::Store)? {
        return describe(directory);
    }
    let copy = directory.join("copy");
    directory::create(&copy).map_err(|source| BackupError::Io {
        path: copy.clone(),
        source,
    })?;
    store::snapshot(&database, &copy.join(DATABASE))
        .and_then(|()| store::bring_up_to_date(&Database::from(&copy)))
        .map_err(BackupError::Store)?;
    describe(&copy)
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
        "expected the directory of this CA, or a CRL signed by an authority that it knew then and that is not revoked, found something else in {0}"
    )]
    Revocations(PathBuf),
    #[error("expected revocations of this CA, found records of another")]
    AnotherCa,
    #[error(
        "expected the CA's records as they were, found those that are to go on: keep a database that is restored under another name first, and name that"
    )]
    SameRecords,
    #[error("cannot read the CA's own certificate")]
    Issuer(#[source] OpenError),
    #[error("cannot make the CA's directory")]
    Directory(#[source] InitError),
}
