//! Rate limits: how many of the requests that a policy allows go on (POLICY.md, section 6).
//!
//! [`LimitSpec`] is one limit as a document states it, [`Limits`] is what was used of it. They are apart because
//! the state outlives the policy: it is kept by limit id and key, so that a reload gives nobody a fresh budget.
//! The algorithm is GCRA: one instant per key, at which its budget will be full again.
//!
//! Decided after the policy, so that a refused caller spends no quota. Not here yet: `concurrency`,
//! `mode: shadow`, `fairness` and `scope: shared`; see [`Definition`] for where they belong.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;

use crate::Headers;

mod digest;
mod spec;
mod store;

pub use spec::{Definition, Key, LimitError, LimitSpec, ParseKeyError, ParseRateError, Rate};

use digest::{Digest, Hasher};
use spec::Quota;
use store::Store;

/// What limits may be keyed by: the parts of one allowed request, borrowed.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The caller's SPIFFE ID; `None` for callers without one, who are told apart by `client_ip`.
    pub identity: Option<&'a str>,
    /// The namespace in the caller's SPIFFE ID.
    pub namespace: Option<&'a str>,
    /// The path pattern that matched ([`crate::Allow::route`]).
    pub route: &'a str,
    pub method: &'a str,
    /// `service/method` of a gRPC call.
    pub grpc_method: Option<&'a str>,
    pub client_ip: Option<IpAddr>,
    pub headers: &'a dyn Headers,
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {}", self.identity, self.method, self.route)
    }
}

/// How one limit stands after a request, in the terms of draft-ietf-httpapi-ratelimit-headers-10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing<'s> {
    /// The name callers see: an alias that tells nothing about rules.
    pub alias: &'s str,
    /// `q`: the most that can be spent at once.
    pub quota: u64,
    /// `w`: seconds in which an empty budget fills up.
    pub window: u64,
    /// `r`: what can be spent now.
    pub remaining: u64,
    /// `t`: seconds until the budget is full, rounded up.
    pub reset: u64,
}

impl Standing<'_> {
    /// The value of a `RateLimit-Policy` field.
    pub fn policy_field(&self) -> String {
        format!("\"{}\";q={};w={}", self.alias, self.quota, self.window)
    }

    /// The value of a `RateLimit` field.
    pub fn limit_field(&self) -> String {
        format!("\"{}\";r={};t={}", self.alias, self.remaining, self.reset)
    }
}

/// A request over a limit: 429, or grpc-status 8. Nothing was taken from any limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded<'s> {
    /// `namespace/document/limit`, for the operator's log only.
    pub id: &'s str,
    /// The first limit in the order given that had no room.
    pub standing: Standing<'s>,
    /// Seconds until the same request would pass this limit, rounded up; at least 1.
    pub retry_after: u64,
}

/// What was used of every limit. One for the process; shared by all connections.
///
/// Memory is bounded: [`Limits::new`] says for how many keys of each limit a budget is kept exactly. When more
/// keys than that are in deficit at once, further keys share an estimate that errs on the side of refusing
/// (see the `store` module); nobody is ever unlimited.
#[derive(Debug)]
pub struct Limits {
    hasher: Hasher,
    keys_per_limit: usize,
    /// One lock, because a request is charged to all of its limits or to none. It is held for some tens of
    /// nanoseconds; keys are hashed before.
    state: Mutex<State>,
}

impl Limits {
    /// Keys of one limit kept exactly unless configured otherwise: 1.5 MiB for a limit that is flooded.
    pub const DEFAULT_KEYS_PER_LIMIT: usize = 65_536;

    /// No limit has been used yet. `keys_per_limit` is rounded up to a power of two.
    pub fn new(keys_per_limit: usize) -> Self {
        Self {
            hasher: Hasher::random(),
            keys_per_limit,
            state: Mutex::default(),
        }
    }

