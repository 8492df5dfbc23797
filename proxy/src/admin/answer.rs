//! What each admin call answers.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use identity::Svid;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::oneshot;

use super::State;

/// Shorter than a connection may last, so that a CA that does not answer is told of, not cut off.
const ROTATE_TIME: Duration = Duration::from_secs(25);

type Answer = Response<Full<Bytes>>;

pub(super) fn live() -> Answer {
    json_answer(StatusCode::OK, &json!({"live": true}))
}

/// Ready when everything that was waited for is up, the certificate is valid and no drain has begun. A CA that is away,
/// a policy that was refused and memory that is full show here and do not take a sidecar out: what one sheds would fall
/// on the others.
pub(super) fn ready(state: &State) -> Answer {
    let now = SystemTime::now();
    let mut waiting = state.readiness.pending();
    waiting.extend(state.interception.pending());
    // A process that was replaced has been asked just before that: where it was asked there is another now.
    let draining = state.drain.is_started() && !state.handover.is_given();
    let svid = state.feed.svid.borrow().clone();
    let (identity, valid) = match svid.as_deref() {
        None => (json!({"state": "missing"}), false),
        Some(svid) => {
            let leaf = svid.leaf();
            let left = leaf.not_after.duration_since(now).unwrap_or_default();
            let valid = leaf.not_before <= now && !left.is_zero();
            let identity = json!({
                "state": if valid { "valid" } else if left.is_zero() { "expired" } else { "not_yet_valid" },
                "id": leaf.id.as_str(),
                "not_after": rfc3339(leaf.not_after),
                "remaining_seconds": left.as_secs(),
            });
            (identity, valid)
        }
    };
    let exchange = state.feed.state.borrow().clone();
    let ca = json!({
        "state": if exchange.failing.is_some() { "failing" } else { "ok" },
        "failing_since": exchange.failing.as_ref().map(|failing| rfc3339(failing.since)),
        "last_error": exchange.failing.as_ref().map(|failing| failing.error.as_str()),
        "renew_at": exchange.renew_at.map(rfc3339),
        "clock_skew_seconds": exchange.skew().map(|skew| skew.seconds()),
    });
    let policy = state.policy.borrow().clone();
    let memory = state.overload.reading().ok().flatten();
    let memory = json!({
        "state": state.overload.level().as_str(),
        "used_bytes": memory.map(|memory| memory.used),
        "limit_bytes": memory.map(|memory| memory.limit),
    });
    let ready = waiting.is_empty() && valid && !draining;
    let detail = json!({
        "ready": ready,
        "waiting_for": waiting,
        "draining": draining,
        "in_flight": state.drain.in_flight(),
        "identity": identity,
        "ca": ca,
        "memory": memory,
        "policy": {
            "state": if policy.last_error.is_some() { "reload_refused" } else { "ok" },
            "generation": policy.generation,
            "loaded_at": rfc3339(policy.loaded_at),
            "last_error": policy.last_error,
        },
    });
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json_answer(status, &detail)
}

/// What is known of each service's endpoints. None of it makes a sidecar unready: the service is another's.
pub(super) fn endpoints(state: &State) -> Answer {
    let now = SystemTime::now();
    let findings = state.discovery.findings(&state.config.load()).into_iter();
    let services = findings.map(|(service, findings)| {
        let found = findings.iter().map(|finding| {
            let age = finding
                .found_at
                .map(|at| now.duration_since(at).unwrap_or_default());
            let failing = finding.failing.as_ref();
            json!({
                "source": finding.source,
                "addresses": finding.addresses,
                "age_seconds": age.map(|age| age.as_secs()),
                "failing_since": failing.map(|failing| rfc3339(failing.since)),
                "last_error": failing.map(|failing| failing.error.as_str()),
            })
        });
        json!({"service": service, "found": found.collect::<Vec<_>>()})
    });
    let services: Vec<Value> = services.collect();
    json_answer(StatusCode::OK, &json!(services))
}

pub(super) fn metrics(state: &State) -> Answer {
    state.discovery.measure(&state.config.load());
    let text = state
        .metrics
        .encode(&state.feed, &state.policy.borrow(), SystemTime::now());
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    let kind =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

/// The proxy's sections hold no secret; a key that does has to be left out where it is declared.
pub(super) fn config(state: &State) -> Answer {
    match serde_json::to_value(&**state.config.load()) {
        Ok(config) => json_answer(StatusCode::OK, &config),
        // Only a path that is not UTF-8 does this.
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(super) fn identity(state: &State) -> Answer {
    let svid = state.feed.svid.borrow().clone();
    match svid {
        Some(svid) => json_answer(StatusCode::OK, &describe(&svid, state)),
        None => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "no identity yet; /ready says why",
        ),
    }
}

pub(super) fn plaintext(state: &State) -> Answer {
    let listeners = state.metrics.plaintext.report(SystemTime::now());
    json_answer(StatusCode::OK, &json!({"listeners": listeners}))
}

/// Renews and answers with the new identity, or with what the CA said.
pub(super) async fn rotate(state: &State) -> Answer {
    let (reply, outcome) = oneshot::channel();
    let renewal = async {
        let gone = || "the renewal task has ended".to_owned();
        state.feed.renew.send(reply).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    };
    match tokio::time::timeout(ROTATE_TIME, renewal).await {
        Ok(Ok(())) => {
            tracing::info!("identity renewed on demand");
            identity(state)
        }
        Ok(Err(error)) => problem(StatusCode::BAD_GATEWAY, &format!("not renewed: {error}")),
        Err(_) => problem(
            StatusCode::GATEWAY_TIMEOUT,
            "not renewed: the CA has not answered in 25 s",
        ),
    }
}

pub(super) fn problem(status: StatusCode, detail: &str) -> Answer {
    json_answer(status, &json!({"error": detail}))
}

fn describe(svid: &Svid, state: &State) -> Value {
    let leaf = svid.leaf();
    let bundle = state.feed.bundle.borrow().clone();
    json!({
        "id": leaf.id.as_str(),
        "serial": leaf.serial,
        "not_before": rfc3339(leaf.not_before),
        "not_after": rfc3339(leaf.not_after),
        "chain": identity::pem::encode(svid.chain()),
        "bundle": {"trust_domain": bundle.trust_domain().as_str(), "sequence": bundle.sequence()},
    })
}

/// None for years that RFC 3339 cannot write.
fn rfc3339(at: SystemTime) -> Option<String> {
    OffsetDateTime::from(at).format(&Rfc3339).ok()
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{value:#}\n"))));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
