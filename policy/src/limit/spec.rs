//! One limit as a document states it.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Standing;
use crate::pattern::is_token;
use crate::yaml::shown;

/// Time in the limiter is counted in sixteenths of a nanosecond: fine enough that a rate of 1 000 000/s is kept
/// to 0.01 %, coarse enough that 63 bits last for 18 years.
const TICKS_PER_NANOSECOND: u64 = 16;
const TICKS_PER_SECOND: u64 = TICKS_PER_NANOSECOND * 1_000_000_000;

/// An empty budget has to fill up within a year: what takes longer is a mistake.
const MAX_WINDOW: u64 = 366 * 86_400 * TICKS_PER_SECOND;

/// Stops at half the range: then nothing is refilled any more, and an instant plus a debt still fits.
pub(super) fn ticks(time: Duration) -> u64 {
    let ticks = time
        .as_nanos()
        .saturating_mul(u128::from(TICKS_PER_NANOSECOND));
    u64::try_from(ticks).unwrap_or(u64::MAX).min(u64::MAX / 2)
}

/// Whole seconds, rounded up.
pub(super) fn seconds(ticks: u64) -> u64 {
    ticks.div_ceil(TICKS_PER_SECOND)
}

/// A limit as written, before it is checked.
///
/// `concurrency`, `mode: shadow` and `fairness` will be fields here; `scope: shared` makes [`super::Limits`] ask
/// a lease instead of its own store.
#[derive(Clone, Debug)]
pub struct Definition {
    /// `namespace/document/limit`: names the limit's state over reloads. No two limits have the same.
    pub id: String,
    /// The name callers see in the RateLimit fields.
    pub alias: String,
    /// Empty: one budget for everyone.
    pub key: Vec<Key>,
    pub rate: Rate,
    /// The most that can be spent at once; without it, what the rate gives in its unit of time.
    pub burst: Option<u32>,
    /// Requests of these methods cost this much, all others 1. A cost of 0 is free.
    pub cost: Vec<(String, u32)>,
    /// Bits of an IPv6 address that make one client; usually [`Definition::IPV6_PREFIX`].
    pub ipv6_prefix: u8,
}

impl Definition {
    /// A /64 is the least that one customer gets (RFC 6177), hence every address in it may be the same client.
    pub const IPV6_PREFIX: u8 = 64;
}

/// What a limit counts separately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Identity,
    Namespace,
    Route,
    Method,
    GrpcMethod,
    ClientIp,
    /// All values of a header field; the name is in lower case.
    Header(Box<str>),
}

impl Key {
    /// Whether it is a part of requests, which an opaque TCP connection does not have.
    pub(crate) fn is_of_request(&self) -> bool {
        match self {
            Self::Identity | Self::Namespace | Self::ClientIp => false,
            Self::Route | Self::Method | Self::GrpcMethod | Self::Header(_) => true,
        }
    }
}

/// Why a limit key was not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected identity, namespace, route, method, grpcMethod, clientIp or header:<name>, found {found}",
    found = shown(.0)
)]
pub struct ParseKeyError(String);

impl FromStr for Key {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, ParseKeyError> {
        Ok(match text {
            "identity" => Self::Identity,
            "namespace" => Self::Namespace,
            "route" => Self::Route,
            "method" => Self::Method,
            "grpcMethod" => Self::GrpcMethod,
            "clientIp" => Self::ClientIp,
            _ => match text.strip_prefix("header:") {
                Some(name) if is_token(name) => Self::Header(name.to_ascii_lowercase().into()),
                _ => return Err(ParseKeyError(text.to_owned())),
            },
        })
    }
}

/// So many per second, minute or hour; at least one, at most [`Rate::MAX_PER_SECOND`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    unit_seconds: u32,
}

/// Why a rate was not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a rate such as 200/s, 60/m or 1000/h (at most {max}/s), found {found}",
    max = Rate::MAX_PER_SECOND,
    found = shown(.0)
)]
pub struct ParseRateError(String);

impl Rate {
    /// What one process could ever see; beyond it the limiter's clock would get too coarse.
    pub const MAX_PER_SECOND: u32 = 1_000_000;
}

impl FromStr for Rate {
    type Err = ParseRateError;

    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let parse = || {
            let (count, unit) = text.split_once('/')?;
            let unit_seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
            let count: u32 = digits.then(|| count.parse().ok())??;
            let in_range = count > 0 && count / unit_seconds <= Self::MAX_PER_SECOND;
            in_range.then_some(Self {
                count,
                unit_seconds,
            })
        };
        parse().ok_or_else(|| ParseRateError(text.to_owned()))
    }
}

/// A limit that can be charged. Its budget is never empty at rest and fills up within a year, every cost fits
/// into it, and its alias can stand in a header field.
#[derive(Debug)]
pub struct LimitSpec {
    id: Arc<str>,
    alias: Box<str>,
    key: Box<[Key]>,
    quota: Quota,
    costs: Box<[(Box<str>, u32)]>,
    ipv6_prefix: u8,
    /// Where [`super::Limits`] found this limit's state last: a guess that it checks.
    place: AtomicUsize,
}

