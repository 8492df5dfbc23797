use crate::harness::{CART, Ca, LeafKey, Workload, id, within};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ca::metrics::{Call, Reason};
use ca::proto::{IssueRequest, RenewRequest};
use ca::server::Options;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::tls::{client_config, server_name};
use identity::{SpiffeId, Svid, Usage};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

async fn connect(ca: &Ca, svid: Option<&Svid>, alpn: &[u8]) -> TlsStream<TcpStream> {
    let bundle = ca.bundle();
    let server = SpiffeId::ca_server(bundle.trust_domain());
    let config = client_config(svid, Arc::new(bundle), server, &[alpn]);
    let socket = TcpStream::connect(ca.address).await.unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(server_name(), socket)
        .await
        .unwrap()
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// gRPC's code, the sentence and the reason.
    fn refusal(&self) -> (i64, String, String) {
        let error = self.json();
        let reason = error["details"][0]["reason"].as_str().unwrap().to_owned();
        assert_eq!(self.headers["tipstaff-reason"], *reason);
        (
            error["code"].as_i64().unwrap(),
            error["message"].as_str().unwrap().to_owned(),
            reason,
        )
    }

    fn chain(&self) -> Vec<Vec<u8>> {
        let json = self.json();
        let chain = json["certificate"]["chain"].as_array().unwrap().iter();
        chain
            .map(|der| STANDARD.decode(der.as_str().unwrap()).unwrap())
            .collect()
    }
}

/// One request on a connection of its own.
async fn send(ca: &Ca, svid: Option<&Svid>, alpn: &[u8], request: Request<Full<Bytes>>) -> Reply {
    let stream = TokioIo::new(connect(ca, svid, alpn).await);
    let reply = if alpn == HTTP2 {
        let (mut requests, driver) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        tokio::spawn(driver);
        within(requests.send_request(request)).await
    } else {
        let (mut requests, driver) = http1::handshake(stream).await.unwrap();
        tokio::spawn(driver);
        within(requests.send_request(request)).await
    };
    let (parts, body) = reply.unwrap().into_parts();
    Reply {
        status: parts.status,
        headers: parts.headers,
        body: within(body.collect()).await.unwrap().to_bytes(),
    }
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(format!("https://ca.invalid{path}"))
        .header("host", "ca.invalid")
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
        .unwrap()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://ca.invalid{path}"))
        .header("host", "ca.invalid")
        .body(Full::default())
        .unwrap()
}

fn as_pem(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let form = "application/pem-certificate-chain".parse().unwrap();
    request.headers_mut().insert("accept", form);
    request
}

fn issue_json(request: &IssueRequest) -> Value {
    json!({
        "spiffeId": request.spiffe_id,
        "csr": STANDARD.encode(&request.csr),
        "enrolmentKey": STANDARD.encode(&request.enrolment_key),
        "enrolmentProof": STANDARD.encode(&request.enrolment_proof),
        "joinToken": request.join_token,
        "ttlSeconds": request.ttl_seconds,
    })
}

fn renew_json(csr: &[u8]) -> String {
    json!({"csr": STANDARD.encode(csr)}).to_string()
}

/// Bytes to an HTTP/1.1 connection, and all that comes back.
async fn raw(ca: &Ca, bytes: &[u8]) -> String {
    let mut stream = connect(ca, None, HTTP1).await;
    // It may be closed before all has arrived.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_join_token_brings_a_certificate_over_either_version_of_http() {
    let ca = Ca::start().await;
    for alpn in [HTTP1, HTTP2] {
        let workload = Workload::new();
        let request = workload.request(CART, &ca.token(CART).await);
        let request = post("/v1/issue", issue_json(&request).to_string());
        let reply = send(&ca, None, alpn, request).await;
        assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
        assert_eq!(reply.headers["content-type"], "application/json");
        let svid = workload.leaf.svid(reply.chain());
        let bundle = ca.bundle();
        bundle
            .verify(svid.chain(), Usage::Client, SystemTime::now())
            .unwrap();
        assert_eq!(svid.id(), &id(CART));

        let json = reply.json();
        let number = |value: &Value| value.as_str().unwrap().parse::<i64>().unwrap();
        assert_eq!(
            number(&json["bundle"]["sequence"]),
            bundle.sequence() as i64
        );
        let renew_at = number(&json["certificate"]["renewAtUnixMs"]);
        assert!(number(&json["serverTimeUnixMs"]) < renew_at);
        assert!(renew_at < number(&json["certificate"]["notAfterUnixMs"]));
    }
    assert_eq!(ca.metrics.issued(Call::Issue), 2);
}

