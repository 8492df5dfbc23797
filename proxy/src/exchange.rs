//! One request from its head to the last byte of its response: what the access log and the metrics will say about it.
//!
//! The response body carries the [`Exchange`] along; dropping it, however the request ends, writes the record.

use crate::access_log::{self, Path, Record};
use crate::authorize::Rules;
use crate::error::Failure;
use crate::metrics::{self, Decision, Direction};
use crate::peer::Peer;
use crate::progress::{BodyError, Patience, Upload};
use crate::upstream::Lease;
use crate::worker::Shared;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Method, Request, Uri};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

/// What the requests of one connection have in common.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) direction: Direction,
    /// Inbound: the authenticated caller. Outbound the caller is the workload itself.
    pub(crate) peer: Option<(Peer, metrics::Caller)>,
}

/// The record of one request, as far as it is known.
#[derive(Debug)]
pub(crate) struct Exchange {
    origin: Arc<Origin>,
    pub(crate) time: SystemTime,
    start: Instant,
    method: Method,
    host: Option<HeaderValue>,
    target: Uri,
    is_canonical: bool,
    decision: Decision,
    reason: Option<&'static str>,
    rule: Option<String>,
    rules: Option<Arc<Rules>>,
    decision_id: Option<String>,
    status: u16,
    upload: Option<Arc<Upload>>,
    sent: u64,
    upstream: Option<Arc<str>>,
}

impl Exchange {
    pub(crate) fn begin<B>(origin: &Arc<Origin>, request: &Request<B>) -> Box<Self> {
        Box::new(Self {
            origin: Arc::clone(origin),
            time: SystemTime::now(),
            start: Instant::now(),
            method: request.method().clone(),
            host: request.headers().get(HOST).cloned(),
            target: request.uri().clone(),
            is_canonical: false,
            decision: Decision::Reject,
            reason: None,
            rule: None,
            rules: None,
            decision_id: None,
            status: 0,
            upload: None,
            sent: 0,
            upstream: None,
        })
    }

    /// The request is in its canonical form now; the record shows that one.
    pub(crate) fn normalized<B>(&mut self, request: &Request<B>) {
        self.host = request.headers().get(HOST).cloned();
        self.target = request.uri().clone();
        self.is_canonical = true;
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

    /// Where the request goes, and its body.
    pub(crate) fn forwarded(&mut self, upstream: Arc<str>, upload: Option<Arc<Upload>>) {
        self.upstream = Some(upstream);
        self.upload = upload;
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
            Failure::Connect(_)
            | Failure::ResponseTimeout(_)
            | Failure::NoResponse(_)
            | Failure::UnaskedUpgrade => {}
        }
    }

    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let origin = &self.origin;
        let path = if self.is_canonical {
            Path::Canonical(self.target.path())
        } else {
            Path::Raw(self.target.path().as_bytes())
        };
        Record {
            time: self.time,
            direction: origin.direction,
            peer: origin
                .peer
                .as_ref()
                .map(|(peer, counters)| access_log::Peer {
                    id: peer.id().as_str(),
                    serial: &peer.leaf().serial,
                    counters,
                }),
            method: self.method.as_str(),
            host: self.host.as_ref().map(HeaderValue::as_bytes),
            path,
            status: self.status,
            decision: self.decision,
            reason: self.reason,
            rule: self.rule.as_deref(),
            generation: self.rules.as_ref().map_or("", |rules| rules.generation()),
            decision_id: self.decision_id.as_deref(),
            bytes_in: self.upload.as_ref().map_or(0, |upload| upload.received()),
            bytes_out: self.sent,
            duration: self.start.elapsed(),
            upstream: self.upstream.as_deref(),
        }
        .finish(&origin.shared.metrics, &origin.shared.access_log);
    }
}

/// A response body on its way to the caller, with the record of its request and the loan of the connection it comes from.
#[derive(Debug)]
pub(crate) struct Body {
    source: Source,
    exchange: Box<Exchange>,
}

#[derive(Debug)]
enum Source {
    Upstream {
        body: Incoming,
        patience: Patience,
        lease: Option<Lease>,
    },
    /// Ours, and whole.
    Own(Option<Bytes>),
}

impl Body {
    /// `idle` is how long it may take from one frame to the next.
    pub(crate) fn upstream(
        body: Incoming,
        lease: Lease,
        idle: Duration,
        exchange: Box<Exchange>,
    ) -> Self {
        let source = Source::Upstream {
            body,
            patience: Patience::new(idle),
            lease: Some(lease),
        };
        Self { source, exchange }
    }

    pub(crate) fn own(bytes: Bytes, exchange: Box<Exchange>) -> Self {
        let source = Source::Own((!bytes.is_empty()).then_some(bytes));
        Self { source, exchange }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Upstream {
                body,
                patience,
                lease,
            } => {
                let upload = this.exchange.upload.as_deref();
                let frame = match Pin::new(body).poll_frame(cx) {
                    Poll::Pending => patience.poll_stall(upload, cx),
                    Poll::Ready(frame) => {
                        patience.renew();
                        if let Some(upload) = upload {
                            upload.touch();
                        }
                        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
                    }
                };
                match &frame {
                    Poll::Ready(None) => {
                        if let Some(lease) = lease.take() {
                            lease.give_back();
                        }
                    }
                    Poll::Ready(Some(Err(error))) => this.exchange.reason = Some(error.reason()),
                    _ => {}
                }
                frame
            }
        };
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.exchange.sent += data.len() as u64;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Upstream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Source::Upstream { body, .. } => body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // A body of known length is not polled past its last byte, and an empty one not at all.
        if let Source::Upstream { body, lease, .. } = &mut self.source
            && body.is_end_stream()
            && let Some(lease) = lease.take()
        {
            lease.give_back();
        }
    }
}
