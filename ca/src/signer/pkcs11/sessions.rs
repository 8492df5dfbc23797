//! The threads that hold a token's sessions. A session belongs to one thread, and a driver that hangs must hold up no
//! more than it.

use super::{KeyInToken, Signing};
use crate::signer::{Custody, SignError};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A network HSM answers in some milliseconds, and so many callers at once.
const SESSIONS: usize = 4;
/// Callers above this number are turned away: they would wait for longer than [`DEADLINE`] anyway.
const QUEUE: usize = 256;
/// From asking for a signature to having it. Below the deadline of the call that wants it.
const DEADLINE: Duration = Duration::from_secs(5);
/// After a token could not be used it is left alone for this long, doubling up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long the threads are waited for at the end: a library that is called while the process ends may crash it.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// A key in a token, behind its threads. They end when this is dropped, which waits for them, though not for a driver
/// that hangs.
pub(super) struct Sessions {
    /// `Some` until drop.
    jobs: Option<SyncSender<Job>>,
    /// Closed once all threads have ended.
    ended: Mutex<Receiver<()>>,
}

struct Job {
    message: Vec<u8>,
    /// Nobody waits for the answer after this.
    until: Instant,
    answer: SyncSender<Result<Vec<u8>, SignError>>,
}

impl Sessions {
    pub(super) fn start(key: KeyInToken) -> Result<Self, SignError> {
        let (jobs, queue) = sync_channel(QUEUE);
        let (living, ended) = sync_channel(0);
        let threads = Arc::new(Shared {
            key,
            queue: Mutex::new(queue),
            was_open: AtomicBool::new(false),
            outage: Mutex::new(None),
        });
        for _ in 0..SESSIONS {
            let (shared, living) = (Arc::clone(&threads), living.clone());
            thread::Builder::new()
                .name("ca-token".to_owned())
                .spawn(move || {
                    shared.serve();
                    // The last one lets go of the library.
                    drop(shared);
                    drop::<SyncSender<()>>(living);
                })
                .map_err(|error| {
                    threads
                        .key
                        .device
                        .says(format!("no thread for it: {error}"))
                })?;
        }
        Ok(Self {
            jobs: Some(jobs),
            ended: Mutex::new(ended),
        })
    }
}

impl Drop for Sessions {
    fn drop(&mut self) {
        self.jobs = None;
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent: it is closed, or the time is up.
        let _ = ended.recv_timeout(LAST_CALLS);
    }
}

impl Custody for Sessions {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let (answer, result) = sync_channel(1);
        let job = Job {
            message: message.to_vec(),
            until: Instant::now() + DEADLINE,
            answer,
        };
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.try_send(job).ok())
            .ok_or(SignError::Timeout(DEADLINE))?;
        match result.recv_timeout(DEADLINE) {
            Ok(signed) => signed,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(SignError::Timeout(DEADLINE))
            }
        }
    }

    fn width(&self) -> usize {
        SESSIONS
    }
}

/// What the threads have in common.
struct Shared {
    key: KeyInToken,
    queue: Mutex<Receiver<Job>>,
    /// Whether the key was there before.
    was_open: AtomicBool,
    /// Also the turn to log in: a wrong PIN is tried by one thread, once.
    outage: Mutex<Option<Outage>>,
}

/// The token could not be used, and is left alone for a while.
struct Outage {
    error: SignError,
    pause: Duration,
    /// `None` is for good.
    until: Option<Instant>,
}

impl Shared {
    /// Answers jobs until nobody can ask any more.
    fn serve(&self) {
        let mut open = None;
        loop {
            // Whoever waits for a job holds the queue; the others wait for that.
            let job = self
                .queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv();
            let Ok(job) = job else { return };
            if Instant::now() >= job.until {
                continue;
            }
            // The caller may have given up.
            let _ = job.answer.try_send(self.answer(&mut open, &job.message));
        }
    }

    /// With the session at hand, or with a new one: the token may have been away and be back.
    fn answer<'a>(
        &'a self,
        open: &mut Option<Signing<'a>>,
        message: &[u8],
    ) -> Result<Vec<u8>, SignError> {
        if let Some(signing) = open.take()
            && let Ok(signature) = signing.sign(message)
        {
            *open = Some(signing);
            return Ok(signature);
        }
        let signing = self.reopen()?;
        let signature = signing.sign(message)?;
        *open = Some(signing);
        Ok(signature)
    }

    fn reopen(&self) -> Result<Signing<'_>, SignError> {
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Outage { error, until, .. }) = &*outage
            && until.is_none_or(|until| Instant::now() < until)
        {
            return Err(error.clone());
        }
        match self.session() {
            Ok(signing) => {
                self.was_open.store(true, Ordering::Relaxed);
                if outage.take().is_some() {
                    tracing::info!(token = self.key.device.token, "the token is back");
                }
                Ok(signing)
            }
            Err(error) => {
                let pause = outage
                    .as_ref()
                    .map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
                tracing::error!(%error, "the CA's token cannot be used");
                *outage = Some(Outage {
                    until: (!matches!(error, SignError::Pin { .. }))
                        .then(|| Instant::now() + pause),
                    error: error.clone(),
                    pause,
                });
                Err(error)
            }
        }
    }

    /// At the second attempt with a library that is started anew; not after a wrong PIN, which would then be tried again, and not
    /// for a key that was never there: other keys' sessions would end for it.
    fn session(&self) -> Result<Signing<'_>, SignError> {
        match self.key.session() {
            Err(error) if self.may_come_back(&error) => {
                self.key.device.restart()?;
                self.key.session()
            }
            other => other,
        }
    }

    fn may_come_back(&self, error: &SignError) -> bool {
        match error {
            SignError::Token { .. } => true,
            // A token that is away may look like one that is empty.
            SignError::Missing { .. } => self.was_open.load(Ordering::Relaxed),
            _ => false,
        }
    }
}
