//! What becomes of connections, of callers and to servers.

use super::{CountBy, Declare, Direction, Labels, Metrics, PerDirection, count, per_direction};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

#[derive(Debug)]
pub(super) struct Connections {
    open: PerDirection<Gauge>,
    refused: CountBy<2>,
    ended: CountBy<2>,
    upstreams_ended: CountBy<2>,
    handshakes: PerDirection<Counter>,
    handshake_failures: CountBy<2>,
}

impl Connections {
    pub(super) fn declare(all: &mut Declare) -> Self {
        let open: Family<Labels<1>, Gauge> = all.family(
            "open_connections",
            "Connections accepted and not yet closed",
        );
        let refused = all.family(
            "refused_connections",
            "Connections closed before their first byte was read, by reason",
        );
        let ended = all.family(
            "ended_connections",
            "Connections of callers that ended before their time, by reason",
        );
        let upstreams_ended = all.family(
            "ended_upstream_connections",
            "HTTP/2 connections to apps and servers that ended before their time, by reason",
        );
        let handshakes: CountBy<1> = all.family("tls_handshakes", "TLS handshakes that succeeded");
        let handshake_failures = all.family(
            "tls_handshake_failures",
            "TLS handshakes that failed, by reason",
        );
        Self {
            open: per_direction(&open),
            refused,
            ended,
            upstreams_ended,
            handshakes: per_direction(&handshakes),
            handshake_failures,
        }
    }
}

impl Metrics {
    /// Counts an open connection until the guard is dropped.
    #[must_use = "the connection is counted only while the guard lives"]
    pub fn connection(&self, direction: Direction) -> OpenConnection {
        let open = &self.connections.open[direction as usize];
        open.inc();
        OpenConnection(open.clone())
    }

    /// Counts a connection closed before its first byte was read: over the cap, or not from the workload.
    pub fn connection_refused(&self, direction: Direction, reason: &'static str) {
        count(&self.connections.refused, direction, reason);
    }

    /// Counts a connection that ended by what came on it.
    pub(crate) fn connection_ended(&self, direction: Direction, reason: &'static str) {
        count(&self.connections.ended, direction, reason);
    }

    /// The same of a connection that requests are sent on.
    pub(crate) fn upstream_ended(&self, direction: Direction, reason: &'static str) {
        count(&self.connections.upstreams_ended, direction, reason);
    }

    /// Counts a TLS handshake that succeeded.
    pub fn handshake(&self, direction: Direction) {
        self.connections.handshakes[direction as usize].inc();
    }

    /// Counts a TLS handshake that failed.
    pub fn handshake_failure(&self, direction: Direction, reason: &'static str) {
        count(&self.connections.handshake_failures, direction, reason);
    }
}

/// An open connection, counted until dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}
