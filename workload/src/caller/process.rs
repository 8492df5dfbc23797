//! What a process runs, read so that everything is of one program and of one process.

use aws_lc_rs::digest::{Context, SHA256};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The digest of a larger program is not known. A gigabyte takes about a second.
const LARGEST_PROGRAM: u64 = 1024 * 1024 * 1024;
/// Programs whose digests are remembered.
const MOST_DIGESTS: usize = 256;
/// What the kernel puts behind the path of a file that is not there any more (proc_pid_exe(5)).
pub(super) const REMOVED: &str = " (deleted)";

/// What a caller runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    /// The program's file; one that was removed since has [`REMOVED`] behind it and is nothing that could be selected.
    pub(crate) path: PathBuf,
    /// Which file that is, whatever is at its path by now.
    pub(crate) inode: Inode,
    /// `None` when nobody asked, and for a program that is too large.
    pub(crate) sha256: Option<[u8; 32]>,
    /// The program of its parent; `None` when that cannot be told for certain.
    pub(crate) parent: Option<PathBuf>,
}

/// A file, for as long as something has it open or runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Inode {
    pub(crate) device: u64,
    pub(crate) number: u64,
}

impl Process {
    /// This, looked at after `before`, which is the same process. As long as it runs the same file from the same path, that
    /// and its parent are what they were: its file may have been replaced (an upgrade in place), its parent may have ended.
    pub(super) fn since(self, before: &Self) -> Self {
        let mut removed = before.path.clone().into_os_string();
        removed.push(REMOVED);
        // A file has several paths when it has several links, and each may be entitled to something else.
        let is_there = self.path == before.path || self.path.as_os_str() == removed;
        if self.inode != before.inode || !is_there {
            return self;
        }
        Self {
            path: before.path.clone(),
            parent: before.parent.clone().or(self.parent),
            ..self
        }
    }
}

/// Reads what `pid` runs, which is the process that `handle` is on.
///
/// # Errors
/// Of two kinds, which [`unless_certain`] tells apart.
pub(super) fn read(pid: i32, handle: &OwnedFd, digests: Option<&Digests>) -> io::Result<Process> {
    let program = Program::of(pid)?;
    let parent = unless_certain(parent(pid))?.flatten();
    let sha256 = digests.map(|digests| program.digest(digests)).transpose()?;
    let process = Process {
        path: program.path()?,
        inode: program.inode()?,
        sha256: sha256.flatten(),
        parent,
    };
    // While the process lives its number is its own: had it ended before, another could have been read instead.
    if has_ended(handle)? {
        return Err(Errno::SRCH.into());
    }
    Ok(process)
}

/// `None` for what is not known however often it is asked: of a process that has ended, or that we may not look at.
///
/// # Errors
/// Any other, such as too many open files: it may be known the next time.
pub(super) fn unless_certain<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    use io::ErrorKind::{NotFound, PermissionDenied};
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error)
            if matches!(error.kind(), NotFound | PermissionDenied)
                || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            tracing::debug!(%error, "what a process runs is not known");
            Ok(None)
        }
        Err(error) => Err(error),
    }
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

    fn inode(&self) -> io::Result<Inode> {
        self.0.metadata().map(|metadata| Inode::of(&metadata))
    }

    fn digest(&self, digests: &Digests) -> io::Result<Option<[u8; 32]>> {
        let metadata = self.0.metadata()?;
        if metadata.len() > LARGEST_PROGRAM {
            return Ok(None);
        }
        // A file that runs cannot be written to, and any change before or after shows in its times.
        let name = Version {
            inode: Inode::of(&metadata),
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
    inode: Inode,
    bytes: u64,
    changed: (i64, i64),
}

impl Inode {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            number: metadata.ino(),
        }
    }
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
        let version = |number| Version {
            inode: Inode { device: 1, number },
            bytes: 1,
            changed: (0, 0),
        };
        let first = digests.slot(version(0));
        assert!(Arc::ptr_eq(&first, &digests.slot(version(0))));
        for number in 0..1000 {
            assert_eq!(
                Arc::ptr_eq(&first, &digests.slot(version(number))),
                number == 0
            );
        }
        assert!(digests.0.lock().unwrap().len() <= MOST_DIGESTS);
    }

    #[test]
    fn only_what_is_certain_to_be_unknown_counts_as_unknown() {
        let unknown = |errno: Errno| unless_certain(Err::<(), _>(errno.into()));
        for certain in [Errno::NOENT, Errno::SRCH, Errno::ACCESS, Errno::PERM] {
            assert_eq!(unknown(certain).unwrap(), None, "{certain}");
        }
        for passing in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::IO] {
            assert!(unknown(passing).is_err(), "{passing}");
        }
    }

    #[test]
    fn a_process_keeps_its_path_and_parent_while_it_runs_that_file_from_there() {
        let process = |path: &str, number, parent: &str| Process {
            path: path.into(),
            inode: Inode { device: 1, number },
            sha256: None,
            parent: Some(parent.into()),
        };
        let before = process("/app", 1, "/init");
        for (now, is_kept) in [
            (process("/app", 1, "/other"), true),
            (process("/app (deleted)", 1, "/init (deleted)"), true),
            (process("/app", 2, "/other"), false),
            (process("/app (deleted)", 2, "/init"), false),
            (process("/link", 1, "/init"), false),
            (process("/link (deleted)", 1, "/init"), false),
        ] {
            let kept = if is_kept { &before } else { &now };
            assert_eq!(now.clone().since(&before), *kept, "{now:?}");
        }
    }
}
