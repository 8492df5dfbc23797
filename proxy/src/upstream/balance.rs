//! Which endpoint of a service gets a request: of two taken at random the one that answers sooner, by the peak of its recent
//! response times and the requests that it has in hand (P2C with peak EWMA). One that fails time after time gets none for a
//! while; then a single request finds out how it is, and its share grows again with time. One that has as many requests as it
//! may gets no more.
//!
//! Each worker judges for itself. [`Endpoints`] has the rules and no clock; a service with one endpoint has nothing to choose
//! and costs next to nothing while it is well. Which endpoints there are may change at any time ([`Balance::set`]).

mod endpoint;
mod endpoints;
mod ring;

pub(crate) use endpoints::Number;

use crate::config::Resilience;
use crate::discovery::Member;
use crate::error::ConnectError;
use crate::upstream::http2::Lanes;
use endpoints::{Endpoints, Refusal, Verdict};
use prometheus_client::metrics::gauge::Gauge;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The endpoints of one service.
#[derive(Debug)]
pub(crate) struct Balance {
    endpoints: Mutex<Endpoints>,
    ejected: Gauge,
}

impl Balance {
    /// Between no endpoints, until [`Self::set`] says which there are. Those that are ejected are counted by `ejected`.
    pub(crate) fn new(rules: Resilience, ejected: Gauge) -> Self {
        Self {
            endpoints: Mutex::new(Endpoints::new(rules)),
            ejected,
        }
    }

    /// From now on requests go to `members`. What is known of those that stay is kept, and requests go on at those that left.
    pub(crate) fn set(&self, members: Vec<(Member, Arc<Lanes>)>) {
        let mut endpoints = self.lock();
        let before = endpoints.ejected();
        endpoints.set(members, Instant::now());
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

    /// A turn at the best endpoint that is not among `tried`: where requests of the same `key` go, if it has one. None if all
    /// are.
    ///
    /// # Errors
    /// Those that are left take no request.
    pub(crate) fn pick(
        &self,
        tried: &[Number],
        key: Option<&[u8]>,
    ) -> Result<Option<Turn<'_>>, ConnectError> {
        let mut endpoints = self.lock();
        let since = (!endpoints.is_plain()).then(Instant::now);
        let picked = match since {
            Some(now) => endpoints.pick(tried, key, now),
            None => endpoints.pick_only(tried),
        };
        match picked {
            Ok(picked) => Ok(Some(Turn {
                balance: self,
                lanes: picked.lanes,
                endpoint: picked.number,
                is_probe: picked.is_probe,
                has_other: picked.has_other,
                since,
                verdict: None,
            })),
            Err(Refusal::Tried) => Ok(None),
            Err(Refusal::Full) => Err(ConnectError::Full),
            Err(Refusal::Open) => Err(ConnectError::CircuitOpen),
        }
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
    /// None where there was no choice.
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

    /// It ended the connection in order.
    pub(crate) fn left(&mut self) {
        self.judge(Verdict::Left);
    }

    fn judge(&mut self, verdict: Verdict) {
        if self.verdict.is_some() {
            return;
        }
        self.verdict = Some(verdict);
        let mut endpoints = self.balance.lock();
        if self.since.is_none() && verdict == Verdict::Answered {
            return endpoints.answered_only(self.endpoint);
        }
        let now = Instant::now();
        let after = self.since.map_or(Duration::ZERO, |since| now - since);
        let before = endpoints.ejected();
        endpoints.judge(self.endpoint, verdict, after, now);
        self.balance.note(before, endpoints.ejected());
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let probed = self.since.filter(|_| self.is_probe);
        let mut endpoints = self.balance.lock();
        endpoints.end(self.endpoint, self.verdict.is_some(), probed);
    }
}
