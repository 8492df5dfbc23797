//! The client's trust bundle and what is revoked: replaced only by newer ones, followed while there is an identity to ask with.

use super::connect::{ConnectError, Connector};
use super::revoked;
use super::schedule::{jittered, now};
use crate::ledger::head::Mark;
use crate::proto::{self, LedgerHead, WatchBundleRequest};
use identity::jwt::JwtKeys;
use identity::{
    BundleError, CaTime, ClockSkew, Revocations, Svid, TrustBundle, TrustDomain, Usage,
};
use rustls_pki_types::CertificateDer;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Between one stream and the next, jittered: the CA ends streams in turn, and all at once when it stops.
const RECONNECT: Duration = Duration::from_secs(3);
/// What one CA may federate with.
const MOST_FEDERATED: usize = 32;
/// For the CA to accept the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Bundles of other trust domains, each on its own.
pub(super) type Federated = Arc<Vec<Arc<TrustBundle>>>;

/// By the monotonic clock and by the other.
type Moment = (Instant, SystemTime);

/// Holds the newest bundle seen, the newest list of what is revoked, and the time that the CA last told.
#[derive(Debug)]
pub(super) struct Bundles {
    bundle: watch::Sender<Arc<TrustBundle>>,
    revocations: watch::Sender<Arc<Revocations>>,
    federated: watch::Sender<Federated>,
    ca_time: watch::Sender<Option<CaTime>>,
    /// When that was, by both clocks here.
    heard: Mutex<Option<Moment>>,
    head: Mutex<Option<(Mark, LedgerHead)>>,
}

impl Bundles {
    pub(super) fn new(first: TrustBundle) -> Self {
        Self {
            bundle: watch::Sender::new(Arc::new(first)),
            revocations: watch::Sender::default(),
            federated: watch::Sender::new(Federated::default()),
            ca_time: watch::Sender::new(None),
            heard: Mutex::default(),
            head: Mutex::default(),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.subscribe()
    }

    pub(super) fn revocations(&self) -> watch::Receiver<Arc<Revocations>> {
        self.revocations.subscribe()
    }

    pub(super) fn subscribe_federated(&self) -> watch::Receiver<Federated> {
        self.federated.subscribe()
    }

    pub(super) fn ca_time(&self) -> watch::Receiver<Option<CaTime>> {
        self.ca_time.subscribe()
    }

    /// Takes the time in an answer that was asked for at `asked` and came just now.
    pub(super) fn hear(&self, server_time_unix_ms: i64, asked: Instant) {
        let heard = now();
        let time = CaTime::new(server_time_unix_ms, asked, heard.0);
        self.ca_time.send_replace(Some(time));
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
        let skew = time.skew(heard);
        if skew.is_notable() {
            tracing::warn!(
                seconds = skew.seconds(),
                "this machine's clock and the CA's differ: certificates are judged by the one and written by the other"
            );
        }
    }

    /// What time it is by the CA's clock, or by ours before it has ever answered; in milliseconds since the Unix epoch.
    pub(super) fn ca_unix_ms(&self) -> i64 {
        let now = now();
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        match (*self.ca_time.borrow(), heard) {
            (Some(time), Some(heard)) => time
                .unix_ms(now.0)
                .saturating_add(whole_ms(asleep(heard, now))),
            _ => whole_ms(now.1.duration_since(UNIX_EPOCH).unwrap_or_default()),
        }
    }

    /// How far off this machine's clock is now, if the CA has ever answered.
    pub(super) fn skew(&self) -> Option<ClockSkew> {
        let time = *self.ca_time.borrow();
        time.map(|time| time.skew(now()))
    }

    pub(super) fn present(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.bundle.borrow())
    }

    /// Whether `svid` is known to be revoked. One that does not verify is somebody else's matter.
    pub(super) fn revokes(&self, svid: &Svid) -> bool {
        let chain = self
            .present()
            .verify_chain(svid.chain(), Usage::Client, SystemTime::now());
        chain.is_ok_and(|chain| self.revocations.borrow().check(&chain).is_err())
    }

