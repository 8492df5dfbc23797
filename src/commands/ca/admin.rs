//! The CA's `/live`, `/ready` (a line for each fault, and 503 when one keeps the CA from its work) and `/metrics`, on loopback.

use crate::commands::http::Answer;
use ca::authority::Fault;
use ca::metrics::Metrics;
use hyper::{Method, Request, StatusCode};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn answer<B>(request: &Request<B>, metrics: &Metrics, faults: &[Fault]) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/ready") if !faults.is_empty() => {
            let lines: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
            let status = match faults.iter().any(Fault::is_in_the_way) {
                true => StatusCode::SERVICE_UNAVAILABLE,
                false => StatusCode::OK,
            };
            Answer::text(status, lines)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_only_prepared_is_named_and_takes_no_replica_out_of_a_load_balancer() {
        let request = Request::get("/ready").body(()).expect("a request");
        let prepared = || Fault::Prepared("no such key".to_owned());
        for (faults, status) in [
            (vec![prepared()], StatusCode::OK),
            (
                vec![prepared(), Fault::LedgerSlow],
                StatusCode::SERVICE_UNAVAILABLE,
            ),
        ] {
            let answer = answer(&request, &Metrics::default(), &faults);
            assert_eq!(answer.status, status);
            let said = String::from_utf8_lossy(&answer.body);
            assert!(said.contains("no such key"), "{said}");
        }
    }
}
