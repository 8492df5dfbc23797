//! The identity and the policy that this sidecar has now. Most of it is looked at when metrics are asked for.

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Declare;
use crate::IdentityFeed;
use crate::admin::PolicyStatus;

#[derive(Debug)]
pub(crate) struct Standing {
    identity_expiry: Gauge,
    identity_remaining: Gauge<f64, AtomicU64>,
    identity_changes: Counter,
    renewal_failing: Gauge,
    bundle_sequence: Gauge,
    clock_skew: Gauge<f64, AtomicU64>,
    policy_loaded: Gauge,
    policy_generation: Family<[(&'static str, String); 1], Gauge>,
}

impl Standing {
    pub(super) fn declare(all: &mut Declare) -> Self {
        Self {
            identity_expiry: all.family(
                "identity_expiry_timestamp_seconds",
                "When the present certificate ends, as Unix time; 0 without one",
            ),
            identity_remaining: all.family(
                "identity_remaining_ratio",
                "What is left of the present certificate's life, from 1 to 0; alarm at 0.33",
            ),
            identity_changes: all.family(
                "identity_changes",
                "Certificates taken into use, the first one included",
            ),
            renewal_failing: all.family(
                "identity_renewal_failing_seconds",
                "For how long attempts to obtain or renew the identity have failed; 0 while all is well",
            ),
            bundle_sequence: all.family("bundle_sequence", "Sequence number of the trust bundle"),
            clock_skew: all.family(
                "clock_skew_seconds",
                "How far this machine's clock is ahead of the CA's, by the CA's last answer; 0 before the first",
            ),
            policy_loaded: all.family(
                "policy_loaded_timestamp_seconds",
                "When the policy in use was loaded, as Unix time",
            ),
            policy_generation: all.family(
                "policy_generation",
                "Always 1; the label is the fingerprint of the policy in use",
            ),
        }
    }

    /// Counts a certificate taken into use.
    pub(crate) fn identity_changed(&self) {
        self.identity_changes.inc();
    }

    /// Takes identity and policy as they are at `now`.
    pub(super) fn observe(&self, feed: &IdentityFeed, policy: &PolicyStatus, now: SystemTime) {
        self.observe_identity(feed, now);
        self.policy_loaded.set(unix_seconds(policy.loaded_at));
        // One generation at a time, or every reload would leave a series behind.
        self.policy_generation.clear();
        let generation = policy.generation.clone();
        self.policy_generation
            .get_or_create(&[("generation", generation)])
            .set(1);
    }

    fn observe_identity(&self, feed: &IdentityFeed, now: SystemTime) {
        let (expiry, remaining) = match feed.svid.borrow().as_ref() {
            Some(svid) => {
                let leaf = svid.leaf();
                let life = seconds_between(leaf.not_before, leaf.not_after);
                let left = seconds_between(now, leaf.not_after);
                (unix_seconds(leaf.not_after), (left / life).clamp(0.0, 1.0))
            }
            None => (0, 0.0),
        };
        self.identity_expiry.set(expiry);
        self.identity_remaining.set(remaining);
        let skew = feed.state.borrow().skew();
        self.clock_skew.set(skew.map_or(0.0, |skew| skew.seconds()));
        let failing = feed
            .state
            .borrow()
            .failing
            .as_ref()
            .map(|failing| failing.since);
        let failing = failing.map_or(0.0, |since| seconds_between(since, now));
        self.renewal_failing.set(failing as i64);
        let sequence = feed.bundle.borrow().sequence();
        self.bundle_sequence
            .set(i64::try_from(sequence).unwrap_or(i64::MAX));
    }
}

fn unix_seconds(at: SystemTime) -> i64 {
    seconds_between(SystemTime::UNIX_EPOCH, at) as i64
}

/// 0 when `to` is not after `from`.
fn seconds_between(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).unwrap_or_default().as_secs_f64()
}
