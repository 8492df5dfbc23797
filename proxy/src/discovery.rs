//! Where the sidecars of services are, now, and servers outside the mesh. What finds them runs beside the requests, once for the
//! process; workers follow it, and no request waits for it once a set of endpoints is known.
//!
//! What was known last is better than nothing: a name that cannot be resolved any more, one that has lost all its
//! addresses (more often a mistake, or a server that starts, than somebody's wish that a service be gone) and a file
//! that cannot be read leave the endpoints as they were. All three are counted, logged when they begin and when they are
//! over, and show at the admin side.

mod dns;
mod follow;
mod list;
mod outside;

pub use list::EndpointsError;

use crate::Failing;
use crate::config::{self, Config, Endpoint, Endpoints};
use crate::error::ConnectError;
use crate::metrics::Metrics;
use dns::Dns;
use follow::{Followed, Whose};
use outside::Outside;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// An endpoint of a service. Its address is who it is: what has the same one is the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) address: Endpoint,
    /// Of SRV records: asked only if none of a lower number is in use. 0 for all others.
    pub(crate) priority: u16,
    /// How much it takes beside others of its priority. 1 where nothing says so, and never 0.
    pub(crate) weight: u16,
}

impl Member {
    pub(crate) fn at(address: impl Into<Endpoint>) -> Self {
        Self {
            address: address.into(),
            priority: 0,
            weight: 1,
        }
    }
}

/// What is known of a service's endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    /// Nothing yet, but somebody was asked.
    Pending,
    /// Whoever was asked knows none.
    Nothing,
    /// Never none. This is never taken back.
    Members(Arc<[Member]>),
}

/// One service's endpoints, for whoever sends to them.
#[derive(Debug, Clone)]
pub(crate) struct Following {
    endpoints: Endpoints,
    known: watch::Receiver<Known>,
    /// Outside the mesh: what is followed for as long as somebody has this.
    _kept: Option<Arc<Followed>>,
}

impl Following {
    /// Those that are known. None if there are none.
    pub(crate) fn members(&self) -> Option<Arc<[Member]>> {
        match &*self.known.borrow() {
            Known::Members(members) => Some(Arc::clone(members)),
            Known::Pending | Known::Nothing => None,
        }
    }

    /// Whether somebody still looks for changes. A reload that takes the service away ends that, and one that brings it back
    /// begins anew: only for those who ask to follow it then.
    pub(crate) fn is_live(&self) -> bool {
        self.known.has_changed().is_ok()
    }

    /// Waits for other endpoints than those known when this was called last. False if there will be none.
    pub(crate) async fn changed(&mut self) -> bool {
        self.known.changed().await.is_ok()
    }

    /// Waits until some are known, which only at first they may not be.
    ///
    /// # Errors
    /// When nobody knows any, or nobody has said so within `limit`.
    pub(crate) async fn known(&self, limit: Duration) -> Result<Arc<[Member]>, ConnectError> {
        let mut known = self.known.clone();
        let is_known = |known: &Known| *known != Known::Pending;
        // An error is a reload that has taken the service away.
        let _ = timeout(limit, known.wait_for(is_known)).await;
        self.members()
            .ok_or_else(|| ConnectError::Unresolved(self.endpoints.to_string().into()))
    }
}

/// What one entry of a list of endpoints stands for, for the operator.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    /// As the configuration has it.
    pub(crate) source: String,
    pub(crate) addresses: Vec<String>,
    /// When somebody said so last; None for what is written in the configuration itself, and before the first time.
    pub(crate) found_at: Option<SystemTime>,
    pub(crate) failing: Option<Failing>,
}

/// Finds the endpoints of services.
#[derive(Debug)]
pub(crate) struct Discovery {
    followed: Mutex<HashMap<Endpoints, Arc<Followed>>>,
    outside: Mutex<Outside>,
    begun: mpsc::UnboundedSender<follow::Task>,
    dns: Arc<Dns>,
    metrics: Arc<Metrics>,
}

impl Discovery {
    /// Nothing is found before [`Finder::run`].
    ///
    /// # Errors
    /// With every file of endpoints that cannot be used.
    pub(crate) fn new(
        config: &Config,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Self>, Finder), EndpointsError> {
        config.check_files()?;
        let (begun, begins) = mpsc::unbounded_channel();
        let dns = config.outbound.as_ref().map(|outbound| &outbound.dns);
        let discovery = Self {
            followed: Mutex::default(),
            outside: Mutex::default(),
            begun,
            dns: Arc::new(Dns::new(
                dns.map_or_else(Vec::new, |dns| dns.servers.clone()),
            )),
            metrics,
        };
        Ok((Arc::new(discovery), Finder { begins }))
    }

