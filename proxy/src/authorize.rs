//! Request and peer -> a [`Permit`], or why not. The only place that makes permits.

use crate::error::Failure;
use crate::normalize::{Hosts, Normal, Reading, Rejection};
use crate::peer::Who;
use crate::upgrade::{Upgrade, Upgrades};
use crate::worker::Shared;
use http::HeaderMap;
use http::request::Parts;
use identity::SpiffeId;
use policy::{Allow, Attributes, Decision, Policy, View};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// What one generation of the policy says about one connection.
#[derive(Debug)]
pub(crate) struct Rules {
    policy: Arc<Policy>,
    view: Arc<View>,
}

impl Rules {
    pub(crate) fn generation(&self) -> &str {
        self.policy.fingerprint()
    }

    /// How the requests of the connection are to be read.
    pub(crate) fn reading<'r>(&'r self, hosts: &'r Hosts) -> Reading<'r> {
        let profile = self.view.profile();
        Reading {
            profile: &profile.target,
            upgrades: Upgrades::Listed(profile.upgrades()),
            takes_http10: profile.http10,
            hosts,
        }
    }

    /// Whether requests of HTTP/1.0 are taken.
    pub(crate) fn takes_http10(&self) -> bool {
        self.view.profile().http10
    }
}

/// The rules of one connection, looked up again only when the policy has changed.
#[derive(Debug)]
pub(crate) struct Rulebook {
    callee: SpiffeId,
    port: u16,
    present: Mutex<(watch::Receiver<Arc<Policy>>, Arc<Rules>)>,
}

impl Rulebook {
    /// `callee` and `port` say which workload is being called: the sidecar's own identity and its app's port.
    pub(crate) fn new(shared: &Shared, who: &Who, callee: SpiffeId, port: u16) -> Self {
        let mut policy = shared.policy.clone();
        let rules = rules(&policy.borrow_and_update(), who, &callee, port);
        Self {
            callee,
            port,
            present: Mutex::new((policy, rules)),
        }
    }

    pub(crate) fn rules(&self, who: &Who) -> Arc<Rules> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let (policy, rules_now) = &mut *present;
        // An error means that nobody can publish any more: the last policy goes on.
        if policy.has_changed().unwrap_or(false) {
            *rules_now = rules(&policy.borrow_and_update(), who, &self.callee, self.port);
        }
        Arc::clone(rules_now)
    }

    /// Waits until the policy no longer allows what it allowed once: another policy is in force, or the grant has ended.
    pub(crate) async fn withdrawn(&self, who: &Who, asked: Asked<'_>) {
        let mut policy = {
            let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
            present.0.clone()
        };
        loop {
            policy.mark_unchanged();
            let allowed = asked.again(&self.rules(who), SystemTime::now());
            let Ok(until) = allowed else { return };
            tokio::select! {
                Ok(()) = policy.changed() => {}
                () = reached(until) => {}
            }
        }
    }
}

/// What was asked for, to be asked again while it lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked<'r> {
    Request(&'r Parts, &'r Normal),
    Connection,
}

impl Asked<'_> {
    /// Until when it is allowed; None means that no end is known.
    fn again(self, rules: &Rules, now: SystemTime) -> Result<Option<SystemTime>, Failure> {
        let permit = match self {
            Self::Request(head, normal) => {
                if let Some(upgrade) = head.extensions.get::<Upgrade>() {
                    upgrade.check(Upgrades::Listed(rules.view.profile().upgrades()))?;
                }
                authorize(rules, head, normal, now)?
            }
            Self::Connection => admit(rules, now)?,
        };
        Ok(permit.allow.until())
    }
}

/// How late a clock that was set is noticed.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Waits for a moment of the wall clock, which may be set meanwhile. None never comes.
pub(crate) async fn reached(moment: Option<SystemTime>) {
    let Some(moment) = moment else {
        return std::future::pending().await;
    };
    while let Ok(left) = moment.duration_since(SystemTime::now()) {
        // At least a moment, so that a clock behind the timer does not make this spin.
        tokio::time::sleep(left.clamp(Duration::from_millis(10), LOOK_AGAIN)).await;
    }
}

fn rules(policy: &Arc<Policy>, who: &Who, callee: &SpiffeId, port: u16) -> Arc<Rules> {
    Arc::new(Rules {
        view: policy.view(who.caller(), callee, port),
        policy: Arc::clone(policy),
    })
}

/// Proof that a grant allows this request. [`forward`](crate::forward) takes one.
#[derive(Debug)]
pub(crate) struct Permit<'r> {
    allow: Allow<'r>,
}

impl<'r> Permit<'r> {
    pub(crate) fn allow(&self) -> &Allow<'r> {
        &self.allow
    }
}

/// A request that policy refuses.
#[derive(Debug)]
pub(crate) struct Denial {
    reason: policy::Reason,
    /// The guard that refused, for the operator alone.
    pub(crate) rule: Option<String>,
    pub(crate) id: DecisionId,
}

impl Denial {
    pub(crate) fn reason(&self) -> &'static str {
        self.reason.as_str()
    }
}

/// Asks the policy about a request that was normalised.
pub(crate) fn authorize<'r>(
    rules: &'r Rules,
    head: &Parts,
    normal: &Normal,
    now: SystemTime,
) -> Result<Permit<'r>, Failure> {
    let attributes = Attributes {
        method: head.method.as_str(),
        path: head.uri.path(),
        host: normal.host(&head.headers),
        headers: &Fields(&head.headers),
    };
    let may_be_preflight = !normal.has_body && head.extensions.get::<Upgrade>().is_none();
    permit(if may_be_preflight {
        rules.view.decide_or_preflight(&attributes, now)
    } else {
        rules.view.decide(&attributes, now)
    })
}

/// Asks the policy about an opaque TCP connection.
pub(crate) fn admit(rules: &Rules, now: SystemTime) -> Result<Permit<'_>, Failure> {
    permit(rules.view.admit(now))
}

fn permit(decision: Decision<'_>) -> Result<Permit<'_>, Failure> {
    match decision {
        Decision::Allow(allow) => Ok(Permit { allow }),
        Decision::Deny(deny) => Err(Failure::Denied(Denial {
            reason: deny.reason,
            rule: deny.rule.map(str::to_owned),
            id: DecisionId::new(),
        })),
        Decision::Reject(reason) => Err(Rejection::Protocol(reason.as_str()).into()),
    }
}

/// Header fields as policy reads them.
pub(crate) struct Fields<'r>(pub(crate) &'r HeaderMap);

impl policy::Headers for Fields<'_> {
    fn values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        for (field, value) in self.0 {
            if policy::is_same_field(field.as_str(), name) {
                see(value.as_bytes());
            }
        }
    }
}

/// Ties a refusal that a caller saw to the line in the log that says why. Tells nothing by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecisionId(String);

impl DecisionId {
    pub(crate) fn new() -> Self {
        // A counter under a keyed hash of this process: nobody guesses another's id or learns how many refusals there
        // were, and of 100 million ids two are the same with a chance of 1 in 4000.
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("{:016x}", KEY.hash_one(number)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}
