//! Places held by one source: nobody, with or without a certificate, may hold all of them.

use crate::admission::Source;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts open connections by source. Has an entry only for a source with one, so it is bounded by their number.
#[derive(Debug)]
pub struct Shares {
    limit: usize,
    open: Mutex<HashMap<Source, usize>>,
}

impl Shares {
    /// At most `limit` for each source.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.max(1),
            open: Mutex::default(),
        })
    }

    /// Room for one more connection from `address` (of IPv6 its /64), until the guard is dropped; `None` when it has its
    /// share.
    pub fn admit_address(self: &Arc<Self>, address: IpAddr) -> Option<Share> {
        self.admit(Source::address(address))
    }

    /// Room for one more of `source`, until the guard is dropped; `None` when it has its share.
    pub(super) fn admit(self: &Arc<Self>, source: Source) -> Option<Share> {
        let mut open = self.lock();
        let count = open.entry(source.clone()).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Share {
            shares: Arc::clone(self),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place, given back on drop.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    source: Source,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.shares.lock();
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_share_and_is_forgotten_afterwards() {
        let shares = Shares::new(2);
        let of = |last| Source::address(IpAddr::from([127, 0, 0, last]));
        let held: Vec<_> = (0..3).map(|_| shares.admit(of(1))).collect();
        assert!(held[1].is_some() && held[2].is_none());
        assert!(shares.admit(of(2)).is_some());
        drop(held);
        assert!(shares.lock().is_empty());
        assert!(shares.admit(of(1)).is_some());
    }
}
