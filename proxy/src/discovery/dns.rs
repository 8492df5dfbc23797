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
use std::collections::HashMap;
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
/// For all queries of a name together: search domains, CNAMEs.
const DEADLINE: Duration = Duration::from_secs(15);
/// The same for each target of SRV records, so that one that is silent costs the others nothing.
const TARGET: Duration = Duration::from_secs(5);
/// Targets of SRV records that are resolved at once.
const AT_ONCE: usize = 32;

/// Where the system says how it resolves names.
const SYSTEM: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// What name servers are asked for.
#[derive(Debug, Clone)]
pub(super) enum Question {
    Addresses(Endpoint),
    /// Of SRV records, and their addresses.
    Targets(String),
}

impl Question {
    /// None where nobody has to be asked.
    pub(super) fn of(source: &Source) -> Option<Self> {
        match source {
            Source::Address(_) => None,
            Source::Name(endpoint) => Some(Self::Addresses(endpoint.clone())),
            Source::Srv(name) => Some(Self::Targets(name.clone())),
        }
    }
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    /// Never empty; in an order that does not depend on the server.
    pub(super) members: Vec<Member>,
    pub(super) valid_for: Duration,
    /// For the next time.
    pub(super) known: Addresses,
    /// What of it nobody could say. It stays as it was known before.
    pub(super) failure: Option<String>,
}

/// The addresses that names had last.
pub(super) type Addresses = HashMap<String, Vec<IpAddr>>;

/// The addresses of one name.
struct Found {
    addresses: Vec<IpAddr>,
    valid_for: Duration,
    /// Why some are those known before.
    failure: Option<AskError>,
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

    /// The answer to `question`. `known` is what the last one had.
    pub(super) async fn ask(
        self: Arc<Self>,
        question: &Question,
        known: &Addresses,
    ) -> Result<Answer, AskError> {
        let read = tokio::task::spawn_blocking(move || self.system()).await;
        let Ok(system) = read else {
            return Err(AskError::Silent); // The process ends.
        };
        match question {
            Question::Addresses(Endpoint { host, port }) => {
                let found = in_time(DEADLINE, system.addresses(host, known)).await?;
                let at = |address: &IpAddr| Member::at(SocketAddr::new(*address, *port));
                Ok(Answer {
                    members: found.addresses.iter().map(at).collect(),
                    valid_for: found.valid_for,
                    known: [(host.clone(), found.addresses)].into(),
                    failure: found.failure.map(|failure| failure.to_string()),
                })
            }
            Question::Targets(name) => system.targets(name, known).await,
        }
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

async fn in_time<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, AskError>>,
) -> Result<T, AskError> {
    timeout(limit, asked).await.unwrap_or(Err(AskError::Silent))
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
    async fn addresses(&self, name: &str, known: &Addresses) -> Result<Found, AskError> {
        let mut found = match self.in_hosts(name) {
            addresses if !addresses.is_empty() => Found {
                addresses,
                valid_for: HOSTS_TTL,
                failure: None,
            },
            _ => {
                let before = known.get(name).map_or(&[][..], Vec::as_slice);
                self.in_dns(name, before).await?
            }
        };
        found.addresses.sort_unstable();
        found.addresses.dedup();
        found.addresses.truncate(MAX_ADDRESSES);
        match found.addresses.is_empty() {
            true => Err(AskError::NoAddresses),
            false => Ok(found),
        }
    }

    /// The resolver asks for both kinds of addresses and is content with one; whether the other is no more or its query was
    /// lost has to be asked.
    async fn in_dns(&self, name: &str, before: &[IpAddr]) -> Result<Found, AskError> {
        let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
        let lookup = resolver.lookup_ip(name).await?;
        let mut found = Found {
            addresses: lookup.iter().collect(),
            valid_for: valid_for(lookup.as_lookup().answers()),
            failure: None,
        };
        for record_type in [RecordType::A, RecordType::AAAA] {
            let is_of_kind = |address: &IpAddr| address.is_ipv4() == (record_type == RecordType::A);
            let before: Vec<IpAddr> = before.iter().copied().filter(is_of_kind).collect();
            if before.is_empty() || found.addresses.iter().any(is_of_kind) {
                continue;
            }
            let name = lookup.query().name().clone();
            match resolver
                .lookup(name, record_type)
                .await
                .map_err(AskError::from)
            {
                Ok(others) => {
                    let others = others.answers().iter();
                    let others = others.filter_map(|record| record.data.ip_addr());
                    found.addresses.extend(others);
                }
                Err(AskError::NoName | AskError::NoAddresses) => {}
                Err(error) => {
                    found.addresses.extend(before);
                    found.failure = Some(error);
                }
            }
        }
        Ok(found)
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

    /// The addresses of every target of a name's SRV records. Targets that stand for nothing are left out; those of which
    /// nobody could say so are taken for what they were.
    async fn targets(&self, name: &str, known: &Addresses) -> Result<Answer, AskError> {
        let resolver = self.resolver.as_ref().map_err(Clone::clone)?;
        let found = in_time(DEADLINE, async { Ok(resolver.srv_lookup(name).await?) }).await?;
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

        let mut answer = Answer {
            members: Vec::new(),
            valid_for: valid_for(found.answers()),
            known: Addresses::new(),
            failure: None,
        };
        let mut failure = AskError::NoAddresses;
        let mut asked = stream::iter(targets)
            .map(|srv| async move {
                let target = srv.target.to_ascii();
                let found = in_time(TARGET, self.addresses(&target, known)).await;
                (srv, target, found)
            })
            .buffered(AT_ONCE);
        while let Some((srv, target, found)) = asked.next().await {
            let (addresses, error) = match found {
                Ok(found) => {
                    answer.valid_for = answer.valid_for.min(found.valid_for);
                    (found.addresses, found.failure)
                }
                Err(error @ (AskError::NoName | AskError::NoAddresses)) => {
                    (Vec::new(), Some(error))
                }
                Err(error) => (known.get(&target).cloned().unwrap_or_default(), Some(error)),
            };
            if let Some(error) = error {
                answer.failure = Some(format!("{target}: {error}"));
                failure = error;
            }
            answer
                .members
                .extend(addresses.iter().map(|address| Member {
                    address: SocketAddr::new(*address, srv.port).into(),
                    priority: srv.priority,
                    weight: srv.weight.max(1),
                }));
            answer.known.insert(target, addresses);
        }
        answer.members.truncate(MAX_ADDRESSES);
        match answer.members.is_empty() {
            true => Err(failure),
            false => Ok(answer),
        }
    }
}

/// Until the first of the records ends, CNAMEs among them.
fn valid_for(records: &[Record]) -> Duration {
    let shortest = records.iter().map(|record| record.ttl).min();
    let shortest = Duration::from_secs(shortest.unwrap_or_default().into());
    shortest.clamp(MIN_TTL, MAX_TTL)
}
