//! `outbound.external:`, what the workload may reach outside the mesh.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use policy::target::host::Host;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName};
use serde::Serialize;

use super::text::{as_duration, as_optional_text, as_text, as_texts};
use super::{Endpoint, Endpoints, OutboundListen, Range, Source};

/// Where Debian, Ubuntu, Alpine and their images keep the certificates of public authorities.
pub const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Twenty times what the public authorities take.
const MAX_ROOTS_BYTES: u64 = 4 * 1024 * 1024;

/// Servers without a sidecar. Nobody there has an identity, and nobody there learns ours.
///
/// Known by `hosts` (then `ports` are the ones allowed) or by `destinations`, never by both. With `listen`, bytes pass
/// unread; without, hosts are reached by the authority of HTTP requests, or with [`Tls::Passthrough`] by the name in the
/// TLS handshake of redirected connections, and destinations by where such connections were going.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct External {
    #[serde(serialize_with = "as_texts")]
    pub hosts: Vec<HostPattern>,
    #[serde(serialize_with = "as_texts")]
    pub destinations: Vec<Range>,
    /// Of `hosts` never empty; a request that names no port goes to the first. Of `destinations` empty for whichever
    /// these have.
    pub ports: Vec<u16>,
    /// Where to connect instead of to what DNS says of the host. May be empty.
    #[serde(serialize_with = "as_texts")]
    pub endpoints: Vec<Endpoint>,
    #[serde(serialize_with = "as_text")]
    pub tls: Tls,
    #[serde(serialize_with = "as_optional_text")]
    pub listen: Option<OutboundListen>,
    /// Of HTTP: time to the response head; [`Timeouts::response`](super::Timeouts::response) when not given.
    #[serde(serialize_with = "as_duration")]
    pub timeout: Duration,
}

/// Who speaks TLS with the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// The workload: we read the name it asks for, and nothing else.
    Passthrough,
    /// We, and the server has to prove its name.
    Originate(Roots),
    /// Nobody, as far as we know.
    None,
}

impl External {
    /// Whether requests of the workload go there by their authority.
    pub fn is_http(&self) -> bool {
        !self.hosts.is_empty() && self.listen.is_none() && self.tls != Tls::Passthrough
    }

    /// Whether redirected connections go there by the name in their TLS handshake.
    pub fn is_by_server_name(&self) -> bool {
        self.listen.is_none() && self.tls == Tls::Passthrough
    }

    /// How closely the canonical `name` is named; None if it is not.
    pub fn names(&self, name: &str) -> Option<Closeness> {
        let matching = self.hosts.iter().filter(|pattern| pattern.matches(name));
        matching.map(HostPattern::closeness).max()
    }

    /// Whether a redirected connection that was going to `address` may go there.
    pub fn has_address(&self, address: SocketAddr) -> bool {
        self.listen.is_none()
            && self
                .destinations
                .iter()
                .any(|range| range.contains(address))
            && (self.ports.is_empty() || self.ports.contains(&address.port()))
    }

    /// Where connections to its listener go. None for what no file can say.
    pub fn leads(&self) -> Option<Leads<'_>> {
        self.listen.as_ref()?;
        if let Some(range) = self.destinations.first() {
            return range.socket().map(Leads::Address);
        }
        let port = *self.ports.first()?;
        match self.tls {
            Tls::Passthrough => Some(Leads::ServerName { port }),
            Tls::Originate(_) | Tls::None => {
                let name = self.hosts.first()?.exact()?;
                Some(Leads::Host { name, port })
            }
        }
    }

    /// Where to connect for `name` and `port`.
    pub fn endpoints_of(&self, name: &str, port: u16) -> Endpoints {
        if self.endpoints.is_empty() {
            let host = name.to_owned();
            return Endpoints::Listed(vec![Endpoint { host, port }.into()]);
        }
        let written = self.endpoints.iter().cloned();
        Endpoints::Listed(written.map(Source::from).collect())
    }
}

/// Where a listener of an entry leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leads<'e> {
    /// To the host that the TLS handshake names, if the entry has that.
    ServerName {
        port: u16,
    },
    Host {
        name: &'e str,
        port: u16,
    },
    Address(SocketAddr),
}

