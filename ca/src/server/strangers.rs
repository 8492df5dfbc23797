//! Connections that have not shown a certificate: one address may hold only a share of all places with them.

use crate::admission::Source;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts strangers by address. Has an entry only for an open connection, so it is bounded by their number.
#[derive(Debug)]
pub(super) struct Strangers {
    limit: usize,
    open: Mutex<HashMap<Source, usize>>,
}

impl Strangers {
    /// At most `limit` for each address.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.max(1),
            open: Mutex::default(),
        })
    }

    /// Room for one more from `address`, until the guard is dropped; `None` when it has its share.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Stranger> {
        let source = Source::address(address);
        let mut open = self.lock();
        let count = open.entry(source.clone()).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Stranger {
            strangers: Arc::clone(self),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropped when the connection ends, or when it has shown a certificate.
#[derive(Debug)]
pub(super) struct Stranger {
    strangers: Arc<Strangers>,
    source: Source,
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut open = self.strangers.lock();
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
    fn an_address_gets_its_share_and_is_forgotten_afterwards() {
        let strangers = Strangers::new(2);
        let [one, other] = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let held: Vec<_> = (0..3).map(|_| strangers.admit(one)).collect();
        assert!(held[1].is_some() && held[2].is_none());
        assert!(strangers.admit(other).is_some());
        drop(held);
        assert!(strangers.lock().is_empty());
        assert!(strangers.admit(one).is_some());
    }
}
