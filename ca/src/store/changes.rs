//! How a running CA hears that what it keeps in memory has changed: by its own hand, that of another process on the
//! same directory, or that of another replica.
//!
//! Each topic has a counter in the database, raised in the transaction that makes the change. A thread of each open
//! store reads the counters: at once after a commit of its own store or when PostgreSQL passes on that of another
//! replica, and twice a second in any case.

use super::Database;
use super::session::{Access, Session, Transaction};
use super::sql::{self, values};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How often the counters are read, if nothing says that it is worth while.
const POLL: Duration = Duration::from_millis(500);

/// Something that a running CA keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// The trust bundle.
    Bundle,
    /// What is revoked. The version is the list's sequence.
    Revocations,
    /// The CA's own certificates, and where each stands.
    Authorities,
}

impl Topic {
    const ALL: [Self; 3] = [Self::Bundle, Self::Revocations, Self::Authorities];

    fn as_str(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::Revocations => "revocations",
            Self::Authorities => "authorities",
        }
    }
}

/// How often each topic has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Versions([u64; Topic::ALL.len()]);

impl Versions {
    pub fn of(&self, topic: Topic) -> u64 {
        self.0[topic as usize]
    }

    fn read(transaction: &mut Transaction<'_>) -> sql::Result<Self> {
        let mut versions = Self::default();
        for row in transaction.query("SELECT topic, version FROM change", &[])? {
            let name: String = row.get(0)?;
            // A newer release may have more topics.
            if let Some(topic) = Topic::ALL.iter().find(|topic| topic.as_str() == name) {
                versions.0[*topic as usize] = row.get(1)?;
            }
        }
        Ok(versions)
    }
}

/// How often one topic has changed, as the same transaction sees it.
pub(super) fn version(transaction: &mut Transaction<'_>, topic: Topic) -> sql::Result<u64> {
    Versions::read(transaction).map(|versions| versions.of(topic))
}

/// Raises the counter of a topic.
pub(super) fn announce(transaction: &mut Transaction<'_>, topic: Topic) -> sql::Result<()> {
    transaction.execute(
        "INSERT INTO change (topic, version) VALUES ($1, 1)
         ON CONFLICT (topic) DO UPDATE SET version = change.version + 1",
        values![topic.as_str()],
    )?;
    transaction.notify()
}

/// The same, to `at_least` that number.
pub(super) fn announce_from(
    transaction: &mut Transaction<'_>,
    topic: Topic,
    at_least: i64,
) -> sql::Result<()> {
    announce(transaction, topic)?;
    transaction.execute(
        "UPDATE change SET version = $1 WHERE topic = $2 AND version < $1",
        values![at_least, topic.as_str()],
    )?;
    Ok(())
}

/// The thread that reads the counters. Ends once every [`Nudge`] is dropped, which has to be before this.
#[derive(Debug)]
pub(super) struct Watcher {
    state: watch::Receiver<State>,
    answered: Arc<Mutex<Instant>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread found when it last looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    pub versions: Versions,
    /// Whether the database answers.
    pub reachable: bool,
}

/// Has the counters read now.
#[derive(Debug, Clone)]
pub(super) struct Nudge(Sender<()>);

impl Nudge {
    pub(super) fn give(&self) {
        // Nobody listens any more when the store is being closed.
        let _ = self.0.send(());
    }
}

impl Watcher {
    pub(super) fn spawn(database: Database) -> io::Result<(Self, Nudge)> {
        let (sender, state) = watch::channel(State::default());
        let (nudge, nudged) = channel();
        let answered = Arc::new(Mutex::new(Instant::now()));
        let answers = Arc::clone(&answered);
        let thread = thread::Builder::new()
            .name("ca-changes".to_owned())
            .spawn(move || follow(&database, &sender, &nudged, &answers))?;
        let watcher = Self {
            state,
            answered,
            thread: Some(thread),
        };
        Ok((watcher, Nudge(nudge)))
    }

    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// When the counters were last read: long ago if the database does not answer, or the thread is stuck or dead.
    pub(super) fn answered(&self) -> Instant {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn follow(
    database: &Database,
    sender: &watch::Sender<State>,
    nudged: &Receiver<()>,
    answered: &Mutex<Instant>,
) {
    let mut session = None;
    loop {
        let asked = Instant::now();
        let found = read(database, &mut session);
        if found.is_ok() {
            *answered.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        }
        sender.send_if_modified(|present| {
            let next = match &found {
                Ok(versions) => State {
                    versions: *versions,
                    reachable: true,
                },
                Err(_) => State {
                    reachable: false,
                    ..*present
                },
            };
            if let (true, Err(error)) = (present.reachable, &found) {
                tracing::warn!(%error, "the CA's database does not answer");
            }
            std::mem::replace(present, next) != next
        });
        match nudged.recv_timeout(POLL) {
            Ok(()) => while nudged.try_recv().is_ok() {},
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn read(database: &Database, session: &mut Option<Session>) -> sql::Result<Versions> {
    let session = match session {
        Some(session) => session,
        None => session.insert(Session::connect(database, Access::Read)?),
    };
    session.transaction(Access::Read, Versions::read)
}
