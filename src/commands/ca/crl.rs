//! What is revoked as a CRL over HTTP, for verifiers that are no sidecars. Signed, so that it needs no TLS.

use anyhow::Context;
use bytes::Bytes;
use ca::Authority;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Whoever comes waits for a place; none is kept for long.
const MAX_CONNECTIONS: usize = 64;
/// For a connection, all of its requests together.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves until the runtime ends.
///
/// # Errors
/// When `listen` cannot be bound.
pub(super) async fn spawn(listen: SocketAddr, authority: Arc<Authority>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("cannot listen on {listen}"))?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, most likely; give the rest of the process time to close some.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let authority = Arc::clone(&authority);
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let authority = Arc::clone(&authority);
                    async move { Ok::<_, Infallible>(answer(&request, &authority).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                // A broken connection concerns nobody else, and a slow one no more than its place.
                tokio::time::timeout(CONNECTION_TIME, connection).await.ok();
                drop(place);
            });
        }
    });
    Ok(())
}

async fn answer(request: &Request<Incoming>, authority: &Authority) -> Response<Full<Bytes>> {
    let plain = |text: &'static str| (text.into(), "text/plain; charset=utf-8");
    let (status, (body, content_type)) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/crl") => match authority.crl().await {
            // RFC 2585 section 4.2.
            Ok(der) => (StatusCode::OK, (Bytes::from(der), "application/pkix-crl")),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "no CRL");
                let text = plain("the CA cannot make its list at present\n");
                (StatusCode::SERVICE_UNAVAILABLE, text)
            }
        },
        (&Method::GET, _) => (StatusCode::NOT_FOUND, plain("expected /crl\n")),
        _ => (StatusCode::METHOD_NOT_ALLOWED, plain("expected GET\n")),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
