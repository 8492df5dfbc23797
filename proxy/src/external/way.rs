//! Where a connection goes, by how it came and what its TLS handshake says. The configuration is asked again whenever it is
//! replaced: what it no longer has ends.

use crate::config::external::{External as Entry, Leads, Tls, closest};
use crate::config::{Config, Endpoint, Endpoints};
use std::net::SocketAddr;

/// How a connection came.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Came {
    /// To the listener of an entry, by its place among those that have one. A reload leaves the listeners as they are, and
    /// may change where one of them leads.
    Listener(usize),
    /// Redirected on its way to an address.
    Redirected(SocketAddr),
}

impl Came {
    /// Where it was going, as far as that is known without a name. None if nowhere.
    pub(super) fn towards(self, config: &Config) -> Option<Endpoint> {
        let entry = match self {
            Self::Redirected(address) => return Some(address.into()),
            Self::Listener(place) => listening(place, config)?,
        };
        match entry.leads()? {
            Leads::Address(address) => Some(address.into()),
            Leads::ServerName { port } | Leads::Host { port, .. } => {
                let host = match &entry.hosts[..] {
                    [host] => host.to_string(),
                    _ => "*".to_owned(),
                };
                Some(Endpoint { host, port })
            }
        }
    }

    /// Whether its TLS handshake has to say where it goes.
    pub(super) fn is_by_server_name(self, config: &Config) -> bool {
        match self {
            Self::Redirected(_) => false,
            Self::Listener(place) => matches!(
                listening(place, config).and_then(Entry::leads),
                Some(Leads::ServerName { .. })
            ),
        }
    }
}

/// Where a connection goes, and what is asked of whom it finds there.
#[derive(Debug)]
pub(super) struct Way {
    came: Came,
    /// As its TLS handshake had it.
    name: Option<String>,
    pub(super) to: Endpoint,
    pub(super) endpoints: Endpoints,
    pub(super) tls: Tls,
}

impl Way {
    /// None if no entry has it.
    pub(super) fn find(came: Came, name: Option<String>, config: &Config) -> Option<Self> {
        let (entry, to) = match (came, &name) {
            (Came::Listener(place), name) => {
                let entry = listening(place, config)?;
                let to = match (entry.leads()?, name) {
                    (Leads::ServerName { port }, Some(name)) => {
                        entry.names(name)?;
                        host(name, port)
                    }
                    (Leads::Host { name, port }, None) => host(name, port),
                    (Leads::Address(address), None) => address.into(),
                    // Its listener has come to lead elsewhere.
                    _ => return None,
                };
                (entry, to)
            }
            (Came::Redirected(address), Some(name)) => {
                let entries = entries(config).filter(|entry| entry.is_by_server_name());
                let entry = closest(entries, name)?;
                entry.ports.contains(&address.port()).then_some(())?;
                (entry, host(name, address.port()))
            }
            (Came::Redirected(address), None) => {
                let entry = entries(config).find(|entry| entry.has_address(address))?;
                (entry, address.into())
            }
        };
        Some(Self {
            endpoints: entry.endpoints_of(&to.host, to.port),
            tls: entry.tls.clone(),
            came,
            name,
            to,
        })
    }

    /// Whether `config` has it, too, and asks no more of whom it leads to.
    pub(super) fn is_in(&self, config: &Config) -> bool {
        Self::find(self.came, self.name.clone(), config)
            .is_some_and(|now| now.to == self.to && now.tls == self.tls)
    }
}

fn host(name: &str, port: u16) -> Endpoint {
    Endpoint {
        host: name.to_owned(),
        port,
    }
}

fn entries(config: &Config) -> impl Iterator<Item = &Entry> {
    let outbound = config.outbound.iter();
    outbound.flat_map(|outbound| &outbound.external)
}

fn listening(place: usize, config: &Config) -> Option<&Entry> {
    entries(config)
        .filter(|entry| entry.listen.is_some())
        .nth(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::read;

    /// Of a name and a wildcard that has it the name decides, for connections as for requests: its ports are all it has.
    #[test]
    fn the_closest_entry_decides_and_not_another_that_has_the_port() {
        let config = read(
            "outbound: {listen: '127.0.0.1:15001', redirected: true, uids: [1000], services: [], external: [
               {hosts: ['*.example'], ports: [443, 8443], tls: passthrough},
               {hosts: [a.example], ports: [443], tls: passthrough}]}",
        );
        let config = config.unwrap();
        for (name, port, is_found) in [
            ("a.example", 443, true),
            ("a.example", 8443, false),
            ("b.example", 8443, true),
            ("b.example", 444, false),
        ] {
            let came = Came::Redirected(([192, 0, 2, 1], port).into());
            let way = Way::find(came, Some(name.to_owned()), &config);
            assert_eq!(way.is_some(), is_found, "{name}:{port}: {way:?}");
        }
    }
}
