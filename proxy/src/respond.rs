//! Failure -> status, fields and body. The only place that chooses failure statuses.
//!
//! Callers learn what they did, never which rule says so. A gRPC call gets the same as a trailers-only response.

use crate::authorize::Denial;
use crate::body::Broken;
use crate::date;
use crate::downstream::Downstream;
use crate::error::{ConnectError, Failure};
use crate::exchange::{Exchange, Origin};
use crate::h1::head::{Framing, HeadError};
use crate::normalize::Rejection;
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{HeaderMap, Response, StatusCode, Version};
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Names the decision in our log that refused the request.
pub(crate) const DECISION_ID: HeaderName = HeaderName::from_static("tipstaff-decision-id");
/// From one sidecar to another: the request was rejected. HTTP/2 cannot end a connection for one request, so whoever
/// carried it there for an HTTP/1.1 caller ends that one.
pub(crate) const REJECTED: HeaderName = HeaderName::from_static("tipstaff-rejected");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How the caller spoke, which is how it is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) version: Version,
    pub(crate) is_grpc: bool,
}

/// How long a caller may take to read an answer of ours, which is short.
const READ: Duration = Duration::from_secs(5);

/// Answers a request that goes no further, and puts that on its record.
pub(crate) async fn failure(
    failure: &Failure,
    manner: Manner,
    caller: &mut Downstream<'_>,
    exchange: &mut Exchange<'_>,
) {
    exchange.failed(failure);
    // The access log has a line for each; this one has the causes.
    tracing::debug!(
        fault = ?failure.fault(),
        reason = failure.reason(),
        error = failure as &dyn std::error::Error,
        "request answered by the proxy"
    );
    if matches!(failure, Failure::CallerGone) {
        return;
    }
    let mut response = response(failure, manner);
    date::stamp(response.headers_mut(), SystemTime::now);
    // After a head or a body that cannot be trusted what follows on an HTTP/1.1 connection cannot be, either.
    let close = matches!(failure, Failure::Rejected(_));
    // What needs no identity can come from anyone, and whoever gets nothing must not keep the place of one who does.
    if exchange.is_outsiders() {
        caller.dismiss();
    }
    exchange.answered(response.status().as_u16());
    if !caller.is_head() {
        exchange.sent = response.body().len() as u64;
    }
    if send(response, close, caller).await.is_err() {
        caller.abort();
    }
}

/// Answers a head that was not read.
pub(crate) async fn refusal(error: HeadError, mut caller: Downstream<'_>, origin: &Origin) {
    let manner = Manner {
        version: caller.version(),
        is_grpc: false,
    };
    let mut exchange = Exchange::begin(origin, None);
    let rejected = Failure::Rejected(error.into());
    failure(&rejected, manner, &mut caller, &mut exchange).await;
}

async fn send(
    response: Response<Bytes>,
    close: bool,
    caller: &mut Downstream<'_>,
) -> Result<(), Broken> {
    let (head, body) = response.into_parts();
    let ends = Instant::now() + READ;
    caller.respond(head, Framing::Length(body.len() as u64), close)?;
    caller.send(body, true)?;
    caller.end(None)?;
    poll_fn(|cx| match caller.poll_flush(cx) {
        Poll::Pending => caller
            .deadline()
            .poll(ends, cx)
            .map(|()| Err(Broken::Closed)),
        flushed => flushed,
    })
    .await
}

