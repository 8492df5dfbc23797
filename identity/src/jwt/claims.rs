//! What a JWT-SVID says (JWT-SVID section 3), and the text that is signed.

use crate::SpiffeId;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The claims of a token that was verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    /// Whose token it is.
    pub subject: SpiffeId,
    /// Whom it is for. Never empty.
    pub audience: Vec<String>,
    /// When it ends.
    pub expires: SystemTime,
    /// All of them, as they stand in the token.
    pub all: Map<String, Value>,
}

/// A token for `subject`, signed by what `sign` does to its octets (ES256: r and s, 32 bytes each).
///
/// `name` is unique, so that a record can tell of this very token. `audience` is not empty.
///
/// # Errors
/// That of `sign`.
pub fn encode<E>(
    kid: &str,
    (subject, audience): (&SpiffeId, &[String]),
    (issued, expires): (SystemTime, SystemTime),
    name: &str,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<String, E> {
    let header = json!({"alg": "ES256", "kid": kid, "typ": "JWT"});
    let claims = json!({
        "sub": subject.as_str(),
        "aud": audience,
        "iat": unix_seconds(issued),
        "exp": unix_seconds(expires),
        "jti": name,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

impl Claims {
    /// `None` when one of the claims that the specification demands is missing or of another form.
    pub(super) fn read(all: Map<String, Value>) -> Option<Self> {
        let subject = SpiffeId::parse(all.get("sub")?.as_str()?).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let audience = match all.get("aud")? {
            // RFC 7519 section 4.1.3: one audience may be written without a list.
            Value::String(one) => vec![one.clone()],
            Value::Array(many) => many.iter().map(text).collect::<Option<_>>()?,
            _ => return None,
        };
        let expires = moment(all.get("exp")?)?;
        if audience.is_empty() {
            return None;
        }
        Some(Self {
            subject,
            audience,
            expires,
            all,
        })
    }
}

/// Seconds since the Unix epoch, with or without a fraction (RFC 7519 section 2, NumericDate).
pub(super) fn moment(value: &Value) -> Option<SystemTime> {
    let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0)?;
    let since = Duration::try_from_secs_f64(seconds).ok()?;
    UNIX_EPOCH.checked_add(since)
}
