use crate::harness::{App, Authority, FRONTEND, Life, ORDERS, grant, sidecar, tls};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const CORPUS: &str = include_str!("../../../tests/vectors/http/h1_framing_sample.json");

/// What hyper's HTTP/1 reads where a stricter reader would refuse; a reader of our own will close these. All of them
/// still reach the app with one framing, as the one request that was decided on. A row that is refused after all fails
/// the test: it has to leave this list.
const READ_ANYWAY: [(&str, &str); 5] = [
    (
        "clte-both",
        "Content-Length beside Transfer-Encoding is dropped",
    ),
    (
        "te-upper",
        "Content-Length beside Transfer-Encoding is dropped",
    ),
    ("te-bare-lf-prefix", "a bare LF ends a field"),
    ("syn-lf-only", "a bare LF ends a line"),
    (
        "lim-cookie-crumbs",
        "many small fields are within the limit on fields",
    ),
];

#[tokio::test]
async fn every_message_that_has_to_be_refused_is() {
    let corpus: Value = serde_json::from_str(CORPUS).unwrap();
    let authority = Authority::new();
    let app = App::start().await;
    let orders = authority.svid(ORDERS, Life::Hour);
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let everything = grant("allow: [{methods: [\"*\"], path: \"/**\"}]");
    let sidecar = sidecar(&authority, orders, app.address, &everything, |config| {
        config.timeouts.request_head = Duration::from_millis(300);
        config.timeouts.idle = Duration::from_millis(300);
        config.timeouts.response = Duration::from_millis(300);
    });
    let (mut failures, mut checked) = (Vec::new(), 0);
    for row in corpus["vectors"].as_array().unwrap() {
        let (id, expect) = (row["id"].as_str().unwrap(), &row["expect"]);
        let is_read_anyway = READ_ANYWAY.iter().any(|(known, _)| *known == id);
        checked += 1;
        let before = app.requests();
        let svid = Some(&frontend);
        let mut stream = tls(sidecar.inbound, &authority, svid, b"http/1.1")
            .await
            .unwrap();
        // The sidecar may close before all is written.
        stream.write_all(&message(row)).await.ok();
        let mut answer = Vec::new();
        let read = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        let seen = (app.requests() - before) as u64;
        if is_read_anyway {
            let is_answered = answer.starts_with("HTTP/1.1 200 ");
            if !is_answered || seen != 1 || answer.contains("/admin") {
                failures.push(format!("{id}: {seen} requests at the app, {answer:.60?}"));
            }
            continue;
        }
        if let Some(most) = expect["max_upstream_requests"].as_u64()
            && seen > most
        {
            failures.push(format!(
                "{id}: the app saw {seen} requests, expected at most {most}"
            ));
        }
        if expect["front"] == "reject" {
            let statuses = expect["status"].as_array().into_iter().flatten();
            let refusals: Vec<String> = statuses.map(|status| format!(" {status} ")).collect();
            let is_refusal = match refusals.as_slice() {
                [] => answer.starts_with("HTTP/1.1 4"),
                refusals => refusals
                    .iter()
                    .any(|status| answer.get(8..13) == Some(status)),
            };
            // A message that breaks off in its body may have been forwarded up to there: no status is left to send.
            let body = expect["max_upstream_requests"] == 1;
            if !body && !is_refusal {
                failures.push(format!("{id}: expected a refusal, found {answer:.60?}"));
            }
            if read.is_err() {
                failures.push(format!("{id}: expected the connection to end"));
            }
        }
        if answer.contains("/admin") {
            failures.push(format!("{id}: a hidden request was answered: {answer:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(checked, 57);
}

/// The message as octets: whole in base64, or as texts to be repeated.
fn message(row: &Value) -> Vec<u8> {
    if let Some(parts) = row["parts"].as_array() {
        let part = |part: &Value| {
            let times = usize::try_from(part[1].as_u64().unwrap()).unwrap();
            part[0].as_str().unwrap().repeat(times).into_bytes()
        };
        return parts.iter().flat_map(part).collect();
    }
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    engine.decode(row["raw_b64"].as_str().unwrap()).unwrap()
}
