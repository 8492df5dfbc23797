//! Public keys that callers bring: from a PKCS#10 request (leaf keys) or a SubjectPublicKeyInfo (enrolment keys).
//!
//! Only the public key is taken from a request. Its subject, its SANs and every other extension it asks for are
//! ignored: what a certificate says is decided by [`crate::profile`] alone.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey, UnparsedPublicKey};
use rcgen::PublicKeyData;
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_SIG_ECDSA_WITH_SHA256,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

#[cfg(test)]
mod tests;

/// The largest request that is looked at. A P-256 request without extensions has about 200 bytes.
pub const MAX_CSR_BYTES: usize = 4096;

/// An uncompressed point on P-256.
const POINT_BYTES: usize = 65;

/// A P-256 public key that is a point on the curve.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Uncompressed: `04 || x || y` (SEC 1 section 2.3.3).
    point: [u8; POINT_BYTES],
}

impl PublicKey {
    /// The key of a PKCS#10 request (RFC 2986) in DER, proven by the request's signature.
    ///
    /// # Errors
    /// One variant per expectation that the request does not meet.
    pub fn from_csr(der: &[u8]) -> Result<Self, CsrError> {
        check_size(der)?;
        let (rest, csr) = X509CertificationRequest::from_der(der)
            .map_err(|error| malformed("PKCS#10 request", &error))?;
        check_no_rest("PKCS#10 request", rest)?;

        let info = &csr.certification_request_info;
        let key = Self::from_parsed(&info.subject_pki)?;
        // The OID settles the algorithm; RFC 5758 section 3.2 wants its parameters absent.
        let algorithm = &csr.signature_algorithm;
        if algorithm.algorithm != OID_SIG_ECDSA_WITH_SHA256 || algorithm.parameters.is_some() {
            return Err(CsrError::WrongSignatureAlgorithm {
                found: algorithm.algorithm.to_id_string(),
            });
        }
        if csr.signature_value.unused_bits != 0 || !key.verify(info.raw, &csr.signature_value.data)
        {
            return Err(CsrError::WrongSignature);
        }
        Ok(key)
    }

    /// A SubjectPublicKeyInfo (RFC 5280 section 4.1) in DER. Possession is not proven: see [`Self::verify`].
    ///
    /// # Errors
    /// When it is not exactly one uncompressed P-256 key.
    pub fn from_spki(der: &[u8]) -> Result<Self, CsrError> {
        check_size(der)?;
        let (rest, spki) = SubjectPublicKeyInfo::from_der(der)
            .map_err(|error| malformed("SubjectPublicKeyInfo", &error))?;
        check_no_rest("SubjectPublicKeyInfo", rest)?;
        Self::from_parsed(&spki)
    }

    /// That of a certificate, whose signature is not looked at.
    ///
    /// # Errors
    /// As [`Self::from_spki`].
    pub(crate) fn from_certificate(der: &[u8]) -> Result<Self, CsrError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| malformed("certificate", &error))?;
        Self::from_parsed(certificate.public_key())
    }

    fn from_parsed(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, CsrError> {
        let wrong_key = |found: String| CsrError::WrongKey { found };
        if spki.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
            return Err(wrong_key(format!(
                "key algorithm {}",
                spki.algorithm.algorithm.to_id_string()
            )));
        }
        // RFC 5480 section 2.1.1: the curve is named, never spelled out.
        let curve = spki.algorithm.parameters.as_ref().map(|any| any.as_oid());
        let Some(Ok(curve)) = curve else {
            return Err(wrong_key("no named curve".to_owned()));
        };
        if curve != OID_EC_P256 {
            return Err(wrong_key(format!("curve {}", curve.to_id_string())));
        }
        Self::from_point(&spki.subject_public_key.data)
    }

    /// An uncompressed point (SEC 1 section 2.3.3).
    pub(crate) fn from_point(bytes: &[u8]) -> Result<Self, CsrError> {
        let wrong_key = |found: String| CsrError::WrongKey { found };
        let point: [u8; POINT_BYTES] = bytes
            .try_into()
            .map_err(|_| wrong_key(format!("a point of {} bytes", bytes.len())))?;
        // Parsing checks that the point is on the curve and not at infinity.
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .map_err(|_| wrong_key("a point that is not on the curve".to_owned()))?;
        Ok(Self { point })
    }

    /// Whether `signature` (ECDSA with SHA-256, ASN.1) over `message` was made with the private half of this key.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(message, signature)
            .is_ok()
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn to_spki(&self) -> Vec<u8> {
        self.subject_public_key_info()
    }

    /// SHA-256 of the SubjectPublicKeyInfo: how stores and audit records name a key.
    pub fn hash(&self) -> KeyHash {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.to_spki()).as_ref());
        KeyHash(hash)
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({})", self.hash())
    }
}

/// SHA-256 of a SubjectPublicKeyInfo. Displayed in lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(pub(crate) [u8; 32]);

impl KeyHash {
    /// Reads what `Display` writes.
    pub(crate) fn parse(hex: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if hex.len() != 64 || !hex.is_ascii() {
            return None;
        }
        for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl std::fmt::Display for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not octet by octet through the formatter: each certificate is recorded with several of these.
        let halves = self.0.iter().flat_map(|octet| [octet >> 4, octet & 0xf]);
        let digits = halves.map(|half| char::from(b"0123456789abcdef"[usize::from(half)]));
        f.write_str(&digits.collect::<String>())
    }
}

impl std::fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Why a request or key was refused. Safe to show to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    #[error("expected a request of at most {limit} bytes, found {found}")]
    TooLarge { limit: usize, found: usize },
    #[error("expected exactly one DER {expected}, found {found}")]
    Malformed {
        expected: &'static str,
        found: String,
    },
    #[error("expected an ECDSA key on curve P-256, found {found}")]
    WrongKey { found: String },
    #[error("expected a signature with ecdsa-with-SHA256, found {found}")]
    WrongSignatureAlgorithm { found: String },
    #[error(
        "expected the request to be signed with the key it contains, but its signature does not verify"
    )]
    WrongSignature,
}

fn check_size(der: &[u8]) -> Result<(), CsrError> {
    if der.len() > MAX_CSR_BYTES {
        return Err(CsrError::TooLarge {
            limit: MAX_CSR_BYTES,
            found: der.len(),
        });
    }
    Ok(())
}

fn malformed(expected: &'static str, error: &dyn std::fmt::Display) -> CsrError {
    CsrError::Malformed {
        expected,
        found: error.to_string(),
    }
}

fn check_no_rest(expected: &'static str, rest: &[u8]) -> Result<(), CsrError> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(CsrError::Malformed {
        expected,
        found: format!("{} bytes after it", rest.len()),
    })
}
