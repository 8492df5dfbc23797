//! One connection: handshake -> who is it -> calls, each admitted, timed and counted -> told to go away in time.

use super::shares::Share;
use super::tls::HTTP2;
use super::{MAX_MESSAGE_BYTES, Options, Service, Tasks, gateway};
use crate::admission::Source;
use crate::api::refused::{REASON_METADATA, Refused};
use crate::api::{Api, Peer};
use crate::metrics::Reason;
use crate::proto::administration_server::{self, AdministrationServer};
use crate::proto::certificate_authority_server::CertificateAuthorityServer;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use identity::tls::BundleSource;
use identity::{Leaf, Usage, VerifiedChain, VerifyError};
use rustls::ServerConnection;
use rustls::server::Acceptor;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower_service::Service as _;

/// Calls open at once on one connection. A sidecar has one WatchBundle and at most one other.
const MAX_STREAMS: u32 = 8;
/// The same without a certificate, which is good for one Issue. What strangers can make the CA hold in memory is this
/// times a message, times their connections.
const MAX_STREAMS_OF_STRANGERS: u32 = 2;
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// Both windows: a message fits in, a connection holds no more than two.
const WINDOW_BYTES: u32 = 32 * 1024;
/// For how long a handshake has its place: one that takes longer goes on without, since what is left of it is the client's to do.
/// As long as all places take together on a single core; were it shorter, more would be begun under full load than there are
/// places, and out of order.
const PLACE_LENT: Duration = Duration::from_millis(100);
/// How soon a peer that is gone without a word is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves one socket until the client closes it, its time is up, or the server drains.
pub(super) async fn serve(service: Service, socket: TcpStream, address: IpAddr, stranger: Share) {
    let _open = service.metrics.connection();
    let _ = socket.set_nodelay(true);
    let handshake = handshake(&service, socket, address);
    let stream = match timeout(service.options.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(reason)) => return service.metrics.count_refusal(reason),
        Err(_) => return service.metrics.count_refusal(Reason::HandshakeTimeout),
    };
    let Ok(svid) = client_chain(&service, stream.get_ref().1) else {
        return service.metrics.count_refusal(Reason::ClientCertificate);
    };
    let places = match &svid {
        Some(svid) => {
            drop(stranger);
            known(&service, &svid.leaf)
        }
        None => Some(vec![stranger]),
    };
    let Some(_places) = places else {
        return service.metrics.count_refusal(Reason::ConnectionLimit);
    };
    let peer = Peer {
        address,
        svid,
        leaving: CancellationToken::new(),
    };
    serve_http(&service, stream, peer).await;
}

/// Nothing is computed before the client has spoken and it is its turn.
async fn handshake(
    service: &Service,
    socket: TcpStream,
    address: IpAddr,
) -> Result<TlsStream<TcpStream>, Reason> {
    let failed = |error: io::Error| {
        tracing::debug!(%address, %error, "handshake failed");
        Reason::Handshake
    };
    let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await;
    let hello = hello.map_err(failed)?;
    let turn = service.handshakes.take(address).await;
    let turn = turn.map_err(|_| Reason::Overloaded)?;
    let config = Arc::clone(&service.tls.borrow());
    let mut accepted = pin!(hello.into_stream(config));
    let stream = match timeout(PLACE_LENT, &mut accepted).await {
        Ok(stream) => stream,
        Err(_) => {
            drop(turn);
            accepted.await
        }
    };
    stream.map_err(failed)
}

/// The places of a connection with a certificate: one of that certificate's, and one of its identity's.
fn known(service: &Service, leaf: &Leaf) -> Option<Vec<Share>> {
    let id = leaf.id.clone();
    let own = Source::Certificate(id.clone(), leaf.serial.clone());
    let own = service.certificates.admit(own)?;
    Some(vec![own, service.identities.admit(Source::Identity(id))?])
}

