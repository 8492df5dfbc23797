//! Files that people replace while they are followed: read within bounds, and told from what they were without reading.

use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Files are looked at, not watched: a look also sees a folder that was removed and made anew, a symbolic link that points
/// elsewhere now (how Kubernetes updates a ConfigMap) and a file on a network share, and it needs no kernel watches, of
/// which a crowded machine runs out. A hundred files cost a tenth of a millisecond a look.
pub const LOOK_EVERY: Duration = Duration::from_millis(400);

/// Files that were refused are read again after this long without any change: the reason may have been the machine's.
pub const RETRY_AFTER: Duration = Duration::from_secs(10);

/// The text of a configuration or policy file. What is larger than any of these may be is cut, one byte past the limit,
/// for the YAML reader to refuse.
///
/// # Errors
/// When it cannot be read, is not a file (opening a named pipe would wait for its writer) or not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("expected a file"));
    }
    let limit = policy::yaml::MAX_FILE_BYTES + 1;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(limit as u64)
        .read_to_end(&mut bytes)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        // The cut may have gone through a character.
        Err(error) if error.as_bytes().len() == limit => {
            Ok(String::from_utf8_lossy(error.as_bytes()).into_owned())
        }
        Err(_) => Err(io::Error::other("expected UTF-8")),
    }
}

/// How files look from outside. A change to one of them, by whatever way it is made, gives another stamp: an edit, a
/// rename, a symbolic link that points elsewhere, a folder that is removed or made anew, a permission taken or given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamp(Vec<(PathBuf, Result<Look, io::ErrorKind>)>);

/// Device, inode and size; seconds and nanoseconds of the last change to content and to the inode.
type Look = ([u64; 3], [i64; 4]);

impl Stamp {
    /// Adds the look of a file, or of there being none.
    pub fn add(&mut self, path: &Path) {
        let look = std::fs::metadata(path).map(|now| {
            (
                [now.dev(), now.ino(), now.size()],
                [now.mtime(), now.mtime_nsec(), now.ctime(), now.ctime_nsec()],
            )
        });
        self.0
            .push((path.to_owned(), look.map_err(|error| error.kind())));
    }

    /// A file that could not even be listed.
    pub fn add_failed(&mut self, path: &Path, error: &io::Error) {
        self.0.push((path.to_owned(), Err(error.kind())));
    }
}

/// When to read files again: once two looks in a row find the same change, so that those that belong together, or are still
/// being written, are read as one.
#[derive(Debug)]
pub struct Looks {
    read: Stamp,
    last: Stamp,
}

impl Looks {
    /// `read` is how the files looked just before they were read.
    pub fn since(read: Stamp) -> Self {
        let last = read.clone();
        Self { read, last }
    }

    /// Whether `now` shows something to be read.
    pub fn take(&mut self, now: Stamp) -> bool {
        let has_settled = now == self.last;
        self.last = now;
        has_settled && self.last != self.read
    }

    /// The files are read, as they looked last.
    pub fn read(&mut self) {
        self.read.clone_from(&self.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn stamp(path: &Path) -> Stamp {
        let mut stamp = Stamp::default();
        stamp.add(path);
        stamp
    }

    #[test]
    fn every_way_to_replace_a_file_changes_its_stamp() {
        let folder = tempfile::tempdir().expect("a folder");
        let [file, other, link] =
            ["a.yaml", "b.yaml", "..data"].map(|name| folder.path().join(name));
        fs::write(&file, "one").expect("a file");
        fs::write(&other, "two").expect("a file");
        symlink(&file, &link).expect("a link");
        let mut seen = vec![stamp(&link)];
        let mut expect_change = |what: &str| {
            let now = stamp(&link);
            assert!(!seen.contains(&now), "{what}");
            assert_eq!(stamp(&link), now, "looking changes nothing");
            seen.push(now);
        };
        fs::write(&file, "longer").expect("a file");
        expect_change("edited");
        fs::rename(&other, &file).expect("renamed");
        expect_change("renamed over");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("permissions");
        expect_change("permissions");
        fs::remove_file(&file).expect("removed");
        expect_change("removed");
    }

    #[test]
    fn a_change_is_read_once_and_not_before_it_has_come_to_rest() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.yaml");
        fs::write(&file, "one").expect("a file");
        let mut looks = Looks::since(stamp(&file));
        assert!(!looks.take(stamp(&file)), "nothing has changed");
        for text in ["first", "and second", "half of it"] {
            fs::write(&file, text).expect("a file");
            assert!(!looks.take(stamp(&file)), "still being written: {text}");
        }
        assert!(looks.take(stamp(&file)));
        looks.read();
        assert!(!looks.take(stamp(&file)), "read already");
    }

    #[test]
    fn what_is_not_a_text_file_of_bounded_size_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = |name: &str| read_text(&folder.path().join(name));
        assert!(read_text(folder.path()).is_err(), "a folder");
        assert!(read_text(Path::new("/dev/zero")).is_err(), "a device");
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.path().join("pipe"), 0o600.into())
            .expect("a pipe");
        assert!(read("pipe").is_err(), "a pipe without a writer");
        fs::write(folder.path().join("binary"), [0xFF]).expect("a file");
        assert!(read("binary").is_err(), "not UTF-8");
        let large = fs::File::create(folder.path().join("large")).expect("a file");
        large.set_len(50 << 20).expect("50 MiB");
        assert_eq!(
            read("large").expect("cut").len(),
            policy::yaml::MAX_FILE_BYTES + 1
        );
    }
}
