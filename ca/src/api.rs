//! The gRPC calls, each read top to bottom: request -> who asks -> what they may have -> issue -> reply.
//!
//! Refusals before the caller is known are only counted (by the listener, see [`crate::server`]); refusals of a caller
//! that has proven who it is go into the audit log as well.

mod administration;
mod attested;
mod pace;
mod peer;
mod published;
mod recover;
pub(crate) mod refused;
mod registration;
mod replies;
mod tokens;
mod watch;

use crate::admission::Admission;
use crate::attest::{self, Attestors};
use crate::authority::{
    Authority, IssueError, Issued, Request as IssueOrder, Requester, check_workload_id,
};
use crate::csr::PublicKey;
use crate::entries::Entry;
use crate::federation::Federated;
use crate::jwt::Tokens;
use crate::ledger::Refusal;
use crate::lineage::LineageError;
use crate::metrics::{Call, Metrics, Reason};
use crate::proto::certificate_authority_server::CertificateAuthority;
use crate::proto::{
    IssueJwtRequest, IssueJwtResponse, IssueRequest, IssueResponse, RecoverRequest,
    RecoverResponse, Registration, RenewRequest, RenewResponse, WatchBundleRequest,
};
use crate::store::{Enrolment, RedeemError};
use crate::token::JoinToken;
use crate::turns::{Due, Turns};
use attested::Ground;
use identity::{Leaf, SpiffeId};
pub(crate) use pace::Limits;
use pace::{Admitted, Asking, at_most};
pub(crate) use peer::Peer;
use peer::address;
use published::Published;
use refused::Refused;
use replies::unix_ms;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch::{Receiver, channel};
use tonic::{Request, Response, Status, Streaming};
use tracing::{error, info, warn};

/// The service behind every connection.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    attestors: Arc<Attestors>,
    /// Entries of files, besides those of the store.
    entries: Arc<[Entry]>,
    administrators: Arc<BTreeSet<SpiffeId>>,
    /// Certificates per identity: each leaves a record for ever, and takes its time from everybody else's.
    pace: Arc<Admission>,
    /// The same for each address, whatever identities it asks for.
    address_pace: Arc<Admission>,
    turns: Arc<Turns>,
    tokens: Option<Arc<Tokens>>,
    /// Bundles of other trust domains.
    federated: Receiver<Federated>,
    /// Our own, as anyone may read it.
    pub(crate) published: Arc<Published>,
}

impl Api {
    pub(crate) fn new(authority: Arc<Authority>, metrics: Arc<Metrics>, limits: Limits) -> Self {
        Self {
            published: Published::new(&authority.bundle()),
            authority,
            metrics,
            attestors: Arc::default(),
            entries: Arc::default(),
            administrators: Arc::default(),
            pace: at_most(limits.certificates_per_minute),
            address_pace: at_most(limits.certificates_per_minute_per_address),
            turns: Turns::new(limits.turns),
            tokens: None,
            federated: channel(Federated::default()).1,
        }
    }

    pub(crate) fn believing(self, attestors: Attestors) -> Self {
        Self {
            attestors: Arc::new(attestors),
            ..self
        }
    }

    pub(crate) fn with_entries(self, entries: Vec<Entry>) -> Self {
        Self {
            entries: entries.into(),
            ..self
        }
    }

    pub(crate) fn administered_by(self, administrators: BTreeSet<SpiffeId>) -> Self {
        Self {
            administrators: Arc::new(administrators),
            ..self
        }
    }

    pub(crate) fn federating(self, federated: Receiver<Federated>) -> Self {
        Self { federated, ..self }
    }

