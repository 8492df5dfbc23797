//! Join tokens: 256 random bits that let one workload register one enrolment key for one SPIFFE ID.

use zeroize::ZeroizeOnDrop;

/// A join token in the clear. Exists in the reply to the operator who made it and in the request that redeems it;
/// the store keeps only [`JoinToken::hash`]. Never printed by `Debug`; zeroed on drop.
#[derive(ZeroizeOnDrop)]
pub struct JoinToken {
    secret: [u8; 32],
}

impl JoinToken {
    /// A fresh token from the system's random source.
    pub fn generate() -> Self {
        unimplemented!()
    }

    /// Reads the text that [`Self::reveal`] gives; surrounding whitespace is ignored.
    ///
    /// # Errors
    /// When it does not have that form. Whether the token is known is for the store to say.
    pub fn parse(text: &str) -> Result<Self, ParseTokenError> {
        unimplemented!("{text}")
    }

    /// The text handed to the workload. The only way to see a token.
    pub fn reveal(&self) -> zeroize::Zeroizing<String> {
        unimplemented!("{:?}", self.secret)
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken(<secret>)")
    }
}

/// The text is not a join token. Says nothing about what was found: it may be half of a real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a join token: \"tsj_\" and 43 characters of unpadded base64url")]
pub struct ParseTokenError;
