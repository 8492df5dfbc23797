//! A caller without gRPC.

/// Certificates for whom curl asks.
mod enrolment;
/// How requests may come.
mod framing;
/// What anyone may read, and how often.
mod reading;
/// What is refused, and in which words.
mod refusals;

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
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

async fn connect(ca: &Ca, svid: Option<&Svid>, alpn: &[u8]) -> TlsStream<TcpStream> {
    connect_from([127, 0, 0, 1], ca, svid, alpn).await
}

async fn connect_from(
    from: [u8; 4],
    ca: &Ca,
    svid: Option<&Svid>,
    alpn: &[u8],
) -> TlsStream<TcpStream> {
    let bundle = ca.bundle();
    let server = SpiffeId::ca_server(bundle.trust_domain());
    let config = client_config(svid, Arc::new(bundle), server, &[alpn]);
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let socket = socket.connect(ca.address).await.unwrap();
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
    raw_from([127, 0, 0, 1], ca, bytes).await
}

async fn raw_from(address: [u8; 4], ca: &Ca, bytes: &[u8]) -> String {
    let mut stream = connect_from(address, ca, None, HTTP1).await;
    // It may be closed before all has arrived.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}
