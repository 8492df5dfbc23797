//! Series named by others, under a cap.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// What is counted under this name came after the cap.
pub const OTHER: &str = "other";

/// At most `cap` names get series of their own, first come first served; later ones share [`OTHER`]. Nothing is evicted: a
/// counter that vanished and came back at zero would read as a reset.
pub(super) struct Capped<S> {
    cap: usize,
    make: Box<dyn Fn(&str) -> S + Send + Sync>,
    other: S,
    known: Mutex<HashMap<Box<str>, S>>,
}

impl<S: Clone> Capped<S> {
    /// `make` creates the series of a name.
    pub(super) fn new(cap: usize, make: impl Fn(&str) -> S + Send + Sync + 'static) -> Self {
        Self {
            cap,
            other: make(OTHER),
            make: Box::new(make),
            known: Mutex::default(),
        }
    }

    pub(super) fn of(&self, name: &str) -> S {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(name) {
            return series.clone();
        }
        if known.len() >= self.cap {
            return self.other.clone();
        }
        let series = (self.make)(name);
        known.insert(name.into(), series.clone());
        series
    }
}

impl<S> fmt::Debug for Capped<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capped")
            .field("cap", &self.cap)
            .finish_non_exhaustive()
    }
}
