//! The key file of a key in a token:
//!
//! ```text
//! tipstaff-key: 1
//! label: intermediate
//! held-in: pkcs11
//! object: 4fa109c2...
//! public-key: <base64>
//! ```

use crate::csr::PublicKey;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt::Write;

/// What follows the label line of such a file.
pub(crate) const HELD_IN: &str = "held-in: pkcs11";

/// Which key of the token. Nothing in it is secret, and nothing has to be authentic: the key has to match the
/// certificate it is used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// `CKA_ID` of the key.
    pub(crate) id: Vec<u8>,
    pub(crate) public: PublicKey,
}

impl Reference {
    /// `lines` are what follows the label line.
    pub(crate) fn parse<'a>(mut lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        if lines.next() != Some(HELD_IN) {
            return None;
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(": ");
        let reference = Self {
            id: from_hex(field("object")?)?,
            public: PublicKey::from_spki(&STANDARD.decode(field("public-key")?).ok()?).ok()?,
        };
        lines.next().is_none().then_some(reference)
    }

    /// The ID in hexadecimal.
    pub(crate) fn object(&self) -> String {
        let mut id = String::new();
        for byte in &self.id {
            let _ = write!(id, "{byte:02x}");
        }
        id
    }

    /// The whole file of the key that `label` names.
    pub(crate) fn to_text(&self, label: &str) -> String {
        let id = self.object();
        let public = STANDARD.encode(self.public.to_spki());
        format!("tipstaff-key: 1\nlabel: {label}\n{HELD_IN}\nobject: {id}\npublic-key: {public}\n")
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.is_empty() || !text.len().is_multiple_of(2) || !digits {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}
