//! The CA's `/live`, `/ready` (503 and a line for each reason when it is not) and `/metrics`, on loopback.

use crate::commands::http::{Answer, Limits};
use ca::authority::Fault;
use ca::metrics::Metrics;
use hyper::{Method, Request, StatusCode};

/// A scraper and a person with a browser fit. All come from this machine, where an address tells nobody apart.
pub(super) const LIMITS: Limits = Limits {
    connections: 16,
    per_address: 16,
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn answer<B>(request: &Request<B>, metrics: &Metrics, faults: &[Fault]) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/ready") if !faults.is_empty() => {
            let lines: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, lines)
        }
        (&Method::GET, "/live" | "/ready") => Answer::text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/metrics") => Answer {
            status: StatusCode::OK,
            // Prometheus refuses a scrape that does not say what it is.
            content_type: OPEN_METRICS,
            body: metrics.render().into(),
        },
        (&Method::GET, _) => Answer::text(
            StatusCode::NOT_FOUND,
            "expected /live, /ready or /metrics\n",
        ),
        _ => Answer::text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n"),
    }
}
