//! The keys of a bundle's `jwt-svid` entries (SPIFFE Trust Domain and Bundle section 4, RFC 7517, RFC 7518).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A public key that vouches for tokens, with its name. RSA from 2048 bits, P-256 or P-384.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtKey {
    kid: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// `0x04`, x and y.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

impl JwtKey {
    /// A P-256 key as an uncompressed point.
    ///
    /// # Errors
    /// When `kid` is empty, or `point` has another form.
    pub fn p256(kid: &str, point: &[u8]) -> Result<Self, JwtKeyError> {
        let kind = Kind::point(Kind::P256, point.to_vec(), 32)?;
        Self::new(kid, kind)
    }

    fn new(kid: &str, kind: Kind) -> Result<Self, JwtKeyError> {
        if kid.is_empty() {
            return Err(JwtKeyError::NoName);
        }
        Ok(Self {
            kid: kid.to_owned(),
            kind,
        })
    }

    /// What tokens call it.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Reads a JSON Web Key.
    ///
    /// # Errors
    /// When something is missing, damaged, or of a kind that is not supported.
    pub fn from_jwk(jwk: &Value) -> Result<Self, JwtKeyError> {
        let text = |name: &'static str| {
            jwk.get(name)
                .and_then(Value::as_str)
                .ok_or(JwtKeyError::Missing(name))
        };
        let bytes = |name: &'static str| {
            URL_SAFE_NO_PAD
                .decode(text(name)?)
                .map_err(|_| JwtKeyError::Damaged(name))
        };
        let kind = match text("kty")? {
            "EC" => {
                let point = [vec![4], bytes("x")?, bytes("y")?].concat();
                match text("crv")? {
                    "P-256" => Kind::point(Kind::P256, point, 32)?,
                    "P-384" => Kind::point(Kind::P384, point, 48)?,
                    _ => return Err(JwtKeyError::Unsupported),
                }
            }
            "RSA" => Kind::Rsa {
                n: bytes("n")?,
                e: bytes("e")?,
            },
            _ => return Err(JwtKeyError::Unsupported),
        };
        Self::new(text("kid").map_err(|_| JwtKeyError::NoName)?, kind)
    }

    fn to_jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let curve = |name: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at((point.len() - 1) / 2);
            json!({"kty": "EC", "crv": name, "x": text(x), "y": text(y)})
        };
        let mut jwk = match &self.kind {
            Kind::P256(point) => curve("P-256", point),
            Kind::P384(point) => curve("P-384", point),
            Kind::Rsa { n, e } => json!({"kty": "RSA", "n": text(n), "e": text(e)}),
        };
        jwk["use"] = json!("jwt-svid");
        jwk["kid"] = json!(self.kid);
        jwk
    }

    /// Whether `signature` is one by this key over `message` with the JWS algorithm `alg`, which has to be one of this
    /// kind of key.
    pub(super) fn verifies(&self, alg: &str, message: &[u8], signature: &[u8]) -> bool {
        let done = match (&self.kind, alg) {
            (Kind::P256(point), "ES256") => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Kind::P384(point), "ES384") => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            (Kind::Rsa { n, e }, alg) => {
                let parameters = match alg {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &RSA_PSS_2048_8192_SHA256,
                    "PS384" => &RSA_PSS_2048_8192_SHA384,
                    "PS512" => &RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            _ => return false,
        };
        done.is_ok()
    }
}

impl Kind {
    fn point(
        make: fn(Vec<u8>) -> Self,
        point: Vec<u8>,
        coordinate: usize,
    ) -> Result<Self, JwtKeyError> {
        if point.len() == 1 + 2 * coordinate && point[0] == 4 {
            return Ok(make(point));
        }
        Err(JwtKeyError::Damaged("x and y"))
    }
}

/// The keys that vouch for the tokens of one trust domain, by name. May be empty: then no token of it is good.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JwtKeys(BTreeMap<String, JwtKey>);

impl JwtKeys {
    /// The `jwt-svid` entries of a JSON Web Key set. Entries of another use or of a kind that is not known here are passed
    /// over, as the specification asks.
    ///
    /// # Errors
    /// When it is no key set, or an entry that should be understood is not.
    pub fn from_jwks(json: &[u8]) -> Result<Self, JwtKeyError> {
        let set: Value = serde_json::from_slice(json).map_err(|_| JwtKeyError::NotASet)?;
        let keys = set.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or(JwtKeyError::NotASet)?;
        let mut found = Self::default();
        for jwk in keys.iter().filter(|jwk| jwk["use"] == "jwt-svid") {
            match JwtKey::from_jwk(jwk) {
                Ok(key) => found.insert(key),
                Err(JwtKeyError::Unsupported) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The keys as a JSON Web Key set.
    pub fn to_jwks(&self) -> String {
        json!({"keys": self.to_jwk_values()}).to_string()
    }

    pub(crate) fn to_jwk_values(&self) -> Vec<Value> {
        self.0.values().map(JwtKey::to_jwk).collect()
    }

    /// Adds a key, in the place of one with the same name.
    pub fn insert(&mut self, key: JwtKey) {
        self.0.insert(key.kid.clone(), key);
    }

    pub(super) fn find(&self, kid: &str) -> Option<&JwtKey> {
        self.0.get(kid)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why there is no key in some JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwtKeyError {
    /// Not a JSON Web Key set.
    #[error("expected a JSON Web Key set")]
    NotASet,
    /// A member is not there.
    #[error("expected {0:?} in a JSON Web Key, found none")]
    Missing(&'static str),
    /// A member is not what it should be.
    #[error("expected {0} of a JSON Web Key to be base64url of the right length")]
    Damaged(&'static str),
    /// Without `kid` no token could name it (JWT-SVID section 6.1).
    #[error("expected a JSON Web Key with a \"kid\"")]
    NoName,
    /// Another kind of key or curve.
    #[error("expected a JSON Web Key for RSA, P-256 or P-384")]
    Unsupported,
}