/// Why a limit was not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    #[error("expected a name of letters, digits, '-', '_' or '.', found {found}", found = shown(.0))]
    Alias(String),
    #[error("expected a burst of at least 1, found 0")]
    ZeroBurst,
    #[error("a burst of {burst} takes more than a year to come back at this rate")]
    SlowRefill { burst: u32 },
    #[error("cost {cost} of {method} is more than the burst of {burst}: it could never pass")]
    CostAboveBurst {
        method: String,
        cost: u32,
        burst: u32,
    },
    #[error("expected an IPv6 prefix length of 1 to 128, found {0}")]
    Ipv6Prefix(u8),
}

impl LimitSpec {
    /// Checks a definition.
    ///
    /// # Errors
    /// [`LimitError`], the first found.
    pub fn new(definition: Definition) -> Result<Self, LimitError> {
        let Definition {
            id,
            alias,
            key,
            rate,
            burst,
            cost,
            ipv6_prefix,
        } = definition;
        if !is_alias(&alias) {
            return Err(LimitError::Alias(alias));
        }
        if !(1..=128).contains(&ipv6_prefix) {
            return Err(LimitError::Ipv6Prefix(ipv6_prefix));
        }
        let burst = burst.unwrap_or(rate.count);
        let quota = Quota::new(rate, burst)?;
        if let Some((method, cost)) = cost.iter().find(|(_, cost)| *cost > burst) {
            return Err(LimitError::CostAboveBurst {
                method: method.clone(),
                cost: *cost,
                burst,
            });
        }
        Ok(Self {
            id: id.into(),
            alias: alias.into(),
            key: key.into(),
            quota,
            costs: cost
                .into_iter()
                .map(|(method, cost)| (method.into(), cost))
                .collect(),
            ipv6_prefix,
            place: AtomicUsize::new(0),
        })
    }

    /// `namespace/document/limit`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The same, to be kept.
    pub(super) fn shared_id(&self) -> &Arc<str> {
        &self.id
    }

    /// The name callers see.
    pub fn alias(&self) -> &str {
        &self.alias
    }

    pub(super) fn key(&self) -> &[Key] {
        &self.key
    }

    pub(super) fn ipv6_prefix(&self) -> u8 {
        self.ipv6_prefix
    }

    pub(super) fn quota(&self) -> Quota {
        self.quota
    }

    pub(super) fn place(&self) -> usize {
        self.place.load(Ordering::Relaxed)
    }

    pub(super) fn set_place(&self, place: usize) {
        self.place.store(place, Ordering::Relaxed);
    }

    pub(super) fn cost(&self, method: &str) -> u32 {
        self.costs
            .iter()
            .find(|(name, _)| **name == *method)
            .map_or(1, |(_, cost)| *cost)
    }

    /// What a caller with this debt is told.
    pub(super) fn standing(&self, debt: u64) -> Standing<'_> {
        Standing {
            alias: &self.alias,
            quota: u64::from(self.quota.burst),
            window: seconds(self.quota.window()),
            remaining: (self.quota.window() - debt.min(self.quota.window())) / self.quota.interval,
            reset: seconds(debt),
        }
    }
}

fn is_alias(alias: &str) -> bool {
    !alias.is_empty()
        && alias
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// The numbers of a limit. Debt is the time in ticks until a budget is full again: it is paid off by waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    /// Ticks in which one unit comes back, rounded up: never faster than the rate.
    interval: u64,
    burst: u32,
}

impl Quota {
    fn new(rate: Rate, burst: u32) -> Result<Self, LimitError> {
        if burst == 0 {
            return Err(LimitError::ZeroBurst);
        }
        let unit = u64::from(rate.unit_seconds) * TICKS_PER_SECOND;
        let interval = unit.div_ceil(u64::from(rate.count));
        match interval.checked_mul(u64::from(burst)) {
            Some(window) if window <= MAX_WINDOW => Ok(Self { interval, burst }),
            _ => Err(LimitError::SlowRefill { burst }),
        }
    }

    /// The most debt there can be: an empty budget. Does not overflow, as `new` checked.
    fn window(self) -> u64 {
        self.interval * u64::from(self.burst)
    }

    /// The debt after spending `cost`, or the ticks to wait until there is room for it.
    pub(super) fn spend(self, debt: u64, cost: u32) -> Result<u64, u64> {
        let after = debt.saturating_add(self.interval.saturating_mul(u64::from(cost)));
        if cost == 0 || after <= self.window() {
            Ok(after)
        } else {
            Err(after - self.window())
        }
    }

    /// The debt in terms of `to` that leaves the same share of the budget.
    pub(super) fn convert(self, debt: u64, to: Self) -> u64 {
        let scaled = u128::from(debt) * u128::from(to.window());
        u64::try_from(scaled.div_ceil(u128::from(self.window()))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
