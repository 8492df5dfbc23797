//! The CA's metrics: every series it has, and their Prometheus text.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// What the CA counts. Labels are closed sets; no name, address or text of a caller is ever one.
#[derive(Debug, Default)]
pub struct Metrics {
    issued: [AtomicU64; Call::ALL.len()],
    refused: [AtomicU64; Reason::ALL.len()],
    connections_opened: AtomicU64,
    connections_open: AtomicI64,
    server_not_after: AtomicI64,
}

impl Metrics {
    /// All series in the Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(2048);
        let mut family = |name: &str, kind: &str, help: &str, rows: &[(String, i64)]| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in rows {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        };
        let rows = |label: &str, names: &[&str], values: &[AtomicU64]| -> Vec<(String, i64)> {
            names
                .iter()
                .zip(values)
                .map(|(name, value)| (format!("{{{label}=\"{name}\"}}"), saturate(value)))
                .collect()
        };
        family(
            "tipstaff_ca_certificates_issued_total",
            "counter",
            "Certificates handed out, by call.",
            &rows("call", &Call::ALL.map(Call::as_str), &self.issued),
        );
        family(
            "tipstaff_ca_refusals_total",
            "counter",
            "Calls and connections refused, by reason.",
            &rows("reason", &Reason::ALL.map(Reason::as_str), &self.refused),
        );
        family(
            "tipstaff_ca_connections_total",
            "counter",
            "Connections accepted.",
            &[(String::new(), saturate(&self.connections_opened))],
        );
        family(
            "tipstaff_ca_connections_open",
            "gauge",
            "Connections open now.",
            &[(String::new(), self.connections_open.load(Relaxed))],
        );
        family(
            "tipstaff_ca_server_certificate_not_after_seconds",
            "gauge",
            "When the CA's own server certificate expires, in seconds since the Unix epoch.",
            &[(String::new(), self.server_not_after.load(Relaxed))],
        );
        out
    }

    /// How often something was refused for `reason`.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }

    /// How many certificates were handed out in answer to `call`.
    pub fn issued(&self, call: Call) -> u64 {
        self.issued[call as usize].load(Relaxed)
    }

    pub(crate) fn count_refusal(&self, reason: Reason) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn count_issued(&self, call: Call) {
        self.issued[call as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn server_certificate_ends(&self, unix_seconds: i64) {
        self.server_not_after.store(unix_seconds, Relaxed);
    }

    /// Counts a connection as open until the guard is dropped.
    pub(crate) fn connection(self: std::sync::Arc<Self>) -> OpenConnection {
        self.connections_opened.fetch_add(1, Relaxed);
        self.connections_open.fetch_add(1, Relaxed);
        OpenConnection(self)
    }
}

/// A connection that is counted as open.
#[derive(Debug)]
pub(crate) struct OpenConnection(std::sync::Arc<Metrics>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.connections_open.fetch_sub(1, Relaxed);
    }
}

fn saturate(value: &AtomicU64) -> i64 {
    i64::try_from(value.load(Relaxed)).unwrap_or(i64::MAX)
}

/// Declares a closed set of label values: the enum, all of its members, and the word for each.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// In the order of declaration, which is the order of the counters.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$variant),*];

            /// The word in metrics, logs and the `tipstaff-reason` metadata.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

labels! {
    /// Calls that hand out certificates.
    Call {
        Issue = "issue",
        Renew = "renew",
    }
}

labels! {
    /// Why a call or a connection was refused.
    Reason {
        ConnectionLimit = "connection_limit",
        Handshake = "handshake",
        HandshakeTimeout = "handshake_timeout",
        RateLimited = "rate_limited",
        OversizedMessage = "oversized_message",
        MalformedMessage = "malformed_message",
        UnknownMethod = "unknown_method",
        Timeout = "timeout",
        InvalidId = "invalid_id",
        InvalidCsr = "invalid_csr",
        InvalidEnrolmentKey = "invalid_enrolment_key",
        WrongProof = "wrong_proof",
        MalformedToken = "malformed_token",
        UnknownToken = "unknown_token",
        ExpiredToken = "expired_token",
        ReplayedToken = "replayed_token",
        NotEnrolled = "not_enrolled",
        ClientCertificate = "client_certificate",
        OtherId = "other_id",
        ForeignTrustDomain = "foreign_trust_domain",
        ReservedId = "reserved_id",
        /// The CA cannot record what it would do.
        Unavailable = "unavailable",
        /// The CA's fault in any other way.
        Internal = "internal",
    }
}

impl Reason {
    /// Whether the refusal counts against whoever caused it.
    pub(crate) fn is_callers_fault(self) -> bool {
        !matches!(self, Self::Unavailable | Self::Internal | Self::RateLimited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_row() {
        let metrics = Metrics::default();
        for (times, reason) in Reason::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| metrics.count_refusal(reason));
        }
        let text = metrics.render();
        for (times, reason) in Reason::ALL.into_iter().enumerate() {
            let row = format!(
                "tipstaff_ca_refusals_total{{reason=\"{}\"}} {times}\n",
                reason.as_str()
            );
            assert!(text.contains(&row), "{row} in {text}");
        }
    }

    #[test]
    fn a_connection_is_open_until_its_guard_is_dropped() {
        let metrics = std::sync::Arc::new(Metrics::default());
        let guard = std::sync::Arc::clone(&metrics).connection();
        assert!(
            metrics
                .render()
                .contains("tipstaff_ca_connections_open 1\n")
        );
        drop(guard);
        assert!(
            metrics
                .render()
                .contains("tipstaff_ca_connections_open 0\n")
        );
        assert!(
            metrics
                .render()
                .contains("tipstaff_ca_connections_total 1\n")
        );
    }
}
