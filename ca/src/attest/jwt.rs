//! Signed tokens (JWT, RFC 7519) in the compact form of JWS (RFC 7515), read as strictly as RFC 8725 asks.
//!
//! Nothing of a token chooses how it is judged: its `alg` has to be the one that the key has, and keys come from the
//! configuration alone (`jwk`, `jku` and `x5u` are never looked at).

use super::json;
use super::jwks::{Algorithm, Key};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A projected service-account token has a kilobyte, one from a large identity provider four.
pub const MAX_BYTES: usize = 8 * 1024;
/// How far the issuer's clock may be from ours.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// A token that is well formed. What it says is worth nothing until [`Self::is_signed_by`] and [`Self::check`] agree.
#[derive(Debug)]
pub(super) struct Token<'t> {
    signed: &'t str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    key_id: String,
    claims: Map<String, Value>,
}

impl<'t> Token<'t> {
    pub(super) fn parse(text: &'t str) -> Result<Self, TokenError> {
        if text.len() > MAX_BYTES {
            return Err(TokenError::Size { found: text.len() });
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Form)?;
        let object = |part: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
            json::object(&bytes).ok()
        };
        let header = object(header).ok_or(TokenError::Form)?;
        let claims = object(claims).ok_or(TokenError::Form)?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| TokenError::Form)?;
        let text = |name: &str| header.get(name).and_then(Value::as_str);
        // RFC 7515 section 4.1.11: what must be understood and is not, is refused. `b64` (RFC 7797) changes what is
        // signed, and `zip` what is meant.
        if ["crit", "b64", "zip"]
            .iter()
            .any(|name| header.contains_key(*name))
        {
            return Err(TokenError::Header);
        }
        // RFC 8725 section 3.11: other kinds of token are signed with the same keys.
        if header.contains_key("typ")
            && !text("typ").is_some_and(|kind| kind.eq_ignore_ascii_case("JWT"))
        {
            return Err(TokenError::Header);
        }
        Ok(Self {
            algorithm: text("alg")
                .and_then(Algorithm::parse)
                .ok_or(TokenError::Algorithm)?,
            key_id: text("kid").ok_or(TokenError::Header)?.to_owned(),
            signed,
            signature,
            claims,
        })
    }

    /// The `kid` under which its key is to be found.
    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Who it says has made it: a reason to look there for its key, no more.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    pub(super) fn is_signed_by(&self, key: &Key) -> bool {
        key.algorithm() == self.algorithm && key.verify(self.signed.as_bytes(), &self.signature)
    }

    /// Holds the registered claims (RFC 7519 section 4.1) against what is expected, and gives all claims.
    pub(super) fn check(
        &self,
        issuer: &str,
        audience: &str,
        now: SystemTime,
    ) -> Result<&Map<String, Value>, TokenError> {
        if self.issuer() != Some(issuer) {
            return Err(TokenError::Issuer);
        }
        self.check_audience(audience)?;
        let expires = self.expires()?;
        let issued = self.time("iat")?.ok_or(TokenError::Missing("iat"))?;
        if now >= expires + LEEWAY {
            return Err(TokenError::Expired);
        }
        let begins = self.time("nbf")?.unwrap_or(issued);
        if begins.max(issued) > now + LEEWAY {
            return Err(TokenError::NotYet);
        }
        Ok(&self.claims)
    }

    /// The end of the token, which it has to have.
    pub(super) fn expires(&self) -> Result<SystemTime, TokenError> {
        self.time("exp")?.ok_or(TokenError::Missing("exp"))
    }

    /// The token has to be for us and for nobody else: another audience could present it here in its owner's place.
    fn check_audience(&self, audience: &str) -> Result<(), TokenError> {
        let only = match self.claims.get("aud") {
            Some(Value::String(one)) => Some(one.as_str()),
            Some(Value::Array(list)) => match list.as_slice() {
                [one] => one.as_str(),
                _ => None,
            },
            _ => None,
        };
        match only == Some(audience) {
            true => Ok(()),
            false => Err(TokenError::Audience {
                expected: audience.to_owned(),
            }),
        }
    }

    /// A NumericDate in whole seconds; no issuer we know writes fractions.
    fn time(&self, claim: &'static str) -> Result<Option<SystemTime>, TokenError> {
        let Some(value) = self.claims.get(claim) else {
            return Ok(None);
        };
        let seconds = value.as_u64().ok_or(TokenError::Time(claim))?;
        // The year 9999: what is beyond could not be added to.
        let time = (seconds < 253_402_300_800).then(|| UNIX_EPOCH + Duration::from_secs(seconds));
        time.map(Some).ok_or(TokenError::Time(claim))
    }
}

/// What is wrong with a token. Safe to show to the caller: says what was expected, and nothing of a token's content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("expected a token of at most {MAX_BYTES} bytes, found {found}")]
    Size { found: usize },
    #[error("expected a signed token in the compact form of JWS, with every name said once")]
    Form,
    #[error("expected a token header with a `kid`, of type JWT, and without extensions")]
    Header,
    #[error("expected a token signed by RS256 or ES256")]
    Algorithm,
    #[error("expected a token of a configured issuer")]
    Issuer,
    #[error("expected a token signed by a key that its issuer has published")]
    UnknownKey,
    #[error("expected a token with the signature of its issuer")]
    Signature,
    #[error("expected a token for the audience {expected:?} and for no other")]
    Audience { expected: String },
    #[error("expected a token with the claim `{0}`")]
    Missing(&'static str),
    #[error("expected the claim `{0}` in whole seconds")]
    Time(&'static str),
    #[error("expected a token that is still valid, found one that has expired")]
    Expired,
    #[error("expected a token that is valid already: the clocks of its issuer and the CA differ")]
    NotYet,
}
