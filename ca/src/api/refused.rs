//! Every way to refuse a call: its gRPC code, its reason for metrics, and the sentence the caller gets.

use crate::attest::{AttestError, ProofError};
use crate::authority::{Attested, IssueError};
use crate::csr::CsrError;
use crate::jwt::TokenError;
use crate::lineage::LineageError;
use crate::metrics::Reason;
use crate::server::MAX_MESSAGE_BYTES;
use crate::store::{CreateEntryError, RedeemError, StoreError};
use crate::token::ParseTokenError;
use identity::revoked::Revoked;
use identity::{ParseIdError, SpiffeId, VerifyError};
use std::time::Duration;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// Carries [`Reason`] to the caller, beside a sentence meant for people.
pub(crate) const REASON_METADATA: &str = "tipstaff-reason";

/// In how many milliseconds to call again (gRPC's proposal A6 names it so).
pub(crate) const RETRY_METADATA: &str = "grpc-retry-pushback-ms";

/// Why a call is refused. `Display` is for the caller: it says what was expected, and nothing about our inside.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("spiffe_id: {0}")]
    Id(ParseIdError),
    #[error("csr: {0}")]
    Csr(CsrError),
    #[error("enrolment_key: {0}")]
    EnrolmentKey(CsrError),
    #[error("{0}")]
    Proof(ProofError),
    #[error("join_token: {0}")]
    MalformedToken(ParseTokenError),
    #[error("{0}")]
    Token(RedeemError),
    #[error("attestation: {0}")]
    Attestation(AttestError),
    #[error("expected attestation, or an enrolment key with its proof, and not both")]
    TwoProofs,
    #[error("expected the ID of what was attested, or one that an entry gives it, found {asked}")]
    NotEntitled { asked: SpiffeId },
    #[error(
        "expected evidence of whom the certificate's lineage began with, found that of {found}: it is good for Issue"
    )]
    OtherHolder { found: Attested },
    #[error("expected the name of an entry, 16 lower-case hexadecimal digits")]
    EntryName,
    #[error("expected an administrator of this CA")]
    NotAnAdministrator,
    #[error("{0}")]
    Entry(CreateEntryError),
    #[error("expected an enrolment key that is registered, or a join_token that registers it")]
    NotEnrolled,
    #[error(
        "expected spiffe_id to be {enrolled}, which this enrolment key is registered for, found {asked}"
    )]
    OtherId { enrolled: SpiffeId, asked: SpiffeId },
    #[error(
        "expected a client certificate: this call is for the holder of a valid SVID of this trust domain"
    )]
    NoClientCertificate,
    #[error("expected a client certificate that is still valid, found one that has expired")]
    ExpiredClientCertificate,
    #[error("expected a client certificate that is not revoked, found one that is, by its {what}")]
    RevokedClientCertificate { what: Revoked },
    #[error("chain: {0}")]
    ExpiredChain(VerifyError),
    #[error("expected a certificate that has expired, found one that is valid: it is renewed")]
    NotExpired,
    #[error("expected asked_at_unix_ms within {} s of the CA's clock", .fresh.as_secs())]
    StaleProof { fresh: Duration },
    #[error("expected a certificate of an entry that lets it be renewed after its end")]
    NoRecovery,
    #[error(
        "expected the call within {} s of the certificate's end, found it {} s after that", .grace.as_secs(), .since.as_secs()
    )]
    BeyondGrace { grace: Duration, since: Duration },
    #[error("expected a CA that issues tokens: this one is not configured to")]
    NoTokens,
    #[error("{0}")]
    Audience(TokenError),
    #[error("{0}")]
    Issue(#[source] IssueError),
    #[error(
        "the CA cannot read or write its database at present; nothing was issued, try again later"
    )]
    Store(#[source] StoreError),
    #[error("too many refused calls; expected the next one no sooner than in {} s", .retry_after.as_secs() + 1)]
    RateLimited { retry_after: Duration },
    #[error("too many readings by this address; expected the next one no sooner than in {} s", .retry_after.as_secs() + 1)]
    TooManyReads { retry_after: Duration },
    #[error("too many certificates for this address; expected the next call no sooner than in {} s", .retry_after.as_secs() + 1)]
    TooManyForAddress { retry_after: Duration },
    #[error("more are asking than this CA can serve, and others are due sooner; expected the next call no sooner than in {} s", .retry_after.as_secs() + 1)]
    Overloaded { retry_after: Duration },
    #[error("too many certificates for this identity; expected the next call no sooner than in {} s", .retry_after.as_secs() + 1)]
    TooManyCertificates { retry_after: Duration },
    #[error("expected a message of at most {MAX_MESSAGE_BYTES} bytes, found a larger one")]
    Oversized,
    #[error("expected one protobuf message of package tipstaff.ca.v1, found something else")]
    Malformed,
    #[error(
        "expected one JSON object with fields of the request's message, each once and in the form that /v1/openapi.json describes, found something else at line {line}, column {column}"
    )]
    Json { line: usize, column: usize },
    #[error("expected content type application/json, in UTF-8 and without content encoding")]
    ContentType,
    #[error(
        "expected HTTP/1.1 or HTTP/2 with one Host, a POST with its Content-Length, and a GET without a body"
    )]
    Http,
    #[error("expected the whole body, which broke off")]
    BrokenOff,
    #[error("expected a path of those that /v1/openapi.json lists")]
    NoSuchPath,
    #[error("expected method {allowed} for this path")]
    OtherMethod { allowed: &'static str },
    #[error("expected a call of service tipstaff.ca.v1.CertificateAuthority, found another")]
    UnknownMethod,
    #[error("expected the whole request within {} s", .limit.as_secs_f32())]
    Timeout { limit: Duration },
}

