//! From the nodes of a file to [`Config`]. Each reader reports everything it dislikes and goes on.

mod endpoints;
mod external;
mod outbound;
mod resilience;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use identity::SpiffeId;
use policy::target::host::Host;
use policy::yaml::{self, Map, Node, Problems};

use super::unique::Listens;
use super::{
    ADMIN_LISTEN, AccessLog, Admin, App, Config, Destination, Endpoint, Inbound, Mtls, Protocol,
    Sizes, Timeouts, WORKERS,
};
pub(crate) use endpoints::listed;
pub use outbound::octal_mode;
use outbound::outbound;

/// A longer wait is a slip of the pen, and timers stay far from overflow.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// hyper takes no smaller buffer.
const MIN_HEAD_BYTES: u64 = 8 * 1024;
/// What each connection may hold before it has said who it is.
const MAX_HEAD_BYTES: u64 = 1024 * 1024;
/// Less is full before the first request.
const MIN_MEMORY: u64 = 32 * 1024 * 1024;

impl Config {
    /// Reads the proxy's keys from the top map of a configuration file; the caller reads its own from the same map.
    /// None, or anything in the map's [`Problems`], means that there is no configuration.
    pub fn read(map: &mut Map<'_>) -> Option<Self> {
        let listens = Listens::default();
        let timeouts = map.optional("timeouts", Timeouts::read).unwrap_or_default();
        let inbound = map.optional(
            "inbound",
            yaml::list(|node, problems| inbound(node, problems, &listens)),
        );
        let outbound = map.optional("outbound", |node, problems| {
            outbound(node, problems, &listens, timeouts.response)
        });
        let admin = map.optional("admin", |node, problems| admin(node, problems, &listens));
        let admin = admin.or_else(|| {
            let listen = listens.claim(ADMIN_LISTEN, map.node(), map.problems())?;
            Some(Admin {
                listen,
                socket: None,
            })
        });
        let inbound = inbound.unwrap_or_default();
        for inbound in &inbound {
            if let App::At(Destination::Tcp(endpoint)) = &inbound.app
                && listens.lead_to(endpoint)
            {
                // Requests would go round until memory ends.
                let problem = format!("expected an app, found {endpoint}, which is this sidecar");
                map.problems().push(map.node().problem(problem));
            }
        }
        Some(Self {
            inbound,
            outbound,
            timeouts,
            sizes: map.optional("sizes", Sizes::read).unwrap_or_default(),
            admin: admin?,
            access_log: map
                .optional("accessLog", access_log)
                .unwrap_or(AccessLog::Stdout),
            workers: map
                .optional("workers", within(1, 256))
                .and_then(NonZeroUsize::new)
                .unwrap_or(WORKERS),
        })
    }
}

fn inbound(node: &Node, problems: &Problems, listens: &Listens) -> Option<Inbound> {
    yaml::map(node, problems, |map| {
        let listen = map.required("listen", |node, problems| {
            listens.claim(address(node, problems)?, node, problems)
        });
        let app = map.required("app", app);
        let protocol = map.optional("protocol", protocol);
        if app.as_ref().is_some_and(|app| *app != App::Original) {
            map.refuse("tcpPorts", "expected none: the app is on one port");
        }
        let tcp_ports = map.optional("tcpPorts", yaml::list(within(1, u16::MAX)));
        let mtls = map.optional("mtls", mtls);
        Some(Inbound {
            listen: listen?,
            app: app?,
            protocol: protocol.unwrap_or(Protocol::Http),
            mtls: mtls.unwrap_or(Mtls::Strict),
            tcp_ports: tcp_ports.unwrap_or_default(),
        })
    })
}

fn admin(node: &Node, problems: &Problems, listens: &Listens) -> Option<Admin> {
    yaml::map(node, problems, |map| {
        let listen = match map.node_of("listen") {
            Some(node) => loopback(node, problems, listens),
            None => listens.claim(ADMIN_LISTEN, map.node(), problems),
        };
        let socket = map.optional("socket", path);
        Some(Admin {
            listen: listen?,
            socket,
        })
    })
}

