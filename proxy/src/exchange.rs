//! One request from its head to the last byte of its response: what the access log and the metrics will say about it.
//! Dropping the [`Exchange`], however the request ends, writes the record.

use crate::access_log::{self, Path, Record};
use crate::authorize::Rules;
use crate::error::Failure;
use crate::metrics::{Decision, Direction, Metrics};
use crate::normalize::Hosts;
use crate::peer::Who;
use crate::worker::Shared;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Method, Uri};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::time::Instant;

/// What the requests of one connection have in common.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) direction: Direction,
    /// Inbound: the caller. Outbound the caller is the workload itself.
    pub(crate) who: Option<Who>,
    pub(crate) hosts: Hosts,
}

/// The record of one request, as far as it is known.
#[derive(Debug)]
pub(crate) struct Exchange<'o> {
    origin: &'o Origin,
    pub(crate) time: SystemTime,
    /// The same by the clock that deadlines and limits go by.
    pub(crate) begun: Instant,
    shown: Option<Shown>,
    decision: Decision,
    reason: Option<&'static str>,
    rule: Option<String>,
    rules: Option<Arc<Rules>>,
    decision_id: Option<String>,
    status: u16,
    /// Body bytes from the caller, and to it.
    pub(crate) received: u64,
    pub(crate) sent: u64,
    upstream: Option<Arc<str>>,
}

/// What the log shows of a request head. Copied only where it will be written: without a log nobody reads it.
#[derive(Debug)]
struct Shown {
    method: Method,
    host: Option<HeaderValue>,
    target: Uri,
    is_canonical: bool,
}

impl<'o> Exchange<'o> {
    /// The record of a request whose head was read, or was not (`None`).
    pub(crate) fn begin(origin: &'o Origin, head: Option<&Parts>) -> Self {
        let mut exchange = Self {
            origin,
            time: SystemTime::now(),
            begun: Instant::now(),
            shown: None,
            decision: Decision::Reject,
            // Until it ends in another way: an exchange that is dropped was cut off with its connection.
            reason: Some(access_log::CUT_OFF),
            rule: None,
            rules: None,
            decision_id: None,
            status: 0,
            received: 0,
            sent: 0,
            upstream: None,
        };
        if let Some(head) = head {
            exchange.show(head, false);
        }
        exchange
    }

    /// The request is in its canonical form now; the record shows that one.
    pub(crate) fn normalized(&mut self, head: &Parts) {
        self.show(head, true);
    }

    fn show(&mut self, head: &Parts, is_canonical: bool) {
        if self.origin.shared.logs_requests {
            self.shown = Some(Shown {
                method: head.method.clone(),
                host: head.headers.get(HOST).cloned(),
                target: head.uri.clone(),
                is_canonical,
            });
        }
    }

    pub(crate) fn decided_by(&mut self, rules: Arc<Rules>) {
        self.rules = Some(rules);
    }

    /// The request may go on, by the grant named.
    pub(crate) fn allowed(&mut self, grant: Option<&str>) {
        self.decision = Decision::Allow;
        // Copied only where it will be written: without a log nobody reads it.
        if self.origin.shared.logs_requests {
            self.rule = grant.map(str::to_owned);
        }
    }

    /// Where the request goes.
    pub(crate) fn forwarded(&mut self, upstream: &Arc<str>) {
        if self.origin.shared.logs_requests {
            self.upstream = Some(Arc::clone(upstream));
        }
    }

    /// Whether the caller has no identity, and this request no grant.
    pub(crate) fn is_outsiders(&self) -> bool {
        matches!(self.origin.who, Some(Who::Unauthenticated(_)))
            && matches!(self.decision, Decision::Reject | Decision::Deny)
    }

    /// Where what happens on the way is counted.
    pub(crate) fn counters(&self) -> (&'o Metrics, Direction) {
        (&self.origin.shared.metrics, self.origin.direction)
    }

    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.reason = Some(failure.reason());
        match failure {
            Failure::Rejected(_) => self.decision = Decision::Reject,
            Failure::Denied(denial) => {
                self.decision = Decision::Deny;
                self.rule.clone_from(&denial.rule);
                self.decision_id = Some(denial.id.as_str().to_owned());
            }
            Failure::UnknownDestination { id, .. } => {
                self.decision = Decision::Deny;
                self.decision_id = Some(id.as_str().to_owned());
            }
            Failure::Limited(exceeded) => {
                self.decision = Decision::Limit;
                self.rule = Some(exceeded.limit.clone());
                self.decision_id = Some(exceeded.id.as_str().to_owned());
            }
            Failure::Overloaded
            | Failure::Connect(_)
            | Failure::ResponseTimeout(_)
            | Failure::TryTimeout(_)
            | Failure::DeadlineExceeded
            | Failure::NoResponse(_)
            | Failure::CallerGone => {}
        }
    }

    /// The whole response has left.
    pub(crate) fn ended(&mut self) {
        self.reason = None;
    }

    /// The response broke off, for a reason from a closed set.
    pub(crate) fn broke_off(&mut self, reason: &'static str) {
        self.reason = Some(reason);
    }

    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let origin = self.origin;
        let shown = self.shown.as_ref();
        let path = shown.map_or(Path::Raw(b""), |shown| match shown.target.path() {
            path if shown.is_canonical => Path::Canonical(path),
            path => Path::Raw(path.as_bytes()),
        });
        let (peer, address) = match &origin.who {
            Some(Who::Peer(peer, counters)) => {
                let peer = access_log::Peer {
                    id: peer.id().as_str(),
                    serial: &peer.leaf().serial,
                    counters,
                };
                (Some(peer), None)
            }
            Some(Who::Unauthenticated(address)) => (None, Some(*address)),
            None => (None, None),
        };
        Record {
            time: self.time,
            direction: origin.direction,
            peer,
            address,
            method: shown.map_or("", |shown| shown.method.as_str()),
            host: shown
                .and_then(|shown| shown.host.as_ref())
                .map(HeaderValue::as_bytes),
            path,
            status: self.status,
            decision: self.decision,
            reason: self.reason,
            rule: self.rule.as_deref(),
            generation: self.rules.as_ref().map_or("", |rules| rules.generation()),
            decision_id: self.decision_id.as_deref(),
            bytes_in: self.received,
            bytes_out: self.sent,
            duration: self.begun.elapsed(),
            upstream: self.upstream.as_deref(),
        }
        .finish(&origin.shared.metrics, &origin.shared.access_log);
    }
}