/// The SVID of the client, if it has one. The handshake has asked the same: what is new is who it is.
fn client_chain(
    service: &Service,
    tls: &ServerConnection,
) -> Result<Option<Arc<VerifiedChain>>, VerifyError> {
    match tls.peer_certificates() {
        None | Some([]) => Ok(None),
        Some(chain) => service
            .peers
            .verify(chain, Usage::Client, SystemTime::now())
            .map(Some),
    }
}

async fn serve_http(service: &Service, stream: TlsStream<TcpStream>, peer: Peer) {
    let (polite, last) = deadlines(service, &peer);
    let leaving = peer.leaving.clone();
    // Ends the streams of this connection on every way out.
    let _left = leaving.clone().drop_guard();
    let streams = match peer.svid {
        Some(_) => MAX_STREAMS,
        None => MAX_STREAMS_OF_STRANGERS,
    };
    let builder = builder(service.tasks.clone(), &service.options, streams);
    // What was not agreed on in the handshake is HTTP/1.1 (RFC 9113 section 3.2).
    let builder = match stream.get_ref().1.alpn_protocol() {
        Some(HTTP2) => builder.http2_only(),
        _ => builder.http1_only(),
    };
    let connection = builder.serve_connection(
        TokioIo::new(stream),
        service_fn(|request: Request<Incoming>| {
            let (service, peer) = (service.clone(), peer.clone());
            async move { Ok::<_, Infallible>(call(service, peer, request).await) }
        }),
    );
    let mut connection = pin!(connection);
    tokio::select! {
        ended = &mut connection => return debug_end(ended),
        () = sleep(polite) => {}
        () = service.tasks.drain.cancelled() => {}
        () = leaving.cancelled() => {}
    }
    leaving.cancel();
    connection.as_mut().graceful_shutdown();
    let left = last.saturating_sub(polite).min(service.options.drain);
    if let Ok(ended) = timeout(left, connection).await {
        debug_end(ended);
    }
}

/// When to tell the client to go away, and when to close whatever is left, counted from now.
///
/// No connection outlives the certificate it was opened with.
fn deadlines(service: &Service, peer: &Peer) -> (Duration, Duration) {
    let options = &service.options;
    let Some(svid) = &peer.svid else {
        return (
            options.max_anonymous_age,
            options.max_anonymous_age + options.drain,
        );
    };
    let valid = svid
        .leaf
        .not_after
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    // A short-lived certificate has to leave time for calls as well as for the goodbye.
    let before_end = valid.saturating_sub(options.drain).max(valid / 2);
    let polite = options.max_connection_age.min(before_end);
    (polite, (polite + options.drain).min(valid))
}

