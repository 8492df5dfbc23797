//! Which endpoint of a service gets a request: of two taken at random the one that answers sooner, by the peak of its recent
//! response times and the requests that it has in hand (P2C with peak EWMA). One that fails time after time gets none for a
//! while; then a single request finds out how it is.
//!
//! Each worker judges for itself. [`Endpoints`] has the rules and no clock; a service with one endpoint has nothing to choose
//! and costs nothing.

mod endpoints;

use endpoints::{Endpoints, Verdict};
use prometheus_client::metrics::gauge::Gauge;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The endpoints of one service, by their number.
#[derive(Debug)]
pub(crate) struct Balance {
    endpoints: Mutex<Endpoints>,
    has_choice: bool,
    ejected: Gauge,
}

impl Balance {
    /// Between `count` endpoints; those that are ejected are counted by `ejected`.
    pub(crate) fn new(count: usize, ejected: Gauge) -> Self {
        Self {
            endpoints: Mutex::new(Endpoints::new(count)),
            has_choice: count > 1,
            ejected,
        }
    }

    /// A turn at the best endpoint that is not among `tried`. None if all are.
    pub(crate) fn pick(&self, tried: &[usize]) -> Option<Turn<'_>> {
        if !self.has_choice {
            return tried.is_empty().then_some(Turn {
                balance: self,
                endpoint: 0,
                is_probe: false,
                since: None,
                verdict: None,
            });
        }
        let now = Instant::now();
        let mut endpoints = self.lock();
        let endpoint = endpoints.pick(tried, now)?;
        Some(Turn {
            balance: self,
            endpoint,
            is_probe: endpoints.is_out(endpoint),
            since: Some(now),
            verdict: None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Endpoints> {
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Balance {
    fn drop(&mut self) {
        let ejected = self.lock().ejected();
        self.ejected.dec_by(ejected as i64);
    }
}

/// One request at one endpoint, in its hand until dropped.
#[derive(Debug)]
pub(crate) struct Turn<'b> {
    balance: &'b Balance,
    endpoint: usize,
    is_probe: bool,
    /// None where there is no choice.
    since: Option<Instant>,
    verdict: Option<Verdict>,
}

impl Turn<'_> {
    pub(crate) fn endpoint(&self) -> usize {
        self.endpoint
    }

    /// Whether the endpoint has failed time after time.
    pub(crate) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// It has begun to answer, as it should.
    pub(crate) fn answered(&mut self) {
        self.judge(Verdict::Answered);
    }

    /// It cannot be reached, or does not answer, or cannot.
    pub(crate) fn failed(&mut self) {
        self.judge(Verdict::Failed);
    }

    fn judge(&mut self, verdict: Verdict) {
        let (Some(since), None) = (self.since, self.verdict) else {
            return;
        };
        self.verdict = Some(verdict);
        let now = Instant::now();
        let mut endpoints = self.balance.lock();
        let before = endpoints.ejected();
        endpoints.judge(self.endpoint, verdict, now - since, now);
        let change = endpoints.ejected() as i64 - before as i64;
        self.balance.ejected.inc_by(change);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(since) = self.since {
            let mut endpoints = self.balance.lock();
            endpoints.end(self.endpoint, self.verdict.is_some(), since);
        }
    }
}
