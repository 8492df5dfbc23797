//! One JSON object per line and request, on its own writer; never on the request's time.
//!
//! [`Record::finish`] counts the request and writes its line: the metrics and the log cannot disagree. A line is serialised
//! into a shared buffer that a thread of its own writes out; when the writer falls behind, lines are dropped and counted,
//! requests never wait. Denials are written up to a rate and counted in full.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config;
use crate::metrics::{Caller, Decision, Direction, Metrics};

/// Everything the log says about one request. Borrowed: the request's own data, written before it is dropped.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// When the request head was read.
    pub time: SystemTime,
    pub direction: Direction,
    /// Who called: inbound from the peer's certificate; outbound the workload itself, so none.
    pub peer: Option<Peer<'a>>,
    pub method: &'a str,
    /// Host or `:authority`, as bytes since a rejected one may be anything.
    pub host: Option<&'a [u8]>,
    pub path: Path<'a>,
    /// The status the caller saw; 0 when the connection ended before one.
    pub status: u16,
    pub decision: Decision,
    /// Why it was refused, or why it failed after it was allowed. A label of metrics: a closed set.
    pub reason: Option<&'static str>,
    /// The grant, guard or limit that decided. Only ever written here: callers learn no rule names.
    pub rule: Option<&'a str>,
    /// [`policy::Policy`]'s fingerprint.
    pub generation: &'a str,
    /// The id that a refused caller got in its response.
    pub decision_id: Option<&'a str>,
    /// Body bytes from the caller.
    pub bytes_in: u64,
    /// Body bytes to the caller.
    pub bytes_out: u64,
    pub duration: Duration,
    /// Where it was sent, `host:port`.
    pub upstream: Option<&'a str>,
}

/// The caller, as its certificate says.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    pub id: &'a str,
    /// Hexadecimal.
    pub serial: &'a str,
    pub counters: &'a Caller,
}

/// What the request was for.
#[derive(Debug, Clone, Copy)]
pub enum Path<'a> {
    /// What was decided on and forwarded.
    Canonical(&'a str),
    /// What arrived and was rejected.
    Raw(&'a [u8]),
}

impl Record<'_> {
    /// Counts the request and writes its line. The last step of every request, refused or not.
    pub fn finish(&self, metrics: &Metrics, log: &AccessLog) {
        todo!()
    }
}

/// Where records go. Cheap to clone; all clones write to the same place.
#[derive(Debug, Clone)]
pub struct AccessLog {}

impl AccessLog {
    /// Opens the target and starts its writer, a thread that ends when the [`Writer`] is closed.
    ///
    /// # Errors
    /// When the file cannot be opened for appending or the thread cannot be started.
    pub fn open(target: &config::AccessLog, metrics: Arc<Metrics>) -> io::Result<(Self, Writer)> {
        todo!()
    }

    /// Opens the file anew, after log rotation has moved it away. Lines already taken go to the old one.
    pub fn reopen(&self) {
        todo!()
    }
}

/// The writing end.
#[derive(Debug)]
pub struct Writer {}

impl Writer {
    /// Writes out every line taken so far and ends the thread. Call it after the workers have ended. Blocks for the write.
    pub fn close(self) {
        todo!()
    }
}
