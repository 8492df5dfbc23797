//! Private keys of the CA at rest.

use zeroize::Zeroizing;

/// The passphrase that the CA's keys are encrypted with. Never printed; zeroed on drop.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Takes the bytes as they are, except for one final line ending (a file made with an editor has one).
    ///
    /// # Errors
    /// When nothing is left.
    pub fn new(bytes: impl Into<Zeroizing<Vec<u8>>>) -> Result<Self, EmptyPassphrase> {
        let _ = bytes.into();
        unimplemented!()
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(<secret>)")
    }
}

/// An empty passphrase protects nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a passphrase, found an empty one")]
pub struct EmptyPassphrase;
