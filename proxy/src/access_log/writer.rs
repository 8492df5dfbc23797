//! The buffer between requests and the disk, and the thread that empties it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Record, line};
use crate::config;
use crate::metrics::{Decision, Metrics};

/// Lines wait at most this long, so that `tail -f` feels live and an idle proxy sleeps.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// Enough for one large write; the writer is woken early when it is reached.
const FLUSH_AT_BYTES: usize = 64 * 1024;
/// About five thousand lines: what a disk that stalls for a moment may cost in memory before lines are dropped.
const MAX_PENDING_BYTES: usize = 1024 * 1024;
/// Enough to see what a flood is made of; at 400 bytes a line it costs 3.5 GB a day at worst.
const REFUSALS_PER_SECOND: u32 = 100;
/// Operators read logs, others do not: paths and identities are in them.
const FILE_MODE: u32 = 0o640;

/// Where records go. Cheap to clone; all clones write to the same place.
#[derive(Clone)]
pub struct AccessLog {
    /// None: off.
    shared: Option<Arc<Shared>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    clock: line::Clock,
    refusals: Sampler,
    reopen: bool,
    closing: bool,
    closed: bool,
}

impl AccessLog {
    /// Opens the target and starts its thread, which ends when the [`Writer`] is closed or dropped.
    ///
    /// # Errors
    /// When the file cannot be opened for appending or the thread cannot be started.
    pub fn open(target: &config::AccessLog, metrics: Arc<Metrics>) -> io::Result<(Self, Writer)> {
        match target {
            config::AccessLog::Off => Ok((Self { shared: None }, Writer { shared: None })),
            config::AccessLog::Stdout => Self::start(Sink::Stdout(io::stdout()), metrics),
            config::AccessLog::File(path) => Self::start(Sink::open(path.clone())?, metrics),
        }
    }

    fn start(sink: Sink, metrics: Arc<Metrics>) -> io::Result<(Self, Writer)> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            metrics,
        });
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || of_thread.write_out(sink))?;
        let writer = Writer {
            shared: Some(Arc::clone(&shared)),
        };
        Ok((
            Self {
                shared: Some(shared),
            },
            writer,
        ))
    }

    /// Opens the file anew, after log rotation has moved it away; lines already taken go to the old one.
    pub fn reopen(&self) {
        if let Some(shared) = &self.shared {
            shared.lock().reopen = true;
            shared.changed.notify_all();
        }
    }

    pub(super) fn write(&self, record: &Record<'_>) {
        let Some(shared) = &self.shared else { return };
        let mut state = shared.lock();
        if state.lines.len() >= MAX_PENDING_BYTES || state.closing {
            shared.metrics.access_log_dropped.inc();
            return;
        }
        let mut suppressed = 0;
        if record.decision != Decision::Allow {
            match state.refusals.admit(Instant::now()) {
                Some(left_out) => suppressed = left_out,
                None => {
                    shared.metrics.access_log_suppressed.inc();
                    return;
                }
            }
        }
        let State { lines, clock, .. } = &mut *state;
        let before = lines.len();
        line::append(lines, clock, record, suppressed);
        let after = lines.len();
        // The first line starts the writer's timer, a full buffer ends it; in between it need not be woken.
        if before == 0 || (before < FLUSH_AT_BYTES && after >= FLUSH_AT_BYTES) {
            shared.changed.notify_all();
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog")
            .field("on", &self.shared.is_some())
            .finish()
    }
}

/// The writing end. Dropping it ends the thread after what was taken so far; [`Writer::close`] also waits for that.
pub struct Writer {
    shared: Option<Arc<Shared>>,
}

impl Writer {
    /// Writes out every line taken so far and ends the thread. To be called after the workers have ended. Blocks for at
    /// most `limit`: a pipe that nobody reads must not keep the process alive. Answers whether all was written.
    pub fn close(self, limit: Duration) -> bool {
        let Some(shared) = &self.shared else {
            return true;
        };
        shared.close();
        let waited = shared
            .changed
            .wait_timeout_while(shared.lock(), limit, |state| !state.closed);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.closed
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.close();
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("on", &self.shared.is_some())
            .finish()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_all();
    }

    /// The thread: waits for lines, lets them gather, swaps the buffer and writes with the lock released.
    fn write_out(&self, mut sink: Sink) {
        let mut batch = Vec::new();
        loop {
            let idle =
                |state: &mut State| state.lines.is_empty() && !state.closing && !state.reopen;
            let state = self.changed.wait_while(self.lock(), idle);
            let state = state.unwrap_or_else(PoisonError::into_inner);
            let gathering = |state: &mut State| {
                state.lines.len() < FLUSH_AT_BYTES && !state.closing && !state.reopen
            };
            let state = self
                .changed
                .wait_timeout_while(state, FLUSH_EVERY, gathering);
            let (mut state, _) = state.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut state.lines, &mut batch);
            let reopen = std::mem::take(&mut state.reopen);
            let closing = state.closing;
            drop(state);

            if let Err(error) = sink.write(&batch) {
                let lost = batch.iter().filter(|byte| **byte == b'\n').count();
                self.metrics.access_log_dropped.inc_by(lost as u64);
                tracing::error!(%error, lines = lost, "access log not written");
            }
            batch.clear();
            if reopen && let Err(error) = sink.reopen() {
                tracing::error!(%error, "access log not reopened, the old file stays in use");
            }
            if closing {
                self.lock().closed = true;
                self.changed.notify_all();
                return;
            }
        }
    }
}

/// Where bytes end up.
enum Sink {
    Stdout(io::Stdout),
    File {
        path: PathBuf,
        file: File,
        torn: bool,
    },
}

impl Sink {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = append_to(&path)?;
        Ok(Self::File {
            path,
            file,
            torn: false,
        })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => {
                let mut stdout = stdout.lock();
                stdout.write_all(lines)?;
                stdout.flush()
            }
            Self::File { file, torn, .. } => {
                // A write that failed half-way (full disk) may have left a line without its end.
                if *torn {
                    file.write_all(b"\n")?;
                }
                *torn = true;
                file.write_all(lines)?;
                *torn = false;
                Ok(())
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, .. } = self {
            *self = Self::open(path.clone())?;
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .open(path)
}

/// Admits so many a second.
#[derive(Default)]
pub(super) struct Sampler {
    window: Option<Instant>,
    admitted: u32,
    left_out: u64,
}

impl Sampler {
    /// Whether to write one more, and then how many were left out since the last one written.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u64> {
        let in_window =
            |start: Instant| now.saturating_duration_since(start) < Duration::from_secs(1);
        if !self.window.is_some_and(in_window) {
            self.window = Some(now);
            self.admitted = 0;
        }
        if self.admitted >= REFUSALS_PER_SECOND {
            self.left_out += 1;
            return None;
        }
        self.admitted += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}
