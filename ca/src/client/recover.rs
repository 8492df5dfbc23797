//! The way back of a sidecar whose certificate has ended before it could be renewed, should the CA allow it one.

use super::agent::{Agent, AttemptError, Reply};
use super::schedule::jittered;
use crate::attest::recovery_statement;
use crate::proto::{RecoverRequest, RenewResponse};
use identity::Svid;
use rustls::SignatureScheme;
use std::time::{Duration, Instant};
use tonic::Code;

/// For so long a refusal is taken to stand, jittered: an operator may allow recovery while sidecars are already without
/// certificates.
const REFUSAL_STANDS: Duration = Duration::from_secs(90);

/// A certificate that the CA gives no successor for at present.
#[derive(Debug)]
pub(super) struct Unrecoverable {
    serial: String,
    until: Instant,
}

impl Unrecoverable {
    fn new(serial: &str, now: Instant) -> Self {
        Self {
            serial: serial.to_owned(),
            until: now + jittered(REFUSAL_STANDS),
        }
    }

    fn is(&self, serial: &str, now: Instant) -> bool {
        self.serial == serial && now < self.until
    }
}

impl Agent {
    /// A successor of the SVID that has ended, by proof of its key alone; `None` when there is no such SVID, or the CA gives
    /// none for it. After a refusal for what the certificate is, the CA is not asked again for about a minute.
    pub(super) async fn recover(&mut self, csr: Vec<u8>) -> Option<Reply> {
        let svid = self.standing.expired_svid()?;
        let serial = &svid.leaf().serial;
        let refused = self.unrecoverable.as_ref();
        if refused.is_some_and(|refused| refused.is(serial, Instant::now())) {
            return None;
        }
        match self.ask_to_recover(&svid, csr).await {
            Ok(reply) => {
                tracing::warn!(serial, "an expired certificate was renewed");
                Some(reply)
            }
            Err(error) => {
                if let AttemptError::Refused {
                    code: Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented,
                    ..
                } = &error
                {
                    self.unrecoverable = Some(Unrecoverable::new(serial, Instant::now()));
                }
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, serial, "an expired certificate is not renewed");
                None
            }
        }
    }

    async fn ask_to_recover(&self, svid: &Svid, csr: Vec<u8>) -> Result<Reply, AttemptError> {
        let mut connection = self.connector.connect(None).await?;
        let asked_at_unix_ms = self.bundles.ca_unix_ms();
        let statement = recovery_statement(svid.id(), &svid.chain()[0], &csr, asked_at_unix_ms);
        let request = RecoverRequest {
            chain: svid.chain().iter().map(|der| der.to_vec()).collect(),
            proof: sign(svid, &statement)?,
            csr,
            asked_at_unix_ms,
            ttl_seconds: self.ttl_seconds(),
            ledger_head: self.bundles.head(),
        };
        let asked = Instant::now();
        let reply = connection
            .calls
            .recover(request)
            .await
            .map_err(AttemptError::from_status)?
            .into_inner();
        let response = RenewResponse {
            certificate: reply.certificate,
            bundle: reply.bundle,
            server_time_unix_ms: reply.server_time_unix_ms,
            revocations: reply.revocations,
            registration: None,
        };
        Reply::new(response, asked)
    }
}

fn sign(svid: &Svid, statement: &[u8]) -> Result<Vec<u8>, AttemptError> {
    let key = &svid.certified_key().key;
    let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]);
    signer
        .ok_or(AttemptError::OtherKey)?
        .sign(statement)
        .map_err(AttemptError::Sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_holds_for_its_own_certificate_and_for_about_a_minute() {
        let now = Instant::now();
        for _ in 0..100 {
            let refused = Unrecoverable::new("01", now);
            assert!(refused.is("01", now + REFUSAL_STANDS / 2 - Duration::from_secs(1)));
            assert!(!refused.is("02", now));
            assert!(!refused.is("01", now + REFUSAL_STANDS));
        }
    }
}