    /// The enrolment of the caller of Issue, registered just now if it brought a join token.
    async fn authenticate<'c>(
        &self,
        request: &IssueRequest,
        asked: &SpiffeId,
        asking: Asking<'c>,
    ) -> Result<(Enrolment, Admitted<'c>), Refused> {
        let key = PublicKey::from_spki(&request.enrolment_key).map_err(Refused::EnrolmentKey)?;
        attest::check_proof(&key, &request.enrolment_proof, asked, &request.csr)
            .map_err(Refused::Proof)?;
        let admitted = self.take_turn(asked, asking).await?;
        // A registered key needs no token, so that a restart with a used or expired one in its configuration passes.
        let store = self.authority.store();
        if let Some(enrolment) = store.enrolment(&key.hash()).await.map_err(Refused::Store)? {
            return Ok((enrolment, admitted));
        }
        if request.join_token.is_empty() {
            return Err(Refused::NotEnrolled);
        }
        let token = JoinToken::parse(&request.join_token).map_err(Refused::MalformedToken)?;
        let redeemed = store.redeem(&token, asked, &key, SystemTime::now()).await;
        match redeemed.map_err(Refused::Store)? {
            Ok(enrolment) => {
                info!(spiffe_id = %asked, enrolment_key = %enrolment.key, "enrolment key registered");
                Ok((enrolment, admitted))
            }
            // The store has audited it. An ID that nobody can have deserves the plainer answer.
            Err(RedeemError::OtherId { asked }) => {
                check_workload_id(&asked, self.authority.trust_domain()).map_err(Refused::Issue)?;
                Err(Refused::Token(RedeemError::OtherId { asked }))
            }
            Err(error) => Err(Refused::Token(error)),
        }
    }

    /// Issues for an enrolled caller.
    async fn issue_to(
        &self,
        enrolment: &Enrolment,
        asked: SpiffeId,
        request: &IssueRequest,
        admitted: Admitted<'_>,
    ) -> Result<Issued, Refused> {
        check_workload_id(&asked, self.authority.trust_domain()).map_err(Refused::Issue)?;
        if enrolment.spiffe_id != asked {
            return Err(Refused::OtherId {
                enrolled: enrolment.spiffe_id.clone(),
                asked,
            });
        }
        let order = IssueOrder {
            id: asked,
            dns_names: BTreeSet::new(),
            public_key: PublicKey::from_csr(&request.csr).map_err(Refused::Csr)?,
            ttl: shorter(requested_ttl(request.ttl_seconds), enrolment.ttl),
            until: None,
            requester: Requester::Enrolment(enrolment.key),
        };
        self.issue_in_turn(order, admitted).await
    }

    /// Issues the successor of a valid SVID.
    async fn issue_after(
        &self,
        svid: &Leaf,
        request: &RenewRequest,
        address: IpAddr,
    ) -> Result<(Issued, Option<Registration>), Refused> {
        let asking = Asking {
            address,
            due: Due::end_of(svid.not_after),
            ledger_head: request.ledger_head.as_ref(),
        };
        let Ground {
            attested,
            terms,
            until,
            admitted,
        } = self.attest_again(svid, request, asking).await?;
        let asked = requested_ttl(request.ttl_seconds).or_else(|| life(svid));
        let order = IssueOrder {
            id: svid.id.clone(),
            dns_names: terms.dns_names,
            public_key: PublicKey::from_csr(&request.csr).map_err(Refused::Csr)?,
            ttl: shorter(asked, terms.ttl),
            until,
            requester: Requester::Svid {
                serial: svid.serial.clone(),
                attested,
            },
        };
        let issued = self.issue_in_turn(order, admitted).await?;
        Ok((issued, terms.is_fresh.then_some(terms.registration)))
    }

    /// Writes the refusal of a known caller, by its ID or by what vouches for it, to the audit log. The refusal stands even
    /// if that fails. One that is charged to nobody leaves no record: nothing would bound their number.
    pub(crate) async fn audit(
        &self,
        caller: &(dyn Display + Sync),
        operation: &'static str,
        refused: &Refused,
    ) -> Status {
        if matches!(refused.reason(), Reason::RateLimited | Reason::Overloaded) {
            // Counted by the listener. More would let a flood through to the log.
            return refused.into();
        }
        warn!(peer.id = %caller, call = operation, reason = refused.reason().as_str(), "call refused");
        if let Refused::Issue(IssueError::Lineage(LineageError::SecondSuccessor {
            serial,
            lineage,
        })) = refused
        {
            error!(spiffe_id = %caller, serial, %lineage, "two hold the key of this certificate; its lineage is frozen");
        }
        let reason = refused.reason();
        if !reason.is_callers_fault() {
            let error = refused as &dyn std::error::Error;
            error!(error, peer.id = %caller, call = operation, "call failed");
        } else if reason.is_charged() {
            let refusal = Refusal {
                caller: caller.to_string(),
                operation,
                reason: refused.to_string(),
            };
            let store = self.authority.store();
            if let Err(error) = store.record_refusal(refusal, SystemTime::now()).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "refusal not recorded"
                );
            }
        }
        Status::from(refused)
    }
}

