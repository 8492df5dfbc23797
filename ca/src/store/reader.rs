//! The one thread that reads for calls: beside the writer, as what is only read need not wait for what others have committed.

use super::session::{Access, Session, Transaction};
use super::sql;
use super::{Database, StoreError, schema};
use std::collections::VecDeque;
use std::io;
use std::thread::{self, JoinHandle};
use tokio::sync::{mpsc, oneshot};

/// Callers above this number wait to be let in.
const QUEUE: usize = 1024;
/// Bounds the time for which a transaction is open.
const MAX_GROUP: usize = 256;

/// What is to be read, or why nothing can be. Fails after its caller has heard that it did.
type Question =
    Box<dyn FnOnce(Result<&mut Transaction<'_>, StoreError>) -> Result<(), StoreError> + Send>;

/// Hands questions to the reader thread, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Reader {
    /// `Some` until drop.
    questions: Option<mpsc::Sender<Question>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Connects when it is first asked.
    pub(super) fn spawn(database: Database) -> io::Result<Self> {
        let (questions, mut queue) = mpsc::channel(QUEUE);
        let thread = thread::Builder::new()
            .name("ca-store-read".to_owned())
            .spawn(move || {
                let (mut session, mut group) = (None, Vec::new());
                while queue.blocking_recv_many(&mut group, MAX_GROUP) > 0 {
                    answer(&database, &mut session, group.drain(..).collect());
                }
            })?;
        Ok(Self {
            questions: Some(questions),
            thread: Some(thread),
        })
    }

    /// Runs `operation` on one moment of the database, with all in it that was committed before this was called. What is
    /// decided by the answer may have changed by the time that something is recorded: what must not, is asked again there.
    ///
    /// Cancel safe.
    pub(super) async fn read<T, F>(&self, operation: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> sql::Result<T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let question: Question = Box::new(move |transaction| {
            let found = transaction
                .and_then(|transaction| operation(transaction).map_err(StoreError::cannot_read));
            let failed = found.as_ref().err().cloned();
            // The caller may have gone away.
            let _ = sender.send(found);
            failed.map_or(Ok(()), Err)
        });
        let questions = self.questions.as_ref().ok_or(StoreError::Stopped)?;
        let asked = questions.send(question).await;
        asked.map_err(|_| StoreError::Stopped)?;
        receiver.await.map_err(|_| StoreError::Stopped)?
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.questions = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook, and to callers as `Stopped`.
            let _ = thread.join();
        }
    }
}

/// One transaction for all that was asked by now. When one question fails, all that are left do: on PostgreSQL the
/// transaction takes no other.
fn answer(database: &Database, session: &mut Option<Session>, mut group: VecDeque<Question>) {
    let failed = match ask_all(database, session, &mut group) {
        Ok(Ok(())) => return,
        Ok(Err(failed)) => failed,
        Err(error) => StoreError::cannot_read(error),
    };
    for question in group {
        // It passes on no more than what it was given.
        let _ = question(Err(failed.clone()));
    }
}

fn ask_all(
    database: &Database,
    session: &mut Option<Session>,
    group: &mut VecDeque<Question>,
) -> sql::Result<Result<(), StoreError>> {
    let session = match session {
        Some(session) => session,
        None => session.insert(Session::connect(database, Access::Read)?),
    };
    session.transaction(Access::Read, |transaction| {
        // Another replica may have brought the database further.
        schema::require(transaction)?;
        while let Some(question) = group.pop_front() {
            if let Err(failed) = question(Ok(&mut *transaction)) {
                return Ok(Err(failed));
            }
        }
        Ok(Ok(()))
    })
}

#[cfg(test)]
mod tests;
