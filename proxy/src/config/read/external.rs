//! Servers outside the mesh. What widens access is written out: how they are reached, at which ports, under whose TLS.

use super::outbound::{listen_and_mode, range};
use super::{endpoint, path, some, timeout, within};
use crate::config::external::{External, HostPattern, Roots, SYSTEM_ROOTS, Tls};
use crate::config::unique::{Hosts, Listens};
use policy::yaml::{self, Map, Node, Problems};
use std::path::Path;
use std::time::Duration;

/// What the entries of a file share.
pub(super) struct Around<'f> {
    /// Of services and of external hosts that requests go to by authority.
    pub(super) authorities: &'f Hosts,
    /// Of external hosts that connections go to by the name in their TLS handshake.
    pub(super) server_names: Hosts,
    pub(super) listens: &'f Listens,
    pub(super) redirected: bool,
    pub(super) response: Duration,
}

pub(super) fn external(node: &Node, problems: &Problems, around: &Around<'_>) -> Option<External> {
    yaml::map(node, problems, |map| {
        let tls = tls(map);
        let listen = match map.node_of("listen") {
            Some(_) => listen_and_mode(map, around.listens).map(Some),
            None => {
                map.refuse("mode", "expected no mode: only a Unix socket has one");
                Some(None)
            }
        };
        let has_listen = map.node_of("listen").is_some();
        let read = match (
            map.node_of("hosts").is_some(),
            map.node_of("destinations").is_some(),
        ) {
            (true, false) => by_host(map, tls.as_ref(), has_listen, around),
            (false, true) => by_address(map, tls.as_ref(), has_listen, around),
            _ => {
                for key in ["ports", "endpoints", "timeout"] {
                    map.node_of(key);
                }
                let problem = "expected either hosts or destinations";
                problems.push(map.node().problem(problem));
                None
            }
        };
        Some(External {
            tls: tls?,
            listen: listen?,
            ..read?
        })
    })
}

fn by_host(
    map: &mut Map<'_>,
    tls: Option<&Tls>,
    has_listen: bool,
    around: &Around<'_>,
) -> Option<External> {
    let is_passthrough = tls == Some(&Tls::Passthrough);
    let hosts = map.required(
        "hosts",
        some("host", |node, problems| {
            let pattern: HostPattern = yaml::parsed(
                "a DNS name such as api.example.com or *.example.com",
            )(node, problems)?;
            let taken = match (has_listen, is_passthrough) {
                (true, _) => return Some(pattern),
                (false, true) => &around.server_names,
                (false, false) => around.authorities,
            };
            taken.take(pattern.to_string(), node, problems)?;
            Some(pattern)
        }),
    );
    let ports = map.required("ports", some("port", within(1, u16::MAX)));
    let endpoints = map.optional("endpoints", some("endpoint", endpoint));
    if has_listen || is_passthrough {
        map.refuse(
            "timeout",
            "expected none: bytes pass unread, and no response is known",
        );
    }
    let timeout = map.optional("timeout", timeout).unwrap_or(around.response);
    if is_passthrough && !has_listen && !around.redirected {
        let problem = "expected listen: outbound is not redirected";
        map.problems().push(map.node().problem(problem));
    }
    let (hosts, ports) = (hosts?, ports?);
    if has_listen && ports.len() > 1 {
        let problem = format!("expected one port beside listen, found {}", ports.len());
        map.problems().push(map.node().problem(problem));
    }
    let is_one = matches!(&hosts[..], [host] if host.exact().is_some());
    if has_listen && !is_passthrough && !is_one {
        let problem = "expected one host without a wildcard beside listen: nothing else says where to connect";
        map.problems().push(map.node().problem(problem));
    }
    Some(External {
        hosts,
        destinations: Vec::new(),
        ports,
        endpoints: endpoints.unwrap_or_default(),
        tls: Tls::None,
        listen: None,
        timeout,
    })
}

fn by_address(
    map: &mut Map<'_>,
    tls: Option<&Tls>,
    has_listen: bool,
    around: &Around<'_>,
) -> Option<External> {
    let destinations = map.required("destinations", some("destination", range));
    let ports = map.optional("ports", some("port", within(1, u16::MAX)));
    for key in ["endpoints", "timeout"] {
        map.refuse(
            key,
            "expected none: connections go to the address that they were made to",
        );
    }
    if tls.is_some_and(|tls| *tls != Tls::None) {
        let problem =
            "expected `tls: none` beside destinations: nobody looks into the bytes, TLS or not";
        map.problems().push(map.node().problem(problem));
    }
    let destinations = destinations?;
    let is_one = matches!(&destinations[..], [range] if range.socket().is_some());
    let problem = match (has_listen, around.redirected) {
        (true, _) if !is_one => "expected one address and port beside listen",
        (false, false) => "expected listen: outbound is not redirected",
        _ => {
            return Some(External {
                hosts: Vec::new(),
                destinations,
                ports: ports.unwrap_or_default(),
                endpoints: Vec::new(),
                tls: Tls::None,
                listen: None,
                timeout: around.response,
            });
        }
    };
    map.problems().push(map.node().problem(problem));
    None
}

/// `tls`, and `roots` where they count.
fn tls(map: &mut Map<'_>) -> Option<Tls> {
    let word = map.required("tls", yaml::text)?;
    if word != "originate" {
        map.refuse(
            "roots",
            "expected none: only with `tls: originate` is a server verified by us",
        );
    }
    match word.as_str() {
        "passthrough" => Some(Tls::Passthrough),
        "none" => Some(Tls::None),
        "originate" => {
            let node = map.node_of("roots").unwrap_or(map.node());
            let file = map.optional("roots", path);
            let file = file.as_deref().unwrap_or(Path::new(SYSTEM_ROOTS));
            match Roots::read(file) {
                Ok(roots) => Some(Tls::Originate(roots)),
                Err(error) => {
                    map.problems().push(node.problem(error.to_string()));
                    None
                }
            }
        }
        found => {
            let (found, node) = (yaml::shown(found), map.node_of("tls").unwrap_or(map.node()));
            map.problems().push(node.problem(format!(
                "expected passthrough, originate or none, found {found}"
            )));
            None
        }
    }
}
