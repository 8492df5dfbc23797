//! The two services of the demo. They speak plain HTTP and know nothing of identities: that is the point.

use super::client::Call;
use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::net::TcpListener;

type Reply = Response<Full<Bytes>>;

/// The orders service: answers whatever reaches it and says who the sidecar vouched for.
pub(super) async fn orders() -> anyhow::Result<SocketAddr> {
    serve(|request: Request<Incoming>| async move {
        let caller = request
            .headers()
            .get("tipstaff-peer")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("nobody");
        let said = format!(
            "orders: {} {} for {caller}\n",
            request.method(),
            request.uri().path()
        );
        reply(StatusCode::OK, said)
    })
    .await
}

/// The shop front: `GET /` asks the orders service for order 42, through the sidecar beside it.
pub(super) async fn storefront(outbound: SocketAddr) -> anyhow::Result<SocketAddr> {
    serve(move |_request: Request<Incoming>| async move {
        let call = Call {
            to: outbound,
            host: "orders",
            method: Method::GET,
            path: "/api/v1/orders/42",
        };
        match call.send().await {
            Ok(answer) => reply(
                StatusCode::OK,
                format!("shop front: {} {}", answer.status, answer.body),
            ),
            Err(error) => reply(StatusCode::BAD_GATEWAY, format!("shop front: {error:#}\n")),
        }
    })
    .await
}

fn reply(status: StatusCode, text: String) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(text)));
    *reply.status_mut() = status;
    reply
}

/// Serves on a free loopback port until the runtime ends.
async fn serve<H, F>(handler: H) -> anyhow::Result<SocketAddr>
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .context("binding a demo service")?;
    let address = listener
        .local_addr()
        .context("reading a demo service's address")?;
    tokio::spawn(async move {
        // An accept error is transient here; the next caller tries again.
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let handler = handler.clone();
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(address)
}
