//! Which endpoint of a service gets a request: of two taken at random the one that answers sooner, by the peak of its recent
//! response times and the requests that it has in hand (P2C with peak EWMA). One that fails time after time gets none for a
//! while; then a single request finds out how it is.
//!
//! Each worker judges for itself. [`Endpoints`] has the rules and no clock; a service with one endpoint has nothing to choose
//! and costs next to nothing. Which endpoints there are may change at any time ([`Balance::set`]).

mod endpoints;

pub(crate) use endpoints::Number;

use crate::discovery::Member;
use crate::upstream::http2::Lanes;
use endpoints::{Endpoints, Verdict};
use prometheus_client::metrics::gauge::Gauge;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The endpoints of one service.
#[derive(Debug)]
pub(crate) struct Balance {
    endpoints: Mutex<Endpoints>,
    ejected: Gauge,
}

impl Balance {
    /// Between no endpoints, until [`Self::set`] says which there are. Those that are ejected are counted by `ejected`.
    pub(crate) fn new(ejected: Gauge) -> Self {
        Self {
            endpoints: Mutex::new(Endpoints::new()),
            ejected,
        }
    }

    /// From now on requests go to `members`. What is known of those that stay is kept, and requests go on at those that left.
    pub(crate) fn set(&self, members: Vec<(Member, Arc<Lanes>)>) {
        let mut endpoints = self.lock();
        let before = endpoints.ejected();
        endpoints.set(members);
        self.note(before, endpoints.ejected());
    }

    /// The connections to each endpoint there is.
    pub(crate) fn lanes(&self) -> Vec<Arc<Lanes>> {
        self.lock().lanes().cloned().collect()
    }

    /// Whether there are other endpoints than `number`.
    pub(crate) fn has_other(&self, number: Number) -> bool {
        self.lock().has_other(number)
    }

    /// A turn at the best endpoint that is not among `tried`. None if all are.
    pub(crate) fn pick(&self, tried: &[Number]) -> Option<Turn<'_>> {
        let mut endpoints = self.lock();
        if let Some((endpoint, lanes)) = endpoints.only() {
            return (!tried.contains(&endpoint)).then(|| Turn {
                balance: self,
                lanes: Arc::clone(lanes),
                endpoint,
                is_probe: false,
                has_other: false,
                since: None,
                verdict: None,
            });
        }
        let now = Instant::now();
        let picked = endpoints.pick(tried, now)?;
        Some(Turn {
            balance: self,
            lanes: picked.lanes,
            endpoint: picked.number,
            is_probe: picked.is_probe,
            has_other: picked.has_other,
            since: Some(now),
            verdict: None,
        })
    }

    fn note(&self, before: usize, after: usize) {
        self.ejected.inc_by(after as i64 - before as i64);
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
    lanes: Arc<Lanes>,
    endpoint: Number,
    is_probe: bool,
    has_other: bool,
    /// None where there is no choice.
    since: Option<Instant>,
    verdict: Option<Verdict>,
}

impl Turn<'_> {
    pub(crate) fn endpoint(&self) -> Number {
        self.endpoint
    }

    pub(crate) fn lanes(&self) -> &Arc<Lanes> {
        &self.lanes
    }

    /// Whether the endpoint has failed time after time.
    pub(crate) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Whether there is another endpoint that was not tried.
    pub(crate) fn has_other(&self) -> bool {
        self.has_other
    }

    /// It has begun to answer, as it should.
    pub(crate) fn answered(&mut self) {
        self.judge(Verdict::Answered);
    }

    /// It cannot be reached, or does not answer, or cannot.
    pub(crate) fn failed(&mut self) {
        self.judge(Verdict::Failed);
    }

    /// Its answer did not come while it was wanted.
    pub(crate) fn late(&mut self) {
        self.judge(Verdict::Late);
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
        self.balance.note(before, endpoints.ejected());
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
