//! The authorities of one trust domain (SPIFFE Trust Domain and Bundle sections 3 and 4).

mod document;

use crate::TrustDomain;
use crate::cert::{self, CertError, Signer};
use crate::jwt::{JwtKeyError, JwtKeys};
use crate::revoked::SignerKey;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use serde::Deserialize;
use std::time::SystemTime;

/// The authorities of one trust domain. Never empty.
///
/// A bundle holds every well-formed certificate it is given, and [`TrustBundle::verify`] trusts those of them that may
/// sign at that moment: CA true, keyCertSign where key usage is present, no SPIFFE ID but the trust domain's own, and
/// within their validity. An authority that breaks a rule is thus never trusted, and does not take the others with it.
///
/// `sequence` only grows; whoever holds a bundle asks [`TrustBundle::check_successor`] before it takes another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    authorities: Vec<CertificateDer<'static>>,
    anchors: Vec<Anchor>,
    jwt_keys: JwtKeys,
    sequence: u64,
}

impl TrustBundle {
    /// A bundle of DER certificates.
    ///
    /// # Errors
    /// When there is no certificate, or one of them is none.
    pub fn new(
        trust_domain: TrustDomain,
        authorities: Vec<CertificateDer<'static>>,
        sequence: u64,
    ) -> Result<Self, BundleError> {
        if authorities.is_empty() {
            return Err(BundleError::Empty);
        }
        for (index, authority) in authorities.iter().enumerate() {
            cert::check_encoding(authority)
                .map_err(|source| BundleError::Authority { index, source })?;
        }
        let anchors = authorities
            .iter()
            .filter_map(|authority| Anchor::of(authority, &trust_domain))
            .collect();
        Ok(Self {
            trust_domain,
            authorities,
            anchors,
            jwt_keys: JwtKeys::default(),
            sequence,
        })
    }

    /// The same with the keys that vouch for the trust domain's tokens.
    #[must_use]
    pub fn with_jwt_keys(self, jwt_keys: JwtKeys) -> Self {
        Self { jwt_keys, ..self }
    }

    /// Concatenated PEM certificates. Text around them is passed over, as are blocks of another kind.
    ///
    /// # Errors
    /// When a block is damaged, or as in [`TrustBundle::new`].
    pub fn from_pem(
        trust_domain: TrustDomain,
        pem: &[u8],
        sequence: u64,
    ) -> Result<Self, BundleError> {
        let authorities = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(BundleError::Pem)?;
        Self::new(trust_domain, authorities, sequence)
    }

    /// Concatenated DER certificates, the form of the SPIFFE Workload API.
    ///
    /// # Errors
    /// As in [`TrustBundle::new`].
    pub fn from_der(
        trust_domain: TrustDomain,
        mut der: &[u8],
        sequence: u64,
    ) -> Result<Self, BundleError> {
        let mut authorities = Vec::new();
        while !der.is_empty() {
            let index = authorities.len();
            let length = cert::encoded_length(der)
                .map_err(|source| BundleError::Authority { index, source })?;
            let (first, rest) = der.split_at(length);
            authorities.push(CertificateDer::from(first.to_vec()));
            der = rest;
        }
        Self::new(trust_domain, authorities, sequence)
    }

    /// A SPIFFE bundle document (SPIFFE Trust Domain and Bundle section 4). Without `spiffe_sequence` it is number 0.
    ///
    /// Entries that the specification tells a reader to ignore are ignored. A document whose `keys` leave no X.509
    /// authority revokes them all; there is no such bundle here, so it is [`BundleError::Empty`] and the caller decides.
    ///
    /// # Errors
    /// When the document is not JSON of that shape, an entry breaks a rule, or as in [`TrustBundle::new`].
    pub fn from_spiffe_json(trust_domain: TrustDomain, json: &[u8]) -> Result<Self, BundleError> {
        let document: Document = serde_json::from_slice(json).map_err(BundleError::Json)?;
        let mut authorities = Vec::new();
        for (index, key) in document.keys.into_iter().enumerate() {
            if let Some(der) = key.x509_authority(index)? {
                authorities.push(CertificateDer::from(der));
            }
        }
        let jwt_keys = JwtKeys::from_jwks(json).map_err(BundleError::JwtKeys)?;
        let bundle = Self::new(trust_domain, authorities, document.spiffe_sequence)?;
        Ok(bundle.with_jwt_keys(jwt_keys))
    }

    /// The authorities as concatenated PEM certificates.
    pub fn to_pem(&self) -> String {
        crate::pem::encode(&self.authorities)
    }

    /// Whose authorities these are.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// All certificates, in the order given.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// The keys that vouch for the trust domain's tokens.
    pub fn jwt_keys(&self) -> &JwtKeys {
        &self.jwt_keys
    }

    /// The number of this version of the bundle.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether `next` may take this bundle's place: same trust domain, and a higher sequence unless nothing changed.
    ///
    /// # Errors
    /// The rule that forbids it. The holder keeps what it has.
    pub fn check_successor(&self, next: &Self) -> Result<(), SuccessorError> {
        if next.trust_domain != self.trust_domain {
            return Err(SuccessorError::OtherTrustDomain {
                expected: self.trust_domain.clone(),
                found: next.trust_domain.clone(),
            });
        }
        if next.sequence < self.sequence {
            return Err(SuccessorError::SequenceWentBack {
                held: self.sequence,
                found: next.sequence,
            });
        }
        let is_other = next.authorities != self.authorities || next.jwt_keys != self.jwt_keys;
        if next.sequence == self.sequence && is_other {
            return Err(SuccessorError::ChangedInPlace {
                sequence: self.sequence,
            });
        }
        Ok(())
    }

