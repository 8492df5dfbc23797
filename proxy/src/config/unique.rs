//! What may be written once only in a file: addresses to listen on and hosts of services.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use policy::target::host::Host;
use policy::yaml::{self, Node, Problems};

use super::Endpoint;

/// The ports that a host without one may mean: the workload speaks `http://` to us, and what it reaches is `https://`.
const DEFAULT_PORTS: [u16; 2] = [80, 443];

/// Addresses listened on so far, with their lines. `SO_REUSEPORT` would let two listeners of ours share one.
#[derive(Default)]
pub(super) struct Listens(RefCell<Vec<(SocketAddr, usize)>>);

impl Listens {
    pub(super) fn claim(
        &self,
        address: SocketAddr,
        node: &Node,
        problems: &Problems,
    ) -> Option<SocketAddr> {
        let mut taken = self.0.borrow_mut();
        let overlaps = |other: &SocketAddr| {
            let either_any = other.ip().is_unspecified() || address.ip().is_unspecified();
            address.port() != 0
                && other.port() == address.port()
                && (either_any || other.ip() == address.ip())
        };
        if let Some((_, line)) = taken.iter().find(|(other, _)| overlaps(other)) {
            problems.push(node.problem(format!(
                "expected an address of its own, found {address}, taken in line {line}"
            )));
            return None;
        }
        taken.push((address, node.place().line()));
        Some(address)
    }

    /// Whether a connection to `endpoint` would come back to one of these addresses.
    pub(super) fn lead_to(&self, endpoint: &Endpoint) -> bool {
        let host = match endpoint.host.as_str() {
            "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host => host.parse().map(|address: IpAddr| address.to_canonical()),
        };
        // What another name stands for is known when it is called.
        let Ok(host) = host else { return false };
        let taken = self.0.borrow();
        taken.iter().any(|(own, _)| {
            let any = own.ip().is_unspecified() && (host.is_loopback() || host.is_unspecified());
            let same = own.ip() == host || (host.is_unspecified() && own.ip().is_loopback());
            own.port() == endpoint.port && (any || same)
        })
    }
}

/// Hosts of services so far, with their lines.
#[derive(Default)]
pub(super) struct Hosts(RefCell<HashMap<String, usize>>);

impl Hosts {
    /// In canonical form, so that two spellings of one host count as one.
    pub(super) fn claim(&self, node: &Node, problems: &Problems) -> Option<String> {
        let text = yaml::text(node, problems)?;
        let Ok(host) = Host::parse(text.as_bytes()) else {
            let found = yaml::shown(&text);
            problems.push(node.problem(format!(
                "expected a host such as orders or orders.shop:8080, found {found}"
            )));
            return None;
        };
        let canonical = match host.port() {
            Some(port) if !DEFAULT_PORTS.contains(&port) => host.to_string(),
            _ => host.name().to_owned(),
        };
        self.take(canonical, node, problems)
    }

    /// The same for a name that is canonical already.
    pub(super) fn take(
        &self,
        canonical: String,
        node: &Node,
        problems: &Problems,
    ) -> Option<String> {
        match self.0.borrow_mut().entry(canonical) {
            Entry::Occupied(taken) => {
                let (host, line) = (taken.key(), taken.get());
                problems.push(node.problem(format!(
                    "expected each host once, found {host} again, first in line {line}"
                )));
                None
            }
            Entry::Vacant(free) => {
                let canonical = free.key().clone();
                free.insert(node.place().line());
                Some(canonical)
            }
        }
    }
}
