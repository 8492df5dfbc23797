//! The workload's way out: where it connects, and where its calls may go.

use super::endpoints::{dns, endpoints};
use super::external::{Around, external};
use super::resilience::resilience;
use super::{loopback, some, spiffe_id, timeout, unix};
use crate::config::unique::{Hosts, Listens};
use crate::config::{Outbound, OutboundListen, Range, SOCKET_MODE, Service, TcpService};
use policy::yaml::{self, Map, Node, Problems};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

pub(super) fn outbound(
    node: &Node,
    problems: &Problems,
    listens: &Listens,
    response: Duration,
) -> Option<Outbound> {
    yaml::map(node, problems, |map| {
        let hosts = Hosts::default();
        let redirected = map.optional("redirected", yaml::boolean).unwrap_or(false);
        let listen = listen_and_mode(map, listens);
        let listen = match redirected {
            true => listen.and_then(|listen| of_both_families(listen, map, listens)),
            false => listen,
        };
        let uids = match redirected {
            // The sidecar's own connections are the ones that must not come back to it.
            true => map.required("uids", uids),
            false => {
                let uids = map.optional("uids", uids);
                Some(uids.unwrap_or_else(|| vec![rustix::process::geteuid().as_raw()]))
            }
        };
        let dns = map.optional("dns", dns);
        let services = map.required(
            "services",
            yaml::list(|node, problems| service(node, problems, &hosts, response)),
        );
        let tcp = map.optional(
            "tcp",
            yaml::list(|node, problems| tcp_service(node, problems, listens, redirected)),
        );
        let around = Around {
            authorities: &hosts,
            server_names: Hosts::default(),
            listens,
            redirected,
            response,
        };
        let external = map.optional(
            "external",
            yaml::list(|node, problems| external(node, problems, &around)),
        );
        Some(Outbound {
            listen: listen?,
            uids: uids?,
            redirected,
            dns: dns.unwrap_or_default(),
            services: services?,
            tcp: tcp.unwrap_or_default(),
            external: external.unwrap_or_default(),
        })
    })
}

/// `listen`, and `mode` for a Unix socket.
pub(super) fn listen_and_mode(map: &mut Map<'_>, listens: &Listens) -> Option<OutboundListen> {
    let listen = map.required("listen", |node, problems| {
        outbound_listen(node, problems, listens)
    });
    let problems = map.problems();
    let mode = map
        .node_of("mode")
        .map(|node| (node, octal_mode(node, problems)));
    match (listen, mode) {
        (Some(OutboundListen::Unix { path, .. }), Some((_, mode))) => {
            mode.map(|mode| OutboundListen::Unix { path, mode })
        }
        (Some(OutboundListen::Tcp(_)), Some((node, _))) => {
            problems.push(node.problem("expected no mode: only a Unix socket has one"));
            None
        }
        (listen, _) => listen,
    }
}

/// Redirection leads the workload's connections to exactly 127.0.0.1 and ::1.
fn of_both_families(
    listen: OutboundListen,
    map: &Map<'_>,
    listens: &Listens,
) -> Option<OutboundListen> {
    match listen {
        OutboundListen::Tcp(SocketAddr::V4(address)) if *address.ip() == Ipv4Addr::LOCALHOST => {
            let ipv6 = (Ipv6Addr::LOCALHOST, address.port()).into();
            listens.claim(ipv6, map.node(), map.problems())?;
            Some(listen)
        }
        found => {
            let problem = format!("expected 127.0.0.1 and a port to redirect to, found {found}");
            map.problems().push(map.node().problem(problem));
            None
        }
    }
}

fn tcp_service(
    node: &Node,
    problems: &Problems,
    listens: &Listens,
    redirected: bool,
) -> Option<TcpService> {
    yaml::map(node, problems, |map| {
        if !redirected {
            map.refuse("destinations", "expected none: outbound is not redirected");
        }
        let destinations = map.optional("destinations", some("destination", range));
        let listen = match map.node_of("listen") {
            None if map.node_of("destinations").is_some() => {
                map.refuse("mode", "expected no mode: only a Unix socket has one");
                Some(None)
            }
            _ => listen_and_mode(map, listens).map(Some),
        };
        let endpoints = endpoints(map);
        let identity = map.required("identity", spiffe_id);
        Some(TcpService {
            listen: listen?,
            destinations: destinations.unwrap_or_default(),
            endpoints: endpoints?,
            identity: identity?,
        })
    })
}

fn service(node: &Node, problems: &Problems, hosts: &Hosts, response: Duration) -> Option<Service> {
    yaml::map(node, problems, |map| {
        let hosts = map.required(
            "hosts",
            some("host", |node, problems| hosts.claim(node, problems)),
        );
        let endpoints = endpoints(map);
        let identity = map.required("identity", spiffe_id);
        let timeout = map.optional("timeout", timeout).unwrap_or(response);
        let resilience = resilience(map, timeout);
        Some(Service {
            hosts: hosts?,
            endpoints: endpoints?,
            identity: identity?,
            timeout,
            resilience,
        })
    })
}

fn outbound_listen(node: &Node, problems: &Problems, listens: &Listens) -> Option<OutboundListen> {
    match unix(node, problems)? {
        Some(path) => Some(OutboundListen::Unix {
            path,
            mode: SOCKET_MODE,
        }),
        None => loopback(node, problems, listens).map(OutboundListen::Tcp),
    }
}

pub(super) fn range(node: &Node, problems: &Problems) -> Option<Range> {
    yaml::parsed("an address and port or a block such as 10.0.0.0/8")(node, problems)
}

/// The permissions of a Unix socket: quoted octal digits, as chmod takes them.
pub fn octal_mode(node: &Node, problems: &Problems) -> Option<u32> {
    let text = yaml::text(node, problems)?;
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if mode & !0o666 == 0 && mode & 0o600 == 0o600 => Some(mode),
        _ => {
            let found = yaml::shown(&text);
            problems.push(node.problem(format!(
                "expected a mode from \"0600\" to \"0666\" without execute bits, found {found}"
            )));
            None
        }
    }
}

fn uids(node: &Node, problems: &Problems) -> Option<Vec<u32>> {
    some("uid", yaml::number)(node, problems)
}
