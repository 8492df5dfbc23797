//! The one thread that writes, its group commit, and the sweep in between.

use super::changes::{self, Nudge, Topic};
use super::rollback::RolledBack;
use super::session::{Access, Session, Transaction};
use super::sql;
use super::sweep::Sweep;
use super::{Database, StoreError, authorities, schema};
use crate::ledger::{Event, Head};
use clock::Clock;
use std::collections::HashSet;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime};
use tokio::sync::{mpsc, oneshot};

pub(super) mod clock;

/// Callers above this number wait to be let in.
const QUEUE: usize = 1024;
/// Bounds the time from the first write of a group to its commit.
const MAX_BATCH: usize = 256;

/// Hands writes to the writer thread. The thread ends when this is dropped, after what was queued is committed.
#[derive(Debug)]
pub(super) struct Writer {
    /// `Some` until drop.
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    sweeps: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Refusals are not recorded while the disk has less than `reserve_bytes` free. Who follows changes is nudged when
    /// one was committed.
    ///
    /// # Errors
    /// When there is no thread, or the database does not open or cannot be brought up to date.
    pub(super) fn spawn(
        database: Database,
        reserve_bytes: u64,
        nudge: Nudge,
    ) -> Result<Self, StoreError> {
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        let (ready, opened) = std::sync::mpsc::channel();
        let sweeps = Arc::new(AtomicBool::new(false));
        let may_sweep = Arc::clone(&sweeps);
        let thread = thread::Builder::new()
            .name("ca-store".to_owned())
            .spawn(move || {
                let session = match open(&database) {
                    Ok(session) => session,
                    Err(error) => return ready.send(Err(error)).unwrap_or_default(),
                };
                let mut committer = Committer {
                    session,
                    reserve_bytes,
                    nudge,
                    sweep: Sweep::default(),
                    clock: None,
                    started: Instant::now(),
                };
                ready.send(Ok(())).unwrap_or_default();
                let mut group = Vec::new();
                while queue.blocking_recv_many(&mut group, MAX_BATCH) > 0 {
                    committer.commit_group(&mut group);
                    if !may_sweep.load(Ordering::Relaxed) {
                        continue;
                    }
                    while committer.sweep_once() && queue.is_empty() && !queue.is_closed() {}
                }
            })
            .map_err(|error| StoreError::Thread(Arc::new(error)))?;
        opened.recv().map_err(|_| StoreError::Stopped)??;
        Ok(Self {
            jobs: Some(jobs),
            sweeps,
            thread: Some(thread),
        })
    }

    /// From now on what has long expired goes, after writes.
    pub(super) fn sweep(&self) {
        self.sweeps.store(true, Ordering::Relaxed);
    }

    /// Runs `operation` in the next transaction and returns its result once that is committed and synced.
    ///
    /// Cancel safe in the sense that a dropped call may still be carried out.
    pub(super) async fn write<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Batch<'_, '_>) -> sql::Result<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let pending = Pending {
            operation: Some(operation),
            value: None,
            sender,
        };
        let jobs = self.jobs.as_ref().ok_or(StoreError::Stopped)?;
        jobs.send(Box::new(pending))
            .await
            .map_err(|_| StoreError::Stopped)?;
        receiver.await.map_err(|_| StoreError::Stopped)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook, and to callers as `Stopped`.
            let _ = thread.join();
        }
    }
}

/// On the writer's own thread, as a connection to PostgreSQL blocks the thread it is on.
fn open(database: &Database) -> Result<Session, StoreError> {
    let mut session = Session::connect(database, Access::Write).map_err(StoreError::cannot_read)?;
    schema::migrate(&mut session)?;
    Ok(session)
}

/// What the thread owns.
struct Committer {
    session: Session,
    reserve_bytes: u64,
    nudge: Nudge,
    sweep: Sweep,
    /// Read for the first sweep.
    clock: Option<Clock>,
    started: Instant,
}

impl Committer {
    /// One transaction for the whole group, which it leaves empty. If anything fails, nothing of the group is kept and
    /// everyone hears of it: what fails here is the disk or the database, never what one caller asked for.
    fn commit_group(&mut self, group: &mut Vec<Box<dyn Job>>) {
        let committed = self
            .apply_and_commit(group)
            .map_err(StoreError::cannot_record);
        for job in group.drain(..) {
            job.reply(committed.clone());
        }
    }

    fn apply_and_commit(&mut self, group: &mut [Box<dyn Job>]) -> sql::Result<()> {
        let reserve_bytes = self.reserve_bytes;
        let announced = self.session.transaction(Access::Write, |transaction| {
            let mut batch = Batch::begin(transaction, reserve_bytes)?;
            group.iter_mut().try_for_each(|job| job.apply(&mut batch))?;
            Ok(batch.announced)
        })?;
        if announced {
            self.nudge.give();
        }
        Ok(())
    }

