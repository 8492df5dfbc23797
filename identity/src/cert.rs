//! Certificate DER to exactly one SPIFFE ID, or the rule that forbids it (X509-SVID sections 2 to 5).
//!
//! Profiles only: signatures, validity at a given time and the trust domain are [`crate::verify`]'s.

use crate::{ParseIdError, SpiffeId};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};
use x509_parser::asn1_rs::Any;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{BasicConstraints, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_KEY_USAGE,
    OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

/// RFC 5280 section 4.1.2.2. Serials go into logs and records, so their length is held to it.
const MAX_SERIAL_OCTETS: usize = 20;

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
        refuse_unknown_critical(
            &cert,
            &[
                OID_X509_EXT_BASIC_CONSTRAINTS,
                OID_X509_EXT_KEY_USAGE,
                OID_X509_EXT_EXTENDED_KEY_USAGE,
                OID_X509_EXT_SUBJECT_ALT_NAME,
            ],
        )?;
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
        check_extended_key_usage(&cert)?;
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
        refuse_unknown_critical(
            cert,
            &[
                OID_X509_EXT_BASIC_CONSTRAINTS,
                OID_X509_EXT_KEY_USAGE,
                OID_X509_EXT_EXTENDED_KEY_USAGE,
                OID_X509_EXT_SUBJECT_ALT_NAME,
                OID_X509_EXT_NAME_CONSTRAINTS,
            ],
        )?;
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
        Ok(Self {
            id,
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

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertError> {
    let (rest, cert) = X509Certificate::from_der(der).map_err(|_| CertError::Malformed)?;
    match rest.len() {
        0 => Ok(cert),
        bytes => Err(CertError::TrailingData { bytes }),
    }
}

/// Holds a certificate to nothing but its encoding.
pub(crate) fn check_encoding(der: &[u8]) -> Result<(), CertError> {
    parse(der).map(|_| ())
}

/// The length of the certificate that `der` begins with.
pub(crate) fn encoded_length(der: &[u8]) -> Result<usize, CertError> {
    let (rest, _) = X509Certificate::from_der(der).map_err(|_| CertError::Malformed)?;
    Ok(der.len() - rest.len())
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

/// The extension's content: `None` only when it is absent, so that one which cannot be read is never taken for that.
fn extension<'c, 'd>(
    cert: &'c X509Certificate<'d>,
    oid: &Oid<'static>,
    name: &'static str,
) -> Result<Option<&'c ParsedExtension<'d>>, CertError> {
    let unreadable = CertError::Extension { name };
    let Some(extension) = cert
        .get_extension_unique(oid)
        .map_err(|_| unreadable.clone())?
    else {
        return Ok(None);
    };
    // The parser stops at the end of the first value; what follows could say something else to another reader.
    match Any::from_der(extension.value) {
        Ok(([], _)) => Ok(Some(extension.parsed_extension())),
        _ => Err(unreadable),
    }
}

fn basic_constraints<'c>(
    cert: &'c X509Certificate<'_>,
) -> Result<Option<&'c BasicConstraints>, CertError> {
    let name = "basicConstraints";
    match extension(cert, &OID_X509_EXT_BASIC_CONSTRAINTS, name)? {
        None => Ok(None),
        Some(ParsedExtension::BasicConstraints(constraints)) => Ok(Some(constraints)),
        Some(_) => Err(CertError::Extension { name }),
    }
}

fn key_usage<'c>(cert: &'c X509Certificate<'_>) -> Result<Option<&'c KeyUsage>, CertError> {
    let name = "keyUsage";
    match extension(cert, &OID_X509_EXT_KEY_USAGE, name)? {
        None => Ok(None),
        Some(ParsedExtension::KeyUsage(usage)) => Ok(Some(usage)),
        Some(_) => Err(CertError::Extension { name }),
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

fn check_extended_key_usage(cert: &X509Certificate<'_>) -> Result<(), CertError> {
    let name = "extKeyUsage";
    let usage = match extension(cert, &OID_X509_EXT_EXTENDED_KEY_USAGE, name)? {
        None => return Ok(()),
        Some(ParsedExtension::ExtendedKeyUsage(usage)) => usage,
        Some(_) => return Err(CertError::Extension { name }),
    };
    let missing = match (usage.server_auth, usage.client_auth) {
        (true, true) => return Ok(()),
        (false, _) => "serverAuth",
        (true, false) => "clientAuth",
    };
    Err(CertError::ExtendedKeyUsage { missing })
}

/// The URI name as a SPIFFE ID. A name of any kind that cannot be read hides what it says, so it refuses the certificate.
fn uri_name(cert: &X509Certificate<'_>) -> Result<Option<SpiffeId>, CertError> {
    let name = "subjectAltName";
    let names = match extension(cert, &OID_X509_EXT_SUBJECT_ALT_NAME, name)? {
        None => return Ok(None),
        Some(ParsedExtension::SubjectAlternativeName(names)) => &names.general_names,
        Some(_) => return Err(CertError::Extension { name }),
    };
    let mut uris = Vec::new();
    for general_name in names {
        match general_name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(CertError::Extension { name }),
            _ => {}
        }
    }
    match uris[..] {
        [] => Ok(None),
        [uri] => SpiffeId::parse(uri)
            .map(Some)
            .map_err(CertError::NotSpiffeId),
        _ => Err(CertError::SeveralUris { count: uris.len() }),
    }
}

fn serial(cert: &X509Certificate<'_>) -> Result<String, CertError> {
    let octets = cert.raw_serial();
    // DER puts a zero octet before a magnitude whose first bit is set, to keep the integer positive.
    let magnitude = match octets {
        [0, rest @ ..] if !rest.is_empty() => rest,
        _ => octets,
    };
    if magnitude.is_empty() || magnitude.len() > MAX_SERIAL_OCTETS {
        return Err(CertError::Serial {
            octets: magnitude.len(),
        });
    }
    let mut text = String::with_capacity(magnitude.len() * 2);
    for octet in magnitude {
        write!(text, "{octet:02x}").expect("writing to a String cannot fail");
    }
    Ok(text)
}

fn system_time(time: ASN1Time) -> Result<SystemTime, CertError> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let moment = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    moment.ok_or(CertError::Validity)
}

#[cfg(test)]
mod tests;
