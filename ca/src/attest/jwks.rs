//! The keys that an issuer of tokens publishes (RFC 7517): RSA for RS256, P-256 for ES256, each known by its `kid`.

use super::json;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::collections::HashMap;

/// The largest document taken. A key has half a kilobyte, and with its certificates some more.
pub(super) const MAX_BYTES: usize = 256 * 1024;
/// Issuers have two or three at a time.
const MAX_KEYS: usize = 64;
/// 2048 to 8192 bits: what the algorithm takes.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// How a token is signed. What is not here cannot be asked for: no MAC, for which a public key would be the secret, and
/// no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Es256,
}

impl Algorithm {
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            _ => None,
        }
    }
}

/// A public key, which has one algorithm and no other.
#[derive(Debug)]
pub(super) enum Key {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Box<ParsedPublicKey>),
}

impl Key {
    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
        }
    }

    /// Whether `signature` over `message` was made with this key by its own algorithm.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rsa { modulus, exponent } => RsaPublicKeyComponents {
                n: modulus,
                e: exponent,
            }
            .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            .is_ok(),
            Self::P256(key) => key.verify_sig(message, signature).is_ok(),
        }
    }

    /// `None` for a key that is of no use here: another kind, another purpose.
    fn read(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        let for_signatures = match jwk.get("use") {
            None => true,
            Some(purpose) => purpose == "sig",
        };
        if !for_signatures {
            return None;
        }
        let key = match text("kty")? {
            "RSA" => {
                let (modulus, exponent) = (bytes("n")?, bytes("e")?);
                // A leading zero is no part of the number (RFC 7518 section 6.3.1.1).
                let well_formed = RSA_BYTES.contains(&modulus.len())
                    && modulus.first() != Some(&0)
                    && (1..=8).contains(&exponent.len());
                well_formed.then_some(Self::Rsa { modulus, exponent })?
            }
            "EC" if text("crv")? == "P-256" => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                let lengths = x.len() == 32 && y.len() == 32;
                let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?;
                lengths.then(|| Self::P256(Box::new(key)))?
            }
            _ => return None,
        };
        match jwk.get("alg") {
            None => Some(key),
            Some(name) => {
                let named = name.as_str().and_then(Algorithm::parse);
                (named == Some(key.algorithm())).then_some(key)
            }
        }
    }
}

/// The usable keys of a document, by `kid`. Never empty.
#[derive(Debug, Default)]
pub(super) struct KeySet(HashMap<String, Key>);

impl KeySet {
    /// Reads a document. Keys for other purposes, of other kinds or without a name are left out.
    ///
    /// # Errors
    /// When nothing usable is left, and when the document gives secrets away or names two keys alike: whoever publishes
    /// that is not to be believed at all.
    pub(super) fn parse(document: &[u8]) -> Result<Self, JwksError> {
        if document.len() > MAX_BYTES {
            return Err(JwksError::Size {
                found: document.len(),
            });
        }
        let document = json::object(document).map_err(JwksError::Json)?;
        let Some(Value::Array(listed)) = document.get("keys") else {
            return Err(JwksError::NoList);
        };
        if listed.len() > MAX_KEYS {
            return Err(JwksError::TooMany {
                found: listed.len(),
            });
        }
        let mut keys = HashMap::new();
        for jwk in listed.iter().filter_map(Value::as_object) {
            if jwk.get("kty").is_some_and(|kind| kind == "oct") || jwk.contains_key("d") {
                return Err(JwksError::Secret);
            }
            let kid = jwk.get("kid").and_then(Value::as_str);
            let (Some(kid), Some(key)) = (kid, Key::read(jwk)) else {
                continue;
            };
            if keys.insert(kid.to_owned(), key).is_some() {
                return Err(JwksError::SameName(kid.to_owned()));
            }
        }
        match keys.is_empty() {
            true => Err(JwksError::Nothing),
            false => Ok(Self(keys)),
        }
    }

    pub(super) fn get(&self, kid: &str) -> Option<&Key> {
        self.0.get(kid)
    }
}

/// Why a document is no set of keys.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("expected a JWK set of at most {MAX_BYTES} bytes, found {found}")]
    Size { found: usize },
    #[error("expected a JWK set (RFC 7517) in JSON")]
    Json(#[source] serde_json::Error),
    #[error("expected a JWK set with a list `keys`")]
    NoList,
    #[error("expected at most {MAX_KEYS} keys in the JWK set, found {found}")]
    TooMany { found: usize },
    #[error(
        "expected public keys alone, found a secret: a symmetric key or the private part of one"
    )]
    Secret,
    #[error("expected each `kid` once in the JWK set, found {0:?} twice")]
    SameName(String),
    #[error("expected an RSA key of at least 2048 bits or a P-256 key with a `kid`, found none")]
    Nothing,
}

#[cfg(test)]
mod tests;
