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
        self.admit_below(self.limit, source)
    }

    /// The same while `free` of `all` places are left. The share shrinks with the square of what is left, but never below
    /// one: sources that take all they get leave room for many more than would hold everything with a full share each.
    pub(super) fn admit_while(
        self: &Arc<Self>,
        free: usize,
        all: usize,
        source: Source,
    ) -> Option<Share> {
        let of_what_is_left = |share: usize| share.saturating_mul(free) / all.max(1);
        let limit = of_what_is_left(of_what_is_left(self.limit));
        self.admit_below(limit.max(1), source)
    }

    fn admit_below(self: &Arc<Self>, limit: usize, source: Source) -> Option<Share> {
        let mut open = self.lock();
        let count = open.get(&source).copied().unwrap_or_default();
        if count >= limit {
            return None;
        }
        open.insert(source.clone(), count + 1);
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
    use crate::server::Options;

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

    #[test]
    fn hundreds_of_sources_that_take_all_they_get_leave_a_place_for_one_more() {
        let options = Options::default();
        let (all, shares) = (
            options.max_connections,
            Shares::new(options.max_strangers_per_address),
        );
        let mut held = Vec::new();
        for source in 0..600_u16 {
            let [high, low] = source.to_be_bytes();
            let source = Source::address(IpAddr::from([127, 0, high, low]));
            let before = held.len();
            while let Some(share) = shares.admit_while(all - held.len(), all, source.clone()) {
                held.push(share);
            }
            assert!(held.len() > before, "{source:?} of {before}");
        }
        assert!(held.len() < all, "{}", held.len());
    }
}
