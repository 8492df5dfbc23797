//! The files of a CA directory: their names, modes and how they are written.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

pub(crate) const ROOT_CERTIFICATE: &str = "root.pem";
/// Not needed to issue: may be moved off the machine.
pub(crate) const ROOT_KEY: &str = "root.key";
pub(crate) const INTERMEDIATE_CERTIFICATE: &str = "intermediate.pem";
pub(crate) const INTERMEDIATE_KEY: &str = "intermediate.key";
/// There while the intermediate's certificate is awaited from a root elsewhere.
pub(crate) const INTERMEDIATE_REQUEST: &str = "intermediate.csr";
/// What clients start with. A copy: the bundle that counts is in the database.
pub(crate) const BUNDLE: &str = "ca-bundle.pem";
pub(crate) const DATABASE: &str = "ca.db";
const SERVE_LOCK: &str = "serve.lock";

/// Makes a directory that only its owner may enter.
pub(crate) fn create(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(directory)
}

/// Writes a file that must not exist yet, mode 0600, and syncs it.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Replaces a file, so that a reader sees the old or the new one and a crash leaves one of them.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    // Left by an earlier attempt that did not get as far as the rename.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_new(&temporary, bytes)?;
    fs::rename(&temporary, path)?;
    sync_parent(path)
}

/// Makes the directory entry of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// The right to serve a CA directory: of several processes, one has it. Given back on drop, and by the kernel when the
/// process dies.
#[derive(Debug)]
pub struct ServeLock {
    _file: File,
}

impl ServeLock {
    /// # Errors
    /// When another process serves this directory, or the lock file cannot be made.
    pub fn acquire(directory: &Path) -> Result<Self, ServeLockError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join(SERVE_LOCK))
            .map_err(ServeLockError::Io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(ServeLockError::Held),
            Err(TryLockError::Error(error)) => Err(ServeLockError::Io(error)),
        }
    }
}

/// Why a CA directory may not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeLockError {
    #[error("another process already serves this CA directory")]
    Held,
    #[error("cannot use the lock file of the CA directory")]
    Io(#[source] io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_served_once() {
        let directory = tempfile::tempdir().unwrap();
        let lock = ServeLock::acquire(directory.path()).unwrap();
        let second = ServeLock::acquire(directory.path());
        assert!(matches!(second, Err(ServeLockError::Held)), "{second:?}");
        drop(lock);
        assert!(ServeLock::acquire(directory.path()).is_ok());
    }

    #[test]
    fn replacing_survives_a_leftover_of_an_earlier_attempt() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(BUNDLE);
        write_new(&path, b"old").unwrap();
        assert!(write_new(&path, b"other").is_err());
        write_new(&path.with_extension("new"), b"half").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
