//! What a listener may be asked for, in numbers.

use crate::api::Limits;
use crate::turns::Bounds;
use std::time::Duration;

/// Limits of the listener. `Default` is what production runs with.
#[derive(Debug, Clone)]
pub struct Options {
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// From the head of an Issue or Renew call to its reply.
    pub request_timeout: Duration,
    /// TLS handshakes that are worked on at once.
    pub handshakes_at_once: usize,
    /// Connections above this number are closed at once.
    pub max_connections: usize,
    /// Of these, how many one address may hold without having shown a client certificate, while most are free: with half of
    /// them a quarter as many, and so on.
    pub max_strangers_per_address: usize,
    /// Of these, how many one identity may hold, all its replicas together.
    pub max_connections_per_identity: usize,
    /// Of these, how many one certificate may hold: a stolen key leaves the identity's other replicas theirs.
    pub max_connections_per_certificate: usize,
    /// A connection without a client certificate is told to go away at this age: it is good for an Issue call, and
    /// must not be a cheap way to hold a place.
    pub max_anonymous_age: Duration,
    /// Any other connection is told to go away at this age, so that clients spread over replicas again.
    pub max_connection_age: Duration,
    /// How long open calls may take to end after a shutdown, or after a connection was told to go away.
    pub drain: Duration,
    /// Refusals that one source may cause per minute, in one burst or spread.
    pub refusals_per_minute: u32,
    /// Certificates that one identity may get per minute, in one burst or spread, all its replicas together.
    pub certificates_per_minute: u32,
    /// Certificates that one address may get per minute, whatever identities it asks for.
    pub certificates_per_minute_per_address: u32,
    /// Certificates that are signed and recorded at once.
    pub issued_at_once: usize,
    /// Calls that wait for one of these places; beyond it those that are due last are turned away.
    pub waiting: usize,
    /// How long one waits, less than `request_timeout`.
    pub longest_wait: Duration,
    /// Readings of the bundle by one address without a certificate per minute, in one burst or spread.
    pub reads_per_minute_per_address: u32,
    /// How often the ledger's head is signed and sent to sidecars, if the ledger has grown.
    pub ledger_head_interval: Duration,
}

/// Connections that wait for their handshake; beyond it those are closed whose address has had the most.
const HANDSHAKES_WAITING: usize = 1024;
/// How long one waits: sidecars give up after 5 s.
const LONGEST_WAIT_FOR_HANDSHAKE: Duration = Duration::from_secs(3);

impl Options {
    pub(super) fn handshakes(&self) -> Bounds {
        Bounds {
            places: self.handshakes_at_once,
            waiting: HANDSHAKES_WAITING,
            wait: LONGEST_WAIT_FOR_HANDSHAKE,
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            certificates_per_minute: self.certificates_per_minute,
            certificates_per_minute_per_address: self.certificates_per_minute_per_address,
            turns: Bounds {
                places: self.issued_at_once,
                waiting: self.waiting,
                wait: self.longest_wait,
            },
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // A handshake takes milliseconds; ten seconds allow for a lost packet or two.
            handshake_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(10),
            // Keeps any number of cores busy over a slow network, and is done within the tenth of a second on a single one.
            handshakes_at_once: 64,
            // One WatchBundle connection per sidecar, at some 40 KiB each.
            max_connections: 8192,
            // Leaves a fleet behind one address room to enrol, and everybody else room when that address floods.
            max_strangers_per_address: 512,
            // A large fleet fits; a stolen key leaves everybody else half of the places.
            max_connections_per_identity: 4096,
            // A sidecar has two, and for a moment as many again when one of them is told to go away.
            max_connections_per_certificate: 32,
            max_anonymous_age: Duration::from_secs(30),
            // Less than the server's certificate has left when it is replaced, so that none outlives that either.
            max_connection_age: Duration::from_secs(15 * 60),
            drain: Duration::from_secs(5),
            // A misconfigured sidecar that retries every few seconds stays below; a flood does not.
            refusals_per_minute: 60,
            // A workload of some hundred replicas starts at once; a thief of its key fills no disk within a day.
            certificates_per_minute: 600,
            // A fleet of some thousands behind one address starts within a minute.
            certificates_per_minute_per_address: 6000,
            // As many as fill a group commit; what is in work is not put in order any more.
            issued_at_once: 128,
            // Two seconds' worth of a database that does five hundred a second.
            waiting: 1024,
            longest_wait: Duration::from_secs(4),
            // A partner's replicas behind one address ask every five minutes.
            reads_per_minute_per_address: 600,
            // What is issued in between is lost unnoticed if the records are set back to before it. A head has 1.5 KiB, and
            // goes to every sidecar.
            ledger_head_interval: Duration::from_secs(30),
        }
    }
}
