//! JWT-SVIDs for whoever asks: got from the CA with the present certificate, and given again until half of their life is over.

use super::bundles::{Bundles, OfferError};
use super::connect::{ConnectError, Connector};
use crate::causes::in_full;
use crate::proto::IssueJwtRequest;
use identity::Svid;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// Audiences, and where the token goes, or why there is none.
pub type Ask = (Vec<String>, oneshot::Sender<Result<String, String>>);

/// For one call, connection and all.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Tokens that are kept. One has some 500 bytes.
const MOST_KEPT: usize = 64;

/// Answers one after the other. Ends when nobody can ask any more.
pub(super) async fn answer(
    connector: Connector,
    bundles: Arc<Bundles>,
    svid: watch::Receiver<Option<Arc<Svid>>>,
    mut asks: mpsc::Receiver<Ask>,
) {
    let mut kept: HashMap<Vec<String>, (String, Instant)> = HashMap::new();
    while let Some((audience, answer)) = asks.recv().await {
        kept.retain(|_, (_, until)| *until > Instant::now());
        if let Some((token, _)) = kept.get(&audience) {
            let _ = answer.send(Ok(token.clone()));
            continue;
        }
        let present = svid.borrow().clone();
        let got = fetch(&connector, &bundles, present, audience.clone());
        let got = timeout(CALL_TIMEOUT, got).await;
        let outcome = match got.unwrap_or(Err(AskError::Timeout)) {
            Ok((token, life)) => {
                if kept.len() >= MOST_KEPT {
                    kept.clear();
                }
                kept.insert(audience, (token.clone(), Instant::now() + life / 2));
                Ok(token)
            }
            Err(error) => Err(in_full(&error)),
        };
        let _ = answer.send(outcome);
    }
}

/// A token and its life.
async fn fetch(
    connector: &Connector,
    bundles: &Bundles,
    svid: Option<Arc<Svid>>,
    audience: Vec<String>,
) -> Result<(String, Duration), AskError> {
    let valid = svid.filter(|svid| svid.leaf().not_after > SystemTime::now());
    let svid = valid.ok_or(AskError::NoCertificate)?;
    let mut connection = connector.connect(Some(&svid)).await?;
    let request = IssueJwtRequest {
        audience,
        ttl_seconds: 0,
    };
    let reply = connection.calls.issue_jwt(request).await?.into_inner();
    // Whoever is given the token finds the key that vouches for it.
    bundles.offer(reply.bundle.ok_or(AskError::NoBundle)?, None)?;
    let life = reply.expires_unix_ms - reply.server_time_unix_ms;
    let life = Duration::from_millis(u64::try_from(life).unwrap_or_default());
    Ok((reply.token, life))
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("there is no valid certificate to ask with")]
    NoCertificate,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the CA did not answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    #[error("the CA refused: {}", .0.message())]
    Refused(#[source] Box<tonic::Status>),
    #[error("the CA's reply lacks the trust bundle")]
    NoBundle,
    #[error("the CA's reply holds no usable trust bundle")]
    Bundle(#[from] OfferError),
}

impl From<tonic::Status> for AskError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
}
