//! The CA's side of the handshake, and its own certificate, which it renews by itself.

use crate::authority::{Authority, IssueError, ServerIdentity};
use crate::csr::KeyHash;
use crate::metrics::Metrics;
use crate::watched::WatchedBundle;
use identity::Svid;
use identity::tls::{ClientAuth, server_config};
use rustls::ServerConfig;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// What gRPC needs, and who can speaks.
pub(super) const HTTP2: &[u8] = b"h2";
/// In the order of our preference. A client that offers neither fails in the handshake.
const ALPN: [&[u8]; 2] = [HTTP2, b"http/1.1"];
/// Between attempts to renew the server's certificate: it is the CA's own database that is at fault.
const RETRY: Duration = Duration::from_secs(5);
/// The renewal time is looked at this often, so that a suspended machine or a changed clock does not delay it.
const LOOK: Duration = Duration::from_secs(5);

/// The configuration of handshakes with the present certificate; [`Self::renew`] brings the next.
#[derive(Debug)]
pub(super) struct ServerCertificate {
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    peers: Arc<WatchedBundle>,
    config: watch::Sender<Arc<ServerConfig>>,
    svid: watch::Sender<Arc<Svid>>,
    renew_at: SystemTime,
    issuer: watch::Receiver<KeyHash>,
}

impl ServerCertificate {
    pub(super) async fn issue(
        authority: Arc<Authority>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, IssueError> {
        let peers = WatchedBundle::new(authority.bundle(), authority.revocations());
        let peers = Arc::new(peers);
        let issuer = authority.server_issuer();
        let ServerIdentity { svid, renew_at } = next(&authority, &metrics).await?;
        Ok(Self {
            authority,
            metrics,
            config: watch::Sender::new(configuration(&svid, &peers)),
            svid: watch::Sender::new(Arc::new(svid)),
            peers,
            renew_at,
            issuer,
        })
    }

    /// By whom a client's certificate is verified.
    pub(super) fn peers(&self) -> Arc<WatchedBundle> {
        Arc::clone(&self.peers)
    }

    /// What a handshake that starts now goes by.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.config.subscribe()
    }

    /// The present certificate with its key.
    pub(super) fn svid(&self) -> watch::Receiver<Arc<Svid>> {
        self.svid.subscribe()
    }

    /// Replaces the certificate whenever its renewal time has come, or another authority is to sign it. Never returns.
    pub(super) async fn renew(mut self) {
        loop {
            tokio::select! {
                () = wait_until(self.renew_at) => {}
                Ok(()) = self.issuer.changed() => {}
            }
            match next(&self.authority, &self.metrics).await {
                Ok(ServerIdentity { svid, renew_at }) => {
                    self.config.send_replace(configuration(&svid, &self.peers));
                    self.svid.send_replace(Arc::new(svid));
                    self.renew_at = renew_at;
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &(dyn std::error::Error + 'static),
                        "the CA's own certificate is not renewed"
                    );
                    self.issuer.mark_changed();
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

fn configuration(svid: &Svid, peers: &Arc<WatchedBundle>) -> Arc<ServerConfig> {
    Arc::new(server_config(
        svid,
        peers.clone(),
        ClientAuth::Optional,
        &ALPN,
    ))
}

async fn next(authority: &Authority, metrics: &Metrics) -> Result<ServerIdentity, IssueError> {
    let identity = authority.issue_server().await?;
    let leaf = identity.svid.leaf();
    let ends = leaf
        .not_after
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    metrics.server_certificate_ends(i64::try_from(ends.as_secs()).unwrap_or(i64::MAX));
    tracing::info!(serial = %leaf.serial, "the CA has a new server certificate");
    Ok(identity)
}

/// Until `time` by the clock, or until as much time has really passed, whichever comes first.
async fn wait_until(time: SystemTime) {
    let left = time.duration_since(SystemTime::now()).unwrap_or_default();
    let due = Instant::now() + left;
    while Instant::now() < due && SystemTime::now() < time {
        let left = due.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{InitOptions, KeyProtection, OpenOptions};
    use identity::TrustDomain;

    #[tokio::test]
    async fn a_due_certificate_is_replaced_for_the_handshakes_that_follow() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("ca");
        let domain = TrustDomain::parse("demo.test").unwrap();
        let options = InitOptions::new(domain, KeyProtection::InsecurePlaintext);
        crate::init(&directory, &options).unwrap();
        let authority = Arc::new(Authority::open(&directory, &OpenOptions::default()).unwrap());
        let issued = ServerCertificate::issue(authority, Arc::default()).await;
        let mut certificate = issued.unwrap();
        assert!(certificate.renew_at > SystemTime::now());
        let mut configs = certificate.subscribe();
        let first = Arc::clone(&configs.borrow_and_update());

        certificate.renew_at = SystemTime::now();
        tokio::select! {
            changed = configs.changed() => changed.unwrap(),
            () = certificate.renew() => unreachable!("it never returns"),
        }
        assert!(!Arc::ptr_eq(&first, &configs.borrow()));
        let report = crate::ledger::verify(&directory).unwrap();
        assert!(report.is_intact() && report.certificates == 2, "{report}");
    }
}
