//! One JSON object per line and request, on a writer of its own; never on the request's time.
//!
//! [`Record::finish`] counts the request and writes its line, so that metrics and log cannot disagree. The line goes into a
//! shared buffer that a thread writes out; when that thread falls behind, lines are dropped and counted, and requests do not
//! wait. Lines of refusals are written up to a rate, so that a flood of bad requests does not fill the disk or push out the
//! others; they are counted in full.
//!
//! `access_log/line.rs` has the format, `access_log/writer.rs` the thread.

mod line;
mod writer;

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::metrics::{Caller, Decision, Direction, Metrics};

pub use writer::{AccessLog, Writer};

/// The reason of an exchange whose caller broke off.
pub(crate) const CALLER_GONE: &str = "caller_gone";
/// The deadline of a gRPC call came before its end.
pub(crate) const DEADLINE_EXCEEDED: &str = "deadline_exceeded";
/// The reason of an exchange that ended with its connection: by a certificate, a drain, or the process.
pub(crate) const CUT_OFF: &str = "cut_off";

/// Everything the log says about one request, borrowed from the request.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    /// When the request head was read.
    pub time: SystemTime,
    pub direction: Direction,
    /// Who called, by its certificate. Outbound it is the workload itself: none.
    pub peer: Option<Peer<'a>>,
    /// Where one who called in plain text did so from: all that is known of it.
    pub address: Option<IpAddr>,
    pub method: &'a str,
    /// Host or `:authority`; bytes, since that of a rejected request may be anything.
    pub host: Option<&'a [u8]>,
    pub path: Path<'a>,
    /// What the caller saw; 0 when the connection ended before a status.
    pub status: u16,
    pub decision: Decision,
    /// Why it was refused, or why it failed although allowed. Also a label of metrics, hence from a closed set.
    pub reason: Option<&'static str>,
    /// The grant, guard or limit that decided. Written only here: callers learn no rule names.
    pub rule: Option<&'a str>,
    /// Fingerprint of the policy that decided.
    pub generation: &'a str,
    /// The id that a refused caller got with its response.
    pub decision_id: Option<&'a str>,
    /// Body bytes from the caller.
    pub bytes_in: u64,
    /// Body bytes to the caller.
    pub bytes_out: u64,
    /// From the request head to the end of the response.
    pub duration: Duration,
    /// Where it was sent: `host:port`.
    pub upstream: Option<&'a str>,
}

/// The caller, as its certificate says.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    pub id: &'a str,
    /// Lower-case hexadecimal.
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
    /// Counts the request and writes its line: the last step of every request, refused or not.
    pub fn finish(&self, metrics: &Metrics, log: &AccessLog) {
        metrics.request(self.direction, self.decision, self.status, self.duration);
        metrics.bodies(self.direction, self.bytes_in, self.bytes_out);
        if let Some(peer) = &self.peer {
            peer.counters.request(self.decision);
        }
        match (self.decision, self.reason) {
            (Decision::Allow, None) => {}
            // A caller that hangs up says nothing about the upstream.
            (Decision::Allow, Some(CALLER_GONE)) => {}
            (Decision::Allow, Some(reason)) => metrics.upstream_failure(self.direction, reason),
            (refused, reason) => {
                metrics.refusal(self.direction, refused, reason.unwrap_or("unspecified"));
            }
        }
        log.write(self);
    }
}

#[cfg(test)]
mod tests;
