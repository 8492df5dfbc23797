//! An HTTP/1.1 app and its HTTP/1.1 caller, with HTTP/2 between their sidecars: what one says arrives as it was said.

use crate::harness::{
    Authority, FRONTEND, Life, ORDERS, Sidecar, grant, head, outbound, service, sidecar,
};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);
const HOST: &str = "orders.shop.example";

/// Both sidecars, and what the app was asked.
struct Across {
    frontend: Sidecar,
    _orders: Sidecar,
    asked: mpsc::UnboundedReceiver<String>,
}

impl Across {
    /// The app answers with `answer` once it has read a head and then everything up to `end`.
    async fn new(end: &'static str, answer: &'static str) -> Self {
        let authority = Authority::new();
        let (app, asked) = app(end, answer).await;
        let all = grant("allow: [{methods: [GET, HEAD, POST], path: \"/**\"}]");
        let svid = authority.svid(ORDERS, Life::Hour);
        let orders = sidecar(&authority, svid, app, &all, |_| ());
        let to = orders.inbound;
        let svid = authority.svid(FRONTEND, Life::Hour);
        let frontend = sidecar(&authority, svid, to, "", |config| {
            config.outbound = outbound(vec![service(HOST, to, ORDERS)]);
        });
        Self {
            frontend,
            _orders: orders,
            asked,
        }
    }

    /// A request with these lines in its head, and what follows it.
    async fn send(&self, line: &str, fields: &str, rest: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.frontend.outbound()).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n{rest}");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    async fn asked(&mut self) -> String {
        let asked = timeout(SOON, self.asked.recv()).await;
        asked.expect("a request").unwrap()
    }
}

async fn app(
    end: &'static str,
    answer: &'static str,
) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                loop {
                    let mut asked = head(&mut stream).await;
                    while !asked.is_empty() && !asked.ends_with(end) {
                        let mut more = [0; 4096];
                        let count = stream.read(&mut more).await.unwrap();
                        assert!(count > 0, "no {end:?} in {asked:?}");
                        asked += &String::from_utf8_lossy(&more[..count]);
                    }
                    // A test that has heard enough is gone.
                    if asked.is_empty() || tell.send(asked).is_err() {
                        return;
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    (address, told)
}

/// What comes up to these words.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        let read = timeout(SOON, stream.read_u8()).await;
        let so_far = || String::from_utf8_lossy(&heard).into_owned();
        let Ok(Ok(byte)) = read else {
            panic!("expected {end:?}, {read:?} after {:?}", so_far());
        };
        heard.push(byte);
    }
    String::from_utf8(heard).unwrap()
}

/// The values of a field, in order.
fn values<'m>(message: &'m str, name: &str) -> Vec<&'m str> {
    let lines = message
        .split("\r\n")
        .filter_map(|line| line.split_once(':'));
    lines
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn cookies_arrive_as_one_field_and_each_set_cookie_as_its_own() {
    let answer = "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=\"2, 3\"; Secure\r\nSet-Cookie: a=4\r\nContent-Length: 2\r\n\r\nok";
    let mut across = Across::new("", answer).await;
    for (fields, expected) in [
        ("Cookie: a=b; c=d\r\n", "a=b; c=d"),
        ("Cookie: a=b,c; d=\"e f\"; ; g\r\n", "a=b,c; d=\"e f\"; ; g"),
        // On HTTP/2 these are the crumbs of one.
        (
            "Cookie: a=b\r\nCookie: c=d; e=f\r\nCookie: g\r\n",
            "a=b; c=d; e=f; g",
        ),
    ] {
        let mut stream = across.send("GET /a", fields, "").await;
        assert_eq!(values(&across.asked().await, "cookie"), [expected]);
        let answer = head(&mut stream).await;
        let set = values(&answer, "set-cookie");
        assert_eq!(
            set,
            ["a=1; Path=/", "b=\"2, 3\"; Secure", "a=4"],
            "{answer}"
        );
    }
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let answer = "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 42\r\nx-more: a\r\nx-more: b\r\n\r\n";
    let mut across = Across::new("x-up: 1\r\n\r\n", answer).await;
    let upload = "3\r\nabc\r\n0\r\nx-up: 1\r\n\r\n";
    let fields = "Transfer-Encoding: chunked\r\nTE: trailers\r\n";
    let mut stream = across.send("POST /a", fields, upload).await;
    let asked = across.asked().await;
    assert!(
        asked.ends_with("3\r\nabc\r\n0\r\nx-up: 1\r\n\r\n"),
        "{asked}"
    );
    let heard = until(&mut stream, "\r\nx-more: b\r\n\r\n").await;
    assert_eq!(values(&heard, "x-sum"), ["42"], "{heard}");
    assert_eq!(values(&heard, "x-more"), ["a", "b"], "{heard}");
}

#[tokio::test]
async fn heads_without_a_body_say_what_the_app_said_and_the_connection_goes_on() {
    for (method, answer, status, length) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "200",
            &["5"][..],
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", "204", &[]),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n",
            "304",
            &["5"],
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "200",
            &["0"],
        ),
    ] {
        let across = Across::new("", answer).await;
        let mut stream = across.send(&format!("{method} /a"), "", "").await;
        for _ in 0..3 {
            let heard = head(&mut stream).await;
            assert!(heard.starts_with(&format!("HTTP/1.1 {status} ")), "{heard}");
            assert!(heard.ends_with("\r\n\r\n"), "{method} {status}: {heard}");
            assert_eq!(
                values(&heard, "content-length"),
                length,
                "{method} {status}"
            );
            assert!(values(&heard, "transfer-encoding").is_empty(), "{heard}");
            let again = format!("{method} /a HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
            stream.write_all(again.as_bytes()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_caller_that_has_ended_its_direction_gets_its_answer() {
    let mut across = Across::new("", OK).await;
    let mut stream = across.send("GET /a", "", "").await;
    stream.shutdown().await.unwrap();
    across.asked().await;
    let mut heard = String::new();
    let read = stream.read_to_string(&mut heard);
    timeout(SOON, read).await.expect("an end").unwrap();
    assert!(heard.starts_with("HTTP/1.1 200 "), "{heard}");
    assert!(heard.ends_with("\r\n\r\nok"), "{heard}");
}

#[tokio::test]
async fn an_answer_comes_before_the_request_has_ended() {
    let answer = "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n";
    let mut across = Across::new("", answer).await;
    let fields = "Content-Length: 1000000\r\n";
    let mut stream = across.send("POST /a", fields, "the beginning").await;
    across.asked().await;
    let heard = until(&mut stream, "\r\n\r\nno\n").await;
    assert!(heard.starts_with("HTTP/1.1 413 "), "{heard}");
}
