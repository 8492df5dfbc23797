//! Certificate DER to exactly one SPIFFE ID, or the rule that forbids it (X509-SVID sections 2 to 5).
//!
//! Profiles only: signatures, validity at a given time and the trust domain are [`crate::verify`]'s.

mod fields;

use crate::revoked::SignerKey;
use crate::{ParseIdError, SpiffeId};
use aws_lc_rs::digest::{SHA256, digest};
use fields::{
    basic_constraints, extended_key_usage, key_usage, parse, serial, system_time, uri_name,
};
pub(crate) use fields::{check_encoding, encoded_length};
use std::time::SystemTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, KeyUsage};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};

/// RFC 5280 section 4.1.2.2. Serials go into logs and records, so their length is held to it.
const MAX_SERIAL_OCTETS: usize = 20;

/// What a leaf may mark critical: the extensions read here (RFC 5280 section 4.2).
const LEAF_EXTENSIONS: [Oid<'static>; 4] = [
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
];
/// A signer may also constrain names, which path validation reads.
const SIGNER_EXTENSIONS: [Oid<'static>; 5] = [
    OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_EXTENDED_KEY_USAGE,
    OID_X509_EXT_SUBJECT_ALT_NAME,
    OID_X509_EXT_NAME_CONSTRAINTS,
];

/// What a leaf certificate says, once it satisfies the X.509-SVID leaf profile. Not yet path-validated, unless it comes
/// from [`TrustBundle::verify`](crate::TrustBundle::verify).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The only URI name of the certificate.
    pub id: SpiffeId,
    /// The serial's magnitude in lower-case hexadecimal, two digits for each octet, no separators and no sign octet.
    pub serial: String,
    /// First moment of validity.
    pub not_before: SystemTime,
    /// Last moment of validity.
    pub not_after: SystemTime,
}

impl Leaf {
    /// Reads one DER certificate and holds it to the leaf profile. Expired certificates are read like any other.
    ///
    /// After a handshake with a verifier of [`crate::tls`] this is how to learn who the peer is: the first of
    /// `peer_certificates()` has already been verified, and to parse it again gives the same identity.
    ///
    /// # Errors
    /// The first rule that the certificate breaks. No input makes it panic.
    pub fn parse(der: &[u8]) -> Result<Self, CertError> {
        let cert = parse(der)?;
        refuse_unknown_critical(&cert, &LEAF_EXTENSIONS)?;
        // The name comes first: an ordinary certificate is refused for what it lacks, not for a detail of its profile.
        let id = uri_name(&cert)?.ok_or(CertError::NoUri)?;
        if id.path().is_empty() {
            return Err(CertError::LeafWithoutPath { found: id });
        }
        let constraints = basic_constraints(&cert)?.ok_or(CertError::NoBasicConstraints)?;
        if constraints.ca {
            return Err(CertError::LeafIsCa);
        }
        check_leaf_key_usage(key_usage(&cert)?.ok_or(CertError::NoKeyUsage)?)?;
        if let Some(usage) = extended_key_usage(&cert)? {
            check_extended_key_usage(usage)?;
        }
        Ok(Self {
            id,
            serial: serial(&cert)?,
            not_before: system_time(cert.validity().not_before)?,
            not_after: system_time(cert.validity().not_after)?,
        })
    }
}

/// What a signing certificate says, once it satisfies the X.509-SVID signing profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signer {
    /// The trust domain's own ID, when the certificate is an SVID itself.
    pub(crate) id: Option<SpiffeId>,
    pub(crate) key: SignerKey,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Signer {
    /// An intermediate, as a peer sends it.
    pub(crate) fn parse_intermediate(der: &[u8]) -> Result<Self, CertError> {
        let cert = parse(der)?;
        let usage = key_usage(&cert)?.ok_or(CertError::NoKeyUsage)?;
        Self::check(&cert, Some(usage))
    }

    /// An authority of a bundle. It may leave key usage out: that means "no restriction" (RFC 5280 section 4.2.1.3),
    /// and whoever put it into the bundle has already said what it is for.
    pub(crate) fn parse_authority(der: &[u8]) -> Result<Self, CertError> {
        let cert = parse(der)?;
        Self::check(&cert, key_usage(&cert)?)
    }

    fn check(cert: &X509Certificate<'_>, usage: Option<&KeyUsage>) -> Result<Self, CertError> {
        refuse_unknown_critical(cert, &SIGNER_EXTENSIONS)?;
        if !basic_constraints(cert)?.is_some_and(|constraints| constraints.ca) {
            return Err(CertError::SignerIsNotCa);
        }
        if let Some(usage) = usage {
            check_signer_key_usage(usage)?;
        }
        let id = uri_name(cert)?;
        if let Some(id) = id.as_ref().filter(|id| !id.path().is_empty()) {
            return Err(CertError::SignerWithPath { found: id.clone() });
        }
        let mut key = SignerKey::default();
        key.copy_from_slice(digest(&SHA256, cert.public_key().raw).as_ref());
        Ok(Self {
            id,
            key,
            not_before: system_time(cert.validity().not_before)?,
            not_after: system_time(cert.validity().not_after)?,
        })
    }
}

