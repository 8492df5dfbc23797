//! Names and their addresses, as this machine resolves them: the hosts file first, then the servers, search domains and
//! options of /etc/resolv.conf. Both files are read again when they change.

use crate::config::{Endpoint, Source};
use crate::discovery::Member;
use crate::files::Stamp;
use futures_util::{StreamExt, stream};
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, TokioResolver};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// The addresses of one name that are used, and the targets of one SRV name. More would be an answer made to hurt.
const MAX_ADDRESSES: usize = 256;
/// Answers are asked for again when their time to live ends, but no sooner than this: some servers say 0.
const MIN_TTL: Duration = Duration::from_secs(1);
/// And no later than this, for what was set to a day before it had to be moved.
const MAX_TTL: Duration = Duration::from_secs(300);
/// The hosts file has no times to live.
const HOSTS_TTL: Duration = Duration::from_secs(10);

/// For one query to one server. Whoever is slower than this counts as silent; the query is sent once more.
const QUERY: Duration = Duration::from_secs(2);
const QUERY_AGAIN: usize = 1;
/// For all queries of a name together: search domains, CNAMEs, targets of SRV records.
const DEADLINE: Duration = Duration::from_secs(15);
/// Targets of SRV records that are resolved at once.
const AT_ONCE: usize = 16;

/// Where the system says how it resolves names.
const SYSTEM: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// Never empty; in an order that does not depend on the server.
    pub(super) members: Vec<Member>,
    pub(super) valid_for: Duration,
}

/// Why a name stands for nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("there is no such name")]
    NoName,
    #[error("the name has no addresses")]
    NoAddresses,
    #[error("expected an answer from a DNS server, found none in time")]
    Silent,
    #[error("the DNS query failed: {0}")]
    Failed(NetError),
}

impl From<NetError> for AskError {
    fn from(error: NetError) -> Self {
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
                ResponseCode::NXDomain => Self::NoName,
                _ => Self::NoAddresses,
            },
            NetError::Timeout => Self::Silent,
            other => Self::Failed(other),
        }
    }
}

/// Asks for names.
#[derive(Debug)]
pub(super) struct Dns {
    /// Empty: the system's.
    servers: Vec<SocketAddr>,
    system: Mutex<Option<System>>,
}

/// How the system resolves names, as its files said when they looked like this.
#[derive(Debug, Clone)]
struct System {
    read: Stamp,
    hosts: Arc<Hosts>,
    resolver: Result<TokioResolver, NetError>,
}