impl Refused {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Id(_)
            | Self::Csr(_)
            | Self::EnrolmentKey(_)
            | Self::Proof(_)
            | Self::MalformedToken(_)
            | Self::TwoProofs
            | Self::Entry(CreateEntryError::Entry(_))
            | Self::EntryName
            | Self::Audience(_)
            | Self::Malformed
            | Self::Json { .. }
            | Self::ContentType
            | Self::BrokenOff
            | Self::Http => Code::InvalidArgument,
            Self::NoSuchPath => Code::NotFound,
            Self::Attestation(AttestError::Unavailable) => Code::Unavailable,
            Self::NotEnrolled
            | Self::Attestation(_)
            | Self::Token(RedeemError::Unknown | RedeemError::Expired)
            | Self::NoClientCertificate
            | Self::ExpiredChain(_)
            | Self::ExpiredClientCertificate
            | Self::RevokedClientCertificate { .. } => Code::Unauthenticated,
            Self::Token(
                RedeemError::UsedByAnotherKey
                | RedeemError::OtherId { .. }
                | RedeemError::KeyOfAnotherId,
            )
            | Self::OtherId { .. }
            | Self::NotAnAdministrator
            | Self::OtherHolder { .. }
            | Self::NoRecovery
            | Self::BeyondGrace { .. }
            | Self::NotEntitled { .. } => Code::PermissionDenied,
            // Both are a matter of clocks, and may be otherwise at the next attempt.
            Self::NotExpired | Self::StaleProof { .. } => Code::FailedPrecondition,
            Self::Entry(CreateEntryError::Differs { .. }) => Code::AlreadyExists,
            Self::Entry(CreateEntryError::Full) => Code::ResourceExhausted,
            Self::Issue(error) => match error {
                IssueError::ForeignTrustDomain { .. }
                | IssueError::Reserved(_)
                | IssueError::NotAWorkload(_)
                | IssueError::Lineage(_) => Code::PermissionDenied,
                IssueError::EvidenceEnds { .. } => Code::Unauthenticated,
                IssueError::Record(_) | IssueError::Interrupted => Code::Unavailable,
                _ => Code::Internal,
            },
            Self::Store(_) => Code::Unavailable,
            Self::RateLimited { .. }
            | Self::TooManyCertificates { .. }
            | Self::TooManyForAddress { .. }
            | Self::TooManyReads { .. }
            | Self::Overloaded { .. }
            | Self::Oversized => Code::ResourceExhausted,
            Self::UnknownMethod | Self::OtherMethod { .. } | Self::NoTokens => Code::Unimplemented,
            Self::Timeout { .. } => Code::DeadlineExceeded,
        }
    }

    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Store(StoreError::RolledBack(_))
            | Self::Issue(IssueError::Record(StoreError::RolledBack(_))) => Reason::RolledBack,
            Self::Id(_) => Reason::InvalidId,
            Self::Csr(_) => Reason::InvalidCsr,
            Self::EnrolmentKey(_) => Reason::InvalidEnrolmentKey,
            Self::Proof(_) => Reason::WrongProof,
            Self::MalformedToken(_) => Reason::MalformedToken,
            Self::Token(RedeemError::Unknown) => Reason::UnknownToken,
            Self::Token(RedeemError::Expired) => Reason::ExpiredToken,
            Self::Token(RedeemError::UsedByAnotherKey) => Reason::ReplayedToken,
            Self::NotEnrolled => Reason::NotEnrolled,
            Self::Attestation(AttestError::Unavailable) => Reason::Unavailable,
            Self::Attestation(_) => Reason::InvalidAttestation,
            Self::NotEntitled { .. } | Self::OtherHolder { .. } => Reason::NotEntitled,
            Self::NotAnAdministrator => Reason::NotAnAdministrator,
            Self::Entry(_) | Self::EntryName => Reason::InvalidEntry,
            Self::Token(RedeemError::OtherId { .. } | RedeemError::KeyOfAnotherId)
            | Self::OtherId { .. } => Reason::OtherId,
            Self::NoClientCertificate
            | Self::ExpiredClientCertificate
            | Self::ExpiredChain(_)
            | Self::NotExpired => Reason::ClientCertificate,
            Self::StaleProof { .. } => Reason::WrongProof,
            Self::NoRecovery | Self::BeyondGrace { .. } => Reason::NoRecovery,
            Self::RevokedClientCertificate { .. } => Reason::Revoked,
            Self::Issue(error) => match error {
                IssueError::ForeignTrustDomain { .. } => Reason::ForeignTrustDomain,
                IssueError::Reserved(_) | IssueError::NotAWorkload(_) => Reason::ReservedId,
                IssueError::Lineage(LineageError::SecondSuccessor { .. }) => {
                    Reason::SecondSuccessor
                }
                IssueError::Lineage(LineageError::Superseded { .. }) => Reason::Superseded,
                IssueError::Lineage(LineageError::Frozen { .. }) => Reason::FrozenLineage,
                IssueError::Lineage(LineageError::Revoked { .. }) => Reason::Revoked,
                IssueError::Lineage(LineageError::Unknown { .. }) => Reason::UnknownCertificate,
                IssueError::Lineage(LineageError::NotEnrolled { .. }) => Reason::NotEnrolled,
                IssueError::EvidenceEnds { .. } => Reason::InvalidAttestation,
                IssueError::Record(_) | IssueError::Interrupted => Reason::Unavailable,
                _ => Reason::Internal,
            },
            Self::Store(_) => Reason::Unavailable,
            Self::RateLimited { .. }
            | Self::TooManyCertificates { .. }
            | Self::TooManyForAddress { .. }
            | Self::TooManyReads { .. } => Reason::RateLimited,
            Self::Overloaded { .. } => Reason::Overloaded,
            Self::Oversized => Reason::OversizedMessage,
            Self::Malformed
            | Self::TwoProofs
            | Self::Json { .. }
            | Self::ContentType
            | Self::BrokenOff
            | Self::Http => Reason::MalformedMessage,
            Self::Audience(_) => Reason::InvalidAudience,
            Self::UnknownMethod | Self::NoSuchPath | Self::OtherMethod { .. } => {
                Reason::UnknownMethod
            }
            Self::NoTokens => Reason::NoTokens,
            Self::Timeout { .. } => Reason::Timeout,
        }
    }

    /// How long to wait before the next call, where that is known.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after }
            | Self::TooManyCertificates { retry_after }
            | Self::TooManyForAddress { retry_after }
            | Self::TooManyReads { retry_after }
            | Self::Overloaded { retry_after } => Some(*retry_after),
            _ => None,
        }
    }

    fn sentence(&self) -> String {
        match self.code() {
            // Of all that can be wrong with us, this is what the fleet's operators have to act on.
            _ if self.reason() == Reason::RolledBack => {
                "the CA's records were set back to an older state; nothing is issued until its operator accepts that"
                    .to_owned()
            }
            // What broke inside is for the operator's log.
            Code::Internal => {
                "the CA could not make this certificate, which is no fault of the request"
                    .to_owned()
            }
            Code::Unavailable => {
                "the CA cannot use its database at present; nothing was issued, try again later"
                    .to_owned()
            }
            _ => self.to_string(),
        }
    }
}

impl From<&Refused> for Status {
    fn from(refused: &Refused) -> Self {
        let mut metadata = MetadataMap::new();
        metadata.insert(
            REASON_METADATA,
            MetadataValue::from_static(refused.reason().as_str()),
        );
        if let Some(wait) = refused.retry_after() {
            let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            metadata.insert(RETRY_METADATA, wait_ms.into());
        }
        Self::with_metadata(refused.code(), refused.sentence(), metadata)
    }
}

/// Of a caller that is not known. What is known of others is logged with them, by [`super::Api::audit`].
impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        // Strangers cannot bring these about, and the caller is not told what they are.
        if let Refused::Store(_) | Refused::Issue(_) = &refused
            && !refused.reason().is_callers_fault()
        {
            let error = &refused as &dyn std::error::Error;
            tracing::error!(error, "call failed");
        }
        Self::from(&refused)
    }
}
