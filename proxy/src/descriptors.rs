//! How many open files this process may have, and who gets them. Callers take only what is left when everything else has
//! its own: a flood of connections must not keep the operator out, nor a certificate from being renewed.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use tokio::sync::Semaphore;

/// Kept back for admin connections (32), the CA client, files read again, and one name resolution or another.
const OWN: u64 = 64;
/// Of what is left, connections of callers get three parts in four; to the app and to other sidecars, where connections
/// are pooled and shared, goes the fourth.
const CALLERS_OF_4: u64 = 3;

/// Raises the number of files this process may open to what the system lets it, which is what servers do: the soft limit
/// is low for the sake of programs that use `select`.
pub fn raise() {
    let present = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: present.maximum,
        maximum: present.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, limit = present.current, "the limit on open files stays as it is");
    }
}

/// How many connections of each direction the limit on open files leaves room for, when `directions` are served.
///
/// # Errors
/// When the limit leaves no room for any.
pub(crate) fn connections(directions: u64) -> io::Result<usize> {
    // None: as many as one likes.
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return Ok(usize::MAX);
    };
    // The kernel gives out the lowest free number, so this one tells how many are in use.
    let next = File::open("/")?;
    let in_use = u64::try_from(next.as_raw_fd()).unwrap_or(0);
    share(limit, in_use, directions).ok_or_else(|| {
        io::Error::other(format!(
            "expected a limit on open files that leaves room for connections, found {limit} with {in_use} in use and {OWN} kept back"
        ))
    })
}

/// How many connections of each direction may have one of their own behind them, when callers get `each`: half of the fourth
/// that callers do not get, so that pools keep the other half.
pub(crate) fn tunnels(each: usize) -> usize {
    (each / 6).clamp(1, Semaphore::MAX_PERMITS)
}

fn share(limit: u64, in_use: u64, directions: u64) -> Option<usize> {
    let left = limit.checked_sub(in_use + OWN)?;
    let each = left * CALLERS_OF_4 / 4 / directions.max(1);
    usize::try_from(each).ok().filter(|each| *each > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_get_three_quarters_of_what_is_not_kept_back() {
        for (limit, in_use, directions, expected) in [
            (256, 32, 1, Some(120)),
            (256, 32, 2, Some(60)),
            (20_000, 36, 1, Some(14_925)),
            (98, 32, 2, None),
            (64, 32, 1, None),
        ] {
            let found = share(limit, in_use, directions);
            assert_eq!(found, expected, "{limit} files, {in_use} in use");
        }
    }

    #[test]
    fn tunnels_leave_the_pools_half_of_what_callers_do_not_get() {
        // Of 160 files 120 are for callers, 40 are not.
        assert_eq!(tunnels(120), 20);
        assert_eq!(tunnels(60), 10);
        assert_eq!(tunnels(1), 1);
        assert_eq!(tunnels(usize::MAX), Semaphore::MAX_PERMITS);
    }

    #[test]
    fn raised_limit_is_the_hard_one() {
        raise();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
