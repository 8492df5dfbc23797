//! Whether a token is good (JWT-SVID sections 2 to 5).

use super::claims::{Claims, moment};
use super::key::JwtKeys;
use crate::{SpiffeId, TrustDomain};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use std::time::{Duration, SystemTime};

/// A longer one is not looked at. Ours have some 500 bytes.
const LONGEST_TOKEN: usize = 16 * 1024;
/// What the clocks of issuer and verifier may differ by.
const LEEWAY: Duration = Duration::from_secs(5);

impl JwtKeys {
    /// The claims of `token`, if it is a JWT-SVID of `trust_domain` for `audience`, signed by one of these keys and valid at
    /// `now`.
    ///
    /// # Errors
    /// The first rule that the token breaks.
    pub fn verify(
        &self,
        trust_domain: &TrustDomain,
        token: &str,
        audience: &str,
        now: SystemTime,
    ) -> Result<Claims, JwtError> {
        let Parts {
            header,
            claims,
            signed,
            signature,
        } = Parts::split(token)?;
        check_header(&header)?;
        let named = |name| header.get(name).and_then(Value::as_str);
        let key = named("kid").and_then(|kid| self.find(kid));
        let key = key.ok_or(JwtError::UnknownKey)?;
        if !key.verifies(
            named("alg").unwrap_or_default(),
            signed.as_bytes(),
            &signature,
        ) {
            return Err(JwtError::Signature);
        }
        let claims = Claims::read(claims).ok_or(JwtError::Claims)?;
        if !claims.subject.is_member_of(trust_domain) {
            return Err(JwtError::ForeignSubject);
        }
        if now >= claims.expires + LEEWAY {
            return Err(JwtError::Expired);
        }
        if let Some(begins) = claims.all.get("nbf") {
            let begins = moment(begins).ok_or(JwtError::Claims)?;
            if now + LEEWAY < begins {
                return Err(JwtError::NotYetValid);
            }
        }
        if !claims.audience.iter().any(|one| one == audience) {
            return Err(JwtError::Audience);
        }
        Ok(claims)
    }
}

/// Whose token this claims to be, before anything is verified: it says which trust domain's keys to ask.
///
/// # Errors
/// When it is no JWT-SVID by its form.
pub fn claimed_trust_domain(token: &str) -> Result<TrustDomain, JwtError> {
    let claims = Parts::split(token)?.claims;
    let subject = claims.get("sub").and_then(Value::as_str);
    subject
        .and_then(|subject| SpiffeId::parse(subject).ok())
        .map(|id| id.trust_domain())
        .ok_or(JwtError::Claims)
}

/// A token in its three parts, decoded and not yet believed.
struct Parts<'t> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    /// Header and claims as they stand.
    signed: &'t str,
    signature: Vec<u8>,
}

impl<'t> Parts<'t> {
    fn split(token: &'t str) -> Result<Self, JwtError> {
        if token.len() > LONGEST_TOKEN {
            return Err(JwtError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Form)?;
        let (header, claims) = signed.split_once('.').ok_or(JwtError::Form)?;
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Form);
        let object = |part: &str| serde_json::from_slice(&bytes(part)?).map_err(|_| JwtError::Form);
        Ok(Self {
            header: object(header)?,
            claims: object(claims)?,
            signed,
            signature: bytes(signature)?,
        })
    }
}

/// Section 2: `typ` is JWT or JOSE if it is there; `crit` and whatever else would change what the rest means is not.
fn check_header(header: &Map<String, Value>) -> Result<(), JwtError> {
    let is_typed = match header.get("typ") {
        None => true,
        Some(Value::String(typ)) => matches!(typ.as_str(), "JWT" | "JOSE"),
        Some(_) => false,
    };
    if is_typed && !header.contains_key("crit") {
        return Ok(());
    }
    Err(JwtError::Header)
}

/// Why a token is not good. Safe to tell whoever brought it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Over the limit.
    #[error("expected a token of at most {LONGEST_TOKEN} bytes")]
    TooLong,
    /// Not three parts of base64url, or not JSON in them.
    #[error("expected a JWT in JWS compact serialization")]
    Form,
    /// `typ` or `crit`.
    #[error("expected the header of a JWT-SVID")]
    Header,
    /// No `kid`, or one that the trust domain does not publish.
    #[error("expected a key that the trust domain has published")]
    UnknownKey,
    /// Made by another key or algorithm, or over something else.
    #[error("expected a signature by that key")]
    Signature,
    /// `sub`, `aud`, `exp` or `nbf`.
    #[error("expected sub, aud and exp of a JWT-SVID")]
    Claims,
    /// The keys of one trust domain do not speak for another.
    #[error("expected a subject of the trust domain whose key it is")]
    ForeignSubject,
    /// Too late.
    #[error("the token has expired")]
    Expired,
    /// Too early.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// For somebody else.
    #[error("the token is for another audience")]
    Audience,
}
