//! The agent's `/live`, `/ready` (503 and a line for each identity that has no valid certificate) and `/metrics`, on loopback.
//! Other users than root and the agent's own learn of `/ready` only whether it is: which identities there are, and what the
//! CA said, is not for everyone on this machine.

use crate::commands::http::Answer;
use crate::commands::http::local::Asker;
use crate::workload_api::standing::{Standing, State};
use hyper::{Method, Request, StatusCode};
use std::time::{SystemTime, UNIX_EPOCH};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub(super) fn answer<B>(asker: Asker, request: &Request<B>, standings: &[Standing]) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/live") => Answer::text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/ready") => ready(asker, standings),
        (&Method::GET, "/metrics") => Answer {
            status: StatusCode::OK,
            // Prometheus refuses a scrape that does not say what it is.
            content_type: OPEN_METRICS,
            body: metrics(standings).into(),
        },
        (&Method::GET, _) => Answer::text(
            StatusCode::NOT_FOUND,
            "expected /live, /ready or /metrics\n",
        ),
        _ => Answer::text(StatusCode::METHOD_NOT_ALLOWED, "expected GET\n"),
    }
}

/// Renewals that fail while there is a valid certificate are told, and are no reason: a CA that is away makes no agent worse.
fn ready(asker: Asker, standings: &[Standing]) -> Answer {
    let is_bad = |one: &&Standing| one.state != State::Valid;
    let status = match standings.iter().find(is_bad) {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    if asker == Asker::Other {
        let is_ready = status == StatusCode::OK;
        return Answer::text(status, if is_ready { "ok\n" } else { "not ready\n" });
    }
    let told = standings
        .iter()
        .filter(|one| is_bad(one) || one.failing.is_some());
    let lines = told.map(|one| {
        let (id, state) = (&one.id, one.state.as_str());
        match &one.failing {
            Some((since, error)) => {
                format!("{id}: {state}; failing since {}: {error}\n", unix(*since))
            }
            None => format!("{id}: {state}\n"),
        }
    });
    match lines.collect::<String>() {
        lines if lines.is_empty() => Answer::text(status, "ok\n"),
        lines => Answer::text(status, lines),
    }
}

fn metrics(standings: &[Standing]) -> String {
    let mut text = "# HELP tipstaff_workload_identities Identities by what callers get of them.\n# TYPE tipstaff_workload_identities gauge\n".to_owned();
    for state in State::ALL {
        let count = standings.iter().filter(|one| one.state == state).count();
        text += &format!(
            "tipstaff_workload_identities{{state=\"{}\"}} {count}\n",
            state.as_str()
        );
    }
    let failing = standings.iter().filter(|one| one.failing.is_some()).count();
    text += &format!(
        "# HELP tipstaff_workload_renewals_failing Identities whose last renewal failed.\n# TYPE tipstaff_workload_renewals_failing gauge\ntipstaff_workload_renewals_failing {failing}\n"
    );
    if let Some(first) = standings.iter().filter_map(|one| one.not_after).min() {
        text += &format!(
            "# HELP tipstaff_workload_first_expiry_timestamp_seconds When the first certificate that is handed out ends.\n# TYPE tipstaff_workload_first_expiry_timestamp_seconds gauge\n# UNIT tipstaff_workload_first_expiry_timestamp_seconds seconds\ntipstaff_workload_first_expiry_timestamp_seconds {}\n",
            unix(first)
        );
    }
    text + "# EOF\n"
}

/// In seconds since the Unix epoch.
fn unix(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use hyper::Response;
    use std::time::Duration;

    async fn ask(path: &str, standings: &[Standing]) -> (u16, String) {
        ask_as(Asker::Trusted, path, standings).await
    }

    async fn ask_as(asker: Asker, path: &str, standings: &[Standing]) -> (u16, String) {
        let request = Request::get(path).body(()).unwrap();
        let response: Response<_> = answer(asker, &request, standings).into();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn standing(name: &str, state: State, failing: bool) -> Standing {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        Standing {
            id: identity::SpiffeId::parse(&format!("spiffe://a.test/{name}")).unwrap(),
            state,
            not_after: (state != State::Missing).then(|| at(200)),
            failing: failing.then(|| (at(100), "the CA is away".to_owned())),
        }
    }

    #[tokio::test]
    async fn an_agent_is_ready_as_long_as_every_identity_has_a_valid_certificate() {
        let valid = standing("a", State::Valid, false);
        assert_eq!(
            ask("/ready", std::slice::from_ref(&valid)).await,
            (200, "ok\n".into())
        );
        let failing = standing("b", State::Valid, true);
        let (status, told) = ask("/ready", &[valid.clone(), failing]).await;
        assert_eq!(status, 200);
        assert_eq!(
            told,
            "spiffe://a.test/b: valid; failing since 100: the CA is away\n"
        );
        for (state, word) in [
            (State::Missing, "missing"),
            (State::Expired, "expired"),
            (State::Revoked, "revoked"),
        ] {
            let (status, told) = ask("/ready", &[valid.clone(), standing("c", state, false)]).await;
            assert_eq!(
                (status, told),
                (503, format!("spiffe://a.test/c: {word}\n"))
            );
        }
    }

    #[tokio::test]
    async fn other_users_learn_of_no_identity_and_of_no_reason() {
        let failing = standing("a", State::Valid, true);
        let missing = standing("b", State::Missing, true);
        for (standings, expected) in [
            (&[failing.clone()][..], (200, "ok\n")),
            (&[failing, missing], (503, "not ready\n")),
        ] {
            let (status, told) = ask_as(Asker::Other, "/ready", standings).await;
            assert_eq!((status, &*told), expected);
        }
    }

    #[tokio::test]
    async fn metrics_count_identities_by_state_and_name_none() {
        let all = [
            standing("a", State::Valid, true),
            standing("b", State::Expired, true),
            standing("c", State::Missing, false),
        ];
        let (status, text) = ask("/metrics", &all).await;
        assert_eq!(status, 200);
        for line in [
            "tipstaff_workload_identities{state=\"valid\"} 1\n",
            "tipstaff_workload_identities{state=\"expired\"} 1\n",
            "tipstaff_workload_identities{state=\"missing\"} 1\n",
            "tipstaff_workload_identities{state=\"revoked\"} 0\n",
            "tipstaff_workload_renewals_failing 2\n",
            "tipstaff_workload_first_expiry_timestamp_seconds 200\n",
        ] {
            assert!(text.contains(line), "{line:?} in {text}");
        }
        assert!(
            text.ends_with("# EOF\n") && !text.contains("spiffe://"),
            "{text}"
        );
    }
}