/// Of `entries` the one that names the canonical `name` most closely. Its ports count, and not those of others.
pub fn closest<'e>(
    entries: impl Iterator<Item = &'e External>,
    name: &str,
) -> Option<&'e External> {
    let naming = entries.filter_map(|entry| Some((entry.names(name)?, entry)));
    let closest = naming.max_by_key(|(closeness, _)| *closeness);
    closest.map(|(_, entry)| entry)
}

/// A name is closer than a wildcard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closeness {
    Wildcard,
    Exact,
}

/// A DNS name, or `*.` and a name for those with exactly one label more, as in policy documents and certificates.
/// Canonical; no address, no port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern {
    name: String,
    is_wildcard: bool,
}

/// Why a text is not a host of an external service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseHostPatternError {
    #[error("it is not a DNS name")]
    Name,
    #[error("ports stand under `ports`")]
    Port,
}

impl HostPattern {
    /// Whether a canonical host name matches.
    pub fn matches(&self, name: &str) -> bool {
        match self.is_wildcard {
            false => name == self.name,
            true => {
                matches!(name.split_once('.'), Some((label, rest)) if !label.is_empty() && rest == self.name)
            }
        }
    }

    /// The one name that it stands for.
    pub fn exact(&self) -> Option<&str> {
        (!self.is_wildcard).then_some(&self.name)
    }

    fn closeness(&self) -> Closeness {
        match self.is_wildcard {
            true => Closeness::Wildcard,
            false => Closeness::Exact,
        }
    }
}

impl FromStr for HostPattern {
    type Err = ParseHostPatternError;

    fn from_str(text: &str) -> Result<Self, ParseHostPatternError> {
        let (host, is_wildcard) = match text.strip_prefix("*.") {
            Some(host) => (host, true),
            None => (text, false),
        };
        let host = Host::parse(host.as_bytes()).map_err(|_| ParseHostPatternError::Name)?;
        if host.port().is_some() {
            return Err(ParseHostPatternError::Port);
        }
        let is_address = host.name().parse::<std::net::Ipv4Addr>().is_ok();
        // What TLS cannot ask for, no server can prove.
        if is_address || DnsName::try_from(host.name()).is_err() {
            return Err(ParseHostPatternError::Name);
        }
        Ok(Self {
            name: host.name().to_owned(),
            is_wildcard,
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wildcard = if self.is_wildcard { "*." } else { "" };
        write!(f, "{wildcard}{}", self.name)
    }
}

/// Authorities that may vouch for a server outside, as they stood in a file when it was read. Never empty.
#[derive(Debug, Clone)]
pub struct Roots {
    path: PathBuf,
    store: Arc<RootCertStore>,
}

/// Why a file does not say which authorities to believe.
#[derive(Debug, thiserror::Error)]
pub enum ReadRootsError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("expected a file of at most 4 MiB, found {}", .0.display())]
    NoFile(PathBuf),
    #[error("expected certificates in PEM, found none that can be used in {}", .0.display())]
    Empty(PathBuf),
}

impl Roots {
    /// Reads a file of PEM certificates. Those that cannot be used vouch for nobody.
    ///
    /// # Errors
    /// When there is no such file, or nothing in it that can be used.
    pub fn read(path: &Path) -> Result<Self, ReadRootsError> {
        let at = |source| ReadRootsError::Io {
            path: path.to_owned(),
            source,
        };
        // Opening a pipe would wait for its other end.
        if !std::fs::metadata(path).map_err(at)?.is_file() {
            return Err(ReadRootsError::NoFile(path.to_owned()));
        }
        let mut pem = Vec::new();
        let file = File::open(path).map_err(at)?;
        let mut file = file.take(MAX_ROOTS_BYTES + 1);
        file.read_to_end(&mut pem).map_err(at)?;
        if pem.len() as u64 > MAX_ROOTS_BYTES {
            return Err(ReadRootsError::NoFile(path.to_owned()));
        }
        let mut store = RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
        store.add_parsable_certificates(certificates);
        if store.is_empty() {
            return Err(ReadRootsError::Empty(path.to_owned()));
        }
        Ok(Self {
            path: path.to_owned(),
            store: Arc::new(store),
        })
    }

    pub(crate) fn store(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.store)
    }
}

impl PartialEq for Roots {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.store.roots == other.store.roots
    }
}

impl Eq for Roots {}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passthrough => f.write_str("passthrough"),
            Self::Originate(roots) => write!(f, "originate (roots {})", roots.path.display()),
            Self::None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests;