impl Timeouts {
    fn read(node: &Node, problems: &Problems) -> Option<Self> {
        let default = Self::default();
        yaml::map(node, problems, |map| {
            let mut read = |key, default| map.optional(key, timeout).unwrap_or(default);
            Some(Self {
                tls_hello: read("tlsHello", default.tls_hello),
                detect: read("detect", default.detect),
                request_head: read("requestHead", default.request_head),
                idle: read("idle", default.idle),
                tunnel_idle: read("tunnelIdle", default.tunnel_idle),
                app_idle: read("appIdle", default.app_idle),
                upstream_connect: read("upstreamConnect", default.upstream_connect),
                response: read("response", default.response),
                drain: read("drain", default.drain),
                upgrade_drain: read("upgradeDrain", default.upgrade_drain),
            })
        })
    }
}

impl Sizes {
    fn read(node: &Node, problems: &Problems) -> Option<Self> {
        let default = Self::default();
        yaml::map(node, problems, |map| {
            Some(Self {
                max_head_bytes: map
                    .optional("maxHeadBytes", head_bytes)
                    .unwrap_or(default.max_head_bytes),
                max_field_bytes: map
                    .optional("maxFieldBytes", head_bytes)
                    .unwrap_or(default.max_field_bytes),
                max_headers: map
                    .optional("maxHeaders", within(1, 1000))
                    .unwrap_or(default.max_headers),
                max_connections: map
                    .optional("maxConnections", within(1, 1_000_000))
                    .unwrap_or(default.max_connections),
                max_streams: map
                    .optional("maxStreams", within(1, 65_535))
                    .unwrap_or(default.max_streams),
                max_memory: map.optional("maxMemory", memory_bytes),
            })
        })
    }
}

/// `off`, `stdout` or the path of a file.
fn access_log(node: &Node, problems: &Problems) -> Option<AccessLog> {
    match yaml::text(node, problems)?.as_str() {
        "off" => Some(AccessLog::Off),
        "stdout" => Some(AccessLog::Stdout),
        file if file.contains('/') => Some(AccessLog::File(file.into())),
        found => {
            let found = yaml::shown(found);
            problems.push(node.problem(format!(
                "expected off, stdout or a path with a slash, found {found}"
            )));
            None
        }
    }
}

/// The workload: `host:port`, `unix:` and a path, or `original`.
fn app(node: &Node, problems: &Problems) -> Option<App> {
    if yaml::text(node, problems)? == "original" {
        return Some(App::Original);
    }
    match unix(node, problems)? {
        Some(path) => Some(Destination::Unix(path).into()),
        None => endpoint(node, problems).map(App::from),
    }
}

/// The path after `unix:`; `Some(None)` for what is written in another way.
fn unix(node: &Node, problems: &Problems) -> Option<Option<PathBuf>> {
    let text = yaml::text(node, problems)?;
    match text.strip_prefix("unix:") {
        None => Some(None),
        Some(path) if path.starts_with('/') => Some(Some(path.into())),
        Some(path) => {
            let found = yaml::shown(path);
            problems.push(node.problem(format!(
                "expected an absolute path after unix:, found {found}"
            )));
            None
        }
    }
}

/// An address that only this machine reaches.
fn loopback(node: &Node, problems: &Problems, listens: &Listens) -> Option<SocketAddr> {
    let found = address(node, problems)?;
    if !found.ip().is_loopback() {
        problems.push(node.problem(format!(
            "expected a loopback address such as 127.0.0.1:15000, found {found}"
        )));
        return None;
    }
    listens.claim(found, node, problems)
}

fn address(node: &Node, problems: &Problems) -> Option<SocketAddr> {
    yaml::parsed("an address such as 127.0.0.1:15006")(node, problems)
}

