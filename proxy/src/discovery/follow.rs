//! One list of endpoints: what each entry stands for, asked for again when that may have changed.

use super::dns::{Addresses, Answer, AskError, Dns, Question};
use super::list::{EndpointsError, List};
use super::{Finding, Known, Member};
use crate::Failing;
use crate::config::{Endpoints, Source};
use crate::metrics::Metrics;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// After a failure the same is asked for again after this, then after twice as long, and so on.
const RETRY_AT_FIRST: Duration = Duration::from_secs(1);
/// A server that is back is noticed within this.
const RETRY_AT_MOST: Duration = Duration::from_secs(5);
/// Endpoints of one list. Each has connections and a place in every worker's choice: more would be an answer made to hurt.
const MAX_ENDPOINTS: usize = 1024;

/// What all names outside are counted as.
const OUTSIDE: &str = "external";

/// What is known of one list of endpoints. Whoever shares it says the same of its endpoints.
#[derive(Debug)]
pub(super) struct Followed {
    endpoints: Endpoints,
    whose: Whose,
    state: Mutex<State>,
    known: watch::Sender<Known>,
}

/// Whose endpoints they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    OfServices,
    /// Servers outside the mesh, whose names the workload may make up: none of them is a label, and there is no line in the log
    /// for each that is found.
    Outside,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    /// Of the file that has the list.
    failing: Option<Failing>,
}

/// One entry of the list.
#[derive(Debug)]
struct Entry {
    source: Source,
    /// None if it says itself what it stands for.
    question: Option<Question>,
    /// What it stood for last.
    members: Vec<Member>,
    /// And the names that have to do with it.
    known: Addresses,
    found_at: Option<SystemTime>,
    failing: Option<Failing>,
    /// In a row.
    failures: u32,
    next: Next,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    At(Instant),
    /// Somebody was asked.
    Asked,
}

impl Entry {
    fn new(source: Source) -> Self {
        let members = match &source {
            Source::Address(address) => vec![Member::at(*address)],
            Source::Name(_) | Source::Srv(_) => Vec::new(),
        };
        Self {
            question: Question::of(&source),
            source,
            members,
            known: Addresses::new(),
            found_at: None,
            failing: None,
            failures: 0,
            next: Next::At(Instant::now()),
        }
    }

    fn found(&mut self, answer: Answer) {
        self.members = answer.members;
        self.known = answer.known;
        self.found_at = Some(SystemTime::now());
        if let Some(failure) = answer.failure {
            return self.failed(&failure);
        }
        self.failures = 0;
        self.next = Next::At(Instant::now() + answer.valid_for);
        if self.failing.take().is_some() {
            tracing::info!(source = %self.source, "endpoints are found again");
        }
    }

    fn failed(&mut self, error: &str) {
        let wait = RETRY_AT_FIRST * 2u32.saturating_pow(self.failures);
        self.failures = (self.failures + 1).min(8);
        self.next = Next::At(Instant::now() + wait.min(RETRY_AT_MOST));
        note(&mut self.failing, &self.source.to_string(), error);
    }
}

/// Keeps since when it fails, and says so once.
fn note(failing: &mut Option<Failing>, source: &str, error: &str) {
    let since = match failing {
        Some(failing) => failing.since,
        None => {
            tracing::warn!(
                source,
                error,
                "cannot find endpoints; those known last stay in use"
            );
            SystemTime::now()
        }
    };
    let error = error.to_owned();
    *failing = Some(Failing { since, error });
}

impl Followed {
    pub(super) fn new(endpoints: Endpoints, whose: Whose) -> Self {
        let followed = Self {
            state: Mutex::default(),
            known: watch::Sender::new(Known::Pending),
            endpoints,
            whose,
        };
        if let Endpoints::Listed(sources) = &followed.endpoints {
            followed.list(sources.clone());
        }
        followed
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let state = self.lock();
        let entries = state.entries.iter().map(|entry| Finding {
            source: entry.source.to_string(),
            addresses: entry
                .members
                .iter()
                .map(|member| member.address.to_string())
                .collect(),
            found_at: entry.found_at,
            failing: entry.failing.clone(),
        });
        let file = match &self.endpoints {
            Endpoints::Listed(_) => None,
            Endpoints::File(_) => Some(Finding {
                source: self.endpoints.to_string(),
                addresses: Vec::new(),
                found_at: None,
                failing: state.failing.clone(),
            }),
        };
        file.into_iter().chain(entries).collect()
    }

    /// Has these entries from now on. What is known of those that it has already is kept.
    fn list(&self, sources: Vec<Source>) {
        let mut state = self.lock();
        let mut before = std::mem::take(&mut state.entries);
        for source in sources {
            let known = before.iter().position(|entry| entry.source == source);
            state.entries.push(match known {
                Some(known) => before.swap_remove(known),
                None => Entry::new(source),
            });
        }
        if state.failing.take().is_some() {
            tracing::info!(source = %self.endpoints, "endpoints are found again");
        }
        self.publish(&state);
    }

    fn list_failed(&self, error: &EndpointsError) {
        let mut state = self.lock();
        note(
            &mut state.failing,
            &self.endpoints.to_string(),
            &error.to_string(),
        );
        self.publish(&state);
    }

