//! A pool of idle HTTP/1.1 connections.

use crate::h1::client::Connection;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Idle connections kept. An app with more callers at once than this has connections opened and closed at the margin.
const MAX_IDLE: usize = 256;

/// After a rest this long the kernel is asked whether the server has closed; the runtime may not have heard of it yet. A busy
/// connection is not worth the system call.
const LONG: Duration = Duration::from_millis(100);

/// The idle connections to one server, most recently used last.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self {
            idle: Mutex::new(Vec::new()),
        }
    }

    /// A connection that at `now` has rested in the pool for less than `limit`, if there is one. After a longer rest the server may be
    /// about to close it, under a request that could not be sent again.
    pub(crate) fn take(&self, limit: Duration, now: Instant) -> Option<Box<Connection>> {
        let mut idle = self.lock();
        while let Some(Idle {
            mut connection,
            since,
        }) = idle.pop()
        {
            let rested = now.saturating_duration_since(since);
            if rested < limit && connection.is_at_rest(rested >= LONG) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request, unless it cannot carry one.
    pub(crate) fn put(&self, mut connection: Box<Connection>) {
        let mut idle = self.lock();
        if idle.len() < MAX_IDLE && connection.is_reusable() {
            connection.rest();
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// Closes what has been idle for longer than `limit`. Called now and then by the worker.
    pub(crate) fn sweep(&self, limit: Duration) {
        self.lock().retain(|idle| idle.since.elapsed() < limit);
    }

    /// Closes all that are idle.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
