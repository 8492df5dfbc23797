//! The proxy's sections of the configuration file: listeners, services, deadlines, sizes, admin and access log.
//!
//! [`Config`] can only be made by reading it, and what was read is right: addresses are parsed, identities are SPIFFE IDs,
//! names occur once. Every default is a constant below with its reason; what widens access has none.
//! `identity:` and `policy:` belong to the binary, which composes the file.

mod cidr;
pub mod external;
mod inbound;
mod live;
mod outbound;
mod read;
mod resilience;
mod text;
mod unique;

pub use cidr::{Cidr, ParseCidrError, Range};
pub use external::External;
pub use inbound::{App, INBOUND_DOOR, Inbound, Mtls, Protocol};
pub use live::Live;
pub use outbound::{
    Dns, Endpoint, Endpoints, OUTBOUND_DOOR, Outbound, OutboundListen, Service, Source, TcpService,
};
pub(crate) use read::listed;
pub use read::{ParseEndpointError, octal_mode};
pub use resilience::{Breaker, HashKey, Resilience};
use text::{as_duration, as_text};

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

/// A client that has connected means to speak; ten seconds are five lost packets on a bad link.
pub const TLS_HELLO: Duration = Duration::from_secs(10);
/// Who means to speak first has done so by then, with one packet lost (1 s) and one more (2 s). Each connection of a client
/// that waits for its server to speak waits as long.
pub const DETECT: Duration = Duration::from_secs(3);
/// Heads fit into a few packets. Longer is a slow client or an attack that holds connections (slowloris).
pub const REQUEST_HEAD: Duration = Duration::from_secs(30);
/// Kept below the 75 s at which many clients drop idle connections, so that it is mostly we who close.
pub const IDLE: Duration = Duration::from_secs(60);
/// What Envoy allows a TCP session, too: pools and WebSockets rest for long and come to no harm.
pub const TUNNEL_IDLE: Duration = Duration::from_secs(3600);
/// Below the 5 s keep-alive of Node.js, the shortest in wide use: a pool that waits longer sends into closing connections.
pub const APP_IDLE: Duration = Duration::from_secs(4);
/// One lost SYN (1 s) and one more (2 s), with room for the handshake.
pub const UPSTREAM_CONNECT: Duration = Duration::from_secs(5);
/// How long an app may think before its response head. Streams may last; this ends at the head.
pub const RESPONSE: Duration = Duration::from_secs(60);
/// Kubernetes kills 30 s after SIGTERM; five are kept for the hard end.
pub const DRAIN: Duration = Duration::from_secs(25);
/// A process that was replaced keeps nobody waiting; this bounds how many of them there are after many upgrades.
pub const UPGRADE_DRAIN: Duration = Duration::from_secs(3600);

/// Room for large cookies and tokens (nginx takes 32 KiB); a head is held in memory before anything is decided.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;
/// What nginx and Apache take, too: room for any token but those that carry whole directories.
pub const MAX_FIELD_BYTES: usize = 8 * 1024;
/// Twice what browsers with many cookies send; each one costs a comparison per rule that looks at headers.
pub const MAX_HEADERS: usize = 100;
/// About 240 MiB at the 24 KiB a connection may cost; more than one workload's callers.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Requests in flight on one HTTP/2 connection. A calling sidecar puts all its workload's requests on one.
pub const MAX_STREAMS: u32 = 1024;

/// A sidecar shares its pod's CPU with the app it protects; one worker carries tens of thousands of requests a second.
pub const WORKERS: NonZeroUsize = NonZeroUsize::MIN;
/// DESIGN section 7. Loopback only: what it tells (peers, rules) is for the operator on this machine.
pub const ADMIN_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15000);
/// Only the owner of the socket may use the identity behind it.
pub const SOCKET_MODE: u32 = 0o600;

/// The proxy's part of the configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Where callers reach the workload. May be empty for a workload that only calls.
    pub inbound: Vec<Inbound>,
    /// Where the workload reaches others. None for a workload that only serves.
    pub outbound: Option<Outbound>,
    pub timeouts: Timeouts,
    pub sizes: Sizes,
    pub admin: Admin,
    #[serde(serialize_with = "as_text")]
    pub access_log: AccessLog,
    /// Threads with a runtime, listeners and pools of their own.
    pub workers: NonZeroUsize,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    Tcp(Endpoint),
    /// The path of a socket on this machine.
    Unix(PathBuf),
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address.into())
    }
}

