//! The one path validation: used in the proxy's handshakes, by the CA before it releases a certificate, and by its clients.

use crate::cert::Signer;
use crate::clock::ClockSkew;
use crate::revoked::{Revoked, SignerKey};
use crate::{CertError, Leaf, SpiffeId, TrustBundle, TrustDomain};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::ops::RangeInclusive;
use std::slice;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

/// What the certificate is used for in the handshake being checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The holder connects.
    Client,
    /// The holder is connected to.
    Server,
}

/// A chain that was verified: who it speaks for, and whose keys it depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChain {
    /// What the leaf says.
    pub leaf: Leaf,
    /// The keys of all signing certificates that were sent with it, used or not, and that of the authority it leads to.
    pub signers: Vec<SignerKey>,
}

/// First and last moment.
pub(crate) type Validity = RangeInclusive<SystemTime>;

impl TrustBundle {
    /// Validates `chain` (leaf first) to one of the authorities at `now` (RFC 5280 section 6, X509-SVID section 5).
    ///
    /// The leaf satisfies the leaf profile and is of the bundle's trust domain; every other certificate of the chain,
    /// used or not, satisfies the signing profile and, where it has a SPIFFE ID, has that of the trust domain itself.
    /// Revocation is not looked at: that is [`Revocations::check`](crate::Revocations::check).
    ///
    /// # Errors
    /// The first rule that the chain breaks.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<Leaf, VerifyError> {
        Ok(self.verify_chain(chain, usage, now)?.leaf)
    }

    /// As [`TrustBundle::verify`], with what is needed to look for revocations.
    ///
    /// # Errors
    /// The first rule that the chain breaks.
    pub fn verify_chain(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<VerifiedChain, VerifyError> {
        self.verify_for(chain, usage, now).map(|(chain, _)| chain)
    }

    /// As [`TrustBundle::verify_chain`], and when the same chain for the same use would be accepted as well: while all of its
    /// certificates and all authorities that are valid now stay so, used or not.
    pub(crate) fn verify_for(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<(VerifiedChain, Validity), VerifyError> {
        let (leaf, path) = self.verify_path(chain, usage, now)?;
        let validity = overlap(path.validity, leaf.not_before..=leaf.not_after);
        let signers = path.signers;
        Ok((VerifiedChain { leaf, signers }, validity))
    }

    /// As [`TrustBundle::verify`], with the path by which the leaf is accepted.
    pub(crate) fn verify_path(
        &self,
        chain: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<(Leaf, Path), VerifyError> {
        let (first, intermediates) = chain.split_first().ok_or(VerifyError::NoCertificate)?;
        let leaf = Leaf::parse(first).map_err(VerifyError::Leaf)?;
        self.check_trust_domain(&leaf.id)?;
        let path = self.check_path(first, intermediates, usage, now)?;
        Ok((leaf, path))
    }

    /// As [`TrustBundle::verify`] of a leaf and what has issued it, which is taken for an authority.
    pub(crate) fn verify_under(
        &self,
        issuer: &TrustAnchor<'_>,
        first: &CertificateDer<'_>,
        usage: Usage,
        now: SystemTime,
    ) -> Result<Leaf, VerifyError> {
        let leaf = Leaf::parse(first).map_err(VerifyError::Leaf)?;
        self.check_trust_domain(&leaf.id)?;
        let end_entity = EndEntityCert::try_from(first).map_err(VerifyError::from_path)?;
        build_path(&end_entity, slice::from_ref(issuer), &[], usage, now)?;
        Ok(leaf)
    }

    /// All but the leaf's own profile: signatures, validity and constraints (RFC 5280 section 6).
    fn check_path(
        &self,
        first: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: Usage,
        now: SystemTime,
    ) -> Result<Path, VerifyError> {
        let (mut validities, mut keys) = (Vec::new(), Vec::new());
        for (index, intermediate) in (1..).zip(intermediates) {
            let signer = Signer::parse_intermediate(intermediate)
                .map_err(|source| VerifyError::Intermediate { index, source })?;
            if let Some(id) = &signer.id {
                self.check_trust_domain(id)?;
            }
            validities.push(signer.not_before..=signer.not_after);
            keys.push(signer.key);
        }
        let mut anchors = Vec::new();
        for anchor in self.anchors_at(now) {
            validities.push(anchor.not_before..=anchor.not_after);
            anchors.push(anchor.trust_anchor.clone());
        }
        if anchors.is_empty() {
            return Err(VerifyError::NoAuthority);
        }
        let end_entity = EndEntityCert::try_from(first).map_err(VerifyError::from_path)?;
        let path = build_path(&end_entity, &anchors, intermediates, usage, now)?;
        // Authorities that are equal for path validation have the same key.
        let used = self
            .anchors_at(now)
            .find(|anchor| anchor.trust_anchor == *path.anchor());
        keys.push(used.ok_or(VerifyError::UnknownIssuer)?.key);
        let validity = validities.into_iter().reduce(overlap);
        Ok(Path {
            validity: validity.ok_or(VerifyError::NoAuthority)?,
            signers: keys,
            intermediates: path.intermediate_certificates().count(),
        })
    }

    fn check_trust_domain(&self, id: &SpiffeId) -> Result<(), VerifyError> {
        if id.is_member_of(self.trust_domain()) {
            return Ok(());
        }
        Err(VerifyError::ForeignTrustDomain {
            expected: self.trust_domain().clone(),
            found: id.clone(),
        })
    }
}

/// How a leaf leads to an authority.
#[derive(Debug)]
pub(crate) struct Path {
    /// When all that was sent with the leaf and all authorities that are valid now stay so, used or not.
    pub(crate) validity: Validity,
    /// The keys of the intermediates, used or not, and of the authority.
    signers: Vec<SignerKey>,
    /// How many intermediates are on it.
    pub(crate) intermediates: usize,
}

/// The one call of path validation proper.
fn build_path<'p>(
    end_entity: &'p EndEntityCert<'p>,
    anchors: &'p [TrustAnchor<'_>],
    intermediates: &'p [CertificateDer<'p>],
    usage: Usage,
    now: SystemTime,
) -> Result<VerifiedPath<'p>, VerifyError> {
    // A clock before 1970 is a clock that was never set; at second 0 nothing is valid.
    let since_epoch = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let path = end_entity.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        anchors,
        intermediates,
        UnixTime::since_unix_epoch(since_epoch),
        match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        },
        None,
        None,
    );
    path.map_err(VerifyError::from_path)
}