#[tokio::test]
async fn keys_and_requests_may_be_pem_and_a_chain_is_given_as_pem_to_who_asks() {
    let ca = Ca::start().await;
    let workload = Workload::new();
    let request = workload.request(CART, &ca.token(CART).await);
    let pem = |label: &str, der: &[u8]| {
        let text = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    };
    let mut json = issue_json(&request);
    json["csr"] = pem("CERTIFICATE REQUEST", &request.csr).into();
    json["enrolmentKey"] = pem("PUBLIC KEY", &request.enrolment_key).into();
    let request = as_pem(post("/v1/issue", json.to_string()));
    let reply = send(&ca, None, HTTP1, request).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
    assert_eq!(
        reply.headers["content-type"],
        "application/pem-certificate-chain"
    );
    let certificates = |pem: &[u8]| {
        let certificates = CertificateDer::pem_slice_iter(pem);
        certificates.collect::<Result<Vec<_>, _>>().unwrap()
    };
    let chain = certificates(&reply.body);
    ca.bundle()
        .verify(&chain, Usage::Client, SystemTime::now())
        .unwrap();
    let renew_at = reply.headers["tipstaff-renew-at-unix-ms"].to_str().unwrap();
    assert!(renew_at.parse::<u64>().unwrap() > 1_700_000_000_000);

    let bundle = send(&ca, None, HTTP1, as_pem(get("/v1/bundle"))).await;
    assert_eq!(certificates(&bundle.body), ca.bundle().authorities());
}

#[tokio::test]
async fn anyone_may_read_the_bundle_and_the_description() {
    let ca = Ca::start().await;
    let bundle = send(&ca, None, HTTP2, get("/v1/bundle")).await.json();
    assert_eq!(bundle["trustDomain"], "demo.test");
    let authorities: Vec<_> = ca
        .bundle()
        .authorities()
        .iter()
        .map(|der| STANDARD.encode(der))
        .collect();
    assert_eq!(bundle["authorities"], json!(authorities));
    let document = send(&ca, None, HTTP1, get("/bundle")).await;
    assert_eq!(document.headers["content-type"], "application/json");
    assert!(document.json()["keys"].is_array());
    let description = send(&ca, None, HTTP1, get("/v1/openapi.json")).await;
    assert_eq!(description.json()["openapi"], "3.1.0");
}

