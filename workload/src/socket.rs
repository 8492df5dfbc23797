//! The socket: where it may be, who may connect, and how it takes the place of one that was left behind.

use rustix::fs::{Mode, chmod};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Longer ones do not fit into an address (unix(7): 108 bytes with the NUL), with room for the name beside it.
pub(crate) const MAX_PATH_BYTES: usize = 90;

/// Whether another process may be serving at the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Predecessor {
    /// It may not: somebody who answers there is an error.
    None,
    /// It may, and is replaced: connections made from now on are ours, those it has stay its own.
    Replaced,
}

/// A listening socket and the file that leads to it.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    mode: u32,
    file: FileId,
}

/// Device and inode.
type FileId = (u64, u64);

/// Binds `path` with permissions `mode`. A missing folder is made, for its owner alone to write to.
///
/// The socket appears whole: it is bound beside, in a folder that nobody else can enter, given its mode, and renamed into place. So it is never open to more than
/// `mode` says, and there is no moment without one when another is replaced.
pub(crate) fn bind(path: &Path, mode: u32, predecessor: Predecessor) -> Result<Bound, BindError> {
    if path.as_os_str().len() > MAX_PATH_BYTES {
        return Err(BindError::TooLong(path.to_owned()));
    }
    let fail = |source| BindError::Io {
        path: path.to_owned(),
        source,
    };
    let folder = path.parent().filter(|_| path.is_absolute());
    let folder = folder.ok_or_else(|| BindError::Relative(path.to_owned()))?;
    if !folder.exists() {
        fs::DirBuilder::new()
            .mode(0o755)
            .create(folder)
            .map_err(fail)?;
    }
    check_folder(folder)?;
    check_present(path, predecessor)?;

    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    // What a process with the same number left is nobody's. Within a folder only if it is ours, and so no link to elsewhere.
    let own = rustix::process::geteuid().as_raw();
    if fs::symlink_metadata(&beside).is_ok_and(|left| left.is_dir() && left.uid() == own) {
        let _ = fs::remove_file(beside.join("s"));
    }
    let _ = fs::remove_file(&beside).or_else(|_| fs::remove_dir(&beside));
    fs::DirBuilder::new()
        .mode(0o700)
        .create(&beside)
        .map_err(fail)?;
    let listener = listen(&beside, path, mode).map_err(fail)?;
    Ok(Bound {
        listener,
        path: path.to_owned(),
        mode,
        file: file_id(path).map_err(fail)?,
    })
}

/// In the folder `beside`, which is open to nobody else and is gone afterwards; then at `path`.
fn listen(beside: &Path, path: &Path, mode: u32) -> io::Result<UnixListener> {
    let hidden = beside.join("s");
    let placed = UnixListener::bind(&hidden).and_then(|listener| {
        chmod(&hidden, Mode::from_raw_mode(mode))?;
        listener.set_nonblocking(true)?;
        fs::rename(&hidden, path)?;
        Ok(listener)
    });
    if placed.is_err() {
        let _ = fs::remove_file(&hidden);
    }
    let _ = fs::remove_dir(beside);
    placed
}

/// Whoever may write to the folder may put another socket in the place of ours, and be asked for tokens by workloads, or
/// hand them identities that are not theirs.
fn check_folder(folder: &Path) -> Result<(), BindError> {
    let metadata = fs::metadata(folder).map_err(|source| BindError::Io {
        path: folder.to_owned(),
        source,
    })?;
    let own = rustix::process::geteuid().as_raw();
    let is_ours = is_trusted(metadata.uid(), own);
    let others_write = metadata.mode() & 0o022 != 0;
    // In a sticky folder, such as /tmp, files are replaced and removed by their owners alone.
    let is_sticky = metadata.mode() & 0o1000 != 0;
    if is_ours && (!others_write || is_sticky) {
        return Ok(());
    }
    Err(BindError::Folder {
        folder: folder.to_owned(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
    })
}

/// Only a socket makes way, and only one on which nobody answers, unless it is to be replaced.
fn check_present(path: &Path, predecessor: Predecessor) -> Result<(), BindError> {
    let Ok(found) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NoSocket(path.to_owned()));
    }
    if predecessor == Predecessor::None && is_answered(path) {
        return Err(BindError::InUse(path.to_owned()));
    }
    Ok(())
}