    /// A transaction of its own, as no caller's write may fail for it. Gives whether another is due.
    fn sweep_once(&mut self) -> bool {
        self.try_sweep().unwrap_or_else(|error| {
            tracing::warn!(%error, "expired certificates are not swept");
            false
        })
    }

    fn try_sweep(&mut self) -> sql::Result<bool> {
        let ran = self.started.elapsed();
        let clock = match &mut self.clock {
            Some(clock) => clock,
            None => self.clock.insert(Clock::open(&mut self.session, ran)?),
        };
        let now = clock.time(&mut self.session, SystemTime::now(), ran)?;
        self.sweep.step(&mut self.session, now)
    }
}

/// A write that waits for its group.
trait Job: Send {
    fn apply(&mut self, batch: &mut Batch<'_, '_>) -> sql::Result<()>;
    fn reply(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Pending<T, F> {
    operation: Option<F>,
    value: Option<T>,
    sender: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Pending<T, F>
where
    T: Send,
    F: FnOnce(&mut Batch<'_, '_>) -> sql::Result<T> + Send,
{
    fn apply(&mut self, batch: &mut Batch<'_, '_>) -> sql::Result<()> {
        if let Some(operation) = self.operation.take() {
            self.value = Some(operation(batch)?);
        }
        Ok(())
    }

    fn reply(self: Box<Self>, committed: Result<(), StoreError>) {
        let Self { value, sender, .. } = *self;
        let result = committed.and_then(|()| value.ok_or(StoreError::Stopped));
        // The caller may have gone away; what it asked for is done all the same.
        let _ = sender.send(result);
    }
}

/// An open transaction with the end of the audit chain. What it is for is part of a group: a statement that fails,
/// fails them all.
pub(super) struct Batch<'t, 's> {
    transaction: &'t mut Transaction<'s>,
    head: Head,
    reserve_bytes: u64,
    announced: bool,
    /// Whether the ledger was set back, once somebody has asked.
    pub(super) rolled_back: Option<Option<RolledBack>>,
    /// The authorities that sign nothing any more, once somebody has asked.
    discarded: Option<HashSet<String>>,
}

impl<'t, 's> Batch<'t, 's> {
    /// Fails when the database has become one that this program must not write to.
    pub(super) fn begin(
        transaction: &'t mut Transaction<'s>,
        reserve_bytes: u64,
    ) -> sql::Result<Self> {
        schema::require(transaction)?;
        Ok(Self {
            head: Head::read(transaction)?,
            transaction,
            reserve_bytes,
            announced: false,
            rolled_back: None,
            discarded: None,
        })
    }

    /// The authorities that sign nothing any more, read once for all that are in the group.
    pub(super) fn discarded(&mut self) -> sql::Result<&HashSet<String>> {
        let known = match self.discarded.take() {
            Some(known) => known,
            None => authorities::discarded(self.transaction)?,
        };
        Ok(self.discarded.insert(known))
    }

    /// Appends an audit record and gives its number.
    pub(super) fn audit(&mut self, now: SystemTime, event: &Event) -> sql::Result<i64> {
        self.head.append(self.transaction, now, event)
    }

    /// Appends the record of a refusal, unless the room that is left is wanted for issuance.
    pub(super) fn audit_refusal(&mut self, now: SystemTime, event: &Event) -> sql::Result<()> {
        let free = self.transaction.free_bytes();
        if free.is_some_and(|free| free < self.reserve_bytes) {
            tracing::error!(?event, "disk almost full, refusal not recorded");
            return Ok(());
        }
        self.audit(now, event).map(|_| ())
    }

    /// Lets every running CA on this database know that it has to read something again.
    pub(super) fn announce(&mut self, topic: Topic) -> sql::Result<()> {
        self.announced = true;
        self.discarded = None;
        changes::announce(self.transaction, topic)
    }

    /// The same for a topic whose version others remember: it is no lower than the time, so that a database that was set
    /// back does not give a number again.
    pub(super) fn announce_by_clock(&mut self, topic: Topic, now: SystemTime) -> sql::Result<()> {
        self.announced = true;
        self.discarded = None;
        changes::announce_from(self.transaction, topic, super::unix_seconds(now))
    }
}

impl<'s> Deref for Batch<'_, 's> {
    type Target = Transaction<'s>;

    fn deref(&self) -> &Self::Target {
        self.transaction
    }
}

impl DerefMut for Batch<'_, '_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.transaction
    }
}
