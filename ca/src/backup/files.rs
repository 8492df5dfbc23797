//! Which files of a CA's directory belong to it, and what they hold.

use super::{BackupError, MAX_FILE_BYTES};
use crate::directory::DATABASE;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use zeroize::Zeroizing;

/// The names of what belongs to the CA beside its database: neither locks nor what is being written.
pub(super) fn small_files(directory: &Path) -> io::Result<Vec<String>> {
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
pub(super) fn is_ours(name: &str) -> bool {
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
pub(super) type Files = Vec<(String, Zeroizing<Vec<u8>>)>;

pub(super) fn read_all(directory: &Path, names: &[String]) -> Result<Files, BackupError> {
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