fn protocol(node: &Node, problems: &Problems) -> Option<Protocol> {
    match yaml::text(node, problems)?.as_str() {
        "http" => Some(Protocol::Http),
        "tcp" => Some(Protocol::Tcp),
        found => {
            let found = yaml::shown(found);
            problems.push(node.problem(format!("expected http or tcp, found {found}")));
            None
        }
    }
}

fn mtls(node: &Node, problems: &Problems) -> Option<Mtls> {
    match yaml::text(node, problems)?.as_str() {
        "strict" => Some(Mtls::Strict),
        "permissive" => Some(Mtls::Permissive),
        found => {
            let found = yaml::shown(found);
            problems.push(node.problem(format!("expected strict or permissive, found {found}")));
            None
        }
    }
}

fn spiffe_id(node: &Node, problems: &Problems) -> Option<SpiffeId> {
    yaml::parsed("a SPIFFE ID such as spiffe://prod.example/ns/shop/sa/orders")(node, problems)
}

fn endpoint(node: &Node, problems: &Problems) -> Option<Endpoint> {
    yaml::parsed("host:port such as 10.0.0.7:15006")(node, problems)
}

fn path(node: &Node, problems: &Problems) -> Option<PathBuf> {
    yaml::text(node, problems).map(PathBuf::from)
}

fn timeout(node: &Node, problems: &Problems) -> Option<Duration> {
    let found = yaml::duration(node, problems)?;
    if found.is_zero() || found > MAX_TIMEOUT {
        problems.push(node.problem(format!(
            "expected more than 0s and at most 24h, found {found:?}"
        )));
        return None;
    }
    Some(found)
}

fn head_bytes(node: &Node, problems: &Problems) -> Option<usize> {
    let found = yaml::byte_size(node, problems)?;
    if !(MIN_HEAD_BYTES..=MAX_HEAD_BYTES).contains(&found) {
        problems.push(node.problem(format!("expected 8KiB to 1MiB, found {found}B")));
        return None;
    }
    usize::try_from(found).ok()
}

fn memory_bytes(node: &Node, problems: &Problems) -> Option<u64> {
    let found = yaml::byte_size(node, problems)?;
    if found < MIN_MEMORY {
        problems.push(node.problem(format!("expected at least 32MiB, found {found}B")));
        return None;
    }
    Some(found)
}

/// A list with at least one item.
fn some<'n, T>(
    item: &'static str,
    read: impl Fn(&'n Node, &'n Problems) -> Option<T>,
) -> impl Fn(&'n Node, &'n Problems) -> Option<Vec<T>> {
    let list = yaml::list(read);
    move |node, problems| {
        let items = list(node, problems)?;
        if items.is_empty() {
            problems.push(node.problem(format!("expected at least one {item}, found none")));
            return None;
        }
        Some(items)
    }
}

/// A whole number in a range.
fn within<T>(min: T, max: T) -> impl Fn(&Node, &Problems) -> Option<T>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    move |node, problems| {
        let found: T = yaml::number(node, problems)?;
        if found < min || found > max {
            problems.push(node.problem(format!("expected {min} to {max}, found {found}")));
            return None;
        }
        Some(found)
    }
}

/// Why a text is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseEndpointError {
    #[error("the host is not a DNS name or an address")]
    Host,
    #[error("the port is missing")]
    Port,
    #[error("after srv: a name is expected that begins with _, without a port")]
    Srv,
}

impl FromStr for Endpoint {
    type Err = ParseEndpointError;

    fn from_str(text: &str) -> Result<Self, ParseEndpointError> {
        let host = Host::parse(text.as_bytes()).map_err(|_| ParseEndpointError::Host)?;
        let port = host.port().ok_or(ParseEndpointError::Port)?;
        let name = host.name().trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            host: name.to_owned(),
            port,
        })
    }
}
