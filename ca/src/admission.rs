//! Who may still ask: a budget of refusals for each source, and one for all callers without an identity together.
//! Budgets of the same kind pace the certificates of each identity, and what strangers read.
//!
//! Refusals before authentication are counted and limited, never stored, so that garbage costs neither disk nor much
//! work. Callers with an identity have budgets of their own: their refusals are written to the audit log, which must
//! not be filled either. A source that causes no refusals is never limited here.

use identity::SpiffeId;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Sources remembered at most. One takes about 100 bytes.
const CAPACITY: usize = 16 * 1024;
/// Refusals without an identity that all sources may cause together, in units of one source's budget.
const SOURCES_WORTH: u32 = 64;
/// What all of one IPv6 /48 may cause, in the same units: a customer of an ISP has that many addresses to itself, and may not
/// use up what everybody has together.
const NETWORKS_WORTH: u32 = SOURCES_WORTH / 2;
/// Refusals that all certificates of one identity may cause together, in units of one certificate's budget: the holder of
/// one does not use up what the identity's other replicas have.
const CERTIFICATES_WORTH: u32 = 8;

/// Who a refusal is charged to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// A caller without a client certificate. IPv6 addresses count by their /64, which one host has to itself.
    Address(IpAddr),
    /// The addresses of an IPv6 /48 together.
    Network(Ipv6Addr),
    Identity(SpiffeId),
    /// One certificate, by its serial, of an identity.
    Certificate(SpiffeId, String),
    /// The tokens of an identity, which its workload asks for: they take nothing from what its sidecar needs.
    Tokens(SpiffeId),
}

impl Source {
    pub(crate) fn address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(network(v6, 64)),
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    /// Whose it is, where that is known.
    pub(crate) fn identity(&self) -> Option<&SpiffeId> {
        match self {
            Self::Identity(id) | Self::Certificate(id, _) | Self::Tokens(id) => Some(id),
            Self::Address(_) | Self::Network(_) => None,
        }
    }
}

fn network(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - bits)))
}

/// The budgets. Certificates have one each, and one that those of an identity share; IPv6 addresses likewise, by their /48. A
/// budget of `n` per minute allows a burst of `n`.
#[derive(Debug)]
pub(crate) struct Admission {
    per_source: Budget,
    per_certificates: Budget,
    per_network: Budget,
    /// Of all addresses.
    together: Option<Budget>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sources: HashMap<Source, Instant>,
    /// What sources share that come when the table is full of others still in debt.
    overflow: Instant,
    together: Instant,
}

impl Admission {
    pub(crate) fn new(per_minute: u32, now: Instant) -> Self {
        let worth = |sources| Budget::per_minute(per_minute.saturating_mul(sources));
        Self {
            per_source: worth(1),
            per_certificates: worth(CERTIFICATES_WORTH),
            per_network: worth(NETWORKS_WORTH),
            together: None,
            state: Mutex::new(State {
                sources: HashMap::new(),
                overflow: now,
                together: now,
            }),
        }
    }

    /// Bounds what all addresses cause together as well. Only for what costs more than the strangers behind them may cost:
    /// so many of them can spend it for all.
    pub(crate) fn bounding_strangers(per_minute: u32, now: Instant) -> Self {
        let together = Budget::per_minute(per_minute.saturating_mul(SOURCES_WORTH));
        Self {
            together: Some(together),
            ..Self::new(per_minute, now)
        }
    }

    /// Whether a call by `source` is looked at. Takes nothing.
    ///
    /// # Errors
    /// How long to wait before the next call, when a budget is used up.
    pub(crate) fn admit(&self, source: &Source, now: Instant) -> Result<(), Duration> {
        let state = self.lock();
        self.per_source.check(state.spent(source, now), now)?;
        if let Some((shared, budget)) = self.shared(source) {
            budget.check(state.spent(&shared, now), now)?;
        }
        match self.together_with(source) {
            Some(together) => together.check(state.together, now),
            None => Ok(()),
        }
    }

    /// Charges `source` with a refusal that was its fault.
    pub(crate) fn charge(&self, source: &Source, now: Instant) {
        let mut state = self.lock();
        if let Some(together) = self.together_with(source) {
            state.together = together.spend(state.together, now);
        }
        if let Some((shared, budget)) = self.shared(source) {
            state.charge(&shared, budget, now);
        }
        state.charge(source, self.per_source, now);
    }

