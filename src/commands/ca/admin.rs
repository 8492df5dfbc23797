//! The CA's `/live`, `/ready` (503 and a line for each reason when it is not) and `/metrics`, on loopback.

use anyhow::{Context, ensure};
use bytes::Bytes;
use ca::authority::Fault;
use ca::metrics::Metrics;
use ca::readiness::Faults;
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
use tokio::sync::{Semaphore, watch};

/// A scraper and a person with a browser fit.
const MAX_CONNECTIONS: usize = 16;

/// A loopback client that takes longer is no scraper.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until the runtime ends.
///
/// # Errors
/// When `listen` is not loopback or cannot be bound.
pub(super) async fn spawn(
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    faults: watch::Receiver<Faults>,
) -> anyhow::Result<()> {
    ensure!(
        listen.ip().is_loopback(),
        "--admin-listen: expected a loopback address, found {listen}"
    );
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
            let (metrics, faults) = (Arc::clone(&metrics), faults.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = answer(&request, &metrics, &faults.borrow());
                    async move { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service);
                // A scraper's broken connection concerns nobody else.
                connection.await.ok();
                drop(place);
            });
        }
    });
    Ok(())
}

fn answer(
    request: &Request<Incoming>,
    metrics: &Metrics,
    faults: &[Fault],
) -> Response<Full<Bytes>> {
    let plain = |text: &str| (text.to_owned(), "text/plain; charset=utf-8");
    let (status, (text, content_type)) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/ready") if !faults.is_empty() => {
            let lines: String = faults.iter().map(|fault| format!("{fault}\n")).collect();
            (StatusCode::SERVICE_UNAVAILABLE, plain(&lines))
        }
        (&Method::GET, "/live" | "/ready") => (StatusCode::OK, plain("ok\n")),
        // Prometheus refuses a scrape that does not say what it is.
        (&Method::GET, "/metrics") => (StatusCode::OK, (metrics.render(), OPEN_METRICS)),
        (&Method::GET, _) => (
            StatusCode::NOT_FOUND,
            plain("expected /live, /ready or /metrics\n"),
        ),
        _ => (StatusCode::METHOD_NOT_ALLOWED, plain("expected GET\n")),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
