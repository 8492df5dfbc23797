//! The limit on this process's memory and its use: configured and from `/proc/self/status`, or those of its cgroup.

use super::Reading;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Version 1 writes the largest page-aligned number for "no limit"; nothing of this size is one.
const NO_LIMIT: u64 = 1 << 60;
/// More than any of the files read here has.
const FILE_BYTES: usize = 8 * 1024;

/// A limit and where the use is read. The files stay open: reading has to work without a free descriptor.
#[derive(Debug)]
pub(super) struct Memory {
    limit: u64,
    usage: Usage,
}

#[derive(Debug)]
enum Usage {
    /// `/proc/self/status`.
    Resident(File),
    /// What the cgroup holds without the page cache that the kernel takes back before it kills: the "working set" that
    /// Kubernetes shows.
    Cgroup {
        total: File,
        stat: File,
        cache: &'static str,
    },
}

/// How the two versions name the same things (Linux `Documentation/admin-guide/cgroup-v1/memory.rst`, `cgroup-v2.rst`).
#[derive(Debug, Clone, Copy)]
struct Names {
    /// Where it is mounted.
    mount: &'static str,
    limit: &'static str,
    total: &'static str,
    /// In `memory.stat`, of the cgroup and all below it.
    cache: &'static str,
}

const V2: Names = Names {
    mount: "sys/fs/cgroup",
    limit: "memory.max",
    total: "memory.current",
    cache: "inactive_file",
};
const V1: Names = Names {
    mount: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    total: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};

impl Memory {
    /// What to watch, below `root` (`/` but in tests). None: nobody has set a limit.
    pub(super) fn find(configured: Option<u64>, root: &Path) -> io::Result<Option<Self>> {
        let Some(limit) = configured else {
            return Self::of_cgroup(root);
        };
        let status = File::open(root.join("proc/self/status"))?;
        let memory = Self {
            limit,
            usage: Usage::Resident(status),
        };
        memory.read()?;
        Ok(Some(memory))
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// # Errors
    /// When a file cannot be read or does not hold the number it is known for.
    pub(super) fn read(&self) -> io::Result<Reading> {
        let used = match &self.usage {
            Usage::Resident(status) => {
                field(&text(status)?, "VmRSS:").map(|kib| kib.saturating_mul(1024))
            }
            Usage::Cgroup { total, stat, cache } => {
                let total = text(total)?.trim().parse().ok();
                let cache = field(&text(stat)?, cache);
                total
                    .zip(cache)
                    .map(|(total, cache): (u64, _)| total.saturating_sub(cache))
            }
        };
        let used = used.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Reading {
            used,
            limit: self.limit,
        })
    }

    /// The smallest limit among the cgroup of this process and those around it. In a container the path may be the host's;
    /// what is mounted then is the cgroup itself, which this meets on its way up.
    fn of_cgroup(root: &Path) -> io::Result<Option<Self>> {
        let own = match std::fs::read_to_string(root.join("proc/self/cgroup")) {
            Ok(own) => own,
            // A kernel without cgroups.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut smallest: Option<(u64, PathBuf, Names)> = None;
        for (names, path) in own.lines().filter_map(hierarchy) {
            let mount = root.join(names.mount);
            let folders = Path::new(path.trim_start_matches('/')).ancestors();
            for folder in folders.map(|folder| mount.join(folder)) {
                let Some(limit) = limit(&folder.join(names.limit))? else {
                    continue;
                };
                if smallest.as_ref().is_none_or(|(least, ..)| limit < *least) {
                    smallest = Some((limit, folder, names));
                }
            }
        }
        let Some((limit, folder, names)) = smallest else {
            return Ok(None);
        };
        let usage = usage(&folder, names)?;
        let memory = Self { limit, usage };
        memory.read()?;
        Ok(Some(memory))
    }
}

/// A line `number:controllers:path` of `/proc/self/cgroup`, if it is about memory.
fn hierarchy(line: &str) -> Option<(Names, &str)> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    if controllers.is_empty() {
        return Some((V2, path));
    }
    let is_memory = controllers.split(',').any(|name| name == "memory");
    is_memory.then_some((V1, path))
}

/// None: there is no such file or it sets no limit.
fn limit(file: &Path) -> io::Result<Option<u64>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match text.trim() {
        "max" => Ok(None),
        number => {
            let limit = number
                .parse()
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            Ok((limit < NO_LIMIT).then_some(limit))
        }
    }
}

fn usage(folder: &Path, names: Names) -> io::Result<Usage> {
    Ok(Usage::Cgroup {
        total: File::open(folder.join(names.total))?,
        stat: File::open(folder.join("memory.stat"))?,
        cache: names.cache,
    })
}

/// The whole of a file of the kernel's, made anew by each read from its start.
fn text(file: &File) -> io::Result<String> {
    let mut buffer = [0; FILE_BYTES];
    let length = file.read_at(&mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The number after `name` at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    let mut words = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    words.next()?.parse().ok()
}