fn overlap(one: Validity, other: Validity) -> Validity {
    *one.start().max(other.start())..=*one.end().min(other.end())
}

/// Why a chain was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The peer sent no certificate.
    #[error("expected a certificate, found none")]
    NoCertificate,
    /// The leaf breaks its profile.
    #[error("expected the first certificate to be an X.509-SVID leaf")]
    Leaf(#[source] CertError),
    /// An intermediate breaks its profile.
    #[error("expected certificate {index} of the chain to be a signing certificate")]
    Intermediate {
        /// Its place; the leaf has 0.
        index: usize,
        /// The rule it breaks.
        source: CertError,
    },
    /// The leaf or an intermediate speaks for another trust domain.
    #[error("expected an identity of {expected}, found {found}")]
    ForeignTrustDomain {
        /// The bundle's trust domain.
        expected: TrustDomain,
        /// The identity found.
        found: SpiffeId,
    },
    /// The chain is good and its identity is not the one that was called.
    #[error("expected {expected}, found {found}")]
    UnexpectedIdentity {
        /// Who was called.
        expected: SpiffeId,
        /// Who answered.
        found: SpiffeId,
    },
    /// The chain is good, and was revoked before its time.
    #[error("expected a certificate that is not revoked, found {serial} of {id}, whose {what} is")]
    Revoked {
        /// By what.
        what: Revoked,
        /// Whose.
        id: SpiffeId,
        /// Which.
        serial: String,
    },
    /// No authority of the bundle may sign at this time.
    #[error("expected an authority that is valid now and may sign, found none in the bundle")]
    NoAuthority,
    /// A certificate of the path is past its end.
    #[error("expected a certificate that is valid at {}, found one that ended at {}{}", text(*.now), text(*.not_after), clause(*.clock))]
    Expired {
        /// When it was checked.
        now: SystemTime,
        /// The end of its validity.
        not_after: SystemTime,
        /// How far off the clock that it was checked by is, if that is known.
        clock: Option<ClockSkew>,
    },
    /// A certificate of the path is before its beginning.
    #[error("expected a certificate that is valid at {}, found one that begins at {}{}", text(*.now), text(*.not_before), clause(*.clock))]
    NotYetValid {
        /// When it was checked.
        now: SystemTime,
        /// The beginning of its validity.
        not_before: SystemTime,
        /// How far off the clock that it was checked by is, if that is known.
        clock: Option<ClockSkew>,
    },
    /// No path leads to an authority.
    #[error("expected a certificate issued under one of the bundle's authorities")]
    UnknownIssuer,
    /// Names lead to an authority, and the signature is not its own.
    #[error("expected the issuer's signature, found one that does not verify")]
    BadSignature,
    /// Extended key usage along the path forbids this use.
    #[error("expected a certificate path that allows this use")]
    WrongUsage,
    /// Another rule of RFC 5280 section 6.
    #[error("expected a valid certificate path")]
    Path(#[source] webpki::Error),
}

impl VerifyError {
    /// A closed set of words, for metrics and for people.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Leaf(CertError::NoUri | CertError::NotSpiffeId(_)) => "no_spiffe_id",
            Self::Leaf(CertError::SeveralUris { .. }) => "several_spiffe_ids",
            Self::Leaf(CertError::Malformed | CertError::TrailingData { .. }) => "malformed",
            Self::Leaf(_) => "leaf_profile",
            Self::Intermediate { .. } => "signer_profile",
            Self::ForeignTrustDomain { .. } => "foreign_trust_domain",
            Self::UnexpectedIdentity { .. } => "unexpected_identity",
            Self::Revoked { .. } => "revoked",
            Self::NoAuthority => "no_authority",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadSignature => "bad_signature",
            Self::WrongUsage => "wrong_usage",
            Self::Path(_) => "invalid_path",
        }
    }

    /// The same with how far off the clock is that said what time it is.
    #[must_use]
    pub fn by_clock(mut self, skew: Option<ClockSkew>) -> Self {
        if let Self::Expired { clock, .. } | Self::NotYetValid { clock, .. } = &mut self {
            *clock = skew;
        }
        self
    }

    fn from_path(error: webpki::Error) -> Self {
        match error {
            webpki::Error::CertExpired { time, not_after } => Self::Expired {
                now: moment(time),
                not_after: moment(not_after),
                clock: None,
            },
            webpki::Error::CertNotValidYet { time, not_before } => Self::NotYetValid {
                now: moment(time),
                not_before: moment(not_before),
                clock: None,
            },
            webpki::Error::UnknownIssuer => Self::UnknownIssuer,
            webpki::Error::InvalidSignatureForPublicKey => Self::BadSignature,
            webpki::Error::RequiredEkuNotFoundContext(_) => Self::WrongUsage,
            other => Self::Path(other),
        }
    }
}

pub(crate) fn moment(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

fn clause(clock: Option<ClockSkew>) -> String {
    clock.map_or_else(String::new, |skew| format!(" ({skew})"))
}

/// RFC 3339, or seconds since 1970 for a year that RFC 3339 cannot write.
fn text(moment: SystemTime) -> String {
    let seconds = moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}

#[cfg(test)]
mod limbo;
#[cfg(test)]
mod tests;
