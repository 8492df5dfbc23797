//! Pseudo-fields and fields of HTTP/2 in spellings that some server takes for another target, host or framing.

use super::{ask, everything, is_refused};
use crate::h2_frames::{HEADERS, Mesh, WHOLE, block, frame, request};

/// A request with this pseudo-field in place of a good one.
fn with(name: &str, value: &str) -> Vec<u8> {
    let good = [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/a"),
        (":authority", "o.example"),
    ];
    block(&good.map(|(known, given)| (known, if known == name { value } else { given })))
}

async fn passed(mesh: &Mesh, rows: &[(&str, &str)], head: fn(&str, &str) -> Vec<u8>) -> String {
    let mut passed = String::new();
    for (name, value) in rows {
        let (heard, seen) = ask(mesh, &frame(HEADERS, WHOLE, 1, &head(name, value))).await;
        if seen != 0 || !is_refused(&heard) {
            passed += &format!("{name}: {value:?}: {seen} requests at the app, {heard:?}\n");
        }
    }
    passed
}

#[tokio::test]
async fn a_target_or_host_that_another_server_reads_otherwise_reaches_no_app() {
    let mesh = Mesh::new(&everything()).await;
    let rows = [
        (":path", "//evil.example/a"),
        (":path", "/a/%2e%2e/admin"),
        (":path", "/a/.%2e/admin"),
        (":path", "/a%2f..%2fadmin"),
        (":path", "/a%5c..%5cadmin"),
        (":path", "/a/%252e%252e/admin"),
        (":path", "/a/..;/admin"),
        (":path", "/a/%c0%ae%c0%ae/admin"),
        (":path", "/a/%e0%80%ae%e0%80%ae/admin"),
        (":path", "/a/%u002e%u002e/admin"),
        (":path", "/a%00/../admin"),
        (":path", "/a%00"),
        (":path", "/a%0d%0aGET%20/admin"),
        (":path", "/a%"),
        (":path", "/a%4"),
        (":path", "/a%zz"),
        (":path", "/a\u{ff0f}..\u{ff0f}admin"),
        (":path", "/a/.\u{200b}./admin"),
        (":path", "?a"),
        (":path", "*/a"),
        (":path", "http:/a"),
        (":path", "/a?\0"),
        (":authority", "o.example:99999"),
        (":authority", "o.example:+80"),
        (":authority", "o.example:80:80"),
        (":authority", "o.example, evil.example"),
        (":authority", "o.example evil.example"),
        (":authority", "o.example?a"),
        (":authority", "o.example#a"),
        (":authority", "o.example\\evil.example"),
        (":authority", "o.example%00"),
        (":authority", "o%2eexample"),
        (":authority", "o\u{3002}example"),
        (":authority", "o\u{200b}.example"),
        (":authority", "[::1"),
        (":authority", "[::1]o.example"),
        (":authority", "http://o.example"),
        (":authority", "{o.example}"),
        (":authority", "o.example|evil.example"),
        (":authority", ":80"),
        (":scheme", "ws"),
        (":scheme", "https://evil.example/"),
        (":scheme", "https "),
        (":scheme", "file"),
        (":method", "GET\t"),
        (":method", "GET\0"),
        (":method", "\"GET\""),
        (":method", "GET,POST"),
        (":method", "G\u{200b}ET"),
    ];
    let passed = passed(&mesh, &rows, with).await;
    assert!(passed.is_empty(), "{passed}");
}

#[tokio::test]
async fn a_field_that_speaks_of_the_connection_or_the_framing_reaches_no_app() {
    let mesh = Mesh::new(&everything()).await;
    let rows = [
        ("te", "trailers, gzip"),
        ("te", "trailers;q=1"),
        ("te", "chunked"),
        ("te", ""),
        ("connection", ""),
        ("connection", "x"),
        ("transfer-encoding", "identity"),
        ("transfer-encoding", ""),
        ("upgrade", "h2c"),
        ("expect", "100-continue, x"),
        ("expect", "100-continue;q=1"),
        ("content-length", "-0"),
        ("content-length", "0.0"),
        ("content-length", "0;"),
        ("content-length", "\u{ff10}"),
        ("host", "orders.shop.example, evil.example"),
        ("host", "orders.shop.example evil.example"),
        ("host", "user@orders.shop.example"),
        ("host", ""),
        ("content-length\0", "0"),
        ("content-length ", "0"),
        ("c\u{43e}ntent-length", "0"),
        ("Transfer-Encoding", "chunked"),
        ("transfer-encoding\t", "chunked"),
        ("x\u{200b}", "1"),
        ("x(", "1"),
        ("x", "\u{b}\0"),
        ("x", "a\r\n\r\nGET /admin HTTP/1.1\r\nhost: evil\r\n\r\n"),
    ];
    let head = |name: &str, value: &str| request("GET", "/a", &[(name, value)]);
    let passed = passed(&mesh, &rows, head).await;
    assert!(passed.is_empty(), "{passed}");
}
