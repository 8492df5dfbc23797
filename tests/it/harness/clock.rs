//! The wall clock of one process, which a test sets. The monotonic one stays as it is, as on a machine whose clock is set.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What Debian's libfaketime reads whenever the process asks for the time.
#[derive(Debug)]
pub(crate) struct Clock(PathBuf);

impl Clock {
    pub(crate) fn new(file: PathBuf) -> Self {
        let clock = Self(file);
        clock.set(0);
        clock
    }

    /// Sets the clock so many seconds beside the right time.
    pub(crate) fn set(&self, seconds: i64) {
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).expect("a file");
        std::fs::rename(&new, &self.0).expect("renaming");
    }

    /// Has a process go by it.
    pub(crate) fn give(&self, command: &mut Command) {
        command.env("LD_PRELOAD", library());
        command.env("FAKETIME_TIMESTAMP_FILE", &self.0);
        command.env("FAKETIME_NO_CACHE", "1");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    }
}

fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("Debian's libraries");
    let library = |folder: &Path| folder.join("faketime/libfaketimeMT.so.1");
    let mut found = folders.map(|entry| library(&entry.expect("an entry").path()));
    found
        .find(|library| library.exists())
        .expect("libfaketime: run these tests through tests/run, which installs it")
}
