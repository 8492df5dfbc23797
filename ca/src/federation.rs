//! Bundles of other trust domains (SPIFFE Federation), fetched from their bundle endpoints and never merged with our own;
//! and our own for them, under a host name (`endpoint.rs`).
//!
//! Each is asked for when the CA starts and then as often as it says. What cannot be fetched, read or verified leaves the
//! last good one in use. A foreign authority vouches for identities of its own trust domain alone: whoever holds these
//! bundles asks the one that the peer's trust domain names.

mod endpoint;
mod fetch;

pub use endpoint::{Endpoint, EndpointError, EndpointOptions};

use crate::attest::fetch::{FetchError, Server};
use crate::causes::in_full;
use fetch::{SpiffeEndpoint, SpiffeFetchError};
use identity::{BundleError, SpiffeId, TrustBundle, TrustDomain};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often readers of our bundle are told to ask again: a key that signs tokens is in it for an hour before.
pub(crate) const REFRESH_HINT: Duration = Duration::from_secs(5 * 60);
/// Trust domains to federate with.
pub const MAX_DOMAINS: usize = 32;
/// The largest document taken.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// When a bundle does not say how often to ask (SPIFFE Trust Domain and Bundle section 4.1.2).
const DEFAULT_REFRESH: Duration = Duration::from_secs(5 * 60);
/// Whatever it says, it is asked no more often than this, and no less often than that.
const SOONEST: Duration = Duration::from_secs(10);
const LATEST: Duration = Duration::from_secs(60 * 60);
/// After a failure.
const RETRY: Duration = Duration::from_secs(10);

/// The document of a bundle (SPIFFE Trust Domain and Bundle section 4), as we publish it.
pub(crate) fn document(bundle: &TrustBundle) -> String {
    bundle.to_spiffe_json(REFRESH_HINT)
}

/// Bundles of other trust domains, each on its own.
pub type Federated = Arc<Vec<Arc<TrustBundle>>>;

/// A trust domain to federate with, and how its endpoint is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    pub trust_domain: TrustDomain,
    pub profile: Profile,
}

/// The profiles of SPIFFE Federation section 5.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// `https_web`: the endpoint proves its host name.
    Web(Server),
    /// `https_spiffe`: the endpoint proves a SPIFFE ID of its trust domain, to begin with under a bundle from a file, then
    /// under the one fetched last.
    Spiffe {
        /// Where to connect.
        url: crate::attest::fetch::HttpsUrl,
        /// Who has to answer there.
        id: SpiffeId,
        /// Bundle document, or PEM.
        bundle_file: PathBuf,
    },
}

/// Follows the bundles of all `domains`, until dropped.
#[derive(Debug)]
pub struct Federation {
    bundles: watch::Receiver<Federated>,
    _tasks: JoinSet<()>,
}

impl Federation {
    /// Starts one task for each on the current runtime. None of them has a bundle yet, unless a file has it.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(domains: Vec<Options>) -> Self {
        let (sender, bundles) = watch::channel(Federated::default());
        let sender = Arc::new(sender);
        let mut tasks = JoinSet::new();
        for options in domains {
            tasks.spawn(follow(options, Arc::clone(&sender)));
        }
        Self {
            bundles,
            _tasks: tasks,
        }
    }

    /// All that there are, now and later.
    pub fn bundles(&self) -> watch::Receiver<Federated> {
        self.bundles.clone()
    }
}

