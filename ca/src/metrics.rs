//! The CA's metrics: every series it has, and their text.

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

/// What the CA counts. Labels are closed sets; no name, address or text of a caller is ever one.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    issued: [Counter; Call::ALL.len()],
    refused: [Counter; Reason::ALL.len()],
    heads: [Counter; Brought::ALL.len()],
    connections: Counter,
    open_connections: Gauge,
    frozen_lineages: Gauge,
    rotation_overdue: Gauge,
    prepared_unusable: Gauge,
    unacknowledged_roots: Counter,
    server_certificate_expiry: Gauge,
}

impl Default for Metrics {
    /// Declares everything. Every series is there from the start, at zero.
    fn default() -> Self {
        let mut all = Declare(Registry::with_prefix("tipstaff_ca"));
        let issued = all.metric("certificates_issued", "Certificates handed out, by call");
        let refused = all.metric("refusals", "Calls and connections refused, by reason");
        let heads = all.metric(
            "ledger_heads",
            "Heads of the ledger that sidecars brought, by what became of them",
        );
        Self {
            issued: Call::ALL.map(|call| series(&issued, "call", call.as_str())),
            refused: Reason::ALL.map(|reason| series(&refused, "reason", reason.as_str())),
            heads: Brought::ALL.map(|head| series(&heads, "head", head.as_str())),
            connections: all.metric("connections", "Connections accepted"),
            open_connections: all.metric(
                "open_connections",
                "Connections accepted and not yet closed",
            ),
            rotation_overdue: all.metric(
                "rotation_overdue",
                "1 while the CA's own certificates are due and not replaced",
            ),
            prepared_unusable: all.metric(
                "prepared_authority_unusable",
                "1 while the authority that is prepared cannot be used here",
            ),
            unacknowledged_roots: all.metric(
                "unacknowledged_roots",
                "Roots that sign since their time had come, although not every sidecar had them",
            ),
            frozen_lineages: all.metric(
                "frozen_lineages",
                "Lineages to which nothing is issued until an operator has looked at them",
            ),
            server_certificate_expiry: all.metric(
                "server_certificate_expiry_timestamp_seconds",
                "When the CA's own server certificate ends, as Unix time",
            ),
            registry: all.0,
        }
    }
}

impl Metrics {
    /// All series as OpenMetrics text.
    pub fn render(&self) -> String {
        let mut encoded = String::new();
        text::encode(&mut encoded, &self.registry).expect("a String takes every write");
        encoded
    }

    /// How often something was refused for `reason`.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].get()
    }

    /// How many certificates were handed out in answer to `call`.
    pub fn issued(&self, call: Call) -> u64 {
        self.issued[call as usize].get()
    }

    pub(crate) fn count_refusal(&self, reason: Reason) {
        self.refused[reason as usize].inc();
    }

    /// How often a sidecar brought such a head of the ledger.
    pub fn heads(&self, head: Brought) -> u64 {
        self.heads[head as usize].get()
    }

    pub(crate) fn count_head(&self, head: Brought) {
        self.heads[head as usize].inc();
    }

    pub(crate) fn count_issued(&self, call: Call) {
        self.issued[call as usize].inc();
    }

    pub(crate) fn server_certificate_ends(&self, unix_seconds: i64) {
        self.server_certificate_expiry.set(unix_seconds);
    }

    pub(crate) fn rotation_is_overdue(&self, is_overdue: bool) {
        self.rotation_overdue.set(is_overdue.into());
    }

    pub(crate) fn prepared_is_unusable(&self, is_unusable: bool) {
        self.prepared_unusable.set(is_unusable.into());
    }

    pub(crate) fn count_unacknowledged_root(&self) {
        self.unacknowledged_roots.inc();
    }

    pub(crate) fn lineages_are_frozen(&self, count: i64) {
        self.frozen_lineages.set(count);
    }

    /// Counts a connection as open until the guard is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.inc();
        self.open_connections.inc();
        OpenConnection(self.open_connections.clone())
    }
}

/// A connection that is counted as open.
#[derive(Debug)]
pub(crate) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Registers metrics and hands them back.
struct Declare(Registry);

impl Declare {
    fn metric<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.0.register(name, help, metric.clone());
        metric
    }
}

fn series(
    family: &Family<[(&'static str, &'static str); 1], Counter>,
    label: &'static str,
    value: &'static str,
) -> Counter {
    family.get_or_create_owned(&[(label, value)])
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
        Recover = "recover",
    }
}

labels! {
    /// What a head of the ledger was that a sidecar brought.
    Brought {
        Known = "known",
        /// Not signed by this CA.
        Unproven = "unproven",
        /// Signed by this CA, and its ledger does not lead there.
        Lost = "lost",
    }
}

labels! {
    /// Why a call or a connection was refused.
    Reason {
        ConnectionLimit = "connection_limit",
        Handshake = "handshake",
        HandshakeTimeout = "handshake_timeout",
        RateLimited = "rate_limited",
        /// More ask than can be served, and others are due sooner.
        Overloaded = "overloaded",
        OversizedMessage = "oversized_message",
        MalformedMessage = "malformed_message",
        UnknownMethod = "unknown_method",
        /// A workload asked for a token where there are none, or for whom there can be none.
        NoTokens = "no_tokens",
        InvalidAudience = "invalid_audience",
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
        InvalidAttestation = "invalid_attestation",
        NotEntitled = "not_entitled",
        /// An expired certificate is not, or no longer, to be renewed.
        NoRecovery = "no_recovery",
        NotAnAdministrator = "not_an_administrator",
        InvalidEntry = "invalid_entry",
        ClientCertificate = "client_certificate",
        OtherId = "other_id",
        ForeignTrustDomain = "foreign_trust_domain",
        ReservedId = "reserved_id",
        /// A certificate was renewed again with another key: two hold its own. Someone has to look at it.
        SecondSuccessor = "second_successor",
        /// The certificate's holder has proven anew who it is since: an old process, or somebody with a copied key.
        Superseded = "superseded",
        FrozenLineage = "frozen_lineage",
        Revoked = "revoked",
        UnknownCertificate = "unknown_certificate",
        /// The CA cannot record what it would do.
        Unavailable = "unavailable",
        /// The CA's records were set back: its operator has to look.
        RolledBack = "rolled_back",
        /// The CA's fault in any other way.
        Internal = "internal",
    }
}

impl Reason {
    /// Whether the refusal is charged to the budget without which its source cannot renew. Tokens have a pace of their own:
    /// it is a workload that asks for them, and its sidecar that renews.
    pub(crate) fn is_charged(self) -> bool {
        self.is_callers_fault() && !matches!(self, Self::NoTokens | Self::InvalidAudience)
    }

    /// Whether the refusal counts against whoever caused it. A slow call does not: our own disk may be what is slow.
    pub(crate) fn is_callers_fault(self) -> bool {
        !matches!(
            self,
            Self::Unavailable
                | Self::RolledBack
                | Self::Internal
                | Self::RateLimited
                | Self::Overloaded
                | Self::Timeout
        )
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
        let metrics = Metrics::default();
        let shows = |row: &str| metrics.render().contains(row);
        let guard = metrics.connection();
        assert!(shows("tipstaff_ca_open_connections 1\n"));
        drop(guard);
        assert!(shows("tipstaff_ca_open_connections 0\n"));
        assert!(shows("tipstaff_ca_connections_total 1\n"));
    }
}