fn is_answered(path: &Path) -> bool {
    !UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn is_trusted(owner: u32, own: u32) -> bool {
    owner == own || owner == 0
}

/// Whether the file is ours or root's.
fn is_of_trusted(path: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    fs::symlink_metadata(path).is_ok_and(|found| is_trusted(found.uid(), own))
}

fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

impl Bound {
    /// Binds again if the file was removed, or leads to a socket that nobody answers on: that of a process which meant to
    /// replace this one, and ended. What another process of ours or root's serves is left to it; that of anybody else is an error.
    pub(crate) fn restore(&self) -> Option<Result<Self, BindError>> {
        let is_ours = file_id(&self.path).is_ok_and(|file| file == self.file);
        let is_served = is_ours || (is_of_trusted(&self.path) && is_answered(&self.path));
        (!is_served).then(|| bind(&self.path, self.mode, Predecessor::None))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        // A successor's stays.
        if file_id(&self.path).is_ok_and(|file| file == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Where it would be depends on the working directory.
    #[error("expected an absolute path of a socket, found {}", .0.display())]
    Relative(PathBuf),
    /// The kernel has no room for it.
    #[error("expected a path of at most {MAX_PATH_BYTES} bytes, found {}", .0.display())]
    TooLong(PathBuf),
    /// Others could replace the socket.
    #[error(
        "expected the folder {} of the socket to be ours or root's and not writable by others, found mode {mode:04o} and uid {uid}",
        folder.display()
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its owner.
        uid: u32,
    },
    /// Something else is there, and stays.
    #[error("expected a socket or nothing at {}, found another kind of file", .0.display())]
    NoSocket(PathBuf),
    /// Another process serves there.
    #[error("expected nobody to answer on {}, found a process that does", .0.display())]
    InUse(PathBuf),
    /// A call of the system failed.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// Of the socket, or of its folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn bind_here(path: &Path) -> Result<Bound, BindError> {
        bind(path, 0o600, Predecessor::None)
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api/socket");
        let left = folder
            .path()
            .join(format!("api/socket.{}", std::process::id()));
        fs::create_dir_all(&left).unwrap();
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(left.join("s"), "by one that was killed").unwrap();
        let bound = bind(&path, 0o660, Predecessor::None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777,
            0o755
        );
        let around = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(around.count(), 1, "nothing is left beside it");
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn only_a_dead_socket_makes_way_unless_it_is_to_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        fs::write(&path, "kept").unwrap();
        assert!(matches!(bind_here(&path), Err(BindError::NoSocket(_))));
        assert!(matches!(
            bind(&path, 0o600, Predecessor::Replaced),
            Err(BindError::NoSocket(_))
        ));
        fs::remove_file(&path).unwrap();
        symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(bind_here(&path), Err(BindError::NoSocket(_))));
        fs::remove_file(&path).unwrap();

        drop(UnixListener::bind(&path).unwrap());
        let living = bind_here(&path).unwrap();
        assert!(matches!(bind_here(&path), Err(BindError::InUse(_))));
        let successor = bind(&path, 0o600, Predecessor::Replaced).unwrap();
        drop(living);
        assert!(UnixStream::connect(&path).is_ok(), "the successor's stays");
        drop(successor);
    }

    #[test]
    fn only_our_own_sockets_and_roots_are_left_in_our_place() {
        assert!(is_trusted(1000, 1000) && is_trusted(0, 1000) && is_trusted(0, 0));
        assert!(!is_trusted(1001, 1000) && !is_trusted(1000, 0));
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        for (mode, is_safe) in [
            (0o777, false),
            (0o775, false),
            (0o757, false),
            (0o1777, true),
            (0o755, true),
            (0o700, true),
        ] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(bind_here(&path).is_ok(), is_safe, "{mode:o}");
        }
        let relative = bind_here(Path::new("socket"));
        assert!(matches!(relative, Err(BindError::Relative(_))));
    }

    #[test]
    fn a_socket_that_was_removed_or_replaced_in_vain_is_restored_and_anothers_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let first = bind_here(&path).unwrap();
        assert!(first.restore().is_none(), "all is well");
        fs::remove_file(&path).unwrap();
        let second = first.restore().unwrap().unwrap();

        let successor = bind(&path, 0o600, Predecessor::Replaced).unwrap();
        assert!(second.restore().is_none(), "another process serves");
        // It ends without a word, as by kill -9.
        drop(successor.listener.try_clone().unwrap());
        let Bound { ref listener, .. } = successor;
        rustix::net::shutdown(listener, rustix::net::Shutdown::Both).unwrap();
        let third = second.restore();
        assert!(third.is_some_and(|third| third.is_ok()));
    }
}