    /// Takes what the CA has sent, each part if it is newer than the present one; a repeated or older one changes nothing.
    /// The list first: who trusts a new authority has to know what not to trust.
    ///
    /// # Errors
    /// When the bundle is none, such as an empty one, or the list is none. What is there stays.
    pub(super) fn offer(
        &self,
        bundle: proto::TrustBundle,
        revocations: Option<proto::Revocations>,
    ) -> Result<(), OfferError> {
        if let Some(revocations) = revocations {
            self.offer_revocations(revoked::parse(revocations).ok_or(OfferError::Revocations)?);
        }
        let offered = parse(bundle, self.present().trust_domain())?;
        self.bundle.send_if_modified(|present| {
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

    fn offer_revocations(&self, offered: Revocations) {
        self.revocations.send_if_modified(|present| {
            let (held, found) = (present.sequence, offered.sequence);
            if found < held {
                tracing::warn!(
                    held,
                    found,
                    "the CA offers an older list of what is revoked"
                );
            }
            if found > held {
                tracing::info!(sequence = found, "new list of what is revoked");
                *present = Arc::new(offered);
            }
            found > held
        });
    }
}

impl Bundles {
    /// Remembers a head of the CA's ledger if it is the newest, for the CA to be told when it has forgotten.
    fn offer_head(&self, offered: LedgerHead) {
        let revocations = Arc::clone(&self.revocations.borrow());
        let Some(mark) = Mark::verify(&offered, &self.present(), &revocations) else {
            tracing::warn!("the CA sent a ledger head that it has not signed");
            return;
        };
        let mut held = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_none_or(|(held, _)| mark.is_after(held)) {
            *held = Some((mark, offered));
        }
    }

    /// The newest head that was seen.
    pub(super) fn head(&self) -> Option<LedgerHead> {
        let held = self.head.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(|(_, head)| head.clone())
    }

    /// Takes what the CA says of other trust domains, all of it in the place of all that was said before; but none goes back
    /// in sequence, and none can be our own.
    fn offer_federated(&self, offered: Vec<proto::TrustBundle>) -> Result<(), OfferError> {
        let own = self.present();
        let mut federated = Vec::new();
        for message in offered.into_iter().take(MOST_FEDERATED) {
            let bundle = parse(message, own.trust_domain())?;
            if bundle.trust_domain() != own.trust_domain() {
                federated.push(Arc::new(bundle));
            }
        }
        self.federated.send_if_modified(|present| {
            let federated = newest(present, federated);
            let is_new = **present != federated;
            if is_new {
                *present = Arc::new(federated);
            }
            is_new
        });
        Ok(())
    }
}

/// The trust domains of `offered`, each with the bundle of the higher sequence, of `held` or of `offered`: what was taken from a
/// foreign bundle does not come back because a replica of the CA has not heard of it.
#[must_use]
pub fn newest(held: &[Arc<TrustBundle>], offered: Vec<Arc<TrustBundle>>) -> Vec<Arc<TrustBundle>> {
    let newer = |offered: Arc<TrustBundle>| {
        let is_newer = |held: &&Arc<TrustBundle>| {
            held.trust_domain() == offered.trust_domain() && held.sequence() > offered.sequence()
        };
        let newer = held.iter().find(is_newer).map(Arc::clone);
        newer.unwrap_or(offered)
    };
    offered.into_iter().map(newer).collect()
}

/// For how long this machine was suspended between `heard` and `now`: the monotonic clock stops then, and certificates end.
fn asleep(heard: Moment, now: Moment) -> Duration {
    let by_clock = now.1.duration_since(heard.1).unwrap_or_default();
    by_clock.saturating_sub(now.0.saturating_duration_since(heard.0))
}

fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn parse(message: proto::TrustBundle, own: &TrustDomain) -> Result<TrustBundle, BundleError> {
    // A name that is none cannot be our own; `check_successor` says so of any other.
    let trust_domain = TrustDomain::parse(&message.trust_domain).unwrap_or_else(|_| own.clone());
    let authorities = message.authorities.into_iter().map(CertificateDer::from);
    let bundle = TrustBundle::new(trust_domain, authorities.collect(), message.sequence)?;
    let jwt_keys = match message.jwt_keys.as_str() {
        // A CA of an earlier release has none.
        "" => JwtKeys::default(),
        keys => JwtKeys::from_jwks(keys.as_bytes()).map_err(BundleError::JwtKeys)?,
    };
    Ok(bundle.with_jwt_keys(jwt_keys))
}

/// Follows the CA's bundle and revocations, whenever there is a valid identity to ask with. Never returns.
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
        let Some(present) = present else { continue };
        tokio::select! {
            ended = stream(&connector, &bundles, &present) => {
                if let Err(error) = ended {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "not following the trust bundle");
                }
                sleep(jittered(RECONNECT)).await;
            }
            // What this sidecar has is said of the certificate that it has now.
            renewed = svid.changed() => if renewed.is_err() { return },
        }
    }
}

