//! Who still comes in plain text: what an operator asks before a permissive listener becomes a strict one. Callers are counted
//! by address, a bounded number of them; `GET /plaintext` of the admin side shows the [`Report`].

use crate::config::Mtls;
use crate::peer::Who;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use serde::Serialize;
use serde::ser::Serializer;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Callers remembered at each listener, 200 bytes each in a report. Of more, the one that was seen least recently is counted
/// among the others of its port.
const MAX_CALLERS: usize = 1024;
/// Ports told apart at each listener. A pod has few; a redirected caller can name all there are.
const MAX_PORTS: usize = 64;
/// For how long nothing may have been let in, and that was watched, before a listener counts as ready: a day has its nightly jobs.
const QUIET: Duration = Duration::from_secs(24 * 3600);

/// The workload's port; None stands for all past [`MAX_PORTS`].
type Port = Option<u16>;

/// Series by listener, of which the configuration has a few.
type ByListener = Family<[(&'static str, String); 1], Counter>;

/// All inbound listeners.
#[derive(Debug)]
pub(crate) struct Listeners {
    since: SystemTime,
    connections: ByListener,
    granted: ByListener,
    known: Mutex<Vec<Arc<Listener>>>,
}

impl Listeners {
    /// `connections` and `granted` count what comes in plain text.
    pub(crate) fn new(connections: ByListener, granted: ByListener) -> Self {
        Self {
            since: SystemTime::now(),
            connections,
            granted,
            known: Mutex::default(),
        }
    }

    /// The listener with this address: one for all workers.
    pub(crate) fn of(&self, listen: SocketAddr, mtls: Mtls) -> Arc<Listener> {
        let mut known = self.lock();
        if let Some(known) = known.iter().find(|known| known.listen == listen) {
            return Arc::clone(known);
        }
        let label = [("listener", listen.to_string())];
        let counters = [&self.connections, &self.granted];
        let counters = counters.map(|series| series.get_or_create_owned(&label));
        let listener = Listener::new(listen, mtls, self.since, counters);
        known.push(Arc::clone(&listener));
        listener
    }

    pub(crate) fn report(&self, now: SystemTime) -> Vec<Report> {
        let known = self.lock();
        known.iter().map(|listener| listener.report(now)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Listener>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one listener has seen, in all workers.
#[derive(Debug)]
pub(crate) struct Listener {
    listen: SocketAddr,
    mtls: Mtls,
    since: SystemTime,
    connections: Counter,
    granted: Counter,
    /// What was let in and has not ended.
    open: AtomicU64,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    ports: BTreeMap<Port, Arc<Proven>>,
    callers: HashMap<(Port, IpAddr), Calls>,
    /// Those that are no longer remembered by address.
    others: BTreeMap<Port, Calls>,
}

/// What came by mutual TLS to one port.
#[derive(Debug, Default)]
pub(crate) struct Proven {
    connections: AtomicU64,
    requests: AtomicU64,
}

/// What came in plain text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Calls {
    connections: u64,
    requests: u64,
    /// Requests, or opaque connections, that a grant covers.
    granted: u64,
    #[serde(serialize_with = "as_time")]
    last_seen: Option<SystemTime>,
    #[serde(serialize_with = "as_time")]
    last_granted: Option<SystemTime>,
}

impl Calls {
    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.requests += other.requests;
        self.granted += other.granted;
        self.last_seen = self.last_seen.max(other.last_seen);
        self.last_granted = self.last_granted.max(other.last_granted);
    }
}

impl Listener {
    fn new(
        listen: SocketAddr,
        mtls: Mtls,
        since: SystemTime,
        [connections, granted]: [Counter; 2],
    ) -> Arc<Self> {
        Arc::new(Self {
            listen,
            mtls,
            since,
            connections,
            granted,
            open: AtomicU64::new(0),
            book: Mutex::default(),
        })
    }

    /// A connection to the workload's `port` that was let in. None on a strict listener, of which nobody asks.
    pub(crate) fn connected(self: &Arc<Self>, who: &Who, port: u16) -> Option<Connection> {
        if self.mtls == Mtls::Strict {
            return None;
        }
        let (port, proven) = self.lock().port(port);
        let Who::Unauthenticated(address) = who else {
            proven.connections.fetch_add(1, Ordering::Relaxed);
            return Some(Connection::Proven(proven));
        };
        self.connections.inc();
        let seen = Calls {
            connections: 1,
            last_seen: Some(SystemTime::now()),
            ..Calls::default()
        };
        self.lock().saw((port, *address), seen);
        Some(Connection::Plain(Arc::clone(self), port, *address))
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn port(&mut self, port: u16) -> (Port, Arc<Proven>) {
        let known = self.ports.len() < MAX_PORTS || self.ports.contains_key(&Some(port));
        let port = known.then_some(port);
        (port, Arc::clone(self.ports.entry(port).or_default()))
    }

    fn saw(&mut self, caller: (Port, IpAddr), calls: Calls) {
        if let Some(known) = self.callers.get_mut(&caller) {
            return known.add(calls);
        }
        if self.callers.len() >= MAX_CALLERS {
            let oldest = self.callers.iter().min_by_key(|(_, calls)| calls.last_seen);
            if let Some(((port, address), _)) = oldest {
                let (port, address) = (*port, *address);
                let forgotten = self.callers.remove(&(port, address)).unwrap_or_default();
                self.others.entry(port).or_default().add(forgotten);
            }
        }
        self.callers.insert(caller, calls);
    }
}

/// A connection to a permissive listener, to count what comes on it.
#[derive(Debug)]
pub(crate) enum Connection {
    Proven(Arc<Proven>),
    Plain(Arc<Listener>, Port, IpAddr),
}

impl Connection {
    /// A request has come, or what came was an opaque connection.
    pub(crate) fn asked(&self) {
        match self {
            Self::Proven(proven) => {
                proven.requests.fetch_add(1, Ordering::Relaxed);
            }
            Self::Plain(..) => self.saw(|calls, now| {
                calls.requests = 1;
                calls.last_seen = Some(now);
            }),
        }
    }

    /// A grant covers it, for as long as what this returns is kept. None by mutual TLS.
    #[must_use]
    pub(crate) fn granted(&self) -> Option<Open> {
        let Self::Plain(listener, port, address) = self else {
            return None;
        };
        listener.granted.inc();
        listener.open.fetch_add(1, Ordering::Relaxed);
        self.saw(|calls, now| {
            calls.granted = 1;
            calls.last_granted = Some(now);
        });
        Some(Open {
            listener: Arc::clone(listener),
            caller: (*port, *address),
        })
    }

    fn saw(&self, tell: impl FnOnce(&mut Calls, SystemTime)) {
        if let Self::Plain(listener, port, address) = self {
            let mut calls = Calls::default();
            tell(&mut calls, SystemTime::now());
            listener.lock().saw((*port, *address), calls);
        }
    }
}

/// A request or opaque connection in plain text that was let in and has not ended.
#[derive(Debug)]
pub(crate) struct Open {
    listener: Arc<Listener>,
    caller: (Port, IpAddr),
}

impl Drop for Open {
    /// It was in use until now, however long ago it began.
    fn drop(&mut self) {
        let now = Some(SystemTime::now());
        let ended = Calls {
            last_seen: now,
            last_granted: now,
            ..Calls::default()
        };
        self.listener.lock().saw(self.caller, ended);
        self.listener.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is known of one listener.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    listen: SocketAddr,
    mtls: Mtls,
    #[serde(serialize_with = "as_time")]
    since: Option<SystemTime>,
    watched_seconds: u64,
    safe_to_switch_to_strict: bool,
    why: String,
    ports: Vec<PortReport>,
}

#[derive(Debug, Serialize)]
struct PortReport {
    /// Null: those past the cap.
    port: Port,
    mtls: ProvenReport,
    plaintext: Calls,
    /// The last one seen first.
    callers: Vec<CallerReport>,
    /// Callers past the cap.
    other: Option<Calls>,
}

#[derive(Debug, Serialize)]
struct ProvenReport {
    connections: u64,
    requests: u64,
}

#[derive(Debug, Serialize)]
struct CallerReport {
    address: IpAddr,
    #[serde(flatten)]
    calls: Calls,
}

impl Listener {
    fn report(&self, now: SystemTime) -> Report {
        let book = self.lock();
        let ports = book.ports.iter().map(|(port, proven)| {
            let of_port = book.callers.iter().filter(|((at, _), _)| at == port);
            let mut callers: Vec<_> = of_port
                .map(|((_, address), calls)| CallerReport {
                    address: *address,
                    calls: *calls,
                })
                .collect();
            callers.sort_by_key(|caller| Reverse((caller.calls.last_seen, caller.address)));
            let other = book.others.get(port).copied();
            let mut plaintext = other.unwrap_or_default();
            callers
                .iter()
                .for_each(|caller| plaintext.add(caller.calls));
            PortReport {
                port: *port,
                mtls: ProvenReport {
                    connections: proven.connections.load(Ordering::Relaxed),
                    requests: proven.requests.load(Ordering::Relaxed),
                },
                plaintext,
                callers,
                other,
            }
        });
        let ports: Vec<PortReport> = ports.collect();
        let (safe_to_switch_to_strict, why) = self.verdict(&ports, now);
        Report {
            listen: self.listen,
            mtls: self.mtls,
            since: Some(self.since),
            watched_seconds: seconds(self.since, now),
            safe_to_switch_to_strict,
            why,
            ports,
        }
    }

    fn verdict(&self, ports: &[PortReport], now: SystemTime) -> (bool, String) {
        if self.mtls == Mtls::Strict {
            return (true, "it is strict".to_owned());
        }
        let open = self.open.load(Ordering::Relaxed);
        if open > 0 {
            let why = format!("{open} requests or connections in plain text are open");
            return (false, why);
        }
        let last = ports.iter().filter_map(|port| port.plaintext.last_granted);
        let Some(last) = last.max() else {
            let watched = seconds(self.since, now);
            let why = format!("no plain text was let in since the start {watched} s ago");
            return (watched >= QUIET.as_secs(), why);
        };
        let ago = seconds(last, now);
        if ago >= QUIET.as_secs() {
            return (true, format!("no plain text was let in for {ago} s"));
        }
        let is_recent = |calls: &Calls| {
            let granted = calls.last_granted;
            granted.is_some_and(|granted| seconds(granted, now) < QUIET.as_secs())
        };
        let callers = ports.iter().flat_map(|port| &port.callers);
        let callers = callers.filter(|caller| is_recent(&caller.calls)).count();
        let others = ports.iter().filter_map(|port| port.other.as_ref());
        let more = if others.into_iter().any(is_recent) {
            " and others"
        } else {
            ""
        };
        let hours = QUIET.as_secs() / 3600;
        let why = format!(
            "plain text was let in {ago} s ago; in the last {hours} h from {callers} addresses{more}"
        );
        (false, why)
    }
}

/// 0 when `to` is not after `from`.
fn seconds(from: SystemTime, to: SystemTime) -> u64 {
    to.duration_since(from).unwrap_or_default().as_secs()
}

fn as_time<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    // None, too, for years that RFC 3339 cannot write.
    let text = at.and_then(|at| OffsetDateTime::from(at).format(&Rfc3339).ok());
    text.serialize(serializer)
}

#[cfg(test)]
mod tests;