    /// What is known of these endpoints, from now on.
    pub(crate) fn follow(&self, endpoints: &Endpoints) -> Following {
        let mut all = self.lock();
        let followed = all
            .entry(endpoints.clone())
            .or_insert_with(|| self.begin(endpoints, Whose::OfServices));
        Following {
            endpoints: endpoints.clone(),
            known: followed.subscribe(),
            _kept: None,
        }
    }

    /// The same outside the mesh, where no list says what there is: it is followed while somebody has this, and for a while
    /// longer. Addresses alone are known at once.
    pub(crate) fn outside(&self, endpoints: &Endpoints) -> Following {
        let followed = match endpoints.are_addresses() {
            true => Arc::new(Followed::new(endpoints.clone(), Whose::Outside)),
            false => {
                let begin = || self.begin(endpoints, Whose::Outside);
                self.names().get(endpoints, begin)
            }
        };
        Following {
            endpoints: endpoints.clone(),
            known: followed.subscribe(),
            _kept: Some(followed),
        }
    }

    /// Follows no name outside any longer that nobody calls.
    pub(crate) fn forget(&self) {
        self.names().forget(Instant::now());
    }

    fn begin(&self, endpoints: &Endpoints, whose: Whose) -> Arc<Followed> {
        let followed = Arc::new(Followed::new(endpoints.clone(), whose));
        let (dns, metrics) = (Arc::clone(&self.dns), Arc::clone(&self.metrics));
        // Refused only when the proxy has ended.
        let _ = self.begun.send(follow::Task::new(&followed, dns, metrics));
        followed
    }

    /// Waits until somebody has said of every list that is followed now what it stands for, or that nobody knows. Cancel safe.
    pub(crate) async fn settled(&self) {
        let followed: Vec<_> = self.lock().values().map(|list| list.subscribe()).collect();
        for mut known in followed {
            // An error is a reload that has taken the service away.
            let _ = known.wait_for(|known| *known != Known::Pending).await;
        }
    }

    /// Whether the files of endpoints that `config` names, and that are not followed already, can be used.
    ///
    /// # Errors
    /// With every one that cannot.
    pub(crate) fn check(&self, config: &Config) -> Result<(), EndpointsError> {
        let all = self.lock();
        list::check(named(config).filter(|endpoints| !all.contains_key(endpoints)))
    }

    /// Follows no other endpoints any longer than those of `config`.
    pub(crate) fn keep(&self, config: &Config) {
        self.lock()
            .retain(|endpoints, _| named(config).any(|named| named == endpoints));
    }

    /// Has the metrics say how many endpoints the services of `config` have.
    pub(crate) fn measure(&self, config: &Config) {
        let services = self.findings(config).into_iter().map(|(name, findings)| {
            let addresses = findings.iter().flat_map(|finding| &finding.addresses);
            let addresses: HashSet<&String> = addresses.collect();
            (name, addresses.len())
        });
        self.metrics.endpoints(services);
    }

    /// What is known of the services of `config`, each by its name.
    pub(crate) fn findings(&self, config: &Config) -> Vec<(String, Vec<Finding>)> {
        let all = self.lock();
        let outbound = config.outbound.iter();
        let services = outbound.flat_map(|outbound| {
            let http = outbound.services.iter();
            let http = http.map(|service| (service.hosts.join(", "), &service.endpoints));
            let tcp = outbound.tcp.iter();
            http.chain(tcp.map(|service| (name_of(service), &service.endpoints)))
        });
        services
            .map(|(name, endpoints)| {
                let findings = all.get(endpoints).map(|followed| followed.findings());
                (name, findings.unwrap_or_default())
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Endpoints, Arc<Followed>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self) -> MutexGuard<'_, Outside> {
        self.outside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Config {
    /// Reads the files of endpoints that services name.
    ///
    /// # Errors
    /// With every one that cannot be used.
    pub fn check_files(&self) -> Result<(), EndpointsError> {
        list::check(named(self))
    }
}

/// All that services of `config` say of their endpoints.
fn named(config: &Config) -> impl Iterator<Item = &Endpoints> {
    config.outbound.iter().flat_map(|outbound| {
        let http = outbound.services.iter().map(|service| &service.endpoints);
        http.chain(outbound.tcp.iter().map(|service| &service.endpoints))
    })
}

fn name_of(service: &config::TcpService) -> String {
    let listen = service.listen.iter().map(ToString::to_string);
    let destinations = service.destinations.iter().map(ToString::to_string);
    listen.chain(destinations).collect::<Vec<_>>().join(", ")
}

/// Runs what finds endpoints.
#[derive(Debug)]
pub(crate) struct Finder {
    begins: mpsc::UnboundedReceiver<follow::Task>,
}

impl Finder {
    /// Goes on until dropped; then all that it has started ends, too.
    pub(crate) async fn run(mut self) -> Infallible {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                Some(task) = self.begins.recv() => {
                    tasks.spawn(task.run());
                }
                Some(_) = tasks.join_next() => {}
                else => std::future::pending().await,
            }
        }
    }
}
