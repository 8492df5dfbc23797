//! TokenReview: the cluster itself is asked whether a token is good, which it is not once its pod is deleted.
//!
//! A token is asked about once at a time, its answer kept for some seconds, and not too many at once. Only tokens that
//! hold up offline get here, so that strangers cannot make us ask. Without an answer nothing is issued.

use super::Bound;
use crate::attest::AttestError;
use crate::attest::fetch::{FetchError, Server};
use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
/// An answer repeats the token.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// A token that was good this long ago is taken for good: a sidecar whose reply was lost comes again within it.
const KEPT: Duration = Duration::from_secs(5);
/// A fleet that starts at once fits; beyond, answers are not kept.
const MAX_KEPT: usize = 4096;
/// At once, so that a fleet that starts is no flood for the API server.
const MAX_AT_ONCE: usize = 16;

/// Which API server to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewOptions {
    /// The API server, with the token of a service account that may create TokenReviews (`system:auth-delegator`).
    pub server: Server,
}

#[derive(Debug)]
pub(super) struct Reviewer {
    server: Server,
    asking: Semaphore,
    kept: Mutex<HashMap<[u8; 32], Kept>>,
}

/// An answer, or one that is awaited. The same for all who ask about the same token.
#[derive(Debug, Clone)]
struct Kept {
    answer: Arc<OnceCell<Answer>>,
    since: Instant,
}

impl Reviewer {
    pub(super) fn new(options: ReviewOptions) -> Self {
        let ReviewOptions { mut server } = options;
        server.url = server.url.with_path(PATH);
        Self {
            server,
            asking: Semaphore::new(MAX_AT_ONCE),
            kept: Mutex::default(),
        }
    }

    /// Whether the cluster says of `token` what it says of itself.
    pub(super) async fn ask(
        &self,
        token: &str,
        audience: &str,
        bound: &Bound<'_>,
    ) -> Result<(), AttestError> {
        let answer = self.slot(token);
        let answer = answer.get_or_try_init(|| self.review(token, audience));
        let answer = answer.await.map_err(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, server = %self.server.url, "no token review");
            AttestError::Unavailable
        })?;
        match answer.confirms(audience, bound) {
            true => Ok(()),
            false => Err(AttestError::Disowned),
        }
    }

    fn slot(&self, token: &str) -> Arc<OnceCell<Answer>> {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let now = Instant::now();
        let fresh = |kept: &Kept| now.duration_since(kept.since) < KEPT;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(&hash).filter(|kept| fresh(kept)) {
            return Arc::clone(&known.answer);
        }
        let answer = Arc::new(OnceCell::new());
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, kept| fresh(kept));
        }
        if kept.len() < MAX_KEPT {
            let since = now;
            let answer = Arc::clone(&answer);
            kept.insert(hash, Kept { answer, since });
        }
        answer
    }

    async fn review(&self, token: &str, audience: &str) -> Result<Answer, ReviewError> {
        let _place = self.asking.acquire().await;
        let question = serde_json::json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        });
        let question = Bytes::from(question.to_string());
        let answer = self.server.post(question, MAX_ANSWER_BYTES).await?;
        let answer: Review = serde_json::from_slice(&answer).map_err(ReviewError::Json)?;
        Ok(answer.status)
    }
}

#[derive(Debug, Deserialize)]
struct Review {
    #[serde(default)]
    status: Answer,
}

/// What the cluster says of a token. Empty, as of a bad one, confirms nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    authenticated: bool,
    user: User,
    audiences: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    uid: String,
    extra: HashMap<String, Vec<String>>,
}

impl Answer {
    fn confirms(&self, audience: &str, bound: &Bound<'_>) -> bool {
        let pod = self.user.extra.get("authentication.kubernetes.io/pod-uid");
        self.authenticated
            // A server that knows no audiences names none, and has not looked at ours.
            && self.audiences.iter().any(|named| named == audience)
            && self.user.username == bound.username()
            && self.user.uid == bound.service_account_uid
            && pod.is_some_and(|uids| uids.as_slice() == [bound.pod_uid])
    }
}

#[derive(Debug, thiserror::Error)]
enum ReviewError {
    #[error("the API server does not answer as it should")]
    Fetch(#[from] FetchError),
    #[error("expected a TokenReview in JSON")]
    Json(#[source] serde_json::Error),
}
