//! Issue and Renew for callers that others vouch for.

use super::registration::Terms;
use super::{Admitted, Api, Asking, Refused, life, requested_ttl, shorter};
use crate::attest::{AttestError, Evidence, Renewals};
use crate::authority::{Attested, Issued, Request as IssueOrder, Requester, check_workload_id};
use crate::csr::PublicKey;
use crate::metrics::Call;
use crate::proto::attestation::Evidence as Presented;
use crate::proto::{Attestation, IssueRequest, Registration, RenewRequest};
use identity::{Leaf, SpiffeId};
use std::time::SystemTime;
use tonic::Status;

/// On what a renewal stands.
pub(super) struct Ground<'c> {
    pub(super) admitted: Admitted<'c>,
    pub(super) attested: Option<Attested>,
    /// For the successor: the certificate alone entitles to no more than it has itself.
    pub(super) terms: Terms,
    /// When what was attested ends.
    pub(super) until: Option<SystemTime>,
}

impl Api {
    /// Issues for what is attested. Refusals are audited once it is known who is refused.
    pub(super) async fn issue_attested(
        &self,
        asked: SpiffeId,
        (request, attestation): (&IssueRequest, &Attestation),
        asking: Asking<'_>,
    ) -> Result<(Issued, Registration), Status> {
        let keys = [
            &request.enrolment_key,
            &request.enrolment_proof,
            request.join_token.as_bytes(),
        ];
        if keys.iter().any(|part| !part.is_empty()) {
            return Err(Refused::TwoProofs.into());
        }
        let evidence = self.evidence(attestation, &asked, &request.csr).await?;
        let caller = match &evidence.natural_id {
            Some(id) => id.to_string(),
            None => Attested::from(&evidence).to_string(),
        };
        match self.issue_for(&evidence, asked, request, asking).await {
            Ok(done) => Ok(done),
            Err(refused) => Err(self.audit(&caller, Call::Issue.as_str(), &refused).await),
        }
    }

    async fn issue_for(
        &self,
        evidence: &Evidence,
        asked: SpiffeId,
        request: &IssueRequest,
        asking: Asking<'_>,
    ) -> Result<(Issued, Registration), Refused> {
        check_workload_id(&asked, self.authority.trust_domain()).map_err(Refused::Issue)?;
        let admitted = self.take_turn(&asked, asking).await?;
        let (attested, terms) = self.entitlement(evidence, &asked).await?;
        let order = IssueOrder {
            id: asked,
            dns_names: terms.dns_names,
            public_key: PublicKey::from_csr(&request.csr).map_err(Refused::Csr)?,
            ttl: shorter(requested_ttl(request.ttl_seconds), terms.ttl),
            until: evidence.ends,
            requester: Requester::Attested(attested),
        };
        let issued = self.issue_in_turn(order, admitted).await?;
        Ok((issued, terms.registration))
    }

    /// What was vouched for has to be vouched for again, by the same attestor for the same holder, unless that attestor does
    /// without: evidence of another pod is good for a lineage of its own. Evidence that comes unasked is held to the same.
    pub(super) async fn attest_again<'c>(
        &self,
        svid: &Leaf,
        request: &RenewRequest,
        asking: Asking<'c>,
    ) -> Result<Ground<'c>, Refused> {
        // A cluster that is asked about a token keeps nobody else from their turn.
        let evidence = match &request.attestation {
            Some(attestation) => Some(self.evidence(attestation, &svid.id, &request.csr).await?),
            None => None,
        };
        let admitted = self.take_turn(&svid.id, asking).await?;
        let word = self.authority.store().word_for(&svid.serial).await;
        let word = word.map_err(Refused::Store)?;
        let Some(evidence) = evidence else {
            return match word.map(|word| word.attestor) {
                Some(attestor) if self.attestors.renewals(&attestor) == Renewals::Attest => {
                    Err(Refused::Attestation(AttestError::Again { attestor }))
                }
                word => Ok(Ground {
                    admitted,
                    attested: None,
                    terms: match word {
                        Some(_) => self.kept(svid).await?,
                        None => Terms::alone(life(svid)),
                    },
                    until: None,
                }),
            };
        };
        let (attested, terms) = self.entitlement(&evidence, &svid.id).await?;
        if word.is_some_and(|word| !word.is_given_again_by(&evidence)) {
            return Err(Refused::OtherHolder {
                found: (&evidence).into(),
            });
        }
        Ok(Ground {
            admitted,
            attested: Some(attested),
            terms,
            until: evidence.ends,
        })
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
            Some(Presented::X509pop(presented)) => self.attestors.x509(presented, id, csr, now),
            None => Err(AttestError::Nothing),
        };
        evidence.map_err(Refused::Attestation)
    }

    /// By what `evidence` is good for `asked`, and what an entry gives then.
    async fn entitlement(
        &self,
        evidence: &Evidence,
        asked: &SpiffeId,
    ) -> Result<(Attested, Terms), Refused> {
        let entries = self.entries_for(asked).await?;
        match entries.iter().find(|entry| entry.is_met_by(evidence)) {
            Some(entry) => {
                let attested = Attested {
                    entry: Some(entry.name()),
                    ..Attested::from(evidence)
                };
                Ok((attested, entry.into()))
            }
            None if evidence.natural_id.as_ref() == Some(asked) => {
                Ok((evidence.into(), Terms::without_entry()))
            }
            None => Err(Refused::NotEntitled {
                asked: asked.clone(),
            }),
        }
    }
}

impl From<&Evidence> for Attested {
    fn from(evidence: &Evidence) -> Self {
        Self {
            attestor: evidence.attestor.clone(),
            subject: evidence.subject.clone(),
            holder: evidence.holder.clone(),
            entry: None,
        }
    }
}
