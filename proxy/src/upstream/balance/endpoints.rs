//! What is known of each endpoint, and what follows from it.

use super::endpoint::{Endpoint, Standing};
use super::ring::Ring;
use crate::config::Resilience;
use crate::discovery::Member;
use crate::upstream::http2::Lanes;
use crate::upstream::random::Random;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a failure counts as: one that fails at once must not look quick.
const FAILURE: Duration = Duration::from_secs(1);

/// After this a request that was to find out how an endpoint is no longer keeps others from trying.
const PROBE_HOLDS: Duration = Duration::from_secs(1);

/// The endpoints of one service. At least half of them are always in use; one that is alone is left alone, too, for shorter.
#[derive(Debug)]
pub(super) struct Endpoints {
    rules: Resilience,
    all: Vec<Endpoint>,
    /// Where the service hashes: one for each priority, the lowest first.
    rings: Vec<Ring>,
    next: Number,
    ejected: usize,
    random: Random,
}

/// Names an endpoint for as long as it is one. No two of a service ever have the same; one that leaves and comes back has
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number(u64);

/// An endpoint that is handed a request.
#[derive(Debug)]
pub(super) struct Picked {
    pub(super) number: Number,
    pub(super) lanes: Arc<Lanes>,
    /// Whether it has failed time after time.
    pub(super) is_probe: bool,
    /// Whether there is another that was not tried.
    pub(super) has_other: bool,
}

/// Why no endpoint is handed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Each was tried, or there is none.
    Tried,
    /// Those in use have as many requests as they may.
    Full,
    /// The only one has failed time after time.
    Open,
}

/// How an endpoint has taken a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Answered,
    Failed,
    /// It took longer than somebody waited; whether it would have answered is not known.
    Late,
    /// It takes no more requests on that connection: not quick to answer, and no failure either.
    Left,
}

impl Endpoints {
    pub(super) fn new(rules: Resilience) -> Self {
        Self::with(rules, Random::new())
    }

    fn with(rules: Resilience, random: Random) -> Self {
        Self {
            rules,
            all: Vec::new(),
            rings: Vec::new(),
            next: Number(0),
            ejected: 0,
            random,
        }
    }

    /// Has these from now on, in this order. What is known of those that it has already is kept.
    pub(super) fn set(&mut self, members: Vec<(Member, Arc<Lanes>)>, now: Instant) {
        let mut before = std::mem::take(&mut self.all);
        // Those that all began together share alike.
        let grows_since = (!before.is_empty()).then_some(now);
        let was_alone = before.len() == 1;
        for (member, lanes) in members {
            let known = before
                .iter()
                .position(|endpoint| endpoint.member.address == member.address);
            self.all.push(match known {
                Some(known) => {
                    let mut known = before.swap_remove(known);
                    (known.member, known.lanes) = (member, lanes);
                    known
                }
                None => {
                    let number = self.next;
                    self.next = Number(number.0 + 1);
                    Endpoint::new(number, member, lanes, grows_since)
                }
            });
        }
        self.rings = match &self.rules.hash {
            Some(_) => self.rings(),
            None => Vec::new(),
        };
        let is_out = |endpoint: &&mut Endpoint| matches!(endpoint.standing, Standing::Out { .. });
        self.ejected = self.all.iter().filter(|all| all.is_ejected()).count();
        // Those that left may have been the ones in use.
        let most = match was_alone {
            true => self.most_ejected(),
            false => self.all.len() / 2,
        };
        let too_many = self.ejected.saturating_sub(most);
        for endpoint in self.all.iter_mut().filter(is_out).take(too_many) {
            endpoint.standing = Standing::In;
            self.ejected -= 1;
        }
    }

    fn rings(&self) -> Vec<Ring> {
        let priorities: BTreeSet<u16> = self.all.iter().map(|all| all.member.priority).collect();
        let ring_of = |priority| {
            let all = self.all.iter().enumerate();
            let of_it = all.filter(|(_, all)| all.member.priority == priority);
            Ring::new(of_it.map(|(place, all)| (place, &all.member.address)))
        };
        priorities.into_iter().map(ring_of).collect()
    }

    pub(super) fn ejected(&self) -> usize {
        self.ejected
    }

