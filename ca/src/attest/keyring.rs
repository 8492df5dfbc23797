//! The keys of one issuer, kept up to date: the last good ones stay in use while their source is silent or wrong, for a
//! day.

use super::AttestError;
use super::fetch::{self, FetchError, Server};
use super::jwks::{self, JwksError, Key, KeySet};
use super::jwt::{Token, TokenError};
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Looked at again after this long, so that a key that was withdrawn is soon not believed any more.
const REFRESH: Duration = Duration::from_secs(300);
/// A token with an unknown `kid` makes us look at once, but no more often than this: anyone can make those up.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Keys that have not been seen at their source for this long are not believed: one of them may have been withdrawn, and
/// whoever has it may be who keeps the source silent.
const MAX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Where an issuer publishes its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    Url(Server),
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keyring {
    source: KeySource,
    present: RwLock<Arc<Seen>>,
    /// The last look at the source. Held during the next: others wait for its outcome rather than look as well.
    last: Mutex<Option<Look>>,
}

#[derive(Debug)]
struct Seen {
    keys: KeySet,
    at: Instant,
}

impl Seen {
    fn now(keys: KeySet) -> Self {
        let at = Instant::now();
        Self { keys, at }
    }

    fn get(&self, id: &str) -> Option<&Key> {
        let believed = self.at.elapsed() < MAX_AGE;
        self.keys.get(id).filter(|_| believed)
    }
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    found: bool,
}

impl Keyring {
    /// Reads a file at once. A server may be away when the CA starts: it is asked at the first token.
    pub(super) async fn open(source: KeySource) -> Result<Self, KeySourceError> {
        let (present, last) = match source {
            KeySource::File(_) => {
                let at = Instant::now();
                (load(&source).await?, Some(Look { at, found: true }))
            }
            KeySource::Url(_) => (KeySet::default(), None),
        };
        Ok(Self {
            source,
            present: RwLock::new(Arc::new(Seen::now(present))),
            last: Mutex::new(last),
        })
    }

    /// Holds `token` against the key that it names.
    pub(super) async fn check_signature(&self, token: &Token<'_>) -> Result<(), AttestError> {
        let mut keys = self.present();
        if keys.get(token.key_id()).is_none() {
            let found = self.look(LOOK_AGAIN).await;
            keys = self.present();
            if keys.get(token.key_id()).is_none() && !found {
                return Err(AttestError::Unavailable);
            }
        } else if let Ok(last) = self.last.try_lock()
            && last.is_none_or(|last| last.at.elapsed() >= REFRESH)
        {
            drop(last);
            self.look(REFRESH).await;
            keys = self.present();
        }
        let key: &Key = keys.get(token.key_id()).ok_or(TokenError::UnknownKey)?;
        match token.is_signed_by(key) {
            true => Ok(()),
            false => Err(TokenError::Signature.into()),
        }
    }

    fn present(&self) -> Arc<Seen> {
        let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&present)
    }

    /// Looks at the source, unless somebody has within `age`. Gives whether the last look found keys.
    async fn look(&self, age: Duration) -> bool {
        let mut last = self.last.lock().await;
        if let Some(last) = last.filter(|last| last.at.elapsed() < age) {
            return last.found;
        }
        let loaded = load(&self.source).await;
        let found = loaded.is_ok();
        let at = Instant::now();
        *last = Some(Look { at, found });
        match loaded {
            Ok(keys) => {
                let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
                *present = Arc::new(Seen::now(keys));
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, source = ?self.source, "the keys of a token issuer cannot be read; the last good ones stay in use");
            }
        }
        found
    }
}

async fn load(source: &KeySource) -> Result<KeySet, KeySourceError> {
    let document = match source {
        KeySource::File(path) => fetch::read(path, jwks::MAX_BYTES).await?,
        KeySource::Url(server) => server.get(jwks::MAX_BYTES).await?.to_vec(),
    };
    Ok(KeySet::parse(&document)?)
}

/// One issuer of tokens, and whom its tokens have to be for.
#[derive(Debug)]
pub(super) struct Issuer {
    name: String,
    audience: String,
    keyring: Keyring,
}

impl Issuer {
    pub(super) async fn open(options: IssuerOptions) -> Result<Self, KeySourceError> {
        Ok(Self {
            name: options.issuer,
            audience: options.audience,
            keyring: Keyring::open(options.keys).await?,
        })
    }

    pub(super) fn has_made(&self, token: &Token<'_>) -> bool {
        token.issuer() == Some(&self.name)
    }

    pub(super) fn audience(&self) -> &str {
        &self.audience
    }

    /// The claims of `token`, once its signature, issuer, audience and times are right.
    pub(super) async fn verify<'t>(
        &self,
        token: &'t Token<'_>,
        now: SystemTime,
    ) -> Result<&'t Map<String, Value>, AttestError> {
        self.keyring.check_signature(token).await?;
        Ok(token.check(&self.name, &self.audience, now)?)
    }
}

/// Whose tokens are believed, and for whom they have to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerOptions {
    /// Exactly as in the claim `iss`.
    pub issuer: String,
    /// The CA's own: a token for anybody else could be presented by them. Never empty.
    pub audience: String,
    pub keys: KeySource,
}

/// Why there are no keys of an issuer.
#[derive(Debug, thiserror::Error)]
pub enum KeySourceError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Keys(#[from] JwksError),
}

#[cfg(test)]
mod tests;
