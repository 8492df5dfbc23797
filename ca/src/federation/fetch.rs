//! The profile https_spiffe: the server is known by its SPIFFE ID, under the bundle that is held already.

use crate::attest::fetch::{FetchError, HttpsUrl, read};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::tls::{client_config, server_name};
use identity::{BundleError, SpiffeId, TrustBundle, TrustDomain};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// For one exchange from name to last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_FILE_BYTES: usize = 256 * 1024;

/// A bundle document, or PEM without a sequence.
pub(super) async fn from_file(
    trust_domain: &TrustDomain,
    file: &Path,
) -> Result<TrustBundle, FileError> {
    let bytes = read(file, MAX_FILE_BYTES).await?;
    let trust_domain = trust_domain.clone();
    let bundle = match bytes.trim_ascii_start().first() {
        Some(b'{') => TrustBundle::from_spiffe_json(trust_domain, &bytes)?,
        _ => TrustBundle::from_pem(trust_domain, &bytes, 0)?,
    };
    Ok(bundle)
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error(transparent)]
    Read(#[from] FetchError),
    #[error("what is in the file is no bundle")]
    Bundle(#[from] BundleError),
}

/// Where a bundle is, and who has to answer there.
pub(super) struct SpiffeEndpoint<'e> {
    pub(super) url: &'e HttpsUrl,
    pub(super) id: &'e SpiffeId,
}

impl SpiffeEndpoint<'_> {
    pub(super) async fn get(
        &self,
        held: &TrustBundle,
        most: usize,
    ) -> Result<Bytes, SpiffeFetchError> {
        tokio::time::timeout(TIMEOUT, self.get_at_last(held, most))
            .await
            .map_err(|_| SpiffeFetchError::Timeout)?
    }

    async fn get_at_last(
        &self,
        held: &TrustBundle,
        most: usize,
    ) -> Result<Bytes, SpiffeFetchError> {
        let socket = TcpStream::connect(self.url.address()).await;
        let bundles = Arc::new(Arc::new(held.clone()));
        let config = client_config(None, bundles, self.id.clone(), &[b"h2"]);
        let stream = TlsConnector::from(Arc::new(config))
            .connect(server_name(), socket.map_err(SpiffeFetchError::Connect)?)
            .await
            .map_err(SpiffeFetchError::Connect)?;
        let (mut requests, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let request = Request::get(self.url.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(SpiffeFetchError::Request)?;
        let answer = async {
            let response = requests.send_request(request).await?;
            // A redirect would lead to whom nobody has configured.
            if response.status() != StatusCode::OK {
                return Err(SpiffeFetchError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), most).collect().await;
            Ok(body.map_err(SpiffeFetchError::Body)?.to_bytes())
        };
        tokio::pin!(answer, connection);
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => {
                ended?;
                answer.await
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum SpiffeFetchError {
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("cannot make the request")]
    Request(#[source] http::Error),
    #[error("the exchange failed")]
    Http(#[from] hyper::Error),
    #[error("expected status 200, found {0}")]
    Status(StatusCode),
    #[error("the answer broke off, or is too large")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}
