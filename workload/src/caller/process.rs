//! What a process runs, read so that everything is of one program and of one process.

use aws_lc_rs::digest::{Context, SHA256};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The digest of a larger program is not known. A gigabyte takes about a second.
const LARGEST_PROGRAM: u64 = 1024 * 1024 * 1024;
/// Programs whose digests are remembered.
const MOST_DIGESTS: usize = 256;

/// What a caller runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// The program's file; one that was removed since has ` (deleted)` behind it and is nothing that could be selected.
    pub(crate) path: PathBuf,
    /// `None` when nobody asked, and for a program that cannot be read or is too large.
    pub(crate) sha256: Option<[u8; 32]>,
    /// The program of its parent; `None` when that cannot be told for certain.
    pub(crate) parent: Option<PathBuf>,
}

/// Reads what `pid` runs, which is the process that `handle` is on.
pub(super) fn read(pid: i32, handle: &OwnedFd, digests: Option<&Digests>) -> io::Result<Process> {
    let program = Program::of(pid)?;
    let parent = parent(pid).ok().flatten();
    let process = Process {
        path: program.path()?,
        sha256: digests.and_then(|digests| program.digest(digests).ok().flatten()),
        parent,
    };
    // While the process lives its number is its own: had it ended before, another could have been read instead.
    if has_ended(handle)? {
        return Err(io::Error::other("the process has ended"));
    }
    Ok(process)
}

/// One open handle on the file, so that path and contents are of the same program whatever the process executes meanwhile.
struct Program(File);

impl Program {
    fn of(pid: i32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/exe")).map(Self)
    }

    fn path(&self) -> io::Result<PathBuf> {
        fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    fn digest(&self, digests: &Digests) -> io::Result<Option<[u8; 32]>> {
        let metadata = self.0.metadata()?;
        if metadata.len() > LARGEST_PROGRAM {
            return Ok(None);
        }
        // A file that runs cannot be written to, and any change before or after shows in its times.
        let name = Version {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        let slot = digests.slot(name);
        // Whoever asks for the same program meanwhile waits here for the one who reads it.
        let mut digest = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if digest.is_none() {
            *digest = Some(hash(&self.0)?);
        }
        Ok(*digest)
    }
}

/// One state of one file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// The digests of programs that called before.
#[derive(Debug, Default)]
pub(crate) struct Digests(Mutex<HashMap<Version, Slot>>);

/// Empty until one caller has read the program.
type Slot = Arc<Mutex<Option<[u8; 32]>>>;

impl Digests {
    fn slot(&self, version: Version) -> Slot {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_DIGESTS && !known.contains_key(&version) {
            known.clear();
        }
        Arc::clone(known.entry(version).or_default())
    }
}

fn hash(mut file: &File) -> io::Result<[u8; 32]> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    let mut left = LARGEST_PROGRAM;
    loop {
        let read = file.read(&mut buffer)?;
        left = left
            .checked_sub(read as u64)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        if read == 0 {
            break;
        }
        context.update(&buffer[..read]);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    Ok(digest)
}

/// What the parent runs. A process whose parent ends gets another, so the parent that it still has afterwards was alive.
fn parent(pid: i32) -> io::Result<Option<PathBuf>> {
    let before = parent_of(pid)?;
    let Some(number) = Pid::from_raw(before) else {
        return Ok(None);
    };
    let handle = pidfd_open(number, PidfdFlags::empty())?;
    let path = Program::of(before)?.path()?;
    let is_certain = parent_of(pid)? == before && !has_ended(&handle)?;
    Ok(is_certain.then_some(path))
}

/// The fourth field of `/proc/<pid>/stat`. The second is the program's name in parentheses, with whatever it likes in it.
fn parent_of(pid: i32) -> io::Result<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1)?.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A pidfd is readable once its process has ended.
fn has_ended(handle: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    let at_once = Timespec::default();
    Ok(poll(&mut fds, Some(&at_once))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_read_once_and_others_wait_for_that() {
        let digests = Digests::default();
        let version = |inode| Version {
            device: 1,
            inode,
            bytes: 1,
            changed: (0, 0),
        };
        let first = digests.slot(version(0));
        assert!(Arc::ptr_eq(&first, &digests.slot(version(0))));
        for inode in 0..1000 {
            assert_eq!(
                Arc::ptr_eq(&first, &digests.slot(version(inode))),
                inode == 0
            );
        }
        assert!(digests.0.lock().unwrap().len() <= MOST_DIGESTS);
    }
}