fn response(failure: &Failure, manner: Manner) -> Response<Bytes> {
    let answer = answer(failure);
    let mut response = if manner.is_grpc {
        grpc(&answer)
    } else {
        problem(failure, &answer)
    };
    let length = response.body().len();
    let headers = response.headers_mut();
    if length > 0 {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    decision_fields(failure, manner, headers);
    if matches!(failure, Failure::Rejected(_)) && manner.version == Version::HTTP_2 {
        headers.insert(REJECTED, HeaderValue::from_static("1"));
    }
    response
}

/// Status codes of gRPC, as in google/rpc/code.proto.
const INVALID_ARGUMENT: u8 = 3;
const DEADLINE_EXCEEDED: u8 = 4;
const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNAVAILABLE: u8 = 14;

struct Answer {
    status: StatusCode,
    grpc_status: u8,
    detail: String,
}

fn answer(failure: &Failure) -> Answer {
    let (status, grpc_status) = match failure {
        Failure::Rejected(rejection) => (rejected(*rejection), INVALID_ARGUMENT),
        Failure::Denied(_) | Failure::UnknownDestination { .. } => {
            (StatusCode::FORBIDDEN, PERMISSION_DENIED)
        }
        Failure::Limited(_) => (StatusCode::TOO_MANY_REQUESTS, RESOURCE_EXHAUSTED),
        Failure::Overloaded
        | Failure::Connect(
            ConnectError::NoIdentity
            | ConnectError::IdentityExpired
            | ConnectError::Unresolved(_)
            | ConnectError::Full
            | ConnectError::CircuitOpen,
        ) => (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
        Failure::Connect(ConnectError::Timeout(_)) => (StatusCode::GATEWAY_TIMEOUT, UNAVAILABLE),
        Failure::Connect(_) | Failure::NoResponse(_) | Failure::CallerGone => {
            (StatusCode::BAD_GATEWAY, UNAVAILABLE)
        }
        Failure::ResponseTimeout(_) | Failure::TryTimeout(_) | Failure::DeadlineExceeded => {
            (StatusCode::GATEWAY_TIMEOUT, DEADLINE_EXCEEDED)
        }
    };
    let detail = match failure {
        // These say what the caller itself wrote, or what it has to wait for.
        Failure::Rejected(rejection) => rejection.to_string(),
        Failure::Connect(error) => error.to_string(),
        _ => failure.to_string(),
    };
    Answer {
        status,
        grpc_status,
        detail,
    }
}

fn rejected(rejection: Rejection) -> StatusCode {
    match rejection {
        Rejection::Target(reject) => {
            StatusCode::from_u16(reject.status()).unwrap_or(StatusCode::BAD_REQUEST)
        }
        Rejection::Head(error) => {
            StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST)
        }
        Rejection::Expectation => StatusCode::EXPECTATION_FAILED,
        Rejection::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        Rejection::GoesRound => StatusCode::LOOP_DETECTED,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// A trailers-only response: HTTP 200, the outcome in fields (gRPC over HTTP/2, "Responses").
fn grpc(answer: &Answer) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(
        GRPC_STATUS,
        HeaderValue::from(u16::from(answer.grpc_status)),
    );
    headers.insert(GRPC_MESSAGE, text(&answer.detail));
    response
}

/// The end of a call's response that had begun before its deadline.
pub(crate) fn deadline_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert(GRPC_STATUS, HeaderValue::from(u16::from(DEADLINE_EXCEEDED)));
    trailers.insert(GRPC_MESSAGE, text(&Failure::DeadlineExceeded.to_string()));
    trailers
}

/// RFC 9457. `reason` is our own member: a word from a closed set.
fn problem(failure: &Failure, answer: &Answer) -> Response<Bytes> {
    let body = serde_json::json!({
        "title": answer.status.canonical_reason(),
        "status": answer.status.as_u16(),
        "detail": answer.detail,
        "reason": shown_reason(failure),
    });
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if answer.status == StatusCode::METHOD_NOT_ALLOWED {
        // RFC 9110 section 15.5.6 asks for the field; which of these are granted is not for everyone to know.
        headers.insert(
            ALLOW,
            HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        );
    }
    response
}

/// Whether a guard or the want of a grant refused is the operator's to know.
fn shown_reason(failure: &Failure) -> &'static str {
    match failure {
        Failure::Denied(_) => "denied",
        _ => failure.reason(),
    }
}

fn decision_fields(failure: &Failure, manner: Manner, headers: &mut HeaderMap) {
    match failure {
        Failure::Denied(Denial { id, .. }) | Failure::UnknownDestination { id, .. } => {
            headers.insert(DECISION_ID, text(id.as_str()));
        }
        Failure::Limited(exceeded) => {
            headers.insert(DECISION_ID, text(exceeded.id.as_str()));
            headers.insert(RETRY_AFTER, HeaderValue::from(exceeded.retry_after));
            headers.insert(RATE_LIMIT_POLICY, text(&exceeded.policy_field));
            headers.insert(RATE_LIMIT, text(&exceeded.limit_field));
            if manner.is_grpc {
                headers.insert(
                    GRPC_PUSHBACK,
                    HeaderValue::from(exceeded.retry_after.saturating_mul(1000)),
                );
            }
        }
        Failure::Overloaded | Failure::Connect(ConnectError::Full | ConnectError::CircuitOpen) => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
}

/// Texts of ours are visible ASCII; a text that is not says nothing rather than something wrong.
fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""))
}
