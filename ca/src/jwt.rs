//! JWT-SVIDs (SPIFFE JWT-SVID): who may have which was settled by the certificate that is shown; here they are signed.
//!
//! The keys live in this process and nowhere else: they cannot be copied from a disk, and each replica has its own. Their
//! public halves are in the trust bundle, of each key from an hour before it signs until its last token has ended. Only
//! the first key of a process signs at once, as there is no other. No token leaves before its record is durable.

mod keys;

use crate::authority::Authority;
use crate::lineage::LineageError;
use crate::store::{StoreError, TokenRecord};
use identity::{Leaf, jwt};
use keys::{Due, Keys, SigningKey};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// The life of a token when the caller asks for none.
pub const DEFAULT_TTL: Duration = Duration::from_secs(5 * 60);
/// Shorter requests are raised to this: a token has to survive its way.
pub const MIN_TTL: Duration = Duration::from_secs(10);
/// Longer requests are cut to this: nothing takes a token back.
pub const MAX_TTL: Duration = Duration::from_secs(60 * 60);
/// Audiences of one token.
pub const MAX_AUDIENCES: usize = 16;
/// Of one of them.
pub const MAX_AUDIENCE_BYTES: usize = 256;

/// How often it is looked whether a key is due.
const LOOK: Duration = Duration::from_secs(5);

/// What an operator decides about tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The life when the caller asks for none.
    pub ttl: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { ttl: DEFAULT_TTL }
    }
}

/// Signs tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    authority: Arc<Authority>,
    options: Options,
    keys: Mutex<Keys>,
}

/// A token that is recorded.
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) expires: SystemTime,
}

impl Tokens {
    /// Makes the first key and publishes it.
    ///
    /// # Errors
    /// When it could not be made or recorded.
    pub(crate) async fn open(
        authority: Arc<Authority>,
        options: Options,
    ) -> Result<Self, TokenError> {
        let tokens = Self {
            authority,
            options,
            keys: Mutex::default(),
        };
        tokens.renew_keys(SystemTime::now()).await?;
        Ok(tokens)
    }

    /// Makes the next key in time, and takes it into use when it has been published for long enough. Never returns.
    pub(crate) async fn keep(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Err(error) = self.renew_keys(SystemTime::now()).await {
                let error = &error as &(dyn std::error::Error + 'static);
                tracing::error!(error, "no new key for tokens; the present one signs on");
            }
        }
    }

    async fn renew_keys(&self, now: SystemTime) -> Result<(), TokenError> {
        if self.keys().due(now) != Due::Make {
            return Ok(());
        }
        let key = SigningKey::generate()?;
        let expires = self.keys().expiry(now);
        self.authority
            .publish_jwt_key(key.kid.clone(), key.point(), expires, now)
            .await?;
        tracing::info!(kid = key.kid, "new key for tokens");
        self.keys().add(key, now);
        Ok(())
    }

    /// A token for the holder of `svid`. `ttl` of zero takes the default; it never outlives the certificate.
    ///
    /// # Errors
    /// See [`TokenError`]. Nothing was issued then.
    pub(crate) async fn issue(
        &self,
        svid: &Leaf,
        audience: Vec<String>,
        ttl: Option<Duration>,
    ) -> Result<Issued, TokenError> {
        let is_fit = |one: &String| !one.is_empty() && one.len() <= MAX_AUDIENCE_BYTES;
        if audience.is_empty() || audience.len() > MAX_AUDIENCES || !audience.iter().all(is_fit) {
            return Err(TokenError::Audience);
        }
        let now = SystemTime::now();
        let ttl = ttl.unwrap_or(self.options.ttl).clamp(MIN_TTL, MAX_TTL);
        let expires = (now + ttl).min(svid.not_after);
        let key = self.keys().present(now).ok_or(TokenError::Key)?;
        let name = keys::random_name()?;
        let whose = (&svid.id, audience.as_slice());
        let token = jwt::encode(&key.kid, whose, (now, expires), &name, |text| {
            key.sign(text)
        })?;
        let record = TokenRecord {
            serial: svid.serial.clone(),
            spiffe_id: svid.id.clone(),
            audience,
            name,
            kid: key.kid.clone(),
            expires,
        };
        // Without the record the token does not exist.
        self.authority.store().record_token(record, now).await??;
        Ok(Issued { token, expires })
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("expected 1 to {MAX_AUDIENCES} audiences of 1 to {MAX_AUDIENCE_BYTES} bytes")]
    Audience,
    #[error("no key for tokens could be made or used")]
    Key,
    #[error("cannot record the token")]
    Record(#[from] StoreError),
    #[error(transparent)]
    Lineage(#[from] LineageError),
}