#[tonic::async_trait]
impl CertificateAuthority for Api {
    async fn issue(&self, call: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        let address = address(&call)?;
        let request = call.into_inner();
        let asked = SpiffeId::parse(&request.spiffe_id).map_err(Refused::Id)?;
        let asking = Asking {
            address,
            due: Due::without_certificate(),
            ledger_head: request.ledger_head.as_ref(),
        };
        if let Some(attestation) = &request.attestation {
            let attested = self.issue_attested(asked, (&request, attestation), asking);
            let (issued, registration) = attested.await?;
            return Ok(Response::new(self.issue_response(&issued, registration)));
        }
        let (enrolment, admitted) = self.authenticate(&request, &asked, asking).await?;
        match self.issue_to(&enrolment, asked, &request, admitted).await {
            Ok(issued) => {
                let registration = Registration::default();
                Ok(Response::new(self.issue_response(&issued, registration)))
            }
            Err(refused) => Err(self
                .audit(&enrolment.spiffe_id, Call::Issue.as_str(), &refused)
                .await),
        }
    }

    async fn renew(&self, call: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let (peer, svid) = self.authenticated(&call)?;
        let svid = &svid.leaf;
        match self.issue_after(svid, call.get_ref(), peer.address).await {
            Ok((issued, registration)) => Ok(Response::new(RenewResponse {
                certificate: Some(self.certificate(Call::Renew, &issued)),
                bundle: Some(self.bundle()),
                server_time_unix_ms: unix_ms(SystemTime::now()),
                revocations: Some(self.revocations()),
                registration,
            })),
            Err(refused) => Err(self.audit(&svid.id, Call::Renew.as_str(), &refused).await),
        }
    }

    async fn recover(
        &self,
        call: Request<RecoverRequest>,
    ) -> Result<Response<RecoverResponse>, Status> {
        let address = address(&call)?;
        let issued = self
            .recovered(call.get_ref(), address, SystemTime::now())
            .await?;
        Ok(Response::new(RecoverResponse {
            certificate: Some(self.certificate(Call::Recover, &issued)),
            bundle: Some(self.bundle()),
            server_time_unix_ms: unix_ms(SystemTime::now()),
            revocations: Some(self.revocations()),
        }))
    }

    async fn issue_jwt(
        &self,
        call: Request<IssueJwtRequest>,
    ) -> Result<Response<IssueJwtResponse>, Status> {
        let (_, svid) = self.authenticated(&call)?;
        let svid = &svid.leaf;
        match self.issue_token(svid, call.into_inner()).await {
            Ok(response) => Ok(Response::new(response)),
            Err(refused) => Err(self.audit(&svid.id, "issue_jwt", &refused).await),
        }
    }

    type WatchBundleStream = watch::Replies;

    async fn watch_bundle(
        &self,
        call: Request<Streaming<WatchBundleRequest>>,
    ) -> Result<Response<Self::WatchBundleStream>, Status> {
        let (peer, svid) = self.authenticated(&call)?;
        Ok(Response::new(self.watch(peer, svid, call.into_inner())))
    }
}

fn requested_ttl(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// What a token, an entry or a predecessor allows is not for the caller to exceed.
fn shorter(asked: Option<Duration>, bound: Option<Duration>) -> Option<Duration> {
    [asked, bound].into_iter().flatten().min()
}

/// The life an SVID was given, not counting what its `notBefore` was dated back.
fn life(svid: &Leaf) -> Option<Duration> {
    let dated = svid.not_after.duration_since(svid.not_before).ok()?;
    dated.checked_sub(crate::profile::BACKDATE)
}
