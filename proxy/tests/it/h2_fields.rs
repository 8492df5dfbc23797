//! Requests in HTTP/2 that an HTTP/1.1 server behind us would read otherwise (RFC 9113 sections 8.1 to 8.3 and 10.3).

mod targets;

use crate::h2_frames::{
    DATA, END_STREAM, HEADERS, Heard, Mesh, OPEN, WHOLE, block, frame, request,
};
use crate::harness::{FRONTEND, grant};

/// All methods and paths: what is refused is refused for its form.
fn everything() -> String {
    grant("allow: [{methods: [\"*\"], path: \"/**\"}]")
}

async fn ask(mesh: &Mesh, frames: &[u8]) -> (Heard, usize) {
    let before = mesh.app.requests();
    let mut raw = mesh.connect().await;
    raw.write(frames).await;
    let heard = raw.until_ended(1).await;
    (heard, mesh.app.requests() - before)
}

fn is_refused(heard: &Heard) -> bool {
    let is_client_error = |(_, status): &(u32, u16)| (400..500).contains(status) || *status == 501;
    heard.goaway.is_some() || !heard.resets.is_empty() || heard.statuses.iter().all(is_client_error)
}

#[tokio::test]
async fn a_malformed_head_reaches_no_app() {
    let mesh = Mesh::new(&everything()).await;
    let pseudo = |name: &'static str, value: &'static str| {
        let good = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/a"),
            (":authority", "o.example"),
        ];
        block(&good.map(|(known, given)| (known, if known == name { value } else { given })))
    };
    let without = |name: &str| {
        let good = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/a"),
            (":authority", "o.example"),
        ];
        block(
            &good
                .into_iter()
                .filter(|(known, _)| *known != name)
                .collect::<Vec<_>>(),
        )
    };
    let field = |name: &'static str, value: &'static str| request("GET", "/a", &[(name, value)]);
    let rows = [
        ("CR LF in a value", field("x", "a\r\nx-evil: 1")),
        ("LF in a value", field("x", "a\nx-evil: 1")),
        ("CR in a value", field("x", "a\rb")),
        ("NUL in a value", field("x", "a\0b")),
        ("DEL in a value", field("x", "a\x7fb")),
        ("an upper-case name", field("X-Evil", "1")),
        ("a name with a space", field("x evil", "1")),
        ("a name with a colon", field("x:", "1")),
        ("a name with CR LF", field("x\r\ny", "1")),
        ("an empty name", field("", "1")),
        ("a name beyond ASCII", field("x\u{e9}", "1")),
        (":path with a space", pseudo(":path", "/a /admin")),
        (
            ":path with a second request line",
            pseudo(":path", "/a HTTP/1.1\r\nhost: evil\r\n\r\nGET /admin"),
        ),
        (":path with a tab", pseudo(":path", "/a\tb")),
        (":path with NUL", pseudo(":path", "/a\0b")),
        (":path that is empty", pseudo(":path", "")),
        (":path without its slash", pseudo(":path", "a")),
        (
            ":path with an authority",
            pseudo(":path", "http://evil.example/a"),
        ),
        (":path that is a star", pseudo(":path", "*")),
        (":path with dot segments", pseudo(":path", "/a/../admin")),
        (":path with a backslash", pseudo(":path", "/a\\..\\admin")),
        (
            ":method with a space",
            pseudo(":method", "GET /admin HTTP/1.1"),
        ),
        (":method with CR LF", pseudo(":method", "GET\r\n")),
        (":method in lower case", pseudo(":method", "get")),
        (":method that is empty", pseudo(":method", "")),
        ("CONNECT with a path", pseudo(":method", "CONNECT")),
        ("TRACE", pseudo(":method", "TRACE")),
        (":scheme with CR LF", pseudo(":scheme", "http\r\nx: y")),
        (":scheme of another protocol", pseudo(":scheme", "ftp")),
        (":scheme that is empty", pseudo(":scheme", "")),
        (
            ":authority with CR LF",
            pseudo(":authority", "o.example\r\nx: y"),
        ),
        (
            ":authority with a user",
            pseudo(":authority", "user@o.example"),
        ),
        (
            ":authority with a path",
            pseudo(":authority", "o.example/a"),
        ),
        (":authority that is empty", pseudo(":authority", "")),
        ("no :method", without(":method")),
        ("no :scheme", without(":scheme")),
        ("no :path", without(":path")),
        ("no authority at all", without(":authority")),
        ("a pseudo-field twice: :path", field(":path", "/admin")),
        (
            "a pseudo-field late: :authority",
            [
                request("GET", "/a", &[("x", "y")]),
                block(&[(":authority", "evil.example")]),
            ]
            .concat(),
        ),
        (
            "a pseudo-field late: :path",
            [without(":path"), block(&[("x", "y"), (":path", "/a")])].concat(),
        ),
        (
            "a pseudo-field twice: :method",
            [block(&[(":method", "GET")]), request("POST", "/a", &[])].concat(),
        ),
        (
            "a pseudo-field unknown",
            [block(&[(":evil", "1")]), request("GET", "/a", &[])].concat(),
        ),
        (
            ":status in a request",
            [block(&[(":status", "200")]), request("GET", "/a", &[])].concat(),
        ),
        (
            ":protocol without CONNECT",
            [
                block(&[(":protocol", "websocket")]),
                request("GET", "/a", &[]),
            ]
            .concat(),
        ),
        (
            ":protocol with CONNECT",
            [
                block(&[(":protocol", "websocket")]),
                request("CONNECT", "/a", &[]),
            ]
            .concat(),
        ),
        ("host that differs", field("host", "evil.example")),
        (
            "host twice",
            request(
                "GET",
                "/a",
                &[
                    ("host", "orders.shop.example"),
                    ("host", "orders.shop.example"),
                ],
            ),
        ),
        ("connection", field("connection", "close")),
        ("keep-alive", field("keep-alive", "timeout=5")),
        ("proxy-connection", field("proxy-connection", "keep-alive")),
        ("transfer-encoding", field("transfer-encoding", "chunked")),
        ("upgrade", field("upgrade", "websocket")),
        ("te that is not trailers", field("te", "gzip")),
        ("expect unknown", field("expect", "miracles")),
        (
            "content-length without a body",
            field("content-length", "5"),
        ),
        ("content-length with a sign", field("content-length", "+0")),
        (
            "content-length with a space",
            field("content-length", "0 0"),
        ),
        ("content-length in hex", field("content-length", "0x0")),
        ("content-length that is empty", field("content-length", "")),
        ("content-length as a list", field("content-length", "0, 0")),
        (
            "content-length too large",
            field("content-length", "18446744073709551616"),
        ),
        (
            "content-length twice",
            request(
                "GET",
                "/a",
                &[("content-length", "0"), ("content-length", "0")],
            ),
        ),
    ];
    let mut failures = Vec::new();
    for (name, block) in &rows {
        let (heard, seen) = ask(&mesh, &frame(HEADERS, WHOLE, 1, block)).await;
        if seen != 0 || !is_refused(&heard) {
            failures.push(format!("{name}: {seen} requests at the app, {heard:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(rows.len(), 63);
}

/// What is odd and harmless goes on as one request, and the app reads it as we did.
#[tokio::test]
async fn an_odd_head_reaches_the_app_as_one_request() {
    let mesh = Mesh::new(&everything()).await;
    let rows = [
        ("te: trailers", request("GET", "/a", &[("te", "trailers")])),
        // The `h2` crate cuts it off before anybody decides.
        (":path with a fragment", request("GET", "/a#evil", &[])),
        (
            "host that agrees",
            request("GET", "/a", &[("host", "orders.shop.example")]),
        ),
        (
            "host in place of :authority",
            block(&[
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/a"),
                ("host", "orders.shop.example"),
            ]),
        ),
        (
            "cookie crumbs",
            request("GET", "/a", &[("cookie", "a=b"), ("cookie", "c=d")]),
        ),
        (
            "white space around a value",
            request("GET", "/a", &[("x", " y ")]),
        ),
        (
            "identity fields",
            request(
                "GET",
                "/a",
                &[
                    ("tipstaff-peer", "evil"),
                    ("tipstaff_peer", "evil"),
                    ("x-forwarded-client-cert", "evil"),
                    ("x-original-url", "/evil"),
                ],
            ),
        ),
    ];
    for (name, block) in rows {
        let (heard, seen) = ask(&mesh, &frame(HEADERS, WHOLE, 1, &block)).await;
        assert_eq!(
            (seen, &heard.statuses[..]),
            (1, &[(1, 200)][..]),
            "{name}: {heard:?}"
        );
        assert!(heard.body.starts_with("/a\n"), "{name}: {heard:?}");
        assert_eq!(
            heard.body.matches("\nhost: ").count(),
            1,
            "{name}: {heard:?}"
        );
        assert!(
            heard
                .body
                .contains(&format!("\ntipstaff-peer: {FRONTEND}\n")),
            "{name}: {heard:?}"
        );
        assert!(!heard.body.contains("evil"), "{name}: {heard:?}");
        assert!(
            !heard.body.contains("transfer-encoding"),
            "{name}: {heard:?}"
        );
    }
}

/// A body whose length is not what its head says would end elsewhere for the app. It must not see the end of one.
#[tokio::test]
async fn a_body_that_differs_from_its_length_is_never_whole_for_the_app() {
    let mesh = Mesh::new(&everything()).await;
    let head = |length: &'static str| {
        let block = request("POST", "/a", &[("content-length", length)]);
        frame(HEADERS, OPEN, 1, &block)
    };
    let longer = b"xGET /admin HTTP/1.1\r\nhost: evil\r\n\r\n";
    let rows = [
        (
            "longer, at once",
            [head("1"), frame(DATA, END_STREAM, 1, longer)].concat(),
        ),
        (
            "longer, in pieces",
            [
                head("1"),
                frame(DATA, 0, 1, b"x"),
                frame(DATA, END_STREAM, 1, b"y"),
            ]
            .concat(),
        ),
        (
            "a body where there is none",
            [head("0"), frame(DATA, END_STREAM, 1, b"x")].concat(),
        ),
        (
            "shorter",
            [head("5"), frame(DATA, END_STREAM, 1, b"x")].concat(),
        ),
        (
            "shorter, ended by trailers",
            [
                head("5"),
                frame(DATA, 0, 1, b"x"),
                frame(HEADERS, WHOLE, 1, &block(&[("x", "y")])),
            ]
            .concat(),
        ),
    ];
    for (name, frames) in rows {
        let (heard, _) = ask(&mesh, &frames).await;
        assert!(is_refused(&heard), "{name}: {heard:?}");
        assert_eq!(heard.body, "", "{name}");
    }
    // Nothing of those is left on a connection to the app.
    let (heard, seen) = ask(
        &mesh,
        &frame(HEADERS, WHOLE, 1, &request("GET", "/after", &[])),
    )
    .await;
    assert_eq!(seen, 1);
    assert!(heard.body.starts_with("/after\nGET "), "{heard:?}");
}

#[tokio::test]
async fn trailers_say_nothing_about_the_head() {
    let mesh = Mesh::new(&everything()).await;
    let upload = |trailers: &[(&str, &str)]| {
        [
            frame(HEADERS, OPEN, 1, &request("POST", "/a", &[])),
            frame(DATA, 0, 1, b"body"),
            frame(HEADERS, WHOLE, 1, &block(trailers)),
        ]
        .concat()
    };
    for name in [
        "host",
        "content-length",
        "tipstaff-peer",
        "tipstaff_peer",
        "x-forwarded-client-cert",
        "x-original-url",
        "x-http-method-override",
        "expect",
        "proxy-authorization",
    ] {
        let (heard, seen) = ask(&mesh, &upload(&[(name, "evil"), ("x-sum", "1")])).await;
        assert_eq!(
            (seen, &heard.statuses[..]),
            (1, &[(1, 200)][..]),
            "{name}: {heard:?}"
        );
        assert!(!heard.body.contains("evil"), "{name}: {heard:?}");
        assert!(heard.body.ends_with("\nbody"), "{name}: {heard:?}");
    }
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("te", "gzip"),
        ("x", "a\r\n\r\nGET /admin HTTP/1.1"),
        ("X-Upper", "1"),
    ] {
        let (heard, seen) = ask(&mesh, &upload(&[(name, value)])).await;
        assert!(seen <= 1 && is_refused(&heard), "{name}: {heard:?}");
        assert!(!heard.body.contains("/admin"), "{name}: {heard:?}");
    }
    // The `h2` crate drops pseudo-fields here, where it should reset the stream.
    for (name, value) in [
        (":path", "/admin"),
        (":method", "PUT"),
        (":authority", "evil"),
    ] {
        let (heard, seen) = ask(&mesh, &upload(&[(name, value)])).await;
        assert!(
            seen <= 1 && !heard.body.contains(value),
            "{name}: {heard:?}"
        );
    }
    let (heard, _) = ask(
        &mesh,
        &frame(HEADERS, WHOLE, 1, &request("GET", "/after", &[])),
    )
    .await;
    assert!(heard.body.starts_with("/after\nGET "), "{heard:?}");
}
