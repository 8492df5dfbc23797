//! Public keys that callers bring: from a PKCS#10 request (leaf keys) or a SubjectPublicKeyInfo (enrolment keys).
//!
//! Only the public key is taken from a request. Its subject, its SANs and every other extension it asks for are
//! ignored: what a certificate says is decided by [`crate::profile`] alone.

/// The largest request that is looked at. A P-256 request without extensions has about 200 bytes.
pub const MAX_CSR_BYTES: usize = 4096;

/// A P-256 public key that is a point on the curve.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Uncompressed: `04 || x || y`.
    point: [u8; 65],
}

impl PublicKey {
    /// The key of a PKCS#10 request (RFC 2986) in DER, proven by the request's signature.
    ///
    /// # Errors
    /// One variant per expectation that the request does not meet.
    pub fn from_csr(der: &[u8]) -> Result<Self, CsrError> {
        unimplemented!("{der:?}")
    }

    /// A SubjectPublicKeyInfo (RFC 5280 section 4.1) in DER. Possession is not proven: see [`Self::verify`].
    ///
    /// # Errors
    /// When it is not exactly one uncompressed P-256 key.
    pub fn from_spki(der: &[u8]) -> Result<Self, CsrError> {
        unimplemented!("{der:?}")
    }

    /// Whether `signature` (ECDSA with SHA-256, ASN.1) over `message` was made with the private half of this key.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        unimplemented!("{message:?} {signature:?} {:?}", self.point)
    }

    /// SubjectPublicKeyInfo, DER.
    pub fn to_spki(&self) -> Vec<u8> {
        unimplemented!()
    }

    /// SHA-256 of the SubjectPublicKeyInfo: how stores and audit records name a key.
    pub fn hash(&self) -> KeyHash {
        unimplemented!()
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

impl std::fmt::Display for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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