impl From<Endpoint> for Destination {
    fn from(endpoint: Endpoint) -> Self {
        Self::Tcp(endpoint)
    }
}

/// Every wait on a peer. None is zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// From accept to the end of the TLS handshake.
    #[serde(serialize_with = "as_duration")]
    pub tls_hello: Duration,
    /// How long a caller of a permissive [`Protocol::Tcp`] port may be silent until it is taken for one in plain text whose
    /// server speaks first.
    #[serde(serialize_with = "as_duration")]
    pub detect: Duration,
    /// From the first chance to send a request head to its end.
    #[serde(serialize_with = "as_duration")]
    pub request_head: Duration,
    /// A caller's connection without a request, or a body of either direction between two frames.
    #[serde(serialize_with = "as_duration")]
    pub idle: Duration,
    /// An upgraded connection, such as a WebSocket, on which no byte moves in either direction.
    #[serde(serialize_with = "as_duration")]
    pub tunnel_idle: Duration,
    /// A pooled connection to the app without a request.
    #[serde(serialize_with = "as_duration")]
    pub app_idle: Duration,
    /// TCP connect and TLS handshake to a sidecar or to the app.
    #[serde(serialize_with = "as_duration")]
    pub upstream_connect: Duration,
    /// From the last KiB of the request sent (the last byte for gRPC) to the response head.
    #[serde(serialize_with = "as_duration")]
    pub response: Duration,
    /// From SIGTERM to the end of whatever is left.
    #[serde(serialize_with = "as_duration")]
    pub drain: Duration,
    /// How long streams may last in a process in whose place another serves; `drain` follows.
    #[serde(serialize_with = "as_duration")]
    pub upgrade_drain: Duration,
}

/// Every size a peer could grow. None is zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sizes {
    pub max_head_bytes: usize,
    /// Bytes of one header field, name and value.
    pub max_field_bytes: usize,
    pub max_headers: usize,
    /// Open connections from callers, and as many again from the workload, over all listeners and workers; fewer where
    /// the limit on open files does not reach that far.
    pub max_connections: usize,
    pub max_streams: u32,
    /// Resident memory in bytes at which this sidecar is full: see `overload.rs`. None: the limit of its cgroup, if any.
    pub max_memory: Option<u64>,
}

/// The operator's side door; see `admin.rs` for what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Admin {
    /// Always a loopback address. Read only.
    pub listen: SocketAddr,
    /// Unix socket for calls that change state. None: there are no such calls.
    pub socket: Option<PathBuf>,
}

/// Where the line per request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

impl Config {
    /// What differs in `new` and takes effect only after a restart, as key paths: listeners, workers, the admin side and
    /// the access log are bound at start. Everything else may change while connections stay.
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let outbound = match (&self.outbound, &new.outbound) {
            (Some(outbound), Some(new)) => outbound.restart_needed(new),
            (None, None) => Vec::new(),
            _ => vec!["outbound"],
        };
        let (sizes, other) = (&self.sizes, &new.sizes);
        let own = [
            ("inbound", self.inbound != new.inbound),
            (
                "sizes.maxConnections",
                sizes.max_connections != other.max_connections,
            ),
            ("sizes.maxMemory", sizes.max_memory != other.max_memory),
            ("admin", self.admin != new.admin),
            ("accessLog", self.access_log != new.access_log),
            ("workers", self.workers != new.workers),
        ];
        let own = own
            .into_iter()
            .filter_map(|(key, differs)| differs.then_some(key));
        outbound.into_iter().chain(own).collect()
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tls_hello: TLS_HELLO,
            detect: DETECT,
            request_head: REQUEST_HEAD,
            idle: IDLE,
            tunnel_idle: TUNNEL_IDLE,
            app_idle: APP_IDLE,
            upstream_connect: UPSTREAM_CONNECT,
            response: RESPONSE,
            drain: DRAIN,
            upgrade_drain: UPGRADE_DRAIN,
        }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            max_head_bytes: MAX_HEAD_BYTES,
            max_field_bytes: MAX_FIELD_BYTES,
            max_headers: MAX_HEADERS,
            max_connections: MAX_CONNECTIONS,
            max_streams: MAX_STREAMS,
            max_memory: None,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
