//! Recover: an expired certificate is renewed all the same, if the entry that gave it allows that for a while.
//!
//! Nobody vouches for the holder here: it proves the key of the expired certificate, and nothing else. So this is off
//! unless an entry has a grace for it, and everything that keeps a certificate from being renewed holds here, too.

use super::{Api, Asking, Refused, life, requested_ttl, shorter};
use crate::attest::{self, ProofError};
use crate::authority::{Issued, Request as IssueOrder, Requester, check_workload_id};
use crate::csr::PublicKey;
use crate::entries::Entry;
use crate::metrics::Call;
use crate::proto::RecoverRequest;
use crate::turns::Due;
use identity::{Leaf, Usage, VerifyError};
use rustls_pki_types::CertificateDer;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::Status;

#[cfg(test)]
mod tests;

/// How far the time in a proof may be from the CA's: a copied call is good for nothing afterwards.
const FRESH: Duration = Duration::from_secs(5 * 60);

impl Api {
    /// Issues the successor of a certificate that ended before `now`. Refusals are audited once it is known who is
    /// refused.
    pub(super) async fn recovered(
        &self,
        request: &RecoverRequest,
        address: IpAddr,
        now: SystemTime,
    ) -> Result<Issued, Status> {
        let expired = self.holder(request, now)?;
        match self
            .issue_after_the_end(&expired, request, (address, now))
            .await
        {
            Ok(issued) => {
                tracing::warn!(
                    spiffe_id = %expired.id,
                    expired = %expired.serial,
                    serial = %issued.serial,
                    "an expired certificate was renewed within the grace of its entry"
                );
                Ok(issued)
            }
            Err(refused) => Err(self
                .audit(&expired.id, Call::Recover.as_str(), &refused)
                .await),
        }
    }

    /// The expired certificate of whoever holds its key. It has to be one that was good until it ended, and that is not
    /// revoked.
    fn holder(&self, request: &RecoverRequest, now: SystemTime) -> Result<Leaf, Refused> {
        let chain = request.chain.iter().map(|der| CertificateDer::from(&**der));
        let chain: Vec<_> = chain.collect();
        let presented = chain.first().ok_or(VerifyError::NoCertificate);
        let leaf = presented.and_then(|der| Leaf::parse(der).map_err(VerifyError::Leaf));
        let leaf = leaf.map_err(Refused::ExpiredChain)?;
        let verified = {
            let bundle = self.authority.bundle();
            let bundle = bundle.borrow();
            bundle.verify_chain(&chain, Usage::Client, leaf.not_after)
        };
        let verified = verified.map_err(Refused::ExpiredChain)?;
        let revocations = self.authority.revocations();
        if let Err(VerifyError::Revoked { what, .. }) = revocations.borrow().check(&verified) {
            return Err(Refused::RevokedClientCertificate { what });
        }
        let key = PublicKey::from_certificate(&chain[0]).map_err(Refused::Csr)?;
        let statement =
            attest::recovery_statement(&leaf.id, &chain[0], &request.csr, request.asked_at_unix_ms);
        if !key.verify(&statement, &request.proof) {
            return Err(Refused::Proof(ProofError::Recovery));
        }
        let asked_at = u64::try_from(request.asked_at_unix_ms).unwrap_or(0);
        let ca_time = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if Duration::from_millis(asked_at).abs_diff(ca_time) > FRESH {
            return Err(Refused::StaleProof { fresh: FRESH });
        }
        match leaf.not_after > now {
            true => Err(Refused::NotExpired),
            false => Ok(leaf),
        }
    }

    async fn issue_after_the_end(
        &self,
        expired: &Leaf,
        request: &RecoverRequest,
        (address, now): (IpAddr, SystemTime),
    ) -> Result<Issued, Refused> {
        check_workload_id(&expired.id, self.authority.trust_domain()).map_err(Refused::Issue)?;
        let asking = Asking {
            address,
            due: Due::end_of(expired.not_after),
            ledger_head: request.ledger_head.as_ref(),
        };
        let admitted = self.take_turn(&expired.id, asking).await?;
        let entry = self.entry_behind(expired).await?;
        let grace = entry
            .as_ref()
            .and_then(Entry::recovery_grace)
            .ok_or(Refused::NoRecovery)?;
        let since = now.duration_since(expired.not_after).unwrap_or_default();
        if since > grace {
            return Err(Refused::BeyondGrace { grace, since });
        }
        let bound = shorter(life(expired), entry.and_then(|entry| entry.ttl()));
        let order = IssueOrder {
            id: expired.id.clone(),
            dns_names: self.kept(expired).await?.dns_names,
            public_key: PublicKey::from_csr(&request.csr).map_err(Refused::Csr)?,
            ttl: shorter(requested_ttl(request.ttl_seconds), bound),
            until: None,
            requester: Requester::Expired {
                serial: expired.serial.clone(),
            },
        };
        self.issue_in_turn(order, admitted).await
    }

    /// The entry by which a certificate was issued, as it is now; `None` if there was none or it is gone.
    async fn entry_behind(&self, certificate: &Leaf) -> Result<Option<Entry>, Refused> {
        let store = self.authority.store();
        let name = store.entry_behind(&certificate.serial).await;
        let Some(name) = name.map_err(Refused::Store)? else {
            return Ok(None);
        };
        let entries = self.entries_for(&certificate.id).await?;
        Ok(entries.into_iter().find(|entry| entry.name() == name))
    }
}