/// One stream, until it ends.
async fn stream(connector: &Connector, bundles: &Bundles, svid: &Svid) -> Result<(), FollowError> {
    let mut connection = connector.connect(Some(svid)).await?;
    let mut held = bundles.subscribe();
    held.mark_changed();
    let said = futures_util::stream::unfold(held, |mut held| async {
        held.changed().await.ok()?;
        let bundle_sequence = held.borrow_and_update().sequence();
        Some((WatchBundleRequest { bundle_sequence }, held))
    });
    let asked = Instant::now();
    let opened = timeout(OPEN_TIMEOUT, connection.calls.watch_bundle(said));
    let mut replies = opened
        .await
        .map_err(|_| FollowError::Timeout)??
        .into_inner();
    let mut is_first = true;
    while let Some(reply) = replies.message().await? {
        // Later ones were not asked for: how long they were on their way does not show.
        if std::mem::take(&mut is_first) {
            bundles.hear(reply.server_time_unix_ms, asked);
        }
        if let Some(bundle) = reply.bundle {
            bundles.offer(bundle, reply.revocations)?;
            bundles.offer_federated(reply.federated)?;
        }
        if let Some(head) = reply.ledger_head {
            bundles.offer_head(head);
        }
    }
    Ok(())
}

/// Why what the CA has sent was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum OfferError {
    #[error("the CA sent something that is no trust bundle")]
    Bundle(#[from] BundleError),
    #[error("the CA sent something that is no list of what is revoked")]
    Revocations,
}

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the CA did not open the stream within {} s", OPEN_TIMEOUT.as_secs())]
    Timeout,
    #[error("the CA ended the stream")]
    Call(#[from] tonic::Status),
    #[error(transparent)]
    Offer(#[from] OfferError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(trust_domain: &str, sequence: u64) -> Arc<TrustBundle> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let uri = format!("spiffe://{trust_domain}").try_into().unwrap();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        let root = params.self_signed(&key).unwrap();
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        Arc::new(TrustBundle::new(trust_domain, vec![root.der().clone()], sequence).unwrap())
    }

    #[test]
    fn the_cas_time_goes_on_while_this_machine_is_suspended() {
        let bundles = Bundles::new(TrustBundle::clone(&bundle("demo.test", 1)));
        let hour = Duration::from_secs(3600);
        let told = whole_ms(1000 * hour);
        bundles.hear(told, Instant::now());
        assert!(bundles.ca_unix_ms() < told + whole_ms(hour / 2));
        // An hour ago by the clock that went on, and just now by the one that stopped.
        if let Some((_, clock)) = bundles.heard.lock().unwrap().as_mut() {
            *clock -= hour;
        }
        assert!(bundles.ca_unix_ms() > told + whole_ms(hour / 2));
        // A clock that was set back does not take back what has passed.
        if let Some((_, clock)) = bundles.heard.lock().unwrap().as_mut() {
            *clock += 2 * hour;
        }
        assert!(bundles.ca_unix_ms() >= told);
    }

    #[test]
    fn a_foreign_bundle_never_goes_back_and_is_gone_when_it_is_no_longer_offered() {
        let (one, two, other) = (
            bundle("a.test", 1),
            bundle("a.test", 2),
            bundle("b.test", 1),
        );
        let held = [Arc::clone(&two), Arc::clone(&other)];
        assert_eq!(newest(&held, vec![Arc::clone(&one)]), [Arc::clone(&two)]);
        assert_eq!(newest(&[one], vec![Arc::clone(&two)]), [two]);
        assert_eq!(newest(&[], vec![Arc::clone(&other)]), [other]);
        assert!(newest(&held, Vec::new()).is_empty());
    }
}
