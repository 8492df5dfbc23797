//! `outbound:`, where the workload reaches others.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use identity::SpiffeId;
use policy::target::host::Host;
use serde::Serialize;

use super::text::{as_duration, as_optional_text, as_text, as_texts};
use super::{External, ParseEndpointError, Range, Resilience};

/// The port of this machine that the rules of `tipstaff redirect` lead to the outbound listener, for the sidecar's own probe.
pub const OUTBOUND_DOOR: u16 = 15051;

/// The workload's way out. It lends the proxy's identity to whoever may connect, so it is guarded on both kinds of listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outbound {
    #[serde(serialize_with = "as_text")]
    pub listen: OutboundListen,
    /// Users whose processes may connect (checked by the kernel's record of the connecting socket). Never empty; the proxy's own by default.
    pub uids: Vec<u32>,
    /// Whether the kernel leads the workload's connections here, instead of the workload itself. `listen` is on 127.0.0.1
    /// then, and the same port of `::1` is bound, too.
    pub redirected: bool,
    pub dns: Dns,
    /// In the order of the file. A destination that none of them names is refused.
    pub services: Vec<Service>,
    pub tcp: Vec<TcpService>,
    /// Outside the mesh.
    pub external: Vec<External>,
}

impl Outbound {
    /// The listeners of what is not HTTP: of TCP services, then of external ones, each in the order of the file.
    pub fn opaque_listens(&self) -> impl Iterator<Item = &OutboundListen> {
        let tcp = self.tcp.iter().map(|service| &service.listen);
        let external = self.external.iter().map(|external| &external.listen);
        tcp.chain(external).flatten()
    }

    /// What differs in `new` and is bound at start, as key paths.
    pub(super) fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let listen = |outbound: &Self| (outbound.listen.clone(), outbound.redirected);
        let external = |outbound: &Self| {
            let external = outbound.external.iter();
            let listens = external.filter_map(|entry| entry.listen.clone());
            listens.collect::<Vec<_>>()
        };
        [
            ("outbound.listen", listen(self) != listen(new)),
            ("outbound.uids", self.uids != new.uids),
            ("outbound.dns", self.dns != new.dns),
            ("outbound.tcp", self.tcp != new.tcp),
            ("outbound.external.listen", external(self) != external(new)),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

/// Who is asked for the addresses of names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// Empty: the system's, as in /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
}

/// Loopback TCP or a Unix socket; nothing that another machine reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboundListen {
    /// Always a loopback address.
    Tcp(SocketAddr),
    Unix {
        path: PathBuf,
        mode: u32,
    },
}

/// A destination the workload may name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Canonical (folded case, no default port, no final dot); no host occurs twice in a configuration.
    pub hosts: Vec<String>,
    /// Sidecars that serve it.
    #[serde(flatten)]
    pub endpoints: Endpoints,
    /// Who has to answer there.
    #[serde(serialize_with = "as_text")]
    pub identity: SpiffeId,
    /// Time to the response head, over all attempts; [`Timeouts::response`](super::Timeouts::response) when not given.
    #[serde(serialize_with = "as_duration")]
    pub timeout: Duration,
    #[serde(flatten)]
    pub resilience: Resilience,
}

/// A destination that is not HTTP. Nothing in the bytes says where they are to go: it has a listener of its own, or the
/// addresses that redirected connections were going to, or both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpService {
    #[serde(serialize_with = "as_optional_text")]
    pub listen: Option<OutboundListen>,
    /// Empty unless connections are redirected.
    #[serde(serialize_with = "as_texts")]
    pub destinations: Vec<Range>,
    /// Sidecars that serve it.
    #[serde(flatten)]
    pub endpoints: Endpoints,
    /// Who has to answer there.
    #[serde(serialize_with = "as_text")]
    pub identity: SpiffeId,
}

/// Where the sidecars of a service are found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub enum Endpoints {
    /// `endpoints`. Never empty.
    #[serde(rename = "endpoints")]
    Listed(#[serde(serialize_with = "as_texts")] Vec<Source>),
    /// `endpointsFile`: a YAML file with such a list, followed as it changes.
    #[serde(rename = "endpointsFile")]
    File(PathBuf),
}

/// What stands for some endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    Address(SocketAddr),
    /// A DNS name and a port: every address that the name has.
    Name(Endpoint),
    /// `srv:` and a DNS name: every target of its SRV records (RFC 2782).
    Srv(String),
}

impl Endpoints {
    /// Whether nobody has to be asked for any of them.
    pub(crate) fn are_addresses(&self) -> bool {
        let is_address = |source: &Source| matches!(source, Source::Address(_));
        matches!(self, Self::Listed(sources) if sources.iter().all(is_address))
    }
}

impl From<Endpoint> for Source {
    fn from(endpoint: Endpoint) -> Self {
        match endpoint.host.parse::<IpAddr>() {
            Ok(address) => Self::Address((address, endpoint.port).into()),
            Err(_) => Self::Name(endpoint),
        }
    }
}

impl FromStr for Source {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, ParseEndpointError> {
        if let Some(name) = text.strip_prefix("srv:") {
            let host = Host::parse(name.as_bytes()).map_err(|_| ParseEndpointError::Host)?;
            let is_name = host.port().is_none() && !name.ends_with(':');
            return match is_name && host.name().starts_with('_') {
                true => Ok(Self::Srv(with_final_dot(host.name(), name.ends_with('.')))),
                false => Err(ParseEndpointError::Srv),
            };
        }
        let endpoint: Endpoint = text.parse()?;
        Ok(match Self::from(endpoint) {
            Self::Name(endpoint) => Self::Name(Endpoint {
                host: with_final_dot(&endpoint.host, text.contains(".:")),
                ..endpoint
            }),
            source => source,
        })
    }
}

/// A name that ends in a dot is whole: no search domain is put behind it.
fn with_final_dot(name: &str, is_whole: bool) -> String {
    match is_whole {
        true => format!("{name}."),
        false => name.to_owned(),
    }
}

/// `host:port`. The host is an address or a DNS name; IPv6 is written in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Without brackets.
    pub host: String,
    pub port: u16,
}
