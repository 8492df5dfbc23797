//! The client's trust bundle: replaced only by a newer one, followed while there is an identity to ask with.

use super::connect::{ConnectError, Connector};
use super::schedule::jittered;
use crate::proto::{self, WatchBundleRequest};
use identity::{BundleError, Svid, TrustBundle, TrustDomain};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Between one stream and the next, jittered: the CA ends streams in turn, and all at once when it stops.
const RECONNECT: Duration = Duration::from_secs(3);
/// For the CA to accept the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Holds the newest bundle seen.
#[derive(Debug)]
pub(super) struct Bundles(watch::Sender<Arc<TrustBundle>>);

impl Bundles {
    pub(super) fn new(first: TrustBundle) -> Self {
        Self(watch::Sender::new(Arc::new(first)))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.0.subscribe()
    }

    pub(super) fn present(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.0.borrow())
    }

    /// Takes `offered` if it is newer than the present bundle; a repeated or older one changes nothing.
    ///
    /// # Errors
    /// When it is no bundle, such as an empty one. The present one stays.
    pub(super) fn offer(&self, offered: proto::TrustBundle) -> Result<(), BundleError> {
        let offered = parse(offered, self.present().trust_domain())?;
        self.0.send_if_modified(|present| {
            if let Err(error) = present.check_successor(&offered) {
                tracing::warn!(%error, "the CA offers a trust bundle that cannot follow the present one");
                return false;
            }
            if offered.sequence() == present.sequence() {
                return false;
            }
            tracing::info!(sequence = offered.sequence(), "new trust bundle");
            *present = Arc::new(offered);
            true
        });
        Ok(())
    }
}

fn parse(message: proto::TrustBundle, own: &TrustDomain) -> Result<TrustBundle, BundleError> {
    // A name that is none cannot be our own; `check_successor` says so of any other.
    let trust_domain = TrustDomain::parse(&message.trust_domain).unwrap_or_else(|_| own.clone());
    let authorities = message.authorities.into_iter().map(CertificateDer::from);
    TrustBundle::new(trust_domain, authorities.collect(), message.sequence)
}

/// Follows the CA's bundle, whenever there is a valid identity to ask with. Never returns.
pub(super) async fn follow(
    connector: Connector,
    bundles: Arc<Bundles>,
    mut svid: watch::Receiver<Option<Arc<Svid>>>,
) {
    let valid = |svid: &Option<Arc<Svid>>| {
        svid.as_ref()
            .is_some_and(|svid| svid.leaf().not_after > SystemTime::now())
    };
    loop {
        let Ok(present) = svid.wait_for(valid).await.map(|svid| svid.clone()) else {
            return;
        };
        if let Some(present) = present
            && let Err(error) = stream(&connector, &bundles, &present).await
        {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "not following the trust bundle");
        }
        sleep(jittered(RECONNECT)).await;
    }
}

/// One stream, until it ends.
async fn stream(connector: &Connector, bundles: &Bundles, svid: &Svid) -> Result<(), FollowError> {
    let mut connection = connector.connect(Some(svid)).await?;
    let opened = timeout(
        OPEN_TIMEOUT,
        connection.calls.watch_bundle(WatchBundleRequest {}),
    );
    let mut replies = opened
        .await
        .map_err(|_| FollowError::Timeout)??
        .into_inner();
    while let Some(reply) = replies.message().await? {
        bundles.offer(reply.bundle.unwrap_or_default())?;
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the CA did not open the stream within {} s", OPEN_TIMEOUT.as_secs())]
    Timeout,
    #[error("the CA ended the stream")]
    Call(#[from] tonic::Status),
    #[error("the CA sent something that is no trust bundle")]
    Bundle(#[from] BundleError),
}