fn builder(tasks: Tasks, options: &Options, streams: u32) -> auto::Builder<Tasks> {
    let mut builder = auto::Builder::new(tasks);
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(MAX_HEADER_BYTES)
        // Also how long a connection may wait for its next request.
        .header_read_timeout(options.request_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// In which words a caller asks, and is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Grpc,
    Json,
}

impl Dialect {
    fn of(request: &Request<Incoming>) -> Self {
        let content_type = request.headers().get(CONTENT_TYPE);
        let is_grpc =
            content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        match request.version() {
            Version::HTTP_2 if is_grpc => Self::Grpc,
            _ => Self::Json,
        }
    }

    fn refuse(self, refused: &Refused) -> Response<Body> {
        match self {
            Self::Grpc => Status::from(refused).into_http(),
            Self::Json => gateway::refuse(refused),
        }
    }
}

/// One call, after which the connection goes on if nobody between can take it for two (RFC 9112 section 6.1): what follows may
/// be a part of it.
async fn call(service: Service, peer: Peer, request: Request<Incoming>) -> Response<Body> {
    let version = request.version();
    let is_last = !gateway::has_one_reading(&request);
    let mut response = admit_and_answer(service, peer, request).await;
    if is_last {
        say_last(version, &mut response);
    }
    response
}

/// Admits, runs the call within its time, counts the refusal and charges it to whoever caused it.
async fn admit_and_answer(
    service: Service,
    peer: Peer,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let source = match &peer.svid {
        Some(svid) => Source::Certificate(svid.leaf.id.clone(), svid.leaf.serial.clone()),
        None => Source::address(peer.address),
    };
    let dialect = Dialect::of(&request);
    if let Err(refused) = admit(&service, &source, request.method()) {
        service.metrics.count_refusal(Reason::RateLimited);
        let mut response = dialect.refuse(&refused);
        if matches!(refused, Refused::TooManyReads { .. }) {
            end_after(&peer, request.version(), &mut response);
        }
        return response;
    }
    request.extensions_mut().insert(peer);
    let limit = service.options.request_timeout;
    let answer = async {
        match dialect {
            Dialect::Grpc => answer(&service.api, &source, request).await,
            Dialect::Json => gateway::answer(&service.api, &source, request).await,
        }
    };
    let response = match timeout(limit, answer).await {
        Ok(response) => response,
        Err(_) => dialect.refuse(&Refused::Timeout { limit }),
    };
    if let Some(reason) = refusal(response.headers()) {
        service.metrics.count_refusal(reason);
        if reason.is_charged() {
            service.admission.charge(&source, Instant::now());
        }
    }
    response
}

/// The next call of this caller has to come through the line for handshakes.
fn end_after(peer: &Peer, version: Version, response: &mut Response<Body>) {
    // What was sent together is answered together, unless the answer says that it is the last.
    say_last(version, response);
    peer.leaving.cancel();
}

/// HTTP/2 has no such word, and no requests that run into each other.
fn say_last(version: Version, response: &mut Response<Body>) {
    if version != Version::HTTP_2 {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
    }
}

/// Whether a call is looked at. What strangers may read costs them a part of their budget.
fn admit(service: &Service, source: &Source, method: &Method) -> Result<(), Refused> {
    let now = Instant::now();
    let admitted = service.admission.admit(source, now);
    admitted.map_err(|retry_after| Refused::RateLimited { retry_after })?;
    if matches!(source, Source::Address(_)) && method != Method::POST {
        let admitted = service.reads.admit(source, now);
        admitted.map_err(|retry_after| Refused::TooManyReads { retry_after })?;
        service.reads.charge(source, now);
    }
    Ok(())
}

/// The answer of the gRPC service. What its layers refuse before our code sees it is refused in our words, and audited
/// as any other refusal of a known caller.
async fn answer(api: &Api, source: &Source, request: Request<Incoming>) -> Response<Body> {
    let service = request.uri().path().split('/').nth(1);
    let response = if service == Some(administration_server::SERVICE_NAME) {
        AdministrationServer::new(api.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .call(request)
            .await
    } else {
        CertificateAuthorityServer::new(api.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .call(request)
            .await
    };
    let response = match response {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let refused = match Status::from_header_map(response.headers()) {
        Some(status) if status.metadata().contains_key(REASON_METADATA) => return response,
        Some(status) if status.code() == Code::OutOfRange => Refused::Oversized,
        Some(status) if status.code() == Code::Unimplemented => Refused::UnknownMethod,
        Some(status) if status.code() != Code::Ok => Refused::Malformed,
        _ => return response,
    };
    let status = match source.identity() {
        Some(caller) => api.audit(caller, "call", &refused).await,
        None => refused.into(),
    };
    status.into_http()
}

/// Why a call was refused, from its reply: gRPC, too, says it in the head, as a refusal has no body.
fn refusal(headers: &HeaderMap) -> Option<Reason> {
    let word = headers.get(REASON_METADATA)?;
    Reason::ALL
        .into_iter()
        .find(|reason| word == reason.as_str())
}

fn debug_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(error, "connection ended with an error");
    }
}
