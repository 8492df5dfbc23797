//! TLS with a server outside the mesh: it proves its name to us, and we prove nothing to it.

use crate::config::external::Roots;
use crate::error::ConnectError;
use crate::metrics::{Direction, Metrics};
use crate::socket::Socket;
use crate::tls::{Alpn, Stream, Wanted, tls_reason};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// Who has to answer, and who may vouch for that.
#[derive(Clone)]
pub(crate) struct Server {
    name: ServerName<'static>,
    http: Arc<ClientConfig>,
    /// For what HTTP/2 does not carry there.
    http1: Arc<ClientConfig>,
}

impl Server {
    /// # Errors
    /// When `name` is none that TLS can ask for.
    pub(crate) fn new(name: &str, roots: &Roots) -> Result<Self, ConnectError> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| ConnectError::Outside(Arc::new(io::Error::other(error))))?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites and key exchanges for TLS 1.2 and 1.3")
            .with_root_certificates(roots.store())
            // The workload's identity is for the mesh.
            .with_no_client_auth();
        // As in the mesh: a certificate is looked at each time.
        config.resumption = Resumption::disabled();
        let offering = |wanted: Wanted| {
            let mut config = config.clone();
            config.alpn_protocols = wanted.offers().iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        Ok(Self {
            name,
            http: offering(Wanted::Http),
            http1: offering(Wanted::Http1),
        })
    }

    /// Shakes hands, and says what is spoken then: HTTP/2 where the server offers it, unless only HTTP/1.1 is `wanted`. The
    /// caller of this sets the deadline.
    pub(crate) async fn connect(
        &self,
        stream: Box<dyn Socket>,
        wanted: Wanted,
        metrics: &Metrics,
    ) -> Result<(Stream<Box<dyn Socket>>, Alpn), ConnectError> {
        let config = match wanted {
            Wanted::Http => &self.http,
            _ => &self.http1,
        };
        let connector = TlsConnector::from(Arc::clone(config));
        match connector.connect(self.name.clone(), stream).await {
            Ok(tls) => {
                metrics.handshake(Direction::Outbound);
                let (_, session) = tls.get_ref();
                let alpn = Alpn::agreed(session.alpn_protocol());
                Ok((Stream::client(tls, alpn), alpn))
            }
            Err(error) => {
                metrics.handshake_failure(Direction::Outbound, tls_reason(&error));
                Err(ConnectError::Outside(Arc::new(error)))
            }
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.name).finish()
    }
}