    /// The authorities that may sign at `now`.
    pub(crate) fn anchors_at(&self, now: SystemTime) -> impl Iterator<Item = &Anchor> {
        self.anchors
            .iter()
            .filter(move |anchor| anchor.not_before <= now && now <= anchor.not_after)
    }

    /// Whether an authority restricts who may be under it (RFC 5280 section 4.2.1.10): what is good for one leaf need not be
    /// for another then.
    pub(crate) fn constrains_names(&self) -> bool {
        let mut anchors = self.anchors.iter();
        anchors.any(|anchor| anchor.trust_anchor.name_constraints.is_some())
    }
}

/// An authority in the form in which path validation wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Anchor {
    pub(crate) trust_anchor: TrustAnchor<'static>,
    pub(crate) key: SignerKey,
    /// Path validation itself does not look at an anchor's validity; [`TrustBundle::anchors_at`] does.
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Anchor {
    /// `None` when the certificate may not sign for `trust_domain`.
    fn of(authority: &CertificateDer<'_>, trust_domain: &TrustDomain) -> Option<Self> {
        let signer = Signer::parse_authority(authority).ok()?;
        if signer.id.is_some_and(|id| !id.is_member_of(trust_domain)) {
            return None;
        }
        Some(Self {
            trust_anchor: webpki::anchor_from_trusted_cert(authority).ok()?.to_owned(),
            key: signer.key,
            not_before: signer.not_before,
            not_after: signer.not_after,
        })
    }
}

/// A bundle document as written. Members that are not named here are allowed (SPIFFE Trust Domain and Bundle 4.1).
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    spiffe_sequence: u64,
    keys: Vec<Key>,
}

/// One JSON Web Key of a bundle document.
#[derive(Deserialize)]
struct Key {
    kty: Option<String>,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    x5c: Option<Vec<String>>,
}

impl Key {
    /// The certificate of an X.509 authority; `None` for an entry that is of another kind or to be ignored.
    fn x509_authority(self, index: usize) -> Result<Option<Vec<u8>>, BundleError> {
        // Section 4.2.1: an unknown key type is ignored, whatever else the entry says.
        if !matches!(self.kty.as_deref(), Some("EC" | "RSA" | "OKP")) {
            return Ok(None);
        }
        match self.usage.as_deref() {
            Some("x509-svid") => {}
            // JWT-SVID section 6.1: such an entry has to have a key ID.
            Some("jwt-svid" | "wit-svid") if self.kid.as_deref().unwrap_or_default().is_empty() => {
                return Err(BundleError::NoKeyId { index });
            }
            // Section 4.2.2: other uses, and entries without one, are ignored.
            _ => return Ok(None),
        }
        // X509-SVID section 6.2: an entry without a certificate is ignored, as is every certificate after the first.
        let Some(text) = self.x5c.into_iter().flatten().next() else {
            return Ok(None);
        };
        STANDARD
            .decode(text)
            .map(Some)
            .map_err(|source| BundleError::Base64 { index, source })
    }
}

/// Why there is no bundle in some bytes.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A bundle without authorities trusts nobody, which is rarely what an operator meant.
    #[error("expected at least one authority, found none")]
    Empty,
    /// An authority is not a certificate.
    #[error("expected authority {index} to be a certificate")]
    Authority {
        /// Its place, from 0.
        index: usize,
        /// What is wrong with it.
        source: CertError,
    },
    /// Damaged PEM.
    #[error("expected concatenated PEM certificates")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// Not a bundle document.
    #[error("expected a SPIFFE bundle document with a \"keys\" array")]
    Json(#[source] serde_json::Error),
    /// Damaged base64 in `x5c`.
    #[error("expected keys[{index}].x5c[0] to be base64")]
    Base64 {
        /// The entry's place, from 0.
        index: usize,
        /// Where it is damaged.
        source: base64::DecodeError,
    },
    /// A key for tokens that cannot be read.
    #[error("expected readable keys for tokens")]
    JwtKeys(#[source] JwtKeyError),
    /// A key for tokens that cannot be named.
    #[error("expected keys[{index}] to have a \"kid\"")]
    NoKeyId {
        /// The entry's place, from 0.
        index: usize,
    },
}

/// Why one bundle may not take another's place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SuccessorError {
    /// The bundle is someone else's.
    #[error("expected a bundle of {expected}, found one of {found}")]
    OtherTrustDomain {
        /// The holder's trust domain.
        expected: TrustDomain,
        /// The other bundle's.
        found: TrustDomain,
    },
    /// The bundle is older: to take it would bring back authorities that were withdrawn.
    #[error("expected a bundle sequence of at least {held}, found {found}")]
    SequenceWentBack {
        /// The holder's sequence.
        held: u64,
        /// The other bundle's.
        found: u64,
    },
    /// Other authorities under the same number.
    #[error("expected the authorities of sequence {sequence} to stay as they are")]
    ChangedInPlace {
        /// The number of both bundles.
        sequence: u64,
    },
}

#[cfg(test)]
mod tests;
