//! The way back of a sidecar whose certificate has ended before it could be renewed, should the CA allow it one.

use super::agent::{Agent, AttemptError, Reply};
use crate::attest::recovery_statement;
use crate::proto::{RecoverRequest, RenewResponse};
use identity::Svid;
use rustls::SignatureScheme;
use tonic::Code;

impl Agent {
    /// A successor of the SVID that has ended, by proof of its key alone; `None` when there is no such SVID, or the CA gives
    /// none for it. After a refusal that stays so, the CA is not asked again.
    pub(super) async fn recover(&mut self, csr: Vec<u8>) -> Option<Reply> {
        let svid = self.standing.expired_svid()?;
        let serial = &svid.leaf().serial;
        if self.unrecoverable.as_ref() == Some(serial) {
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
                    self.unrecoverable = Some(serial.clone());
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
        let reply = connection
            .calls
            .recover(request)
            .await
            .map_err(AttemptError::from_status)?
            .into_inner();
        RenewResponse {
            certificate: reply.certificate,
            bundle: reply.bundle,
            server_time_unix_ms: reply.server_time_unix_ms,
            revocations: reply.revocations,
            registration: None,
        }
        .try_into()
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
