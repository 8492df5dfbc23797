//! A PostgreSQL database, for a CA of several replicas.
//!
//! One writer at a time, whichever replica it belongs to: a transaction that writes takes an advisory lock first, as
//! the audit chain has one end. Group commit makes that fast enough.

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::config::{Config, Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

mod listen;
mod session;

#[cfg(test)]
mod tests;

pub(super) use listen::Listener;
pub(crate) use session::Session;

/// Listens for what [`NOTIFY`] says.
const LISTEN: &str = "LISTEN tipstaff_ca";
pub(super) const NOTIFY: &str = "NOTIFY tipstaff_ca";
/// For one address of the server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// After which a connection on which nothing comes back is given up.
const SILENCE: Duration = Duration::from_secs(10);

/// How to reach a database. `Debug` shows neither user nor password.
#[derive(Clone)]
pub struct Postgres {
    config: Box<Config>,
    tls: MakeRustlsConnect,
}

/// How the server is known to be the right one.
#[derive(Debug, Clone)]
pub enum ServerTrust {
    /// TLS to a server whose certificate one of these authorities issued for the host's name (libpq's `verify-full`).
    Authorities(Vec<CertificateDer<'static>>),
    /// No TLS, so only by a Unix socket or on a loopback address.
    SameMachine,
    /// No TLS, wherever the server is: whoever is on the way reads and changes what the CA records.
    InsecurePlaintext,
}

impl Postgres {
    /// Takes a URL such as `postgres://tipstaff:secret@db.example/ca`, or words as in `host=/run/postgresql user=ca`.
    /// What the URL says of TLS is replaced by `trust`.
    ///
    /// # Errors
    /// When the URL is not well formed, or names a server that `trust` does not cover. No error repeats it.
    pub fn new(url: &str, trust: &ServerTrust) -> Result<Self, PostgresError> {
        let mut config: Config = url.trim().parse().map_err(|_| PostgresError::Url)?;
        let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
        if hosts.is_empty() && addresses.is_empty() {
            return Err(PostgresError::NoHost);
        }
        let near = hosts.iter().all(is_near) && addresses.iter().all(|ip| ip.is_loopback());
        let (mode, roots) = match trust {
            ServerTrust::Authorities(authorities) => {
                if hosts.iter().any(|host| matches!(host, Host::Unix(_))) {
                    return Err(PostgresError::TlsOnUnixSocket);
                }
                (SslMode::Require, roots(authorities)?)
            }
            ServerTrust::SameMachine if !near => return Err(PostgresError::Plaintext),
            ServerTrust::SameMachine | ServerTrust::InsecurePlaintext => {
                (SslMode::Disable, RootCertStore::empty())
            }
        };
        config
            .ssl_mode(mode)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(SILENCE)
            .keepalives_idle(SILENCE)
            // Of several servers, the one that takes writes.
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_application_name().is_none() {
            config.application_name("tipstaff-ca");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| PostgresError::Authorities)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = MakeRustlsConnect::new(tls);
        Ok(Self {
            config: Box::new(config),
            tls,
        })
    }
}

/// A migration in PostgreSQL's words.
pub(super) fn translated(sql: &str) -> String {
    sql.replace(" INTEGER", " BIGINT")
        .replace(" BLOB", " BYTEA")
        .replace(") STRICT;", ");")
}

fn is_near(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        // A name may lead anywhere, `localhost` does not.
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse()
                    .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
    }
}

fn roots(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, PostgresError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots
            .add(authority.clone())
            .map_err(|_| PostgresError::Authorities)?;
    }
    match roots.is_empty() {
        true => Err(PostgresError::Authorities),
        false => Ok(roots),
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("hosts", &self.config.get_hosts())
            .field("database", &self.config.get_dbname())
            .finish_non_exhaustive()
    }
}

/// Why a database cannot be used as it is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PostgresError {
    #[error("expected a URL such as postgres://user:password@host/database, found something else")]
    Url,
    #[error("expected a host in the URL of the database")]
    NoHost,
    #[error(
        "expected the authorities of the database's certificate, as its host is not this machine"
    )]
    Plaintext,
    #[error("expected a host that is reached over TLS, found a Unix socket")]
    TlsOnUnixSocket,
    #[error("expected certificates of authorities for the database's certificate")]
    Authorities,
}
