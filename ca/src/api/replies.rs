//! What is said in reply: certificates, the bundle, what is revoked.

use super::{Api, watch};
use crate::authority::Issued;
use crate::metrics::Call;
use crate::proto::{Certificate, IssueResponse, Registration, Revocations, TrustBundle};
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::info;

impl Api {
    pub(super) fn issue_response(
        &self,
        issued: &Issued,
        registration: Registration,
    ) -> IssueResponse {
        IssueResponse {
            certificate: Some(self.certificate(Call::Issue, issued)),
            bundle: Some(self.bundle()),
            server_time_unix_ms: unix_ms(SystemTime::now()),
            revocations: Some(self.revocations()),
            registration: Some(registration),
        }
    }

    pub(super) fn revocations(&self) -> Revocations {
        watch::revocations_message(&self.authority.revocations().borrow())
    }

    pub(super) fn certificate(&self, call: Call, issued: &Issued) -> Certificate {
        self.metrics.count_issued(call);
        info!(
            peer.id = %issued.id,
            serial = %issued.serial,
            call = call.as_str(),
            not_after_unix_ms = unix_ms(issued.not_after),
            "certificate issued"
        );
        Certificate {
            chain: issued.chain.iter().map(|der| der.to_vec()).collect(),
            renew_at_unix_ms: unix_ms(issued.renew_at),
            not_after_unix_ms: unix_ms(issued.not_after),
        }
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        bundle_message(&self.authority.bundle().borrow())
    }
}

pub(super) fn bundle_message(bundle: &identity::TrustBundle) -> TrustBundle {
    TrustBundle {
        trust_domain: bundle.trust_domain().to_string(),
        authorities: bundle
            .authorities()
            .iter()
            .map(|der| der.to_vec())
            .collect(),
        sequence: bundle.sequence(),
        jwt_keys: bundle.jwt_keys().to_jwks(),
    }
}

pub(super) fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
