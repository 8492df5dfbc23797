//! Places for connections: no user may hold all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

/// Processes of one user that are looked at together.
const LOOKS_OF_USER: usize = 4;
/// What one user may have begun to say, in bytes: 64 of the longest messages. Each is held until it is whole, or late.
const ROOM_OF_USER: usize = 4 * 1024 * 1024;

/// Counts open connections by user. Has an entry only for a user with one, so it is bounded by their number.
#[derive(Debug)]
pub(super) struct Places {
    all: usize,
    open: Mutex<HashMap<u32, User>>,
}

/// What one user has.
#[derive(Debug)]
struct User {
    open: usize,
    shared: Shared,
}

/// What all connections of one user share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    /// For looking at the user's processes, which reads files.
    pub(crate) looks: Arc<Semaphore>,
    /// For messages that are not whole yet, in bytes.
    pub(crate) room: Arc<Semaphore>,
}

/// One open connection; its place is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    uid: u32,
    pub(super) shared: Shared,
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
        let together: usize = open.values().map(|user| user.open).sum();
        let own = open.get(&uid).map_or(0, |user| user.open);
        if together >= self.all || own >= self.all.div_ceil(2) {
            return None;
        }
        let user = open.entry(uid).or_insert_with(|| User {
            open: 0,
            shared: Shared {
                looks: Arc::new(Semaphore::new(LOOKS_OF_USER)),
                room: Arc::new(Semaphore::new(ROOM_OF_USER)),
            },
        });
        user.open += 1;
        let shared = user.shared.clone();
        drop(open);
        Some(Place {
            places: Arc::clone(self),
            uid,
            shared,
        })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u32, User>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.places.open();
        if let Some(user) = open.get_mut(&self.uid) {
            user.open -= 1;
            if user.open == 0 {
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
        let shared = held.iter().flatten().map(|place| &place.shared);
        let looks = shared.map(|shared| Arc::as_ptr(&shared.looks));
        assert_eq!(looks.collect::<std::collections::HashSet<_>>().len(), 1);
        let others: Vec<_> = (2..5).map(|uid| places.take(uid)).collect();
        assert!(others[1].is_some() && others[2].is_none(), "all are taken");
        drop((held, others));
        assert!(places.open().is_empty());
    }
}