#[tokio::test]
async fn a_certificate_is_renewed_for_whom_the_connection_proves_whatever_the_csr_says() {
    let ca = Ca::start().await;
    let svid = ca.identity(CART).await;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    let other = "spiffe://demo.test/ns/shop/sa/payments".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(other)];
    let csr = params.serialize_request(&key).unwrap();

    let request = post("/v1/renew", renew_json(csr.der()));
    let reply = send(&ca, Some(&svid), HTTP1, request).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
    let chain: Vec<_> = reply
        .chain()
        .into_iter()
        .map(CertificateDer::from)
        .collect();
    let leaf = ca
        .bundle()
        .verify(&chain, Usage::Client, SystemTime::now())
        .unwrap();
    assert_eq!(leaf.id, id(CART));
    assert_eq!(ca.metrics.issued(Call::Renew), 1);

    // An identity is nothing that a request can name.
    let named = json!({"csr": STANDARD.encode(csr.der()), "spiffeId": "spiffe://demo.test/ns/shop/sa/payments"});
    let reply = send(
        &ca,
        Some(&svid),
        HTTP1,
        post("/v1/renew", named.to_string()),
    )
    .await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_refusal_has_the_code_the_sentence_and_the_reason_that_grpc_gives() {
    let ca = Ca::start().await;
    let workload = Workload::new();
    let good = workload.request(CART, &ca.token(CART).await);
    let with = |change: fn(&mut IssueRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let unknown = ca::token::JoinToken::generate().reveal().to_string();
    for (request, status) in [
        (
            with(|request| request.spiffe_id = "https://demo.test/".to_owned()),
            400,
        ),
        (with(|request| request.csr = b"no request".to_vec()), 400),
        (with(|request| request.enrolment_proof.clear()), 400),
        (
            with(|request| request.join_token = "secret".to_owned()),
            400,
        ),
        (with(|request| request.join_token.clear()), 401),
        (workload.request(CART, &unknown), 401),
        (
            workload.request("spiffe://demo.test/other", &good.join_token),
            403,
        ),
        (
            workload.request("spiffe://demo.test/tipstaff/ca", &good.join_token),
            403,
        ),
    ] {
        let reply = post("/v1/issue", issue_json(&request).to_string());
        let reply = send(&ca, None, HTTP2, reply).await;
        let said = ca.connect(None).await.issue(request).await.unwrap_err();
        let reason = said.metadata().get("tipstaff-reason").unwrap();
        let expected = (
            i64::from(i32::from(said.code())),
            said.message().to_owned(),
            reason.to_str().unwrap().to_owned(),
        );
        assert_eq!(reply.refusal(), expected);
        assert_eq!(reply.status, status, "{expected:?}");
    }
    let csr = LeafKey::new().csr;
    let reply = send(&ca, None, HTTP1, post("/v1/renew", renew_json(&csr))).await;
    let renewal = RenewRequest {
        csr,
        ..RenewRequest::default()
    };
    let said = ca.connect(None).await.renew(renewal).await.unwrap_err();
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert_eq!(reply.refusal().1, said.message());
    assert_eq!(ca.metrics.refused(Reason::ClientCertificate), 2);
}

#[tokio::test]
async fn what_is_not_the_described_request_is_refused_before_anything_is_done() {
    let ca = Ca::start_with(Options {
        refusals_per_minute: 1000,
        ..Options::default()
    })
    .await;
    let token = ca.token(CART).await;
    let good = issue_json(&Workload::new().request(CART, &token)).to_string();
    let before = ca.audit();
    let deep = format!(
        "{{\"attestation\": {}{}}}",
        "[".repeat(8000),
        "]".repeat(8000)
    );
    let twice = good.replacen('{', "{\"spiffeId\": \"spiffe://demo.test/other\", ", 1);
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (body, what) in [
        (
            good.replacen('{', "{\"surprise\": 1, ", 1).into_bytes(),
            "an unknown key",
        ),
        (
            good.replace("spiffeId", "spiffe_id").into_bytes(),
            "another spelling",
        ),
        (
            good.replace("\"ttlSeconds\":0", "\"ttlSeconds\":-1")
                .into_bytes(),
            "a negative number",
        ),
        (
            good.replace("\"ttlSeconds\":0", "\"ttlSeconds\":1e3")
                .into_bytes(),
            "a fraction",
        ),
        (
            good.replace("\"ttlSeconds\":0", "\"ttlSeconds\":\"5\"")
                .into_bytes(),
            "a number as text",
        ),
        (
            good.replace("\"ttlSeconds\":0", "\"ttlSeconds\":null")
                .into_bytes(),
            "null",
        ),
        (twice.into_bytes(), "a key that comes twice"),
        (format!("{good}{good}").into_bytes(), "two objects"),
        (format!("[{good}]").into_bytes(), "a list"),
        (format!("[\"{CART}\"]").into_bytes(), "fields in order"),
        (deep.into_bytes(), "deep nesting"),
        (utf16, "UTF-16"),
        (
            [b"\xef\xbb\xbf", good.as_bytes()].concat(),
            "a byte order mark",
        ),
        (
            good.replace("demo.test", "demo.test\u{0}").into_bytes(),
            "a control character",
        ),
        ([&b"{\"spiffeId\": \"\xff\xfe\"}"[..]].concat(), "no UTF-8"),
        (b"{\"attestation\": {}}".to_vec(), "no evidence"),
        (
            b"{\"attestation\": {\"oidcToken\": \"a\", \"kubernetesToken\": \"b\"}}".to_vec(),
            "two kinds of evidence",
        ),
        (b"".to_vec(), "nothing"),
    ] {
        let reply = send(&ca, None, HTTP1, post("/v1/issue", body)).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{what}");
        let (code, sentence, reason) = reply.refusal();
        assert_eq!((code, &*reason), (3, "malformed_message"), "{what}");
        assert!(!sentence.contains(&token), "{what}: the token is repeated");
    }
    assert_eq!(ca.audit().records, before.records);
    // None of that has used the token up.
    let reply = send(&ca, None, HTTP1, post("/v1/issue", good)).await;
    assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
}

#[tokio::test]
async fn only_the_listed_paths_methods_and_content_types_count() {
    let ca = Ca::start_with(Options {
        refusals_per_minute: 1000,
        ..Options::default()
    })
    .await;
    let good = issue_json(&Workload::new().request(CART, &ca.token(CART).await)).to_string();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/issue/",
        "//v1/issue",
        "/v1/./issue",
        "/v1/x/../issue",
        "/v1/%69ssue",
        "/V1/issue",
        "/v1/issue?",
        "/v1/issue?a=b",
        "/v1/issue;a",
        "/tipstaff.ca.v1.CertificateAuthority/Issue",
        "/tipstaff.ca.v1.Administration/CreateEntry",
    ] {
        for alpn in [HTTP1, HTTP2] {
            let reply = send(&ca, None, alpn, post(path, good.clone())).await;
            assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
            assert_eq!(reply.refusal().2, "unknown_method");
        }
    }
    for (path, method, allowed) in [
        ("/v1/issue", "GET", "POST"),
        ("/v1/renew", "PUT", "POST"),
        ("/v1/bundle", "POST", "GET"),
        ("/bundle", "DELETE", "GET"),
        ("/v1/bundle", "HEAD", "GET"),
    ] {
        let mut request = post(path, good.clone());
        *request.method_mut() = method.parse().unwrap();
        let reply = send(&ca, None, HTTP2, request).await;
        assert_eq!(
            reply.status,
            StatusCode::METHOD_NOT_ALLOWED,
            "{method} {path}"
        );
        assert_eq!(reply.headers["allow"], allowed);
    }
    for types in [
        &[][..],
        &["text/plain"],
        &["application/x-www-form-urlencoded"],
        &["application/jsonx"],
        &["application/json; charset=utf-16"],
        &["application/json; charset=utf-8; a=b"],
        &["application/json", "application/json"],
        &["application/grpc"],
    ] {
        let mut request = post("/v1/issue", good.clone());
        request.headers_mut().remove("content-type");
        for value in types {
            request
                .headers_mut()
                .append("content-type", value.parse().unwrap());
        }
        let reply = send(&ca, None, HTTP1, request).await;
        assert_eq!(
            reply.status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "{types:?}"
        );
    }
    let mut compressed = post("/v1/issue", good.clone());
    compressed
        .headers_mut()
        .insert("content-encoding", "gzip".parse().unwrap());
    let reply = send(&ca, None, HTTP1, compressed).await;
    assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let mut spelt_out = post("/v1/issue", good);
    let json = "Application/JSON; charset=UTF-8".parse().unwrap();
    spelt_out.headers_mut().insert("content-type", json);
    assert_eq!(
        send(&ca, None, HTTP1, spelt_out).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_body_that_is_too_large_is_neither_waited_for_nor_kept() {
    let ca = Ca::start().await;
    let head = "POST /v1/issue HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    // Announced and not sent: the answer comes all the same.
    let answer = raw(
        &ca,
        format!("{head}Content-Length: 16385\r\n\r\n").as_bytes(),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let chunk = format!("2000\r\n{}\r\n", " ".repeat(0x2000)).repeat(3);
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}");
    let answer = raw(&ca, chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let large = post("/v1/issue", vec![b' '; 16 * 1024 + 1]);
    let reply = send(&ca, None, HTTP2, large).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(ca.metrics.refused(Reason::OversizedMessage), 3);
}

#[tokio::test]
async fn a_slow_caller_is_answered_when_its_time_is_up() {
    let ca = Ca::start_with(Options {
        request_timeout: Duration::from_millis(300),
        ..Options::default()
    })
    .await;
    let head = "POST /v1/issue HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n";
    let answer = raw(
        &ca,
        format!("{head}Content-Length: 100\r\n\r\n{{").as_bytes(),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert_eq!(ca.metrics.refused(Reason::Timeout), 1);
    // One that has not even sent its head is not answered.
    let answer = raw(&ca, head.as_bytes()).await;
    assert_eq!(
        answer.lines().next().unwrap_or("HTTP/1.1 408 "),
        "HTTP/1.1 408 "
    );
}

#[tokio::test]
async fn refusals_cost_what_they_cost_over_grpc() {
    let ca = Ca::start_with(Options {
        refusals_per_minute: 10,
        ..Options::default()
    })
    .await;
    let svid = ca.identity(CART).await;
    let mut statuses = Vec::new();
    for _ in 0..15 {
        statuses.push(send(&ca, None, HTTP1, post("/v1/issue", "{}")).await.status);
    }
    assert_eq!(statuses[9], StatusCode::BAD_REQUEST);
    assert_eq!(statuses[14], StatusCode::TOO_MANY_REQUESTS);
    let said = ca
        .connect(None)
        .await
        .issue(IssueRequest::default())
        .await
        .unwrap_err();
    assert_eq!(
        said.code(),
        tonic::Code::ResourceExhausted,
        "one budget for both ways"
    );
    let reply = send(&ca, None, HTTP1, get("/bundle")).await;
    assert_eq!(reply.status, 429);
    let wait = reply.headers["retry-after"].to_str().unwrap();
    assert!((1..=60).contains(&wait.parse::<u64>().unwrap()), "{wait}");

    // Who is known has a budget of its own, and what it is refused is on record.
    let before = ca.audit();
    let reply = send(&ca, Some(&svid), HTTP1, post("/v1/renew", "{}")).await;
    assert_eq!(reply.refusal().2, "invalid_csr");
    let reply = send(&ca, Some(&svid), HTTP1, post("/v1/renew", "{\"csr\": 1}")).await;
    assert_eq!(reply.refusal().2, "malformed_message");
    assert_eq!(ca.audit().records, before.records + 2);
}
