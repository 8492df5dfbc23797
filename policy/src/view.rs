//! `Policy`: compiled documents; `View`: what of them concerns one caller, callee and port.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use identity::SpiffeId;

use crate::{
    compile::Rules,
    engine::trie::{RuleId, Trie},
    engine::{Connections, GrantRule},
    profile::HttpProfile,
};

/// Most (caller, callee, port) triples whose views are remembered; the ones used least recently go first. Callers are
/// certified identities, so this bounds memory, not an attack.
const MAX_CACHED_VIEWS: usize = 4096;
/// Past so many documents that all views speak of together, those used least recently go too: some 300 bytes each.
const MAX_CACHED_DOCUMENTS: usize = 200_000;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller<'a> {
    /// A peer whose certificate was verified.
    Identity(&'a SpiffeId),
    /// A plaintext caller in permissive mode, or one without a client certificate at ingress.
    Unauthenticated,
}

impl fmt::Display for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Identity(id) => f.write_str(id.as_str()),
            Caller::Unauthenticated => f.write_str("unauthenticated"),
        }
    }
}

/// Everything a directory of documents says. Immutable but for a cache of views; a reload compiles a new one.
#[derive(Debug)]
pub struct Policy {
    rules: Arc<Rules>,
    latest: Latest,
    views: Mutex<Views>,
}

/// How many documents of each kind a policy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub grants: usize,
    pub guards: usize,
    pub limits: usize,
    pub profiles: usize,
}

impl Policy {
    /// A policy that refuses everything: what serves before the first good one is loaded.
    pub fn deny_all() -> Self {
        Self::new(Rules::default(), Latest::default())
    }

    pub(crate) fn new(rules: Rules, latest: Latest) -> Self {
        Self {
            rules: Arc::new(rules),
            latest,
            views: Mutex::default(),
        }
    }

    pub(crate) fn rules(&self) -> &Arc<Rules> {
        &self.rules
    }

    /// A hash of the sources, 16 hex digits: shown as the policy's generation. Not a security boundary.
    pub fn fingerprint(&self) -> &str {
        &self.rules.fingerprint
    }

    /// How many documents are in force.
    pub fn counts(&self) -> Counts {
        Counts {
            grants: self.rules.grants.len(),
            guards: self.rules.guards.len(),
            limits: self.rules.limits.len(),
            profiles: self.rules.profiles.len(),
        }
    }

    /// What concerns this caller, callee and port. Resolving patterns costs time in the number of documents, so a
    /// connection asks once per policy generation; results are cached here, bounded.
    pub fn view(&self, caller: Caller<'_>, callee: &SpiffeId, port: u16) -> Arc<View> {
        let key = (caller.to_string(), callee.to_string(), port);
        if let Some(view) = self.lock_views().get(&key) {
            return view;
        }
        // Built without the lock: other connections need not wait for it.
        let selection = self.rules.select(caller, callee, port);
        if let Some(view) = self.lock_views().share(&key, &selection) {
            return view;
        }
        let view = Arc::new(View::new(
            self.rules.clone(),
            self.latest.clone(),
            &selection,
        ));
        self.lock_views().insert(key, selection, &view);
        view
    }

    fn lock_views(&self) -> std::sync::MutexGuard<'_, Views> {
        // The cache is whole between any two statements, so a panic elsewhere leaves nothing half done.
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type ViewKey = (String, String, u16);

/// Views by caller, in two generations: what is used moves to the young one, and when that is full the old one goes.
/// Callers for whom the same documents hold share one view.
#[derive(Debug, Default)]
struct Views {
    young: HashMap<ViewKey, Arc<View>>,
    old: HashMap<ViewKey, Arc<View>>,
    shared: HashMap<Selection, Weak<View>>,
}

impl Views {
    fn get(&mut self, key: &ViewKey) -> Option<Arc<View>> {
        if let Some(view) = self.young.get(key) {
            return Some(view.clone());
        }
        let (key, view) = self.old.remove_entry(key)?;
        self.remember(key, &view);
        Some(view)
    }