    /// Until when `source` has spent its budget.
    pub(crate) fn spent_until(&self, source: &Source, now: Instant) -> Instant {
        self.lock().spent(source, now).max(now)
    }

    /// Takes back all of a charge: what it was for has left nothing behind.
    pub(crate) fn give_back(&self, source: &Source) {
        let mut state = self.lock();
        if let Some(together) = self.together_with(source) {
            state.together = together.give_back(state.together);
        }
        if let Some((shared, budget)) = self.shared(source) {
            state.give_back(&shared, budget);
        }
        state.give_back(source, self.per_source);
    }

    /// Whose budget `source` takes from beside its own.
    fn shared(&self, source: &Source) -> Option<(Source, Budget)> {
        match source {
            Source::Certificate(id, _) => {
                Some((Source::Identity(id.clone()), self.per_certificates))
            }
            Source::Address(IpAddr::V6(v6)) => {
                Some((Source::Network(network(*v6, 48)), self.per_network))
            }
            _ => None,
        }
    }

    fn together_with(&self, source: &Source) -> Option<Budget> {
        self.together
            .filter(|_| matches!(source, Source::Address(_)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change is one assignment, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn spent(&self, source: &Source, now: Instant) -> Instant {
        match self.sources.get(source) {
            Some(spent_until) => *spent_until,
            None if self.sources.len() < CAPACITY => now,
            None => self.overflow,
        }
    }

    fn charge(&mut self, source: &Source, budget: Budget, now: Instant) {
        if !self.sources.contains_key(source) && self.sources.len() >= CAPACITY {
            // An entry whose time has passed says no more than a missing one.
            self.sources.retain(|_, spent_until| *spent_until > now);
        }
        if self.sources.len() < CAPACITY || self.sources.contains_key(source) {
            let spent = self.sources.entry(source.clone()).or_insert(now);
            *spent = budget.spend(*spent, now);
        } else {
            self.overflow = budget.spend(self.overflow, now);
        }
    }
}

impl State {
    fn give_back(&mut self, source: &Source, budget: Budget) {
        // What shares the overflow gets nothing back: nobody's part of it is known.
        if let Some(spent) = self.sources.get_mut(source) {
            *spent = budget.give_back(*spent);
        }
    }
}

/// A budget kept as the time until which it is spent (GCRA): one `Instant` per source, and nothing to refill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    interval: Duration,
    window: Duration,
}

impl Budget {
    pub(crate) fn per_minute(n: u32) -> Self {
        let window = Duration::from_secs(60);
        Self {
            interval: window / n.max(1),
            window,
        }
    }

    /// How long to wait, if too much is spent.
    pub(crate) fn check(self, spent_until: Instant, now: Instant) -> Result<(), Duration> {
        match (spent_until + self.interval).checked_duration_since(now + self.window) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(wait) => Err(wait),
        }
    }

    pub(crate) fn spend(self, spent_until: Instant, now: Instant) -> Instant {
        // Calls in flight may overspend a little; debt beyond the window would lock a source out for longer than it.
        (spent_until.max(now) + self.interval).min(now + self.window)
    }

    fn give_back(self, spent_until: Instant) -> Instant {
        spent_until
            .checked_sub(self.interval)
            .unwrap_or(spent_until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Source {
        Source::address(IpAddr::from([127, 0, 0, last]))
    }

    #[test]
    fn a_source_is_refused_after_its_burst_and_again_admitted_later() {
        let now = Instant::now();
        let admission = Admission::new(6, now);
        for n in 0..6 {
            assert_eq!(admission.admit(&address(1), now), Ok(()), "call {n}");
            admission.charge(&address(1), now);
        }
        assert_eq!(
            admission.admit(&address(1), now),
            Err(Duration::from_secs(10))
        );
        assert_eq!(admission.admit(&address(2), now), Ok(()), "another source");
        let later = now + Duration::from_secs(10);
        assert_eq!(admission.admit(&address(1), later), Ok(()));
    }

    #[test]
    fn many_sources_together_are_refused_but_identities_are_not() {
        let now = Instant::now();
        let admission = Admission::bounding_strangers(1, now);
        for last in 0..64 {
            admission.charge(&address(last), now);
        }
        assert!(admission.admit(&address(200), now).is_err());
        let caller = Source::Identity(SpiffeId::parse("spiffe://demo.test/a").unwrap());
        assert_eq!(admission.admit(&caller, now), Ok(()));
    }

    #[test]
    fn an_ipv6_network_comes_to_an_end_before_everybody_does() {
        let now = Instant::now();
        let admission = Admission::bounding_strangers(1, now);
        let of = |network: u8, n: u32| {
            Source::address(format!("2001:db8:{network}:{n:x}::1").parse().unwrap())
        };
        let admitted = (0..1000).filter(|n| {
            let is_admitted = admission.admit(&of(1, *n), now).is_ok();
            if is_admitted {
                admission.charge(&of(1, *n), now);
            }
            is_admitted
        });
        assert_eq!(admitted.count(), NETWORKS_WORTH as usize);
        assert_eq!(admission.admit(&of(2, 1), now), Ok(()));
        assert_eq!(admission.admit(&address(1), now), Ok(()));
    }

    #[test]
    fn one_certificate_does_not_use_up_what_the_others_of_its_identity_have() {
        let now = Instant::now();
        let admission = Admission::new(2, now);
        let id = SpiffeId::parse("spiffe://demo.test/a").unwrap();
        let of = |serial: &str| Source::Certificate(id.clone(), serial.to_owned());
        let thief = of("thief");
        let mut refused = 0;
        for _ in 0..100 {
            match admission.admit(&thief, now) {
                Ok(()) => admission.charge(&thief, now),
                Err(_) => refused += 1,
            }
        }
        assert_eq!(refused, 98);
        assert_eq!(admission.admit(&of("0"), now), Ok(()));
        // With many certificates it comes to an end all the same.
        for serial in 0..CERTIFICATES_WORTH - 1 {
            for _ in 0..2 {
                admission.charge(&of(&serial.to_string()), now);
            }
        }
        assert!(admission.admit(&of("new"), now).is_err());
    }

    #[test]
    fn what_is_given_back_can_be_spent_again() {
        let now = Instant::now();
        let admission = Admission::new(1, now);
        admission.charge(&address(1), now);
        assert!(admission.admit(&address(1), now).is_err());
        admission.give_back(&address(1));
        assert_eq!(admission.admit(&address(1), now), Ok(()));
    }

    #[test]
    fn what_is_given_back_is_given_back_to_those_who_share_the_budget_too() {
        let now = Instant::now();
        let admission = Admission::bounding_strangers(1, now);
        let [v6, neighbour] = ["2001:db8::", "2001:db8:0:1::"]
            .map(|address| Source::address(address.parse().unwrap()));
        for _ in 0..10 * SOURCES_WORTH {
            for source in [&address(1), &v6] {
                admission.charge(source, now);
                admission.give_back(source);
            }
        }
        assert_eq!(admission.admit(&address(2), now), Ok(()));
        assert_eq!(admission.admit(&neighbour, now), Ok(()));
        let of = |serial: u32| {
            let id = SpiffeId::parse("spiffe://demo.test/a").unwrap();
            Source::Certificate(id, serial.to_string())
        };
        for serial in 0..10 * CERTIFICATES_WORTH {
            admission.charge(&of(serial), now);
            admission.give_back(&of(serial));
        }
        assert_eq!(admission.admit(&of(0), now), Ok(()));
    }

    #[test]
    fn the_table_is_bounded_and_the_rest_shares_one_budget() {
        let now = Instant::now();
        let admission = Admission::new(1, now);
        let source = |n: usize| {
            Source::Identity(SpiffeId::parse(&format!("spiffe://demo.test/{n}")).unwrap())
        };
        (0..CAPACITY).for_each(|n| admission.charge(&source(n), now));
        assert_eq!(admission.admit(&source(CAPACITY), now), Ok(()));
        admission.charge(&source(CAPACITY), now);
        assert!(
            admission.admit(&source(CAPACITY + 1), now).is_err(),
            "shared"
        );
        assert!(
            admission.admit(&source(3), now).is_err(),
            "known sources stay known"
        );
        assert_eq!(admission.lock().sources.len(), CAPACITY);

        let later = now + Duration::from_secs(61);
        admission.charge(&source(CAPACITY + 1), later);
        assert_eq!(
            admission.lock().sources.len(),
            1,
            "expired entries go first"
        );
    }

    #[test]
    fn ipv6_addresses_count_by_their_network_and_mapped_ones_as_ipv4() {
        let of = |text: &str| Source::address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
