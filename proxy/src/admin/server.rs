//! Accepts admin connections, checks who may ask, and routes.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use policy::target::host::{self, Host};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Bound, State, answer};
use crate::handover;

/// On each listener: a scraper, a prober, an operator, and room for those who hang.
const MAX_CONNECTIONS: usize = 16;
/// One request per connection, from accept to the last byte; a rotation waits for the CA in it.
const CONNECTION_TIME: Duration = Duration::from_secs(30);
const HEAD_TIME: Duration = Duration::from_secs(5);
/// The smallest that hyper takes; our requests have no long heads.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Accept fails when the process is out of descriptors; trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    /// From anything that reaches a loopback port.
    Loopback,
    /// From a process of our own user or root.
    Socket,
}

/// Serves until dropped, and takes nothing new once another process does.
pub(super) async fn serve(bound: Bound, state: Arc<State>) -> io::Result<()> {
    let tcp = TcpListener::from_std(bound.tcp)?;
    let unix = bound
        .unix
        .map(|(_, listener)| UnixListener::from_std(listener))
        .transpose()?;
    // The process before this one answers for as long as it may still go on: of two answers one could be no.
    state.handover.owned().await;
    // Whoever reaches the loopback port cannot take the operator's places on the socket.
    let [tcp_places, unix_places] = [(); 2].map(|()| Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    let mut svid = state.feed.svid.clone();
    loop {
        tokio::select! {
            accepted = tcp.accept() => match accepted {
                Ok((stream, _)) => spawn(stream, Via::Loopback, &tcp_places, &state),
                Err(error) => pause(&error).await,
            },
            accepted = next(unix.as_ref()) => match accepted {
                Ok(stream) if is_operators(&stream) => spawn(stream, Via::Socket, &unix_places, &state),
                Ok(_) => tracing::warn!("admin socket refused a process of another user"),
                Err(error) => pause(&error).await,
            },
            () = state.handover.given() => break,
            // Over when the publisher is gone; the last identity stays in use.
            Ok(()) = svid.changed() => state.metrics.standing.identity_changed(),
        }
    }
    drop((tcp, unix));
    std::future::pending().await
}

async fn next(unix: Option<&UnixListener>) -> io::Result<UnixStream> {
    match unix {
        Some(unix) => unix.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "admin connection not accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn is_operators(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| is_operator(peer.uid()))
}

/// Whether a process of this user may change the state of this one.
pub(crate) fn is_operator(uid: u32) -> bool {
    may_change_state(uid, rustix::process::geteuid().as_raw())
}

pub(super) fn may_change_state(peer_uid: u32, own_uid: u32) -> bool {
    peer_uid == own_uid || peer_uid == 0
}

/// The task ends with its connection, after [`CONNECTION_TIME`] at the latest, or with the admin runtime.
fn spawn(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    via: Via,
    places: &Arc<Semaphore>,
    state: &Arc<State>,
) {
    let Ok(place) = Arc::clone(places).try_acquire_owned() else {
        return;
    };
    let state = Arc::clone(state);
    tokio::spawn(async move { connection(stream, via, place, state).await });
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    via: Via,
    _place: OwnedSemaphorePermit,
    state: Arc<State>,
) {
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(respond(request, via, &state).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(MAX_HEAD_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    match tokio::time::timeout(CONNECTION_TIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin connection closed, its time is over"),
    }
}

async fn respond(mut request: Request<Incoming>, via: Via, state: &State) -> Response<Full<Bytes>> {
    let mut response = match route(&request, via) {
        Ok(Call::Live) => answer::live(),
        Ok(Call::Ready) => answer::ready(state),
        Ok(Call::Metrics) => answer::metrics(state),
        Ok(Call::Config) => answer::config(state),
        Ok(Call::Endpoints) => answer::endpoints(state),
        Ok(Call::Identity) => answer::identity(state),
        Ok(Call::Plaintext) => answer::plaintext(state),
        Ok(Call::Rotate) => answer::rotate(state).await,
        Ok(Call::Upgrade) => handover::answer(&mut request, &state.handover, &state.drain)
            .unwrap_or_else(|refused| answer::problem(StatusCode::CONFLICT, &refused.to_string())),
        Err(refusal) => refuse(&refusal),
    };
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

enum Call {
    Live,
    Ready,
    Metrics,
    Config,
    Endpoints,
    Identity,
    Plaintext,
    Rotate,
    Upgrade,
}

/// Why a request reaches no call.
enum Refusal {
    ForeignHost,
    SocketOnly,
    NoSuchCall,
    /// The value of Allow.
    Method(&'static str),
}

fn route<B>(request: &Request<B>, via: Via) -> Result<Call, Refusal> {
    if via == Via::Loopback && !is_loopback_host(request) {
        return Err(Refusal::ForeignHost);
    }
    let (call, methods, allow): (_, &[Method], _) = match request.uri().path() {
        "/rotate" | "/upgrade" if via == Via::Loopback => return Err(Refusal::SocketOnly),
        "/rotate" => (Call::Rotate, &[Method::POST], "POST"),
        "/upgrade" => (Call::Upgrade, &[Method::POST], "POST"),
        path => {
            let call = match path {
                "/live" => Call::Live,
                "/ready" => Call::Ready,
                "/metrics" => Call::Metrics,
                "/config" => Call::Config,
                "/endpoints" => Call::Endpoints,
                "/identity" => Call::Identity,
                "/plaintext" => Call::Plaintext,
                _ => return Err(Refusal::NoSuchCall),
            };
            // hyper leaves out the body of an answer to HEAD.
            (call, &[Method::GET, Method::HEAD], "GET, HEAD")
        }
    };
    if !methods.contains(request.method()) {
        return Err(Refusal::Method(allow));
    }
    Ok(call)
}

fn refuse(refusal: &Refusal) -> Response<Full<Bytes>> {
    let (status, detail) = match refusal {
        Refusal::ForeignHost => (
            StatusCode::FORBIDDEN,
            "expected localhost or a loopback address as Host",
        ),
        Refusal::SocketOnly => (
            StatusCode::FORBIDDEN,
            "expected on the admin Unix socket (admin.socket)",
        ),
        Refusal::NoSuchCall => (StatusCode::NOT_FOUND, "no such call"),
        Refusal::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
    };
    let mut response = answer::problem(status, detail);
    if let Refusal::Method(allow) = refusal {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(allow));
    }
    response
}

/// A page of a site whose name was made to point at 127.0.0.1 still sends that site's name.
fn is_loopback_host<B>(request: &Request<B>) -> bool {
    let mut fields = request.headers().get_all(HOST).iter();
    let field = fields.next().map(HeaderValue::as_bytes);
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    fields.next().is_none()
        && host::agree(field, authority, 80).is_ok_and(|host| names_loopback(&host))
}

fn names_loopback(host: &Host<'_>) -> bool {
    let name = host.name().trim_start_matches('[').trim_end_matches(']');
    name == "localhost"
        || name
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