/// Which rule of the X.509-SVID profile a certificate breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertError {
    /// Not a certificate.
    #[error("expected a DER certificate")]
    Malformed,
    /// Bytes after the certificate.
    #[error("expected one certificate, found {bytes} bytes after it")]
    TrailingData {
        /// How many.
        bytes: usize,
    },
    /// An extension this profile reads is there twice or cannot be read.
    #[error("expected at most one well-formed {name} extension")]
    Extension {
        /// Its name in RFC 5280.
        name: &'static str,
    },
    /// RFC 5280 section 4.2: what is critical and not understood is refused.
    #[error("expected no unknown critical extension, found {oid}")]
    UnknownCriticalExtension {
        /// Dotted object identifier.
        oid: String,
    },
    /// RFC 5280 section 4.1.2.2.
    #[error("expected a serial number of 1 to {MAX_SERIAL_OCTETS} octets, found {octets}")]
    Serial {
        /// Length found.
        octets: usize,
    },
    /// A validity date that the system's clock cannot hold.
    #[error("expected validity dates within the range of the system's clock")]
    Validity,
    /// X509-SVID section 2: no URI name.
    #[error("expected exactly one URI name, found none")]
    NoUri,
    /// X509-SVID section 2: more than one URI name.
    #[error("expected exactly one URI name, found {count}")]
    SeveralUris {
        /// How many.
        count: usize,
    },
    /// The URI name is not a SPIFFE ID.
    #[error("expected the URI name to be a SPIFFE ID")]
    NotSpiffeId(#[source] ParseIdError),
    /// X509-SVID section 5.2: a leaf's ID has a path.
    #[error("expected a leaf's SPIFFE ID to have a path, found {found}")]
    LeafWithoutPath {
        /// The ID.
        found: SpiffeId,
    },
    /// X509-SVID section 4.1: basic constraints have to say that a leaf is no CA.
    #[error("expected a leaf to have basic constraints, found none")]
    NoBasicConstraints,
    /// X509-SVID section 4.1.
    #[error("expected a leaf with CA false, found CA true")]
    LeafIsCa,
    /// X509-SVID section 4.3: key usage is set on every SVID.
    #[error("expected a key usage extension, found none")]
    NoKeyUsage,
    /// X509-SVID section 4.3: leaves sign handshakes.
    #[error("expected a leaf's key usage to have digitalSignature")]
    NoDigitalSignature,
    /// X509-SVID section 4.3: leaves sign no certificates.
    #[error("expected a leaf's key usage to be without keyCertSign")]
    LeafSignsCertificates,
    /// X509-SVID section 4.3: leaves sign no revocation lists.
    #[error("expected a leaf's key usage to be without cRLSign")]
    LeafSignsRevocationLists,
    /// X509-SVID section 4.3: leaves may add keyEncipherment and keyAgreement, signers cRLSign and digitalSignature.
    #[error("expected no key usage beyond the profile's, found {found}")]
    OtherKeyUsage {
        /// Names in RFC 5280, separated by commas.
        found: String,
    },
    /// X509-SVID section 4.4: extended key usage, when present, has both.
    #[error("expected extended key usage to have serverAuth and clientAuth, found no {missing}")]
    ExtendedKeyUsage {
        /// The one that is not there.
        missing: &'static str,
    },
    /// X509-SVID section 4.1.
    #[error("expected a signing certificate with CA true")]
    SignerIsNotCa,
    /// X509-SVID section 4.3.
    #[error("expected a signing certificate's key usage to have keyCertSign")]
    NoKeyCertSign,
    /// X509-SVID section 3.2: only the trust domain itself signs.
    #[error("expected a signing certificate's SPIFFE ID to have no path, found {found}")]
    SignerWithPath {
        /// The ID.
        found: SpiffeId,
    },
}

fn refuse_unknown_critical(
    cert: &X509Certificate<'_>,
    known: &[Oid<'static>],
) -> Result<(), CertError> {
    let unknown = cert
        .iter_extensions()
        .find(|extension| extension.critical && !known.contains(&extension.oid));
    match unknown {
        Some(extension) => Err(CertError::UnknownCriticalExtension {
            oid: extension.oid.to_id_string(),
        }),
        None => Ok(()),
    }
}

fn check_leaf_key_usage(usage: &KeyUsage) -> Result<(), CertError> {
    if !usage.digital_signature() {
        return Err(CertError::NoDigitalSignature);
    }
    if usage.key_cert_sign() {
        return Err(CertError::LeafSignsCertificates);
    }
    if usage.crl_sign() {
        return Err(CertError::LeafSignsRevocationLists);
    }
    refuse_other_key_usage([
        (usage.non_repudiation(), "nonRepudiation"),
        (usage.data_encipherment(), "dataEncipherment"),
        (usage.encipher_only(), "encipherOnly"),
        (usage.decipher_only(), "decipherOnly"),
    ])
}

fn check_signer_key_usage(usage: &KeyUsage) -> Result<(), CertError> {
    if !usage.key_cert_sign() {
        return Err(CertError::NoKeyCertSign);
    }
    refuse_other_key_usage([
        (usage.non_repudiation(), "nonRepudiation"),
        (usage.key_encipherment(), "keyEncipherment"),
        (usage.data_encipherment(), "dataEncipherment"),
        (usage.key_agreement(), "keyAgreement"),
        (usage.encipher_only(), "encipherOnly"),
        (usage.decipher_only(), "decipherOnly"),
    ])
}

fn refuse_other_key_usage<const N: usize>(
    usages: [(bool, &'static str); N],
) -> Result<(), CertError> {
    let found: Vec<_> = usages.iter().filter(|u| u.0).map(|u| u.1).collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(CertError::OtherKeyUsage {
        found: found.join(", "),
    })
}

fn check_extended_key_usage(usage: &ExtendedKeyUsage<'_>) -> Result<(), CertError> {
    let missing = match (usage.server_auth, usage.client_auth) {
        (true, true) => return Ok(()),
        (false, _) => "serverAuth",
        (true, false) => "clientAuth",
    };
    Err(CertError::ExtendedKeyUsage { missing })
}

#[cfg(test)]
mod tests;
