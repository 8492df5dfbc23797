use crate::harness::{
    App, Authority, Caller, FRONTEND, Life, ORDERS, compile, document, grant, head, sidecar, tls,
};
use http::Request;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

const CORPUS: &str = include_str!("../../../tests/vectors/http/path_bypass_sample.json");

#[tokio::test]
async fn every_http1_row_holds_over_a_socket() {
    let corpus: Value = serde_json::from_str(CORPUS).unwrap();
    let authority = Authority::new();
    let app = App::start().await;
    let orders = authority.svid(ORDERS, Life::Hour);
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let sidecar = sidecar(&authority, orders, app.address, "", |_| ());
    let (mut failures, mut checked) = (Vec::new(), 0);
    for row in corpus["vectors"].as_array().unwrap() {
        let id = row["id"].as_str().unwrap();
        if row["request"]["proto"] != "h1" {
            continue;
        }
        checked += 1;
        let documents = documents(&corpus["rulesets"][row["ruleset"].as_str().unwrap()]);
        sidecar.policy.send_replace(Arc::new(compile(&documents)));
        let mut stream = tls(sidecar.inbound, &authority, Some(&frontend), b"http/1.1")
            .await
            .unwrap();
        let before = app.requests();
        stream.write_all(&raw(&row["request"])).await.unwrap();
        let mut answer = head(&mut stream).await;
        let expect = &row["expect"];
        let status = expect["status"].as_u64().unwrap();
        if !answer.starts_with(&format!("HTTP/1.1 {status}")) {
            failures.push(format!("{id}: expected {status}, found {answer:?}"));
            continue;
        }
        let allowed = expect["decision"] == "ALLOW";
        if app.requests() - before != usize::from(allowed) {
            failures.push(format!(
                "{id}: the app saw {} requests",
                app.requests() - before
            ));
        }
        if expect["decision"] == "REJECT" {
            let mut rest = Vec::new();
            // Closed with or without close_notify; a connection left open would hang here.
            stream.read_to_end(&mut rest).await.ok();
        }
        if let Some(path) = expect["forward_path"].as_str()
            && row["request"]["line"].as_str().unwrap().starts_with("GET")
        {
            let mut rest = [0; 8192];
            let read = stream.read(&mut rest).await.unwrap_or_default();
            answer += &String::from_utf8_lossy(&rest[..read]);
            let body = answer.split_once("\r\n\r\n").unwrap().1;
            if body.lines().next() != Some(path) {
                failures.push(format!("{id}: expected {path} at the app, found {body:?}"));
            }
            for name in expect["must_strip"].as_array().into_iter().flatten() {
                if body.contains(&format!("{}: ", name.as_str().unwrap())) {
                    failures.push(format!("{id}: {name} reached the app"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(checked, 79);
}

/// The request head as octets; the corpus writes them as Latin-1.
fn raw(request: &Value) -> Vec<u8> {
    let mut text = format!("{}\r\n", request["line"].as_str().unwrap());
    for field in request["headers"].as_array().unwrap() {
        text += &format!(
            "{}: {}\r\n",
            field[0].as_str().unwrap(),
            field[1].as_str().unwrap()
        );
    }
    text += "\r\n";
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect()
}

/// A ruleset of the corpus as documents. JSON is YAML in flow style.
fn documents(rules: &Value) -> String {
    let clauses =
        |list: &str| -> Vec<Value> { rules[list].as_array().unwrap().iter().map(clause).collect() };
    let mut text = grant(&format!("allow: {}", json!(clauses("allow"))));
    if !clauses("deny").is_empty() {
        text += &document(
            "Guard",
            "deny",
            &format!("deny: {}", json!(clauses("deny"))),
        );
    }
    for key in ["encodedSlash", "pathParams"] {
        if let Some(value) = rules[key].as_str() {
            text += &document("HttpProfile", "profile", &format!("{key}: {value}"));
        }
    }
    text
}

fn clause(rule: &Value) -> Value {
    let mut rule = rule.clone();
    if let Some((service, method)) = rule["grpc"].as_str().and_then(|name| name.split_once('/')) {
        return json!({"grpc": service, "methods": [method]});
    }
    let headers = rule.get_mut("headers").and_then(Value::as_array_mut);
    for header in headers.into_iter().flatten() {
        // Grants always ask for a single value.
        header.as_object_mut().unwrap().remove("singular");
    }
    rule
}

/// Rows that no client library writes; their frames are made by hand.
const NEED_RAW_FRAMES: [&str; 5] = ["h2-278", "h2-282", "h2-286", "h2-290", "connect-222"];

#[tokio::test]
async fn every_http2_row_that_a_client_can_write_holds_over_a_socket() {
    let corpus: Value = serde_json::from_str(CORPUS).unwrap();
    let authority = Authority::new();
    let app = App::start().await;
    let orders = authority.svid(ORDERS, Life::Hour);
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let sidecar = sidecar(&authority, orders, app.address, "", |_| ());
    let mut checked = 0;
    for row in corpus["vectors"].as_array().unwrap() {
        let (id, request) = (row["id"].as_str().unwrap(), &row["request"]);
        if request["proto"] != "h2" || NEED_RAW_FRAMES.contains(&id) {
            continue;
        }
        checked += 1;
        let documents = documents(&corpus["rulesets"][row["ruleset"].as_str().unwrap()]);
        sidecar.policy.send_replace(Arc::new(compile(&documents)));
        let mut caller = Caller::http2(sidecar.inbound, &authority, &frontend).await;
        let pseudo = |name: &str| {
            let fields = request["pseudo"].as_array().unwrap();
            let field = fields.iter().find(|field| field[0] == name).unwrap();
            field[1].as_str().unwrap()
        };
        let mut builder = Request::builder().method(pseudo(":method")).uri(format!(
            "https://{}{}",
            pseudo(":authority"),
            pseudo(":path")
        ));
        for field in request["headers"].as_array().unwrap() {
            builder = builder.header(field[0].as_str().unwrap(), field[1].as_str().unwrap());
        }
        let reply = caller.send(builder).await.unwrap();
        let is_grpc = reply.header("content-type") == "application/grpc";
        // A refused gRPC call is told so in its own terms: HTTP 200 and a grpc-status.
        let expected = match row["expect"]["decision"].as_str().unwrap() {
            "ALLOW" if is_grpc => "0",
            "DENY" if is_grpc => "7",
            "REJECT" if is_grpc => "3",
            _ => "",
        };
        assert_eq!(reply.header("grpc-status"), expected, "{id}");
        if !is_grpc {
            assert_eq!(
                u64::from(reply.status.as_u16()),
                row["expect"]["status"].as_u64().unwrap(),
                "{id}"
            );
        }
    }
    assert_eq!(checked, 9);
}

#[tokio::test]
async fn every_http2_row_that_no_client_can_write_holds_over_a_socket() {
    let corpus: Value = serde_json::from_str(CORPUS).unwrap();
    let authority = Authority::new();
    let app = App::start().await;
    let orders = authority.svid(ORDERS, Life::Hour);
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let sidecar = sidecar(&authority, orders, app.address, "", |_| ());
    let rows = corpus["vectors"].as_array().unwrap().iter();
    for row in rows.filter(|row| NEED_RAW_FRAMES.contains(&row["id"].as_str().unwrap())) {
        let documents = documents(&corpus["rulesets"][row["ruleset"].as_str().unwrap()]);
        sidecar.policy.send_replace(Arc::new(compile(&documents)));
        let mut stream = tls(sidecar.inbound, &authority, Some(&frontend), b"h2")
            .await
            .unwrap();
        let before = app.requests();
        stream.write_all(&frames(&row["request"])).await.unwrap();
        let answer = first_answer(&mut stream).await;
        // In the static table of HPACK 0x88 is `:status: 200`; a refusal may also be a reset or the connection's end.
        let allowed = row["expect"]["decision"] == "ALLOW";
        assert_eq!(answer == Some(0x88), allowed, "{row}: {answer:?}");
        assert_eq!(app.requests() - before, usize::from(allowed), "{row}");
    }
}

/// A connection with one request: its fields as literals without indexing (RFC 7541 section 6.2.2).
fn frames(request: &Value) -> Vec<u8> {
    let mut block = Vec::new();
    for list in ["pseudo", "headers"] {
        for field in request[list].as_array().unwrap() {
            block.push(0);
            for text in [&field[0], &field[1]] {
                let text = text.as_str().unwrap();
                block.push(u8::try_from(text.len()).unwrap());
                block.extend(text.as_bytes());
            }
        }
    }
    let length = u8::try_from(block.len()).unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]); // SETTINGS
    bytes.extend([0, 0, length, 1, 0x05, 0, 0, 0, 1]); // HEADERS, whole, without a body
    bytes.extend(block);
    bytes
}

/// The first byte of the response's field block; none for RST_STREAM, GOAWAY or the connection's end.
async fn first_answer<S: AsyncRead + Unpin>(stream: &mut S) -> Option<u8> {
    loop {
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await.ok()?;
        let mut payload = vec![0; usize::from(frame[1]) << 8 | usize::from(frame[2])];
        stream.read_exact(&mut payload).await.ok()?;
        match frame[3] {
            1 => return payload.first().copied(),
            3 | 7 => return None,
            _ => {}
        }
    }
}
