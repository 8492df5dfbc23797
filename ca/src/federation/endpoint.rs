//! Our bundle for those who know us by a host name (SPIFFE Federation section 5.2.1, https_web), under a certificate of a
//! public CA or of one that both sides trust. It serves the bundle and nothing else, once to a connection, and takes no
//! certificates of clients; the CA's own listener serves the same under https_spiffe.

use super::document;
use crate::admission::{Admission, Source};
use crate::attest::fetch::{FetchError, read};
use crate::listener;
use crate::rendered::Rendered;
use crate::server::{Share, Shares};
use aws_lc_rs::digest::{self, SHA256};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::TrustBundle;
use identity::tls::provider;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem};
use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

/// Where the bundle is, here as on the CA's own listener.
const PATH: &str = "/bundle";
/// Those of other trust domains come a few times an hour. Whoever finds no place waits for one, and none is kept for long.
const MAX_CONNECTIONS: usize = 64;
/// Of these, how many one address may hold.
const MAX_PER_ADDRESS: usize = 8;
/// Connections of one address, in one burst or spread; a refused one costs no handshake. All together have no limit, as a few
/// addresses would use it up for everybody.
const CONNECTIONS_PER_MINUTE: u32 = 60;
/// For the handshake, and as long again for the request's head: at its pace an address that says nothing holds three to six places.
const SILENCE: Duration = Duration::from_secs(3);
/// For a connection, from the handshake to the end of the answer.
const CONNECTION_TIME: Duration = Duration::from_secs(15);
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// How often the files are looked at: certificates are replaced weeks before they end.
const LOOK: Duration = Duration::from_secs(60);
/// A chain, or a key.
const MAX_FILE_BYTES: usize = 64 * 1024;
/// After an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to serve, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointOptions {
    pub listen: SocketAddr,
    /// PEM, leaf first. Looked at again each minute, as the key is.
    pub certificate_file: PathBuf,
    /// PEM.
    pub key_file: PathBuf,
}

/// An endpoint that is bound and not yet serving.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
    options: EndpointOptions,
    /// SHA-256 of what was in the files.
    present: [u8; 32],
    tls: watch::Sender<Arc<ServerConfig>>,
    document: Arc<Rendered>,
}

/// What the files hold.
struct Credentials {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Endpoint {
    /// Reads the files and binds.
    ///
    /// # Errors
    /// When the files cannot be used or do not belong together, or the address cannot be bound.
    pub async fn bind(
        options: EndpointOptions,
        bundle: watch::Receiver<Arc<TrustBundle>>,
    ) -> Result<Self, EndpointError> {
        let found = Credentials::read(&options).await?;
        let tls = watch::Sender::new(found.config()?);
        let listener = listener::bind(options.listen);
        Ok(Self {
            listener: listener.map_err(EndpointError::Bind)?,
            options,
            present: found.digest(),
            tls,
            document: Arc::new(Rendered::new(bundle, document)),
        })
    }

    /// The bound address: where the port is known after a bind to port 0.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped. Connections that are open then end by themselves, within seconds.
    pub async fn run(mut self) {
        let room = Room::new();
        loop {
            tokio::select! {
                () = accept(&self.listener, &room, &self.tls, &self.document) => {}
                () = sleep(LOOK) => self.look().await,
            }
        }
    }

    /// Takes what is in the files now, unless it is the same, or of no use: then what was there before stays.
    async fn look(&mut self) {
        let read = async {
            let found = Credentials::read(&self.options).await?;
            let is_new = found.digest() != self.present;
            let config = is_new.then(|| found.config()).transpose()?;
            Ok::<_, EndpointError>(config.map(|config| (found.digest(), config)))
        };
        match read.await {
            Ok(None) => {}
            Ok(Some((digest, config))) => {
                tracing::info!("the bundle endpoint has a new certificate");
                self.present = digest;
                self.tls.send_replace(config);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    error,
                    "the bundle endpoint keeps the certificate that it has"
                );
            }
        }
    }
}

impl Credentials {
    async fn read(options: &EndpointOptions) -> Result<Self, EndpointError> {
        Ok(Self {
            chain: read(&options.certificate_file, MAX_FILE_BYTES).await?,
            key: read(&options.key_file, MAX_FILE_BYTES).await?.into(),
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut both = digest::Context::new(&SHA256);
        both.update(&self.chain);
        both.update(&self.key);
        let mut digest = [0; 32];
        digest.copy_from_slice(both.finish().as_ref());
        digest
    }

    fn config(&self) -> Result<Arc<ServerConfig>, EndpointError> {
        let chain = CertificateDer::pem_slice_iter(&self.chain);
        let chain: Vec<_> = chain.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// What there is for connections.
struct Room {
    places: Arc<Semaphore>,
    shares: Arc<Shares>,
    pace: Admission,
}

impl Room {
    fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            shares: Shares::new(MAX_PER_ADDRESS),
            pace: Admission::new(CONNECTIONS_PER_MINUTE, Instant::now()),
        }
    }

    fn admit(&self, address: IpAddr) -> Option<Share> {
        let (source, now) = (Source::address(address), Instant::now());
        self.pace.admit(&source, now).ok()?;
        let share = self.shares.admit_address(address)?;
        self.pace.charge(&source, now);
        Some(share)
    }
}

/// One connection after the other, each in a task that ends by itself. Never returns; cancel safe.
async fn accept(
    listener: &TcpListener,
    room: &Room,
    tls: &watch::Sender<Arc<ServerConfig>>,
    document: &Arc<Rendered>,
) {
    loop {
        let Ok(place) = Arc::clone(&room.places).acquire_owned().await else {
            return;
        };
        let Ok((socket, address)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(share) = room.admit(address.ip()) else {
            continue;
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&tls.borrow()));
        let document = Arc::clone(document);
        tokio::spawn(async move {
            // A broken connection concerns nobody else, and a slow one no more than its place.
            let served = timeout(CONNECTION_TIME, serve(acceptor, socket, &document));
            served.await.ok();
            drop((place, share));
        });
    }
}

async fn serve<S>(acceptor: TlsAcceptor, socket: S, document: &Rendered)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Ok(Ok(stream)) = timeout(SILENCE, acceptor.accept(socket)).await else {
        return;
    };
    let service = service_fn(|request| ready(Ok::<_, Infallible>(answer(&request, document))));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(
            error,
            "a connection to the bundle endpoint ended with an error"
        );
    }
}

fn answer(request: &Request<Incoming>, document: &Rendered) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    if request.uri().path() != PATH {
        *response.status_mut() = StatusCode::NOT_FOUND;
    } else if request.method() != Method::GET {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let headers = response.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("GET"));
    } else {
        *response.body_mut() = Full::new(document.bytes());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response
}

/// Why the bundle cannot be served under that certificate.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("cannot read certificate or key")]
    Read(#[from] FetchError),
    #[error("expected certificate and key in PEM")]
    Pem(#[from] pem::Error),
    #[error("expected a certificate and the key that belongs to it")]
    Tls(#[from] rustls::Error),
    #[error("cannot listen there")]
    Bind(#[source] io::Error),
}

#[cfg(test)]
mod tests;
