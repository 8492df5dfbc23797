use crate::harness::{
    Authority, FRONTEND, Life, ORDERS, Recorder, Sidecar, grant_all, head, outbound, service,
    sidecar, tls,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::Svid;
use std::convert::Infallible;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const HOST: &str = "orders.shop.example";

/// Fields that tell an app who calls, and fields that some apps take for what was called.
const SPOOFED: [&str; 14] = [
    "tipstaff-peer",
    "tipstaff-anything",
    "x-forwarded-client-cert",
    "x-forwarded-client-cert-chain",
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-uri",
    "x-original-url",
    "x-original-host",
    "x-rewrite-url",
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// What servers of the CGI kind read like a hyphen.
const LIKE_A_HYPHEN: &str = "_.!#$%&'*+^`|~";

struct Mesh {
    authority: Authority,
    frontend: Svid,
    recorder: Recorder,
    inbound: Sidecar,
    outbound: Sidecar,
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

impl Mesh {
    async fn new() -> Self {
        let authority = Authority::new();
        let recorder = Recorder::start().await;
        let orders = authority.svid(ORDERS, Life::Hour);
        let app = recorder.address;
        let inbound = sidecar(&authority, orders, app, &grant_all(), |_| ());
        let own = authority.svid(FRONTEND, Life::Hour);
        let outbound = sidecar(&authority, own, app, &grant_all(), |config| {
            config.outbound = outbound(vec![service(HOST, inbound.inbound, ORDERS)]);
        });
        Self {
            frontend: authority.svid(FRONTEND, Life::Hour),
            authority,
            recorder,
            inbound,
            outbound,
        }
    }

    /// A connection to each listener.
    async fn streams(&self, alpn: &[u8]) -> [Box<dyn Duplex>; 2] {
        let (to, svid) = (self.inbound.inbound, Some(&self.frontend));
        let inbound = tls(to, &self.authority, svid, alpn).await.unwrap();
        let outbound = TcpStream::connect(self.outbound.outbound()).await.unwrap();
        [Box::new(inbound), Box::new(outbound)]
    }

    /// Fails if anything of a spoofed field has reached the app, or ours has not, in any of `requests`.
    fn check(&self, requests: usize, sent: &str) {
        let evidence = self.recorder.take();
        let octets = String::from_utf8_lossy(&evidence.octets);
        assert_eq!(evidence.heads.len(), requests, "{sent}: {octets}");
        assert!(!octets.contains("evil"), "{sent}: {octets}");
        assert!(evidence.faults.is_empty(), "{sent}: {evidence:?}");
        for head in &evidence.heads {
            let named = |name: &str| -> Vec<&str> {
                let fields = head.lines().filter_map(|line| line.split_once(": "));
                let same = fields.filter(|(found, _)| hyphenated(found) == name);
                same.map(|(_, value)| value).collect()
            };
            assert_eq!(named("tipstaff-peer"), [FRONTEND], "{sent}: {head}");
            let [certificate] = named("x-forwarded-client-cert")[..] else {
                panic!("{sent}: {head}");
            };
            let start = format!("By={ORDERS};Hash=");
            assert!(certificate.starts_with(&start), "{sent}: {head}");
            let end = format!(";URI={FRONTEND}");
            assert!(certificate.ends_with(&end), "{sent}: {head}");
        }
    }
}

/// As a server reads it that knows neither case nor punctuation.
fn hyphenated(name: &str) -> String {
    let folded = name.to_ascii_lowercase();
    folded.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

/// One name in many ways: in each case, with each hyphen or all of them written as each character that may stand for it.
fn spellings(name: &str) -> Vec<String> {
    let mut all = vec![name.to_owned(), name.to_ascii_uppercase()];
    // Every letter is in capitals in one of these and small in another.
    for period in 1..=4 {
        let capitals = name.char_indices().map(|(at, c)| {
            let is_capital = at / period % 2 == 0;
            if is_capital {
                c.to_ascii_uppercase()
            } else {
                c
            }
        });
        all.push(capitals.collect());
    }
    for stand_in in LIKE_A_HYPHEN.chars() {
        all.push(name.replace('-', &stand_in.to_string()));
        all.push(
            name.replacen('-', &stand_in.to_string(), 1)
                .to_ascii_uppercase(),
        );
        let last = name.rfind('-').map(|at| {
            let mut name = name.to_owned();
            name.replace_range(at..=at, &stand_in.to_string());
            name
        });
        all.extend(last);
    }
    all.sort();
    all.dedup();
    all
}

#[tokio::test]
async fn no_spelling_of_an_identity_field_reaches_the_app_over_http1() {
    let mesh = Mesh::new().await;
    for mut stream in mesh.streams(b"http/1.1").await {
        let mut sent = 0;
        for name in SPOOFED.into_iter().flat_map(spellings) {
            let request = format!(
                "GET /a HTTP/1.1\r\n{name}: evil\r\nHost: {HOST}\r\n{name}: spiffe://prod.example/evil\r\n\
                 Connection: keep-alive, {name}, tipstaff-peer\r\n{name}:evil\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = head(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
            mesh.check(1, &name);
            sent += 1;
        }
        assert_eq!(sent, 602);
    }
}

#[tokio::test]
async fn no_spelling_of_an_identity_field_reaches_the_app_in_http1_trailers() {
    let mesh = Mesh::new().await;
    for mut stream in mesh.streams(b"http/1.1").await {
        for name in SPOOFED {
            let spellings = spellings(name);
            let trailers: String = spellings
                .iter()
                .map(|name| format!("{name}: evil\r\n"))
                .collect();
            let request = format!(
                "POST /a HTTP/1.1\r\nHost: {HOST}\r\nTrailer: {name}\r\nTransfer-Encoding: chunked\r\n\r\n\
                 1\r\nx\r\n0\r\n{trailers}\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let answer = head(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
            mesh.check(1, name);
        }
    }
}

#[tokio::test]
async fn no_spelling_of_an_identity_field_reaches_the_app_over_http2() {
    let mesh = Mesh::new().await;
    for stream in mesh.streams(b"h2").await {
        let (executor, io) = (TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
            .await
            .unwrap();
        tokio::spawn(connection);
        for name in SPOOFED {
            // HTTP/2 has no capitals.
            let names: Vec<HeaderName> = spellings(name)
                .iter()
                .map(|name| HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).unwrap())
                .collect();
            let fields: HeaderMap = names
                .iter()
                .map(|name| (name.clone(), HeaderValue::from_static("evil")))
                .collect();
            let mut request = Request::post(format!("http://{HOST}/a"));
            for (name, value) in &fields {
                request = request
                    .header(name, value)
                    .header(name, "spiffe://prod.example/evil");
            }
            let body = Full::new(Bytes::from_static(b"x"));
            let trailers = async move { Some(Ok::<_, Infallible>(fields)) };
            let request = request
                .body(Box::pin(body.with_trailers(trailers)))
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200, "{name}");
            mesh.check(1, name);
        }
    }
}
