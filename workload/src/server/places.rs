//! Places for connections: no user may hold all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts open connections by user. Has an entry only for a user with one, so it is bounded by their number.
#[derive(Debug)]
pub(super) struct Places {
    all: usize,
    open: Mutex<HashMap<u32, usize>>,
}

/// One open connection; its place is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    uid: u32,
}

impl Places {
    pub(super) fn new(all: usize) -> Arc<Self> {
        Arc::new(Self {
            all,
            open: Mutex::default(),
        })
    }

    /// A place for a connection of `uid`, which may have half of them.
    pub(super) fn take(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let mut open = self.open();
        let together: usize = open.values().sum();
        let own = open.get(&uid).copied().unwrap_or_default();
        if together >= self.all || own >= self.all.div_ceil(2) {
            return None;
        }
        *open.entry(uid).or_default() += 1;
        drop(open);
        Some(Place {
            places: Arc::clone(self),
            uid,
        })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u32, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open();
        if let Some(count) = open.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_half_of_the_places_and_is_forgotten_afterwards() {
        let places = Places::new(4);
        let held: Vec<_> = (0..3).map(|_| places.take(1)).collect();
        assert!(held[1].is_some() && held[2].is_none());
        let others: Vec<_> = (2..5).map(|uid| places.take(uid)).collect();
        assert!(others[1].is_some() && others[2].is_none(), "all are taken");
        drop((held, others));
        assert!(places.open().is_empty());
    }
}
