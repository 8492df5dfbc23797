//! The one thread that writes, its group commit, and the sweep in between.

use super::StoreError;
use super::sweep::Sweep;
use crate::ledger::{Event, Head};
use rusqlite::{Connection, TransactionBehavior};
use std::io;
use std::thread::{self, JoinHandle};
use std::time::SystemTime;
use tokio::sync::{mpsc, oneshot};

/// Callers above this number wait to be let in.
const QUEUE: usize = 1024;
/// Bounds the time from the first write of a group to its commit.
const MAX_BATCH: usize = 256;

/// Hands writes to the writer thread. The thread ends when this is dropped, after what was queued is committed.
#[derive(Debug)]
pub(super) struct Writer {
    /// `Some` until drop.
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Refusals are not recorded while the disk has less than `reserve_bytes` free.
    pub(super) fn spawn(mut connection: Connection, reserve_bytes: u64) -> io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("ca-store".to_owned())
            .spawn(move || {
                let (mut group, mut sweep) = (Vec::new(), Sweep::default());
                while queue.blocking_recv_many(&mut group, MAX_BATCH) > 0 {
                    commit_group(&mut connection, &mut group, reserve_bytes);
                    while sweep_once(&mut connection, &mut sweep)
                        && queue.is_empty()
                        && !queue.is_closed()
                    {}
                }
            })?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Runs `operation` in the next transaction and returns its result once that is committed and synced.
    ///
    /// Cancel safe in the sense that a dropped call may still be carried out.
    pub(super) async fn write<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send + 'static,
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

/// One transaction for the whole group, which it leaves empty. If anything fails, nothing of the group is kept and
/// everyone hears of it: what fails here is the disk or the database, never what one caller asked for.
fn commit_group(connection: &mut Connection, group: &mut Vec<Box<dyn Job>>, reserve_bytes: u64) {
    let committed =
        apply_and_commit(connection, group, reserve_bytes).map_err(StoreError::cannot_record);
    for job in group.drain(..) {
        job.reply(committed.clone());
    }
}

fn apply_and_commit(
    connection: &mut Connection,
    group: &mut [Box<dyn Job>],
    reserve_bytes: u64,
) -> rusqlite::Result<()> {
    // Immediate: the end of the chain must not be read before nobody else can append to it.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut batch = Batch::begin(&transaction, reserve_bytes)?;
    for job in group {
        job.apply(&mut batch)?;
    }
    transaction.commit()
}

/// A transaction of its own, as no caller's write may fail for it. Gives whether another is due.
fn sweep_once(connection: &mut Connection, sweep: &mut Sweep) -> bool {
    sweep
        .step(connection, SystemTime::now())
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "expired certificates are not swept");
            false
        })
}

/// A write that waits for its group.
trait Job: Send {
    fn apply(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()>;
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
    F: FnOnce(&mut Batch<'_>) -> rusqlite::Result<T> + Send,
{
    fn apply(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
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

/// An open transaction with the end of the audit chain.
pub(super) struct Batch<'a> {
    connection: &'a Connection,
    head: Head,
    reserve_bytes: u64,
}

impl<'a> Batch<'a> {
    pub(super) fn begin(connection: &'a Connection, reserve_bytes: u64) -> rusqlite::Result<Self> {
        Ok(Self {
            connection,
            head: Head::read(connection)?,
            reserve_bytes,
        })
    }

    pub(super) fn connection(&self) -> &'a Connection {
        self.connection
    }

    /// Appends an audit record and gives its number.
    pub(super) fn audit(&mut self, now: SystemTime, event: &Event) -> rusqlite::Result<i64> {
        self.head.append(self.connection, now, event)
    }

    /// Appends the record of a refusal, unless the room that is left is wanted for issuance.
    pub(super) fn audit_refusal(&mut self, now: SystemTime, event: &Event) -> rusqlite::Result<()> {
        if free_bytes(self.connection).is_some_and(|free| free < self.reserve_bytes) {
            tracing::error!(?event, "disk almost full, refusal not recorded");
            return Ok(());
        }
        self.audit(now, event).map(|_| ())
    }
}

/// `None` where the system does not tell.
fn free_bytes(connection: &Connection) -> Option<u64> {
    let disk = rustix::fs::statvfs(connection.path()?).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
