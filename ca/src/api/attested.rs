//! Issue and Renew for callers that others vouch for.

use super::{Api, Refused, life, requested_ttl, shorter};
use crate::attest::{self, AttestError, Evidence, Renewals};
use crate::authority::{Attested, Issued, Request as IssueOrder, Requester, check_workload_id};
use crate::csr::PublicKey;
use crate::metrics::Call;
use crate::proto::attestation::Evidence as Presented;
use crate::proto::{Attestation, IssueRequest, RenewRequest};
use identity::{Leaf, SpiffeId};
use rustls_pki_types::CertificateDer;
use std::time::{Duration, SystemTime};
use tonic::Status;

impl Api {
    /// Issues for what is attested. Refusals are audited once it is known who is refused.
    pub(super) async fn issue_attested(
        &self,
        asked: SpiffeId,
        request: &IssueRequest,
        attestation: &Attestation,
    ) -> Result<Issued, Status> {
        let keys = [
            &request.enrolment_key,
            &request.enrolment_proof,
            request.join_token.as_bytes(),
        ];
        if keys.iter().any(|part| !part.is_empty()) {
            return Err(Refused::TwoProofs.into());
        }
        let evidence = self.evidence(attestation, &asked, &request.csr).await?;
        let natural_id = evidence.natural_id.clone();
        match (self.issue_for(evidence, asked, request).await, natural_id) {
            (Ok(issued), _) => Ok(issued),
            (Err(refused), Some(caller)) => {
                Err(self.audit(&caller, Call::Issue.as_str(), refused).await)
            }
            (Err(refused), None) => Err(refused.into()),
        }
    }

    async fn issue_for(
        &self,
        evidence: Evidence,
        asked: SpiffeId,
        request: &IssueRequest,
    ) -> Result<Issued, Refused> {
        check_workload_id(&asked, self.authority.trust_domain()).map_err(Refused::Issue)?;
        let bound = self.entitlement(&evidence, &asked).await?;
        let order = IssueOrder {
            id: asked,
            public_key: PublicKey::from_csr(&request.csr).map_err(Refused::Csr)?,
            ttl: shorter(requested_ttl(request.ttl_seconds), bound),
            requester: Requester::Attested(Attested {
                attestor: evidence.attestor,
                subject: evidence.subject,
                holder: evidence.holder,
            }),
        };
        self.issue_at_its_pace(order).await
    }

    /// What was vouched for has to be vouched for again, unless its attestor does without. Evidence that comes unasked has to
    /// be for the identity that is renewed, too. Gives the longest life of the successor: the certificate alone entitles to
    /// no more than its own.
    pub(super) async fn attest_again(
        &self,
        svid: &Leaf,
        request: &RenewRequest,
    ) -> Result<Option<Duration>, Refused> {
        let Some(attestation) = &request.attestation else {
            let attestor = self.authority.store().attestor_of(&svid.serial).await;
            return match attestor.map_err(Refused::Store)? {
                Some(attestor) if self.attestors.renewals(&attestor) == Renewals::Attest => {
                    Err(Refused::Attestation(AttestError::Again { attestor }))
                }
                _ => Ok(life(svid)),
            };
        };
        let evidence = self.evidence(attestation, &svid.id, &request.csr);
        self.entitlement(&evidence.await?, &svid.id).await
    }

    async fn evidence(
        &self,
        attestation: &Attestation,
        id: &SpiffeId,
        csr: &[u8],
    ) -> Result<Evidence, Refused> {
        let (now, trust_domain) = (SystemTime::now(), self.authority.trust_domain());
        let evidence = match &attestation.evidence {
            Some(Presented::KubernetesToken(token)) => {
                self.attestors.kubernetes(token, trust_domain, now).await
            }
            Some(Presented::OidcToken(token)) => self.attestors.oidc(token, now).await,
            Some(Presented::X509pop(presented)) => {
                let chain = presented
                    .chain
                    .iter()
                    .map(|der| CertificateDer::from(&**der));
                let chain: Vec<_> = chain.collect();
                let statement = attest::statement(id, csr);
                let signature = &presented.signature;
                self.attestors.x509(&chain, &statement, signature, now)
            }
            None => Err(AttestError::Nothing),
        };
        evidence.map_err(Refused::Attestation)
    }

    /// Whether `evidence` is good for `asked`, and the longest life that an entry gives then.
    async fn entitlement(
        &self,
        evidence: &Evidence,
        asked: &SpiffeId,
    ) -> Result<Option<Duration>, Refused> {
        let stored = self.authority.store().entries_for(asked).await;
        let stored = stored.map_err(Refused::Store)?;
        let listed = self.entries.iter().filter(|entry| entry.id() == asked);
        let mut met = listed
            .chain(&stored)
            .filter(|entry| entry.is_met_by(evidence));
        match met.next() {
            Some(entry) => Ok(entry.ttl()),
            None if evidence.natural_id.as_ref() == Some(asked) => Ok(None),
            None => Err(Refused::NotEntitled {
                asked: asked.clone(),
            }),
        }
    }
}