/// Never returns.
async fn follow(options: Options, all: Arc<watch::Sender<Federated>>) {
    let trust_domain = &options.trust_domain;
    let mut held = None;
    if let Profile::Spiffe { bundle_file, .. } = &options.profile {
        match fetch::from_file(trust_domain, bundle_file).await {
            Ok(bundle) => held = Some(publish(&all, bundle)),
            Err(error) => {
                let error = in_full(&error);
                tracing::error!(%trust_domain, error, "no bundle to begin federation with");
            }
        }
    }
    loop {
        let wait = match fetch_one(&options, held.as_deref()).await {
            Ok(Fetched { bundle, refresh }) => {
                if held.as_deref() != Some(&bundle) {
                    tracing::info!(%trust_domain, sequence = bundle.sequence(), "new bundle of a foreign trust domain");
                    held = Some(publish(&all, bundle));
                }
                refresh
            }
            Err(error) => {
                let error = in_full(&error);
                tracing::warn!(%trust_domain, error, "the bundle of a foreign trust domain was not fetched");
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Puts `bundle` in the place of the one of the same trust domain, and of no other.
fn publish(all: &watch::Sender<Federated>, bundle: TrustBundle) -> Arc<TrustBundle> {
    let bundle = Arc::new(bundle);
    all.send_modify(|present| {
        let others = present
            .iter()
            .filter(|one| one.trust_domain() != bundle.trust_domain());
        let mut next: Vec<_> = others.cloned().chain([Arc::clone(&bundle)]).collect();
        next.sort_by(|a, b| a.trust_domain().as_str().cmp(b.trust_domain().as_str()));
        *present = Arc::new(next);
    });
    bundle
}

struct Fetched {
    bundle: TrustBundle,
    refresh: Duration,
}

async fn fetch_one(
    options: &Options,
    held: Option<&TrustBundle>,
) -> Result<Fetched, FederationError> {
    let json = match &options.profile {
        Profile::Web(server) => server.get(MAX_DOCUMENT_BYTES).await?,
        Profile::Spiffe { url, id, .. } => {
            let held = held.ok_or(FederationError::NothingToVerifyWith)?;
            let endpoint = SpiffeEndpoint { url, id };
            endpoint.get(held, MAX_DOCUMENT_BYTES).await?
        }
    };
    let bundle = TrustBundle::from_spiffe_json(options.trust_domain.clone(), &json)?;
    // Section 4.1.1: the sequence tells an earlier bundle, such as one that somebody replays.
    if let Some(held) = held.filter(|held| bundle.sequence() < held.sequence()) {
        return Err(FederationError::WentBack {
            held: held.sequence(),
            found: bundle.sequence(),
        });
    }
    Ok(Fetched {
        bundle,
        refresh: refresh(&json),
    })
}

fn refresh(json: &[u8]) -> Duration {
    #[derive(Deserialize)]
    struct Hint {
        spiffe_refresh_hint: Option<u64>,
    }
    let hint = serde_json::from_slice::<Hint>(json).ok();
    hint.and_then(|hint| hint.spiffe_refresh_hint)
        .map_or(DEFAULT_REFRESH, Duration::from_secs)
        .clamp(SOONEST, LATEST)
}

/// Why a bundle was not fetched. The one before stays.
#[derive(Debug, thiserror::Error)]
enum FederationError {
    #[error("cannot fetch it")]
    Web(#[from] FetchError),
    #[error("cannot fetch it")]
    Spiffe(#[from] SpiffeFetchError),
    #[error("there is no bundle to verify the endpoint with")]
    NothingToVerifyWith,
    #[error("what the endpoint gives is no bundle")]
    Bundle(#[from] BundleError),
    #[error("expected a bundle with a sequence of at least {held}, found {found}")]
    WentBack { held: u64, found: u64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_followed_within_bounds() {
        for (json, expected) in [
            ("{\"keys\": []}", DEFAULT_REFRESH),
            ("{\"spiffe_refresh_hint\": 60}", Duration::from_secs(60)),
            ("{\"spiffe_refresh_hint\": 0}", SOONEST),
            ("{\"spiffe_refresh_hint\": 18446744073709551615}", LATEST),
            ("{\"spiffe_refresh_hint\": \"often\"}", DEFAULT_REFRESH),
            ("nonsense", DEFAULT_REFRESH),
        ] {
            assert_eq!(refresh(json.as_bytes()), expected, "{json}");
        }
    }
}
