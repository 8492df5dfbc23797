//! A connection to the CA and to nobody else: TCP, TLS 1.3 with the CA's identity pinned, HTTP/2.

use super::bundles::Bundles;
use crate::proto::certificate_authority_client::CertificateAuthorityClient;
use crate::watched::WatchedBundle;
use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use identity::tls::{client_config, refusal, server_name};
use identity::{SpiffeId, Svid, VerifyError};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::body::Body;

/// For TCP and TLS together, and so that a dead address leaves time for a retry.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a CA that is gone without a word is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest reply taken: a bundle with dozens of roots fits many times, and the longest list of what is revoked.
const MAX_REPLY_BYTES: usize = 4 * 1024 * 1024;
const DEFAULT_PORT: u16 = 8443;

/// Where the CA listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
}

impl Endpoint {
    /// Reads `https://host[:port]`, with nothing behind it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let bare = uri.path().trim_end_matches('/').is_empty() && uri.query().is_none();
        if uri.scheme_str() != Some("https") || !bare || authority.as_str().contains('@') {
            return None;
        }
        // `Uri` takes any text for a port.
        let port = match authority.as_str().strip_prefix(authority.host())? {
            "" => DEFAULT_PORT,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        Some(Self { host, port })
    }
}

/// Makes connections. The present bundle is read at each.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    endpoint: Endpoint,
    ca: SpiffeId,
    bundles: Arc<WatchedBundle>,
}

impl Connector {
    pub(super) fn new(endpoint: Endpoint, bundles: &Bundles) -> Self {
        Self {
            endpoint,
            ca: SpiffeId::ca_server(bundles.present().trust_domain()),
            bundles: Arc::new(
                WatchedBundle::new(bundles.subscribe(), bundles.revocations())
                    .knowing(bundles.ca_time()),
            ),
        }
    }

    /// Connects under `svid`, or as nobody.
    pub(super) async fn connect(&self, svid: Option<&Svid>) -> Result<Connection, ConnectError> {
        timeout(CONNECT_TIMEOUT, self.connect_at_last(svid))
            .await
            .map_err(|_| ConnectError::Timeout)?
    }

    async fn connect_at_last(&self, svid: Option<&Svid>) -> Result<Connection, ConnectError> {
        let Endpoint { host, port } = &self.endpoint;
        let socket = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(ConnectError::Tcp)?;
        let _ = socket.set_nodelay(true);
        let config = client_config(svid, self.bundles.clone(), self.ca.clone(), &[b"h2"]);
        let stream = TlsConnector::from(Arc::new(config))
            .connect(server_name(), socket)
            .await
            .map_err(handshake_error)?;
        let (requests, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Http)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!(%error, "connection to the CA ended with an error");
            }
        });
        // Only HTTP/2 wants an authority; nothing is decided by it.
        let origin = Uri::from_static("https://ca.tipstaff.invalid");
        let calls = CertificateAuthorityClient::with_origin(Calls(requests), origin)
            .max_decoding_message_size(MAX_REPLY_BYTES);
        Ok(Connection {
            calls,
            _driver: tasks,
        })
    }
}

/// An open connection. Dropping it closes it.
pub(super) struct Connection {
    pub(super) calls: CertificateAuthorityClient<Calls>,
    _driver: JoinSet<()>,
}

/// hyper's sender in the form that generated clients take.
pub(super) struct Calls(SendRequest<Body>);

impl tower_service::Service<http::Request<Body>> for Calls {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the CA cannot be reached")]
    Tcp(#[source] io::Error),
    #[error("the CA did not answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    #[error("whoever answers at the CA's endpoint is not the CA of this trust domain")]
    NotTheCa(#[source] VerifyError),
    /// The root was replaced while this sidecar was away, or it is another CA.
    #[error(
        "whoever answers at the CA's endpoint is under no root of the trust bundle held here: if the CA's root was replaced since, identity.ca.bundle needs the CA's present ca-bundle.pem"
    )]
    OtherRoot(#[source] VerifyError),
    #[error("the TLS handshake with the CA failed")]
    Tls(#[source] io::Error),
    #[error("the CA does not speak HTTP/2")]
    Http(#[source] hyper::Error),
}

fn handshake_error(error: io::Error) -> ConnectError {
    let verdict = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .and_then(refusal);
    match verdict {
        Some(verdict @ VerifyError::UnknownIssuer) => ConnectError::OtherRoot(verdict.clone()),
        Some(verdict) => ConnectError::NotTheCa(verdict.clone()),
        None => ConnectError::Tls(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_https_with_a_host_and_perhaps_a_port() {
        let at = |host: &str, port| {
            Some(Endpoint {
                host: host.to_owned(),
                port,
            })
        };
        for (text, expected) in [
            ("https://127.0.0.1:8443", at("127.0.0.1", 8443)),
            ("https://ca.example/", at("ca.example", 8443)),
            ("https://[::1]:1", at("::1", 1)),
            ("http://ca.example:8443", None),
            ("ca.example:8443", None),
            ("https://ca.example:8443/path", None),
            ("https://ca.example?query", None),
            ("https://user@ca.example", None),
            ("https://ca.example:99999", None),
            ("https://ca.example:", None),
            ("https://", None),
            ("", None),
        ] {
            assert_eq!(Endpoint::parse(text), expected, "{text:?}");
        }
    }
}
