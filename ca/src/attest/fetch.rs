//! Small documents from files and from HTTPS servers, within bounds of size and time.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// For one exchange from name to last byte: a caller waits for it, within the deadline of its own call.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The certificates of all public authorities have a fifth of it.
const MAX_ROOTS_BYTES: usize = 1024 * 1024;
/// A bearer token, as Kubernetes writes it.
const MAX_BEARER_BYTES: usize = 16 * 1024;

/// `https://host[:port]/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsUrl {
    host: String,
    port: u16,
    path: String,
}

impl FromStr for HttpsUrl {
    type Err = ParseUrlError;

    fn from_str(text: &str) -> Result<Self, ParseUrlError> {
        let uri: Uri = text.parse().map_err(|_| ParseUrlError)?;
        let authority = uri.authority().ok_or(ParseUrlError)?;
        if uri.scheme_str() != Some("https") || authority.as_str().contains('@') {
            return Err(ParseUrlError);
        }
        let port = authority.as_str().strip_prefix(authority.host());
        let port = match port.ok_or(ParseUrlError)? {
            "" => 443,
            port => port
                .strip_prefix(':')
                .and_then(|port| port.parse().ok())
                .ok_or(ParseUrlError)?,
        };
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        ServerName::try_from(host.as_str()).map_err(|_| ParseUrlError)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            host,
            port,
            path: path.to_owned(),
        })
    }
}

impl HttpsUrl {
    /// Host and port, to connect to.
    pub(crate) fn address(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The same server, another path.
    pub(super) fn with_path(&self, path: &str) -> Self {
        Self {
            path: format!("{}{path}", self.path.trim_end_matches('/')),
            ..self.clone()
        }
    }
}

impl std::fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port, path } = self;
        match host.contains(':') {
            true => write!(f, "https://[{host}]:{port}{path}"),
            false => write!(f, "https://{host}:{port}{path}"),
        }
    }
}

/// The text is no URL to fetch from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not https://host[:port]/path")]
pub struct ParseUrlError;

/// A server, the authorities that vouch for it, and what is said to it of who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub url: HttpsUrl,
    /// PEM; read at each exchange, so that it may be replaced.
    pub ca_file: PathBuf,
    /// A bearer token; read at each exchange, as Kubernetes replaces it.
    pub token_file: Option<PathBuf>,
}

impl Server {
    pub(crate) async fn get(&self, most: usize) -> Result<Bytes, FetchError> {
        self.exchange(Method::GET, Bytes::new(), most).await
    }

    pub(super) async fn post(&self, json: Bytes, most: usize) -> Result<Bytes, FetchError> {
        self.exchange(Method::POST, json, most).await
    }

    async fn exchange(
        &self,
        method: Method,
        body: Bytes,
        most: usize,
    ) -> Result<Bytes, FetchError> {
        let exchange = async {
            let roots = self.roots().await?;
            let request = self.request(method, body).await?;
            self.send(roots, request, most).await
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .map_err(|_| FetchError::Timeout)?
    }

    async fn roots(&self) -> Result<RootCertStore, FetchError> {
        let pem = read(&self.ca_file, MAX_ROOTS_BYTES).await?;
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
        roots.add_parsable_certificates(certificates);
        match roots.is_empty() {
            true => Err(FetchError::NoRoots(self.ca_file.clone())),
            false => Ok(roots),
        }
    }

    async fn request(
        &self,
        method: Method,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, FetchError> {
        let HttpsUrl { host, port, path } = &self.url;
        let host = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header(HOST, host)
            // A Kubernetes API server calls its keys by the first and knows no other name for them.
            .header(ACCEPT, "application/jwk-set+json, application/json");
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(file) = &self.token_file {
            let token = read(file, MAX_BEARER_BYTES).await?;
            let value = [b"Bearer ", token.trim_ascii()].concat();
            let mut value =
                HeaderValue::from_bytes(&value).map_err(|_| FetchError::Bearer(file.to_owned()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request.body(Full::new(body)).map_err(FetchError::Request)
    }

    async fn send(
        &self,
        roots: RootCertStore,
        request: Request<Full<Bytes>>,
        most: usize,
    ) -> Result<Bytes, FetchError> {
        let HttpsUrl { host, port, .. } = &self.url;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(FetchError::Tls)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(host.clone()).map_err(|_| FetchError::Name)?;
        let socket = TcpStream::connect((host.as_str(), *port)).await;
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, socket.map_err(FetchError::Connect)?)
            .await
            .map_err(FetchError::Connect)?;
        let (mut requests, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(FetchError::Http)?;
        let answer = async {
            let response = requests
                .send_request(request)
                .await
                .map_err(FetchError::Http)?;
            // A redirect would lead to whom nobody has configured.
            if !matches!(response.status(), StatusCode::OK | StatusCode::CREATED) {
                return Err(FetchError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), most).collect().await;
            match body {
                Ok(body) => Ok(body.to_bytes()),
                Err(error) if error.is::<LengthLimitError>() => Err(FetchError::Size { most }),
                Err(error) => Err(FetchError::Body(error)),
            }
        };
        tokio::pin!(answer, connection);
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => match ended {
                Err(error) => Err(FetchError::Http(error)),
                // The server has closed after the last byte, which is there.
                Ok(()) => answer.await,
            },
        }
    }
}

/// Reads a file of at most `most` bytes.
pub(crate) async fn read(path: &Path, most: usize) -> Result<Vec<u8>, FetchError> {
    let at = |source| FetchError::File {
        path: path.to_owned(),
        source,
    };
    // Opening a pipe would wait for its other end.
    if !tokio::fs::metadata(path).await.map_err(at)?.is_file() {
        return Err(at(io::Error::other("expected a file")));
    }
    let mut bytes = Vec::new();
    let file = tokio::fs::File::open(path).await.map_err(at)?;
    let limit = u64::try_from(most).unwrap_or(u64::MAX);
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .await
        .map_err(at)?;
    match bytes.len() > most {
        true => Err(FetchError::Size { most }),
        false => Ok(bytes),
    }
}

/// Why there is no document. For the operator; callers hear only that something cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("cannot read {path}", path = path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("expected certificates in PEM in {path}, found none that can be used", path = .0.display())]
    NoRoots(PathBuf),
    #[error("expected a bearer token in {path}", path = .0.display())]
    Bearer(PathBuf),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("cannot make the request")]
    Request(#[source] http::Error),
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("expected a host name or an address")]
    Name,
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the exchange failed")]
    Http(#[source] hyper::Error),
    #[error("the answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("expected status 200 or 201, found {0}")]
    Status(StatusCode),
    #[error("expected at most {most} bytes, found more")]
    Size { most: usize },
}

#[cfg(test)]
mod tests {
    use super::HttpsUrl;

    #[test]
    fn a_url_is_https_with_a_host_that_a_certificate_can_name() {
        for (text, read) in [
            ("https://k8s.example", Some("https://k8s.example:443/")),
            (
                "https://10.96.0.1:6443/openid/v1/jwks?x=1",
                Some("https://10.96.0.1:6443/openid/v1/jwks?x=1"),
            ),
            ("https://[::1]:1/a", Some("https://[::1]:1/a")),
            ("http://k8s.example/jwks", None),
            ("https://user@k8s.example", None),
            ("https://k8s.example:99999", None),
            ("https://k8s.example:", None),
            ("https://under_score..example", None),
            ("k8s.example", None),
            ("/jwks", None),
            ("", None),
        ] {
            let found = text.parse::<HttpsUrl>().map(|url| url.to_string()).ok();
            assert_eq!(found.as_deref(), read, "{text:?}");
        }
    }
}
