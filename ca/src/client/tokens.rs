//! JWT-SVIDs for whoever asks: got from the CA with the present certificate, and given again until half of their life is over.
//!
//! Workloads ask as often as they like, and what they cause at the CA is done in the name of the identity that the sidecar
//! renews: so the calls are few, one at a time, and what is known here is answered here, whoever else waits for the CA.

use super::bundles::{Bundles, OfferError};
use super::connect::{ConnectError, Connector};
use crate::admission::Budget;
use crate::api::refused::REASON_METADATA;
use crate::causes::in_full;
use crate::proto::IssueJwtRequest;
use identity::Svid;
use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tonic::{Code, Status};

/// Audiences, and where the token goes, or why there is none. What the CA refused has its code; all else is `Unavailable`.
pub type Ask = (Vec<String>, oneshot::Sender<Result<String, Status>>);

/// For one call, connection and all.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Tokens that are kept. One has some 500 bytes.
const MOST_KEPT: usize = 64;
/// Those who wait for the CA; more are refused at once.
const MOST_WAITING: usize = 64;
/// Calls of the CA, a tenth of what it lets one identity have.
const CALLS_PER_MINUTE: u32 = 60;
/// For so long a CA that issues no tokens is not asked again.
const NO_TOKENS_HOLDS: Duration = Duration::from_secs(60);

/// A token and its life, to come.
type Fetch<'a> = Pin<Box<dyn Future<Output = Result<(String, Duration), AskError>> + Send + 'a>>;

/// Answers all who ask, from what is known or one call of the CA after the other. Ends when nobody can ask any more.
pub(super) async fn answer(
    connector: Connector,
    bundles: Arc<Bundles>,
    svid: watch::Receiver<Option<Arc<Svid>>>,
    mut asks: mpsc::Receiver<Ask>,
) {
    let mut desk = Desk::new(Instant::now());
    let mut fetching: Option<(Ask, Fetch<'_>)> = None;
    loop {
        if fetching.is_none() {
            fetching = desk.next(Instant::now()).map(|ask| {
                let present = svid.borrow().clone();
                let fetch = fetch(&connector, &bundles, present, ask.0.clone());
                let fetch = async { timeout(CALL_TIMEOUT, fetch).await? };
                (ask, Box::pin(fetch) as Fetch<'_>)
            });
        }
        let fetched = async {
            match &mut fetching {
                Some((_, fetch)) => fetch.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ask = asks.recv() => match ask {
                Some(ask) => desk.receive(ask, Instant::now()),
                None => return,
            },
            outcome = fetched => if let Some((ask, _)) = fetching.take() {
                desk.settle(ask, outcome, Instant::now());
            },
        }
    }
}

/// What is known, and who waits for more.
#[derive(Debug)]
struct Desk {
    kept: HashMap<Vec<String>, (String, Instant)>,
    /// That the CA issues no tokens, and until when this holds.
    none: Option<(Status, Instant)>,
    waiting: VecDeque<Ask>,
    budget: Budget,
    spent_until: Instant,
}

impl Desk {
    fn new(now: Instant) -> Self {
        Self {
            kept: HashMap::new(),
            none: None,
            waiting: VecDeque::new(),
            budget: Budget::per_minute(CALLS_PER_MINUTE),
            spent_until: now,
        }
    }

    fn receive(&mut self, (audience, answer): Ask, now: Instant) {
        if let Some(known) = self.known(&audience, now) {
            let _ = answer.send(known);
            return;
        }
        self.waiting.retain(|(_, answer)| !answer.is_closed());
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push_back((audience, answer));
        } else {
            let _ = answer.send(Err(Status::unavailable("too many wait for tokens")));
        }
    }

    /// The next who still waits, and for whom the CA has to be called and may be.
    fn next(&mut self, now: Instant) -> Option<Ask> {
        while let Some((audience, answer)) = self.waiting.pop_front() {
            if answer.is_closed() {
                continue;
            }
            let known = self.known(&audience, now).or_else(|| {
                let wait = self.budget.check(self.spent_until, now).err()?;
                let seconds = wait.as_secs() + 1;
                Some(Err(Status::unavailable(format!(
                    "too many tokens for this identity; expected the next no sooner than in {seconds} s"
                ))))
            });
            let Some(known) = known else {
                self.spent_until = self.budget.spend(self.spent_until, now);
                return Some((audience, answer));
            };
            let _ = answer.send(known);
        }
        None
    }

    fn known(&mut self, audience: &[String], now: Instant) -> Option<Result<String, Status>> {
        self.kept.retain(|_, (_, until)| *until > now);
        self.none.take_if(|(_, until)| *until <= now);
        if let Some((token, _)) = self.kept.get(audience) {
            return Some(Ok(token.clone()));
        }
        self.none.as_ref().map(|(refusal, _)| Err(refusal.clone()))
    }

    fn settle(
        &mut self,
        (audience, answer): Ask,
        outcome: Result<(String, Duration), AskError>,
        now: Instant,
    ) {
        let outcome = match outcome {
            Ok((token, life)) => {
                if self.kept.len() >= MOST_KEPT {
                    self.kept.clear();
                }
                self.kept.insert(audience, (token.clone(), now + life / 2));
                Ok(token)
            }
            Err(error) => {
                let refusal = error.into_status();
                tracing::warn!(reason = refusal.message(), "no token");
                if refusal.code() == Code::Unimplemented {
                    self.none = Some((refusal.clone(), now + NO_TOKENS_HOLDS));
                }
                Err(refusal)
            }
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
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("the CA refused: {}", .0.message())]
    Refused(#[source] Box<Status>),
    #[error("the CA's reply lacks the trust bundle")]
    NoBundle,
    #[error("the CA's reply holds no usable trust bundle")]
    Bundle(#[from] OfferError),
}

impl From<Status> for AskError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl AskError {
    /// What whoever asked is told. A refusal of ours names its reason; any other status tells of the connection.
    fn into_status(self) -> Status {
        match self {
            Self::Refused(status) if status.metadata().contains_key(REASON_METADATA) => {
                Status::new(status.code(), status.message())
            }
            error => Status::unavailable(in_full(&error)),
        }
    }
}

#[cfg(test)]
mod tests;