impl Dns {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            system: Mutex::default(),
        }
    }

    pub(super) async fn ask(self: Arc<Self>, source: &Source) -> Result<Answer, AskError> {
        let read = tokio::task::spawn_blocking(move || self.system()).await;
        let Ok(system) = read else {
            return Err(AskError::Silent); // The process ends.
        };
        let asked = async {
            match source {
                Source::Address(address) => Ok(Answer {
                    members: vec![Member::at(*address)],
                    valid_for: MAX_TTL,
                }),
                Source::Name(Endpoint { host, port }) => {
                    let (addresses, valid_for) = system.addresses(host).await?;
                    let member = |address| Member::at(SocketAddr::new(address, *port));
                    let members = addresses.into_iter().map(member).collect();
                    Ok(Answer { members, valid_for })
                }
                Source::Srv(name) => system.targets(name).await,
            }
        };
        timeout(DEADLINE, asked)
            .await
            .unwrap_or(Err(AskError::Silent))
    }

    fn system(&self) -> System {
        let mut now = Stamp::default();
        SYSTEM.iter().for_each(|path| now.add(Path::new(path)));
        let mut system = self.system.lock().unwrap_or_else(PoisonError::into_inner);
        match &*system {
            Some(system) if system.read == now => system.clone(),
            _ => system
                .insert(System {
                    read: now,
                    // Without the file, no name is in it.
                    hosts: Arc::new(Hosts::from_system().unwrap_or_default()),
                    resolver: self.resolver(),
                })
                .clone(),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let (mut config, mut options) = match read_system_conf() {
            Ok(system) => system,
            Err(_) if !self.servers.is_empty() => {
                let config = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
                (config, ResolverOpts::default())
            }
            Err(error) => return Err(error),
        };
        if !self.servers.is_empty() {
            config.name_servers = self.servers.iter().map(server).collect();
        }
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Looked at before, and for the name as a whole: what is in it needs no server.
        options.use_hosts_file = ResolveHosts::Never;
        // What is known is kept here; what is not has to be asked for.
        options.cache_size = 0;
        options.timeout = options.timeout.min(QUERY);
        options.attempts = options.attempts.min(QUERY_AGAIN);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

impl System {
    /// Every address of a name, in order.
    async fn addresses(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), AskError> {
        let (mut addresses, valid_for) = match self.in_hosts(name) {
            found if !found.is_empty() => (found, HOSTS_TTL),
            _ => {
                let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
                let found = resolver.lookup_ip(name).await?;
                let valid_for = valid_for(found.as_lookup().answers());
                (found.iter().collect(), valid_for)
            }
        };
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MAX_ADDRESSES);
        match addresses.is_empty() {
            true => Err(AskError::NoAddresses),
            false => Ok((addresses, valid_for)),
        }
    }

    fn in_hosts(&self, name: &str) -> Vec<IpAddr> {
        let Ok(name) = Name::from_ascii(name) else {
            return Vec::new();
        };
        let of_type = |record_type| {
            let query = Query::query(name.clone(), record_type);
            self.hosts.lookup_static_host(&query)
        };
        let found = [RecordType::A, RecordType::AAAA].map(of_type);
        let records = found.iter().flatten().flat_map(|found| found.answers());
        records.filter_map(|record| record.data.ip_addr()).collect()
    }

    /// The addresses of every target of a name's SRV records. Targets that cannot be resolved are left out, and asked for
    /// again soon.
    async fn targets(&self, name: &str) -> Result<Answer, AskError> {
        let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
        let found = resolver.srv_lookup(name).await?;
        let targets = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                // "." says that there is no such service (RFC 2782).
                RData::SRV(target) if !target.target.is_root() => Some(target.clone()),
                _ => None,
            });
        let mut targets: Vec<SRV> = targets.collect();
        targets.sort_unstable_by_key(|srv| (srv.priority, srv.target.clone(), srv.port));
        targets.truncate(MAX_ADDRESSES);

        let mut valid = valid_for(found.answers());
        let mut failure = AskError::NoAddresses;
        let mut members = Vec::new();
        let mut answers = stream::iter(targets)
            .map(|srv| async move {
                let answer = self.addresses(&srv.target.to_ascii()).await;
                (srv, answer)
            })
            .buffered(AT_ONCE);
        while let Some((srv, answer)) = answers.next().await {
            match answer {
                Ok((addresses, valid_for)) => {
                    valid = valid.min(valid_for);
                    members.extend(addresses.into_iter().map(|address| Member {
                        address: SocketAddr::new(address, srv.port).into(),
                        priority: srv.priority,
                        weight: srv.weight.max(1),
                    }));
                }
                Err(error) => {
                    tracing::debug!(target = %srv.target, %error, "cannot resolve a target of SRV records");
                    valid = MIN_TTL;
                    failure = error;
                }
            }
        }
        members.truncate(MAX_ADDRESSES);
        match members.is_empty() {
            true => Err(failure),
            false => Ok(Answer {
                members,
                valid_for: valid,
            }),
        }
    }
}

/// Until the first of the records ends, CNAMEs among them.
fn valid_for(records: &[Record]) -> Duration {
    let shortest = records.iter().map(|record| record.ttl).min();
    let shortest = Duration::from_secs(shortest.unwrap_or_default().into());
    shortest.clamp(MIN_TTL, MAX_TTL)
}
