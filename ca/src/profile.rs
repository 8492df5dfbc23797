//! Every X.509 field of root, intermediate and leaf, with the section that asks for it.
//!
//! Common to all three: version 3, a serial of 128 random bits (RFC 5280 section 4.1.2.2; positive, at most 20
//! octets), ecdsa-with-SHA256 on P-256, the subject key identifier of RFC 7093 section 2 method 1, the issuer's as
//! authority key identifier (RFC 5280 sections 4.2.1.1 and 4.2.1.2), and exactly one URI SAN with a SPIFFE ID
//! (X509-SVID section 2). A leaf may have DNS SANs beside it, and no other names.

use crate::csr::PublicKey;
use crate::dns::DnsName;
use crate::signer::CaKey;
use aws_lc_rs::digest::{SHA256, digest};
use identity::revoked::SignerKey;
use identity::{SpiffeId, TrustDomain};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

mod requested;

#[cfg(test)]
mod tests;

pub use requested::IssuedError;
pub(crate) use requested::{RequestedIssuer, intermediate_request, may_sign_issuers};

/// How far `notBefore` of a leaf lies in the past, for peers whose clock is behind.
pub const BACKDATE: Duration = Duration::from_secs(30);
/// The same for CA certificates, longer, so that the first leaf can be back-dated within its issuers' validity.
const CA_BACKDATE: Duration = Duration::from_secs(300);

/// A validity period in whole seconds, as X.509 has it. Both ends belong to it (RFC 5280 section 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Validity {
    /// The validity of a CA certificate made at `now`.
    pub(crate) fn of_ca(now: SystemTime, life: Duration) -> Self {
        Self {
            not_before: whole_seconds(now - CA_BACKDATE),
            not_after: whole_seconds(now + life),
        }
    }

    /// The validity of a leaf made at `now`, within `issuer`: a certificate must not outlive what it depends on.
    pub(crate) fn of_leaf(now: SystemTime, life: Duration, issuer: Self) -> Self {
        Self {
            not_before: whole_seconds(now - BACKDATE),
            not_after: whole_seconds(now + life),
        }
        .within(issuer)
    }

    /// The part of this period in which `issuer` is valid too.
    pub(crate) fn within(self, issuer: Self) -> Self {
        Self {
            not_before: self.not_before.max(issuer.not_before),
            not_after: self.not_after.min(issuer.not_after),
        }
    }
}

/// The trust anchor. May sign intermediates, which may sign leaves only (pathLenConstraint 1, RFC 5280 section
/// 4.2.1.9).
pub(crate) fn root(
    trust_domain: &TrustDomain,
    key: &impl PublicKeyData,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    ca(trust_domain, "root", 1, key, validity)
}

/// The issuing intermediate. May sign leaves only (pathLenConstraint 0).
pub(crate) fn intermediate(
    trust_domain: &TrustDomain,
    key: &impl PublicKeyData,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    ca(trust_domain, "intermediate", 0, key, validity)
}