    fn answered(&self, source: &Source, answer: &Result<Answer, AskError>) {
        let mut state = self.lock();
        // Those that have left the list meanwhile are of no interest.
        let entries = state.entries.iter_mut();
        for entry in entries.filter(|entry| entry.source == *source) {
            match answer {
                Ok(answer) => entry.found(answer.clone()),
                Err(error) => entry.failed(&error.to_string()),
            }
        }
        self.publish(&state);
    }

    /// Some of those asked will not answer.
    fn lost(&self) {
        for entry in &mut self.lock().entries {
            if entry.next == Next::Asked {
                entry.failed("the resolver has failed");
            }
        }
    }

    /// Tells those who follow, if there is something new.
    fn publish(&self, state: &State) {
        let mut seen = HashSet::new();
        let members = state.entries.iter().flat_map(|entry| &entry.members);
        let mut all = members.filter(|member| seen.insert(&member.address));
        let members: Arc<[Member]> = all.by_ref().take(MAX_ENDPOINTS).cloned().collect();
        let is_cut = all.next().is_some();
        let is_waiting = |entry: &Entry| entry.failures == 0;
        let now = match members.is_empty() {
            false => Known::Members(members),
            true if state.failing.is_none() && state.entries.iter().any(is_waiting) => {
                Known::Pending
            }
            true => Known::Nothing,
        };
        self.known.send_if_modified(|known| {
            let is_kept = matches!(known, Known::Members(_)) && !matches!(now, Known::Members(_));
            if is_kept || *known == now {
                return false;
            }
            if let Known::Members(members) = &now
                && self.whose == Whose::OfServices
            {
                tracing::info!(source = %self.endpoints, count = members.len(), "endpoints found");
                if is_cut {
                    tracing::warn!(source = %self.endpoints, limit = MAX_ENDPOINTS, "endpoints beyond the limit are not used");
                }
            }
            *known = now;
            true
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps one list up to date.
#[derive(Debug)]
pub(super) struct Task {
    followed: Weak<Followed>,
    /// Closed when nobody follows the list any more.
    known: watch::Receiver<Known>,
    dns: Arc<Dns>,
    metrics: Arc<Metrics>,
}

/// What was waited for.
enum Event {
    Answer(Source, Result<Answer, AskError>),
    List(List, Result<Vec<Source>, EndpointsError>),
}

impl Task {
    pub(super) fn new(followed: &Arc<Followed>, dns: Arc<Dns>, metrics: Arc<Metrics>) -> Self {
        Self {
            followed: Arc::downgrade(followed),
            known: followed.subscribe(),
            dns,
            metrics,
        }
    }

    /// Ends when nobody follows the list any more, or nothing in it can change.
    pub(super) async fn run(self) {
        let mut waited = JoinSet::new();
        let mut known = self.known.clone();
        if let Some(followed) = self.followed.upgrade()
            && let Endpoints::File(path) = &followed.endpoints
        {
            waited.spawn(follow(List::new(path)));
        }
        loop {
            let Some(followed) = self.followed.upgrade() else {
                return;
            };
            let next = self.ask(&followed, &mut waited);
            drop(followed);
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            if next.is_none() && waited.is_empty() {
                return;
            }
            tokio::select! {
                Some(event) = waited.join_next() => {
                    let Some(followed) = self.followed.upgrade() else {
                        return;
                    };
                    match event {
                        Ok(event) => self.take(&followed, event, &mut waited),
                        // The resolver has panicked, and who had asked it is not known.
                        Err(_) => followed.lost(),
                    }
                }
                () = due => {}
                _ = known.wait_for(|_| false) => return,
            }
        }
    }

    /// Asks for what is due. Answers when the next is.
    fn ask(&self, followed: &Followed, waited: &mut JoinSet<Event>) -> Option<Instant> {
        let now = Instant::now();
        let mut next = None;
        for entry in &mut followed.lock().entries {
            let Some(question) = &entry.question else {
                continue;
            };
            match entry.next {
                Next::At(at) if at <= now => {
                    entry.next = Next::Asked;
                    let (dns, source) = (Arc::clone(&self.dns), entry.source.clone());
                    let (question, known) = (question.clone(), entry.known.clone());
                    waited.spawn(async move {
                        let answer = dns.ask(&question, &known).await;
                        Event::Answer(source, answer)
                    });
                }
                Next::At(at) => next = next.into_iter().chain([at]).min(),
                Next::Asked => {}
            }
        }
        next
    }

    fn take(&self, followed: &Followed, event: Event, waited: &mut JoinSet<Event>) {
        let failed = match event {
            Event::Answer(source, answer) => {
                let is_whole = matches!(&answer, Ok(answer) if answer.failure.is_none());
                followed.answered(&source, &answer);
                (!is_whole).then(|| source.to_string())
            }
            Event::List(list, read) => {
                waited.spawn(follow(list));
                match read {
                    Ok(sources) => {
                        followed.list(sources);
                        None
                    }
                    Err(error) => {
                        followed.list_failed(&error);
                        Some(followed.endpoints.to_string())
                    }
                }
            }
        };
        if let Some(source) = failed {
            // What a file names is no label: it is not the configuration's.
            let label = match (&followed.endpoints, followed.whose) {
                (_, Whose::Outside) => OUTSIDE.to_owned(),
                (Endpoints::Listed(_), _) => source,
                (Endpoints::File(path), _) => path.display().to_string(),
            };
            self.metrics.discovery_failed(&label);
        }
    }
}

async fn follow(list: List) -> Event {
    let (list, read) = list.next().await;
    Event::List(list, read)
}

#[cfg(test)]
mod tests;
