//! The keys of one issuer, kept up to date: the last good ones stay in use while their source is silent or wrong.

use super::fetch::{self, FetchError, Server};
use super::jwks::{self, JwksError, Key, KeySet};
use super::jwt::{Token, TokenError};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Looked at again after this long, so that a key that was withdrawn is soon not believed any more.
const REFRESH: Duration = Duration::from_secs(300);
/// A token with an unknown `kid` makes us look at once, but no more often than this: anyone can make those up.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

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
    present: RwLock<Arc<KeySet>>,
    /// When the source was last looked at. Held while it is: others wait for the outcome rather than look as well.
    looked: Mutex<Option<Instant>>,
}

impl Keyring {
    /// Reads a file at once. A server may be away when the CA starts: it is asked at the first token.
    pub(super) async fn open(source: KeySource) -> Result<Self, KeySourceError> {
        let (present, looked) = match source {
            KeySource::File(_) => (load(&source).await?, Some(Instant::now())),
            KeySource::Url(_) => (KeySet::default(), None),
        };
        Ok(Self {
            source,
            present: RwLock::new(Arc::new(present)),
            looked: Mutex::new(looked),
        })
    }

    /// Holds `token` against the key that it names.
    pub(super) async fn check_signature(&self, token: &Token<'_>) -> Result<(), TokenError> {
        let mut keys = self.present();
        if keys.get(token.key_id()).is_none() {
            self.refresh(LOOK_AGAIN).await;
            keys = self.present();
        } else if let Ok(looked) = self.looked.try_lock()
            && looked.is_none_or(|at| at.elapsed() >= REFRESH)
        {
            drop(looked);
            self.refresh(REFRESH).await;
            keys = self.present();
        }
        let key: &Key = keys.get(token.key_id()).ok_or(TokenError::UnknownKey)?;
        match token.is_signed_by(key) {
            true => Ok(()),
            false => Err(TokenError::Signature),
        }
    }

    fn present(&self) -> Arc<KeySet> {
        let present = self.present.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&present)
    }

    /// Looks at the source, unless somebody has within `age`.
    async fn refresh(&self, age: Duration) {
        let mut looked = self.looked.lock().await;
        if looked.is_some_and(|at| at.elapsed() < age) {
            return;
        }
        let loaded = load(&self.source).await;
        *looked = Some(Instant::now());
        match loaded {
            Ok(keys) => {
                let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
                *present = Arc::new(keys);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, source = ?self.source, "the keys of a token issuer cannot be read; the last good ones stay in use");
            }
        }
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
    ) -> Result<&'t serde_json::Map<String, serde_json::Value>, TokenError> {
        self.keyring.check_signature(token).await?;
        token.check(&self.name, &self.audience, now)
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