fn ca(
    trust_domain: &TrustDomain,
    role: &str,
    path_len: u8,
    key: &impl PublicKeyData,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let key_id = key_id(key);
    let mut params = common(validity, &key_id);
    // RFC 5280 section 4.2.1.9: critical, cA true.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    // X509-SVID section 4.3: keyCertSign; cRLSign for revocation lists. Critical. No extended key usage (section
    // 4.4): it would restrict the leaves.
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // X509-SVID section 3.2: a signing certificate's ID is that of the trust domain, without a path.
    params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
    // RFC 5280 section 4.1.2.6: a CA has a name. The key's hash in it keeps generations of issuers apart, and the
    // trust domain, which may be longer than a common name (64), stays in the SAN.
    let short: String = key_id[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    params.distinguished_name = ca_name(&format!("Tipstaff {role} {short}"));
    Ok(params)
}

/// A workload's certificate, or the CA's own server certificate.
pub(crate) fn leaf(
    id: &SpiffeId,
    names: &BTreeSet<DnsName>,
    key: &PublicKey,
    validity: Validity,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = common(validity, &key_id(key));
    // X509-SVID section 2: exactly one URI SAN, the SPIFFE ID, and DNS SANs as one likes. RFC 5280 section 4.2.1.6: as the
    // subject is empty, the SAN is critical (rcgen sees to it).
    params.subject_alt_names = vec![uri(id.as_str())?];
    for name in names {
        let name = Ia5String::try_from(name.as_str())?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.distinguished_name = DistinguishedName::new();
    // X509-SVID section 4.1: cA false, written out.
    params.is_ca = IsCa::ExplicitNoCa;
    // X509-SVID section 4.3: digitalSignature, neither keyCertSign nor cRLSign. Critical.
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // X509-SVID section 4.4: a sidecar is both ends.
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    Ok(params)
}

fn common(validity: Validity, key_id: &[u8]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = validity.not_before.into();
    params.not_after = validity.not_after.into();
    params.serial_number = Some(random_serial());
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id.to_vec());
    params.use_authority_key_identifier_extension = true;
    params
}

/// RFC 7093 section 2 method 1: the left 160 bits of the SHA-256 of the key's bits. (rcgen's default of that name
/// hashes the whole SubjectPublicKeyInfo instead.)
pub(crate) fn key_id(key: &impl PublicKeyData) -> Vec<u8> {
    digest(&SHA256, key.der_bytes()).as_ref()[..20].to_vec()
}

/// 128 random bits. rcgen's default would be a hash of the key, the same for every certificate of that key.
fn random_serial() -> SerialNumber {
    let mut bytes = [0; 16];
    // A leading zero byte would not survive DER, and the serial be shorter than its text says.
    while bytes[0] == 0 {
        aws_lc_rs::rand::fill(&mut bytes).expect("AWS-LC's generator aborts rather than fail");
    }
    SerialNumber::from_slice(&bytes)
}

fn uri(id: &str) -> Result<SanType, rcgen::Error> {
    Ok(SanType::URI(Ia5String::try_from(id)?))
}

fn ca_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// The DNS names of a leaf of ours; `None` when it has a name that is neither one of those nor its only URI.
pub(crate) fn dns_names(leaf: &[u8]) -> Option<BTreeSet<DnsName>> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let (mut found, mut uris) = (BTreeSet::new(), 0);
    for name in &names.value.general_names {
        let is_new = match name {
            GeneralName::DNSName(name) => found.insert(name.parse().ok()?),
            GeneralName::URI(_) => {
                uris += 1;
                uris == 1
            }
            _ => false,
        };
        if !is_new {
            return None;
        }
    }
    Some(found)
}

/// What is read back from a CA certificate of ours.
#[derive(Debug, Clone)]
pub(crate) struct CaCertificate {
    pub(crate) common_name: String,
    pub(crate) serial: String,
    pub(crate) validity: Validity,
    key_id: Vec<u8>,
    point: Vec<u8>,
    key_hash: SignerKey,
}

impl CaCertificate {
    /// `None` when `der` is not a certificate of the form [`root`] and [`intermediate`] give.
    pub(crate) fn parse(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        // An extended key usage would restrict the leaves: what validates as a client would not have to as a server.
        let unrestricted = matches!(certificate.extended_key_usage(), Ok(None));
        if !rest.is_empty() || !certificate.is_ca() || !unrestricted {
            return None;
        }
        let mut names = certificate.subject().iter_common_name();
        let (Some(name), None) = (names.next(), names.next()) else {
            return None;
        };
        let key_id = certificate.iter_extensions().find_map(|extension| {
            match extension.parsed_extension() {
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
                _ => None,
            }
        })?;
        let time = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).ok()?;
            Some(UNIX_EPOCH + Duration::from_secs(seconds))
        };
        Some(Self {
            common_name: name.as_str().ok()?.to_owned(),
            serial: certificate
                .raw_serial()
                .iter()
                .skip_while(|byte| **byte == 0)
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            validity: Validity {
                not_before: time(certificate.validity().not_before)?,
                not_after: time(certificate.validity().not_after)?,
            },
            key_id: key_id.to_vec(),
            point: certificate.public_key().subject_public_key.data.to_vec(),
            key_hash: key_hash(certificate.public_key().raw),
        })
    }

    /// How revocations name its key.
    pub(crate) fn key_hash(&self) -> SignerKey {
        self.key_hash
    }

    /// Whether `signature` (ECDSA with SHA-256, ASN.1) over `message` is by its key.
    pub(crate) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        PublicKey::from_point(&self.point).is_ok_and(|key| key.verify(message, signature))
    }

    /// The issuer that signs with `key` in the name of this certificate; `None` when it is another certificate's key.
    pub(crate) fn issuer(&self, key: CaKey) -> Option<Issuer<'static, CaKey>> {
        if key.der_bytes() != self.point {
            return None;
        }
        let mut params = CertificateParams::default();
        params.distinguished_name = ca_name(&self.common_name);
        params.key_identifier_method = KeyIdMethod::PreSpecified(self.key_id.clone());
        Some(Issuer::new(params, key))
    }
}

fn key_hash(spki: &[u8]) -> SignerKey {
    let mut hash = SignerKey::default();
    hash.copy_from_slice(digest(&SHA256, spki).as_ref());
    hash
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}
