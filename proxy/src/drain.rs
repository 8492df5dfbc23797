//! Start and end of service: [`Readiness`] says when to send traffic here, [`Drain`] how it stops without losing a request.
//!
//! Both are counts of what is outstanding: a readiness guard is held while something is not yet up, a drain guard while
//! a request is in flight. Neither knows what it counts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// What has to be up before this process takes traffic. Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    waiting: Arc<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    names: Mutex<Vec<&'static str>>,
    fewer: Notify,
}

impl Readiness {
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until the guard is dropped; `/ready` names `what` as the reason.
    #[must_use = "readiness is given as soon as the guard is dropped"]
    pub fn wait_for(&self, what: &'static str) -> Unready {
        self.lock().push(what);
        Unready {
            readiness: self.clone(),
            what,
        }
    }

    /// What is not up yet, in the order in which it was asked for. Empty means ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.lock().clone()
    }

    /// Resolves once everything that was asked for is up. Cancel safe.
    pub async fn complete(&self) {
        loop {
            // Made before the look, so that a guard dropped in between still wakes us.
            let fewer = self.waiting.fewer.notified();
            if self.lock().is_empty() {
                return;
            }
            fewer.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<&'static str>> {
        let names = &self.waiting.names;
        names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thing that is not up yet. Dropped when it is.
#[derive(Debug)]
pub struct Unready {
    readiness: Readiness,
    what: &'static str,
}

impl Drop for Unready {
    fn drop(&mut self) {
        let mut waiting = self.readiness.lock();
        if let Some(place) = waiting.iter().position(|name| *name == self.what) {
            waiting.remove(place);
        }
        self.readiness.waiting.fewer.notify_waiters();
    }
}

/// How long a connection without a request may take to bring one more, which is answered like any other. Closed at once,
/// it would be closed under a request that is on its way.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// The order to stop, in steps, and the count of what still runs. Cheap to clone; all clones are one.
///
/// After [`Drain::start`] listeners accept nothing new and connections finish what they have begun; soon after, those
/// without a request are closed. After [`Drain::cut`] whatever is left is dropped. [`Drain::relieve`] is the first step
/// of a process that has been replaced: it may take its time.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    started: CancellationToken,
    ordered: CancellationToken,
    closing_idle: CancellationToken,
    cut: CancellationToken,
    in_flight: Arc<InFlightCount>,
}

#[derive(Debug, Default)]
struct InFlightCount {
    held: AtomicUsize,
    none_left: Notify,
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    /// First step: take no new work. Never blocks; a second call changes nothing.
    pub fn start(&self) {
        self.started.cancel();
        self.ordered.cancel();
    }

    /// The same for a process in whose place another serves: nobody waits for its end.
    pub fn relieve(&self) {
        self.started.cancel();
    }

    /// Last step: whatever is left ends now.
    pub fn cut(&self) {
        self.start();
        self.closing_idle.cancel();
        self.cut.cancel();
    }

    pub fn is_started(&self) -> bool {
        self.started.is_cancelled()
    }

    /// Resolves at the first step. Cancel safe.
    pub fn started(&self) -> WaitForCancellationFuture<'_> {
        self.started.cancelled()
    }

    /// Whether connections without a request end now.
    pub fn is_closing_idle(&self) -> bool {
        self.closing_idle.is_cancelled()
    }

    /// Resolves when connections without a request end. Cancel safe.
    pub fn closing_idle(&self) -> WaitForCancellationFuture<'_> {
        self.closing_idle.cancelled()
    }

    /// Resolves at the last step. Cancel safe.
    pub async fn cut_off(&self) {
        self.cut.cancelled().await;
    }

    /// Counts one piece of work (a request, a connection with one) until the guard is dropped.
    #[must_use = "the work is counted only while the guard lives"]
    pub fn hold(&self) -> InFlight {
        self.in_flight.held.fetch_add(1, Ordering::AcqRel);
        InFlight(Arc::clone(&self.in_flight))
    }

    /// How many guards are held now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.held.load(Ordering::Acquire)
    }

    /// After [`Drain::relieve`]: waits until nothing is in flight, `limit` has passed, or the order to stop comes.
    pub async fn rest(&self, limit: Duration) {
        tokio::select! {
            () = self.ordered.cancelled() => {}
            _ = timeout(limit, self.idle()) => {}
        }
    }

    /// Runs all steps: starts, waits until nothing is in flight or `limit` has passed, then cuts. Answers how much
    /// was cut off.
    pub async fn run(&self, limit: Duration) -> usize {
        self.start();
        let waiting = async {
            if timeout(LAST_REQUEST, self.idle()).await.is_err() {
                self.closing_idle.cancel();
                self.idle().await;
            }
        };
        // The wait ends either way; what is still held afterwards is the answer.
        let _ = timeout(limit, waiting).await;
        let left = self.in_flight();
        self.cut();
        left
    }

    async fn idle(&self) {
        loop {
            // Made before the count is read, so that a guard dropped in between still wakes us.
            let none_left = self.in_flight.none_left.notified();
            if self.in_flight() == 0 {
                return;
            }
            none_left.await;
        }
    }
}

/// One piece of work in flight.
#[derive(Debug)]
pub struct InFlight(Arc<InFlightCount>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_names_what_is_missing_until_it_is_up() {
        let readiness = Readiness::new();
        let identity = readiness.wait_for("identity");
        let policy = readiness.wait_for("policy");
        assert_eq!(readiness.pending(), ["identity", "policy"]);
        drop(identity);
        assert_eq!(readiness.pending(), ["policy"]);
        drop(policy);
        assert!(readiness.pending().is_empty());
    }

    #[tokio::test]
    async fn drain_ends_with_the_last_guard() {
        let drain = Drain::new();
        let guards = [drain.hold(), drain.hold()];
        let run = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run(Duration::from_secs(30)).await }
        });
        drain.started().await;
        assert_eq!(drain.in_flight(), 2);
        drop(guards);
        assert_eq!(run.await.unwrap(), 0);
    }

    #[tokio::test]
    async fn drain_cuts_what_outlives_its_limit() {
        let drain = Drain::new();
        let _stuck = drain.hold();
        assert_eq!(drain.run(Duration::from_millis(1)).await, 1);
        drain.cut_off().await;
    }
}