    /// Charges one request to `specs`, all or none, in this order: a caller's own limits come before shared
    /// ones. `now` is the time since some fixed start by a monotonic clock; going back has no effect.
    ///
    /// Gives how the tightest of the limits stands then, or `None` without limits. Does not allocate for keys
    /// it knows, up to eight limits.
    ///
    /// # Errors
    /// [`Exceeded`], when one of the limits has no room; then nothing is taken from any.
    pub fn charge<'s>(
        &self,
        specs: &[&'s LimitSpec],
        subject: &Subject<'_>,
        now: Duration,
    ) -> Result<Option<Standing<'s>>, Exceeded<'s>> {
        if specs.is_empty() {
            return Ok(None);
        }
        let now = spec::ticks(now);
        let digests: SmallVec<[Digest; 8]> = specs
            .iter()
            .map(|spec| self.hasher.digest(spec, subject))
            .collect();
        let charged = {
            // A panic elsewhere cannot leave a budget half written: each is one number.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.charge(specs, &digests, subject.method, self.keys_per_limit, now)
        };
        match charged {
            Ok(debts) => {
                let standings = specs
                    .iter()
                    .zip(debts)
                    .map(|(spec, debt)| spec.standing(debt));
                Ok(standings.min_by_key(|standing| standing.remaining))
            }
            Err(refusal) => {
                let spec = specs[refusal.limit];
                Err(Exceeded {
                    id: spec.id(),
                    standing: spec.standing(refusal.debt),
                    retry_after: spec::seconds(refusal.wait).max(1),
                })
            }
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(Self::DEFAULT_KEYS_PER_LIMIT)
    }
}

/// Fewer limiters than this are not worth looking through for idle ones.
const MIN_SWEEP: usize = 16;

#[derive(Debug, Default)]
struct State {
    /// The latest time seen, in ticks. Workers read the clock before they wait for the lock, so that times
    /// arrive a little out of order.
    now: u64,
    limiters: Vec<Limiter>,
    /// How many limiters were kept when idle ones were last dropped.
    kept: usize,
}

/// A limit without room, by its index, with what the key owes and how long it has to wait, in ticks.
struct Refusal {
    limit: usize,
    debt: u64,
    wait: u64,
}

impl State {
    /// Charges all limits or none; gives what the keys owe then.
    fn charge(
        &mut self,
        specs: &[&LimitSpec],
        digests: &[Digest],
        method: &str,
        keys: usize,
        now: u64,
    ) -> Result<SmallVec<[u64; 8]>, Refusal> {
        self.now = self.now.max(now);
        let now = self.now;
        let limiters = self.find(specs, keys, now);
        let mut debts = SmallVec::new();
        for (limit, spec) in specs.iter().enumerate() {
            let debt = self.limiters[limiters[limit]].debt(spec, digests[limit], now);
            let spent = spec.quota().spend(debt, spec.cost(method));
            debts.push(spent.map_err(|wait| Refusal { limit, debt, wait })?);
        }
        for ((limiter, digest), debt) in limiters.into_iter().zip(digests).zip(&debts) {
            self.limiters[limiter].store.set(*digest, now + debt, now);
        }
        Ok(debts)
    }

    /// The indices of the limiters of `specs`, which are made on first use.
    fn find(&mut self, specs: &[&LimitSpec], keys: usize, now: u64) -> SmallVec<[usize; 8]> {
        let known: Option<SmallVec<[usize; 8]>> =
            specs.iter().map(|spec| self.known(spec)).collect();
        if let Some(known) = known {
            return known;
        }
        if self.limiters.len() >= MIN_SWEEP.max(2 * self.kept) {
            // None of their keys is in deficit, so they carry no information; a policy that was replaced may have left
            // them behind.
            self.limiters.retain(|limiter| !limiter.store.is_idle(now));
            self.kept = self.limiters.len();
        }
        let find_or_add = |spec: &&LimitSpec| {
            self.known(spec).unwrap_or_else(|| {
                self.limiters.push(Limiter {
                    id: Arc::clone(spec.shared_id()),
                    quota: spec.quota(),
                    store: Store::new(keys),
                });
                self.limiters.len() - 1
            })
        };
        specs.iter().map(find_or_add).collect()
    }

    /// Where the limiter is, mostly by looking where it was last.
    fn known(&mut self, spec: &LimitSpec) -> Option<usize> {
        let last = spec.place();
        // The same allocation, not the same text: that would be two cache lines more.
        let is_it = |limiter: &Limiter| Arc::ptr_eq(&limiter.id, spec.shared_id());
        if self.limiters.get(last).is_some_and(is_it) {
            return Some(last);
        }
        let is_it = |limiter: &Limiter| *limiter.id == *spec.id();
        let found = self.limiters.iter().position(is_it)?;
        self.limiters[found].id = Arc::clone(spec.shared_id());
        spec.set_place(found);
        Some(found)
    }
}

/// What was used of one limit.
#[derive(Debug)]
struct Limiter {
    /// As the policy that was in force last has it.
    id: Arc<str>,
    /// The quota in whose terms `store` is written.
    quota: Quota,
    store: Store,
}

impl Limiter {
    /// What the key has used up, as the ticks until its budget is full again.
    fn debt(&mut self, spec: &LimitSpec, digest: Digest, now: u64) -> u64 {
        if self.quota != spec.quota() {
            // A reload changed the rate or the burst: each key keeps the share of its budget that it had.
            let (from, to) = (self.quota, spec.quota());
            self.store.convert(now, |debt| from.convert(debt, to));
            self.quota = to;
        }
        self.store.full_at(digest, now).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests;
