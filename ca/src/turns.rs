//! Whose turn it is when more ask for certificates than can be issued at once: theirs whose time runs out first.
//!
//! So many calls are worked on at a time; the others wait, those in front whose certificates end first. Whoever is
//! without one is placed as if one ended in a minute. The line is bounded in length and in time: who is at its end when
//! it is full, or has waited for too long, is turned away and told when to come back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

#[cfg(test)]
mod overload;
#[cfg(test)]
mod tests;

/// What somebody without a certificate is taken to have left: less than a renewal in good time, more than a late one.
const WITHOUT_CERTIFICATE: Duration = Duration::from_secs(60);
/// Of what is left, what may pass until the next attempt: several have to fit.
const OF_WHAT_IS_LEFT: u32 = 6;
const SOONEST_RETURN: Duration = Duration::from_secs(1);
const LATEST_RETURN: Duration = Duration::from_secs(30);

/// Until when a caller has to have its certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due(Instant);

impl Due {
    /// Of the holder of a certificate that ends then.
    pub(crate) fn end_of(not_after: SystemTime) -> Self {
        let left = not_after.duration_since(SystemTime::now());
        Self(Instant::now() + left.unwrap_or_default())
    }

    /// Of one whose turn is then, if all others' are later.
    pub(crate) fn at(time: std::time::Instant) -> Self {
        Self(Instant::from_std(time))
    }

    /// Of one who has none.
    pub(crate) fn without_certificate() -> Self {
        Self(Instant::now() + WITHOUT_CERTIFICATE)
    }

    fn turned_away(self) -> TurnedAway {
        let left = self.0.saturating_duration_since(Instant::now());
        let retry_after = (left / OF_WHAT_IS_LEFT).clamp(SOONEST_RETURN, LATEST_RETURN);
        TurnedAway { retry_after }
    }
}

/// There are too many before this caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TurnedAway {
    pub(crate) retry_after: Duration,
}

/// How many are worked on, and how many wait for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) places: usize,
    pub(crate) waiting: usize,
    pub(crate) wait: Duration,
}

/// The places, and the line for them.
#[derive(Debug)]
pub(crate) struct Turns {
    bounds: Bounds,
    line: Mutex<Line>,
}

#[derive(Debug)]
struct Line {
    free: usize,
    next: u64,
    /// By when they are due; of those due at the same time, in the order in which they came.
    waiting: BTreeMap<Rank, oneshot::Sender<()>>,
}

type Rank = (Instant, u64);

impl Turns {
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            line: Mutex::new(Line {
                free: bounds.places.max(1),
                next: 0,
                waiting: BTreeMap::new(),
            }),
        })
    }

    /// Waits for a place, which is free again when the guard is dropped. Cancel safe.
    ///
    /// # Errors
    /// When the line is full of others that are due sooner, or does not move.
    pub(crate) async fn take(self: &Arc<Self>, due: Due) -> Result<Turn, TurnedAway> {
        let Some(mut waiter) = self.stand(due)? else {
            return Ok(Turn(Arc::clone(self)));
        };
        match timeout(self.bounds.wait, &mut waiter.called).await {
            Ok(Ok(())) => {
                waiter.has_turn = true;
                Ok(Turn(Arc::clone(self)))
            }
            // Pushed out by somebody who is due sooner, or out of patience.
            Ok(Err(_)) | Err(_) => Err(due.turned_away()),
        }
    }

    /// `None` when there is a place right now.
    fn stand(self: &Arc<Self>, due: Due) -> Result<Option<Waiter>, TurnedAway> {
        let mut line = self.lock();
        if line.free > 0 {
            line.free -= 1;
            return Ok(None);
        }
        let rank = (due.0, line.next);
        if line.waiting.len() >= self.bounds.waiting {
            match line.waiting.last_key_value() {
                Some((last, _)) if rank < *last => line.waiting.pop_last(),
                _ => return Err(due.turned_away()),
            };
        }
        line.next += 1;
        let (call, called) = oneshot::channel();
        line.waiting.insert(rank, call);
        Ok(Some(Waiter {
            turns: Arc::clone(self),
            rank,
            called,
            has_turn: false,
        }))
    }

    /// Gives the place to who is due first.
    fn give_back(&self) {
        let mut line = self.lock();
        while let Some((_, call)) = line.waiting.pop_first() {
            if call.send(()).is_ok() {
                return;
            }
        }
        line.free += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        // No change is left half done by a panic: none can panic.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

/// Somebody in the line. Leaves it when dropped, and passes on a place that was given in that moment.
struct Waiter {
    turns: Arc<Turns>,
    rank: Rank,
    called: oneshot::Receiver<()>,
    has_turn: bool,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.has_turn {
            return;
        }
        // Nobody is called any more who is not in the line.
        self.turns.lock().waiting.remove(&self.rank);
        if self.called.try_recv().is_ok() {
            self.turns.give_back();
        }
    }
}