    fn most_ejected(&self) -> usize {
        match self.all.len() {
            1 => 1,
            count => count / 2,
        }
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = &Arc<Lanes>> {
        self.all.iter().map(|endpoint| &endpoint.lanes)
    }

    pub(super) fn has_other(&self, number: Number) -> bool {
        self.all.iter().any(|endpoint| endpoint.number != number)
    }

    /// Whether there is nothing to choose between.
    pub(super) fn is_plain(&self) -> bool {
        matches!(&self.all[..], [only] if !only.is_ejected())
    }

    /// Hands a request to an endpoint that is not among `tried`: to the one of its key, to one whose time out is over, to the
    /// better of two that are in use, or if there is none of these to any that is left. [`Self::end`] takes it back.
    pub(super) fn pick(
        &mut self,
        tried: &[Number],
        key: Option<&[u8]>,
        now: Instant,
    ) -> Result<Picked, Refusal> {
        let chosen = self
            .of_key(tried, key, now)
            .or_else(|| self.due(tried, now))
            .or_else(|| self.better_of_two(tried, now))
            .or_else(|| self.any_left(tried));
        match chosen {
            Some(chosen) => Ok(self.hand_out(chosen, tried)),
            None => Err(self.refusal(tried)),
        }
    }

    /// The same of the only one, which needs no clock.
    pub(super) fn pick_only(&mut self, tried: &[Number]) -> Result<Picked, Refusal> {
        match self.all.first() {
            Some(only) if !tried.contains(&only.number) && !self.is_full(only) => {
                Ok(self.hand_out(0, tried))
            }
            _ => Err(self.refusal(tried)),
        }
    }

    fn hand_out(&mut self, chosen: usize, tried: &[Number]) -> Picked {
        let has_other = self.all.len() > tried.len() + 1;
        let endpoint = &mut self.all[chosen];
        endpoint.in_hand += 1;
        endpoint.pending += 1;
        Picked {
            number: endpoint.number,
            lanes: Arc::clone(&endpoint.lanes),
            is_probe: endpoint.is_ejected(),
            has_other,
        }
    }

    fn refusal(&self, tried: &[Number]) -> Refusal {
        let is_untried = |endpoint: &&Endpoint| !tried.contains(&endpoint.number);
        let mut untried = self.all.iter().filter(is_untried);
        match untried.clone().next() {
            None => Refusal::Tried,
            Some(_) if untried.any(|all| self.is_full(all)) => Refusal::Full,
            Some(_) => Refusal::Open,
        }
    }

    fn is_full(&self, endpoint: &Endpoint) -> bool {
        endpoint.pending >= self.rules.max_pending
    }

    /// One that was ejected and whose time is over: one request at a time finds out how it is.
    fn due(&mut self, tried: &[Number], now: Instant) -> Option<usize> {
        if self.ejected == 0 {
            return None;
        }
        let due = self.all.iter().position(|endpoint| {
            is_due(endpoint, now) && !self.is_full(endpoint) && !tried.contains(&endpoint.number)
        })?;
        self.all[due].standing = Standing::Probed { since: now };
        Some(due)
    }

    /// The first for `key` on the ring of the lowest priority that is in use, or that may be by now.
    fn of_key(&mut self, tried: &[Number], key: Option<&[u8]>, now: Instant) -> Option<usize> {
        let key = key?;
        let takes = |place: &usize| {
            let endpoint = &self.all[*place];
            let takes = endpoint.standing == Standing::In || is_due(endpoint, now);
            takes && !self.is_full(endpoint) && !tried.contains(&endpoint.number)
        };
        let mut rings = self.rings.iter();
        let chosen = rings.find_map(|ring| ring.places(key).find(takes))?;
        let endpoint = &mut self.all[chosen];
        if endpoint.is_ejected() {
            endpoint.standing = Standing::Probed { since: now };
        }
        Some(chosen)
    }

    fn better_of_two(&mut self, tried: &[Number], now: Instant) -> Option<usize> {
        let first = self.any_in_use(None, tried)?;
        let Some(second) = self.any_in_use(Some(first), tried) else {
            return Some(first);
        };
        let is_better = self.all[second].load(now) < self.all[first].load(now);
        let (better, other) = match is_better {
            true => (second, first),
            false => (first, second),
        };
        // One that is new or was out is quick, having nothing to do: it gets what suits its share all the same.
        let share = |place: usize| self.all[place].share(self.rules.slow_start, now);
        let (share, of_other) = (share(better), share(other));
        let is_taken = share >= of_other || self.random.chance() < share / of_other;
        Some(if is_taken { better } else { other })
    }

    /// One that is out, if those in use were all tried; one that is alone is waited for.
    fn any_left(&self, tried: &[Number]) -> Option<usize> {
        let is_untried = |endpoint: &Endpoint| !tried.contains(&endpoint.number);
        let is_in = |endpoint: &Endpoint| endpoint.standing == Standing::In;
        let is_left = self.all.iter().any(|all| is_untried(all) && is_in(all));
        if is_left || self.all.len() == 1 {
            return None;
        }
        self.all
            .iter()
            .position(|all| is_untried(all) && !self.is_full(all))
    }

    /// One in use of the lowest priority that has any, each as likely as the others.
    fn any_in_use(&mut self, other_than: Option<usize>, tried: &[Number]) -> Option<usize> {
        let (mut seen, mut chosen) = (0, None);
        let mut lowest = other_than.map_or(u16::MAX, |other| self.all[other].member.priority);
        for (place, endpoint) in self.all.iter().enumerate() {
            let is_other = Some(place) != other_than && !tried.contains(&endpoint.number);
            let priority = endpoint.member.priority;
            let is_usable = endpoint.standing == Standing::In && !self.is_full(endpoint);
            if is_other && is_usable && priority <= lowest {
                if priority < lowest {
                    (lowest, seen) = (priority, 0);
                }
                seen += 1;
                // The n-th takes the place of the one before with a chance of 1/n.
                if self.random.below(seen) == 0 {
                    chosen = Some(place);
                }
            }
        }
        chosen
    }

    /// Takes note of how `number` took a request, `after` so long.
    pub(super) fn judge(
        &mut self,
        number: Number,
        verdict: Verdict,
        after: Duration,
        now: Instant,
    ) {
        let (most_ejected, is_alone) = (self.most_ejected(), self.all.len() == 1);
        let Some(endpoint) = self.all.iter_mut().find(|all| all.number == number) else {
            return; // It has left.
        };
        endpoint.pending -= 1;
        match verdict {
            Verdict::Answered => {
                endpoint.observe(after, now);
                endpoint.failures = 0;
                if matches!(endpoint.standing, Standing::Probed { .. }) {
                    endpoint.come_back(after, now);
                    self.ejected -= 1;
                }
            }
            Verdict::Late => endpoint.observe(after, now),
            Verdict::Left => endpoint.observe(after.max(FAILURE), now),
            Verdict::Failed => {
                endpoint.observe(after.max(FAILURE), now);
                endpoint.failures += 1;
                let Some(breaker) = self.rules.breaker else {
                    return;
                };
                let is_in = endpoint.standing == Standing::In;
                if matches!(endpoint.standing, Standing::Probed { .. }) {
                    endpoint.eject(breaker, is_alone, now);
                } else if is_in
                    && endpoint.failures >= breaker.failures
                    && self.ejected < most_ejected
                {
                    endpoint.eject(breaker, is_alone, now);
                    self.ejected += 1;
                }
            }
        }
    }

    /// The same of the only one, when it was in use and has answered: there is nothing to compare it with.
    pub(super) fn answered_only(&mut self, number: Number) {
        if let Some(endpoint) = self.all.iter_mut().find(|all| all.number == number) {
            endpoint.pending -= 1;
            endpoint.failures = 0;
        }
    }

    /// Takes a request back from `number`. One that was to find out how the endpoint is, since `probed`, and has not, leaves
    /// that to the next.
    pub(super) fn end(&mut self, number: Number, is_judged: bool, probed: Option<Instant>) {
        let Some(endpoint) = self.all.iter_mut().find(|all| all.number == number) else {
            return; // It has left.
        };
        endpoint.in_hand -= 1;
        endpoint.pending -= usize::from(!is_judged);
        if let (false, Some(until), Standing::Probed { .. }) =
            (is_judged, probed, endpoint.standing)
        {
            endpoint.standing = Standing::Out { until };
        }
    }
}

/// Whether a request may find out how an endpoint is that was ejected.
fn is_due(endpoint: &Endpoint, now: Instant) -> bool {
    match endpoint.standing {
        Standing::In => false,
        Standing::Out { until } => until <= now,
        Standing::Probed { since } => since + PROBE_HOLDS <= now,
    }
}

#[cfg(test)]
mod tests;
