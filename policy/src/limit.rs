//! Rate limits: how many of the requests that a policy allows go on (POLICY.md, section 6).
//!
//! [`LimitSpec`] is one limit as a document states it, [`Limits`] is what was used of it. They are apart because
//! the state outlives the policy: it is kept by limit id and key, so that a reload gives nobody a fresh budget.
//! The algorithm is GCRA: one instant per key, at which its budget will be full again.
//!
//! Decided after the policy, so that a refused caller spends no quota. Not here yet: `concurrency`,
//! `mode: shadow`, `fairness` and `scope: shared`; see [`Definition`] for where they belong.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
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
    /// The caller's SPIFFE ID; `None` for callers without one, who share a budget.
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
        let digests: SmallVec<[Digest; 8]> = specs
            .iter()
            .map(|spec| self.hasher.digest(spec, subject))
            .collect();
        // A panic elsewhere cannot leave a budget half written: each is one number.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = state.advance(spec::ticks(now));
        let limiters = state.find(specs, self.keys_per_limit, now);

        let mut debts = SmallVec::<[u64; 8]>::new();
        let mut tightest: Option<Standing<'s>> = None;
        for ((&spec, &digest), &limiter) in specs.iter().zip(&digests).zip(&limiters) {
            let debt = state.limiters[limiter].debt(spec, digest, now);
            let debt = spec
                .quota()
                .spend(debt, spec.cost(subject.method))
                .map_err(|wait| Exceeded {
                    id: spec.id(),
                    standing: spec.standing(debt),
                    retry_after: spec::seconds(wait).max(1),
                })?;
            let standing = spec.standing(debt);
            if tightest.is_none_or(|least| standing.remaining < least.remaining) {
                tightest = Some(standing);
            }
            debts.push(debt);
        }
        for ((debt, digest), limiter) in debts.into_iter().zip(digests).zip(limiters) {
            state.limiters[limiter].store.set(digest, now + debt, now);
        }
        Ok(tightest)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(Self::DEFAULT_KEYS_PER_LIMIT)
    }
}

#[derive(Debug, Default)]
struct State {
    /// The latest time seen, in ticks. Workers read the clock before they wait for the lock, so that times
    /// arrive a little out of order.
    now: u64,
    by_id: HashMap<Box<str>, usize>,
    limiters: Vec<Limiter>,
}

impl State {
    fn advance(&mut self, now: u64) -> u64 {
        self.now = self.now.max(now);
        self.now
    }

    /// The indices of the limiters of `specs`, which are made on first use.
    fn find(&mut self, specs: &[&LimitSpec], keys: usize, now: u64) -> SmallVec<[usize; 8]> {
        let known = specs
            .iter()
            .map_while(|spec| self.by_id.get(spec.id()).copied());
        let known: SmallVec<[usize; 8]> = known.collect();
        if known.len() == specs.len() {
            return known;
        }
        self.forget_idle(now);
        specs
            .iter()
            .map(|spec| self.find_or_add(spec, keys))
            .collect()
    }

    fn find_or_add(&mut self, spec: &LimitSpec, keys: usize) -> usize {
        *self.by_id.entry(spec.id().into()).or_insert_with(|| {
            self.limiters.push(Limiter {
                quota: spec.quota(),
                store: Store::new(keys),
            });
            self.limiters.len() - 1
        })
    }

    /// Drops limiters none of whose keys is in deficit: they carry no information, and a policy that was
    /// replaced may have left them behind.
    fn forget_idle(&mut self, now: u64) {
        let mut kept = Vec::new();
        let old = std::mem::take(&mut self.limiters);
        let mut moved: Vec<Option<usize>> = Vec::with_capacity(old.len());
        for limiter in old {
            moved.push((!limiter.store.is_idle(now)).then(|| {
                kept.push(limiter);
                kept.len() - 1
            }));
        }
        self.limiters = kept;
        self.by_id.retain(|_, index| match moved[*index] {
            Some(new) => {
                *index = new;
                true
            }
            None => false,
        });
    }
}

/// What was used of one limit.
#[derive(Debug)]
struct Limiter {
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