    fn share(&mut self, key: &ViewKey, selection: &Selection) -> Option<Arc<View>> {
        let view = self.shared.get(selection)?.upgrade()?;
        self.remember(key.clone(), &view);
        Some(view)
    }

    fn insert(&mut self, key: ViewKey, selection: Selection, view: &Arc<View>) {
        self.shared.retain(|_, view| view.strong_count() > 0);
        if self.shared.keys().map(Selection::len).sum::<usize>() > MAX_CACHED_DOCUMENTS {
            self.age();
        }
        self.remember(key, view);
        self.shared.insert(selection, Arc::downgrade(view));
    }

    fn remember(&mut self, key: ViewKey, view: &Arc<View>) {
        if self.young.len() >= MAX_CACHED_VIEWS / 2 {
            self.age();
        }
        self.young.insert(key, view.clone());
    }

    fn age(&mut self) {
        self.old = std::mem::take(&mut self.young);
    }
}

/// The documents that concern a caller, callee and port, as indices into [`Rules`].
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Selection {
    pub(crate) grants: Vec<u32>,
    pub(crate) guards: Vec<u32>,
    pub(crate) limits: Vec<u32>,
    pub(crate) profile: Option<u32>,
}

impl Selection {
    fn len(&self) -> usize {
        self.grants.len() + self.guards.len() + self.limits.len()
    }
}

/// What of a policy concerns one caller, callee and port: decides requests, see [`View::decide`], and opaque TCP
/// connections, see [`View::admit`].
#[derive(Debug)]
pub struct View {
    pub(crate) rules: Arc<Rules>,
    pub(crate) latest: Latest,
    pub(crate) grants: Trie<GrantRule>,
    /// With folded literals.
    pub(crate) guards: Trie,
    pub(crate) limits: Trie,
    pub(crate) connections: Connections,
    profile: Option<u32>,
    /// Whether some rule speaks of gRPC: then a gRPC call has to have a gRPC path.
    pub(crate) grpc: bool,
}

impl View {
    fn new(rules: Arc<Rules>, latest: Latest, selection: &Selection) -> Self {
        let mut grants = Trie::default();
        let (mut guards, mut limits) = (Trie::default(), Trie::default());
        let mut grpc = false;
        for &document in &selection.grants {
            let grant = &rules.grants[document as usize];
            for (rule, clause) in (0..).zip(&grant.allow.requests) {
                grpc |= clause.grpc;
                let rule = GrantRule::new(grant, RuleId { document, rule });
                grants.insert(&clause.path, rule);
            }
        }
        for &document in &selection.guards {
            for (rule, clause) in (0..).zip(&rules.guards[document as usize].deny.requests) {
                grpc |= clause.grpc;
                guards.insert_folded(&clause.path, RuleId { document, rule });
            }
        }
        for &document in &selection.limits {
            for (rule, clause) in (0..).zip(&rules.limits[document as usize].matching.requests) {
                limits.insert(&clause.path, RuleId { document, rule });
            }
        }
        Self {
            connections: Connections::new(&rules, selection),
            profile: selection.profile,
            rules,
            latest,
            grants,
            guards,
            limits,
            grpc,
        }
    }

    /// What this callee and port take of HTTP; strict unless an HttpProfile document says otherwise.
    pub fn profile(&self) -> &HttpProfile {
        self.rules.profile(self.profile)
    }
}

/// The latest time seen by any decision. Passed from each policy to its successor ([`crate::Options`]), so that an
/// expired grant does not come back when the clock is set back. Clones share one value.
#[derive(Debug, Clone, Default)]
pub struct Latest {
    /// Whole seconds since 1970: written once a second, read by every decision.
    seconds: Arc<AtomicU64>,
}

impl Latest {
    /// `now`, or the latest time seen if that is later (to the second).
    pub fn at_least(&self, now: SystemTime) -> SystemTime {
        let now_seconds = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let seen = self.seconds.load(Ordering::Relaxed);
        if now_seconds > seen {
            self.seconds.fetch_max(now_seconds, Ordering::Relaxed);
        }
        if now_seconds >= seen {
            return now;
        }
        UNIX_EPOCH
            .checked_add(Duration::from_secs(seen))
            .unwrap_or(now)
    }
}
