//! Join tokens: 256 random bits that let one workload register one enrolment key for one SPIFFE ID.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{ZeroizeOnDrop, Zeroizing};

/// Lets secret scanners recognise a token that was committed or logged.
const PREFIX: &str = "tsj_";
const SECRET_BYTES: usize = 32;

/// A join token in the clear. Exists in the reply to the operator who made it and in the request that redeems it; the
/// store keeps only a hash. Never printed by `Debug`; zeroed on drop.
#[derive(ZeroizeOnDrop)]
pub struct JoinToken {
    secret: [u8; SECRET_BYTES],
}

impl JoinToken {
    /// A fresh token from the system's random source.
    pub fn generate() -> Self {
        let mut secret = [0; SECRET_BYTES];
        aws_lc_rs::rand::fill(&mut secret).expect("AWS-LC's generator aborts rather than fail");
        Self { secret }
    }

    /// Reads the text that [`Self::reveal`] gives; surrounding whitespace is ignored.
    ///
    /// # Errors
    /// When it does not have that form. Whether the token is known is for the store to say.
    pub fn parse(text: &str) -> Result<Self, ParseTokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(ParseTokenError)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(encoded)
            .map(Zeroizing::new)
            .map_err(|_| ParseTokenError)?;
        let secret = bytes.as_slice().try_into().map_err(|_| ParseTokenError)?;
        Ok(Self { secret })
    }

    /// The text handed to the workload. The only way to see a token.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(PREFIX.to_owned());
        URL_SAFE_NO_PAD.encode_string(self.secret, &mut text);
        text
    }

    /// SHA-256 of the secret. A token has 256 bits of entropy, so a slow hash would add nothing.
    pub(crate) fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.secret).as_ref());
        hash
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back_and_two_tokens_differ() {
        let token = JoinToken::generate();
        let text = token.reveal();
        assert_eq!(text.len(), 47);
        let read = JoinToken::parse(&format!(" {}\n", *text)).unwrap();
        assert_eq!(read.hash(), token.hash());
        assert_ne!(JoinToken::generate().hash(), token.hash());
    }

    #[test]
    fn debug_hides_the_secret() {
        assert_eq!(
            format!("{:?}", JoinToken::generate()),
            "JoinToken(<secret>)"
        );
    }

    #[test]
    fn other_texts_are_refused() {
        let text = JoinToken::generate().reveal();
        for bad in [
            "",
            "tsj_",
            &text[4..],
            &text[..46],
            &format!("{}A", *text),
            &text.replace("tsj_", "tsj-"),
        ] {
            assert_eq!(JoinToken::parse(bad).err(), Some(ParseTokenError), "{bad}");
        }
    }
}
