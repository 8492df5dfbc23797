//! Asks a service: one of its sidecars, and where that is safe another after it, until one answers.

use super::is_idempotent;
use crate::error::Failure;
use crate::h1::head::Framing;
use crate::h1::spare;
use crate::outbound::{Attempt, Route};
use crate::relay::{Passage, Relay};
use crate::upstream::retry::Retries;
use crate::upstream::{Deadlines, Upstream};
use http::request::Parts;
use http::response;
use tokio::time::Instant;

/// A request that was sent to one of a service's sidecars.
pub(super) struct Asking<'r> {
    route: &'r Route,
    /// What is sent is taken apart.
    kept: Parts,
    body: Framing,
    is_idempotent: bool,
    deadlines: Deadlines,
    retries: Retries<'r>,
    pub(super) attempt: Attempt<'r>,
}

impl<'r> Asking<'r> {
    /// Sends it for the first time. `body` says how the rest will come; `is_stream` that single small messages will.
    pub(super) async fn begin<'p, 'c, 'o: 'r>(
        way: Passage<'p, 'c, 'o>,
        route: &'r Route,
        (head, body): (&mut Parts, Framing),
        is_stream: bool,
    ) -> Result<(Self, Relay<'p, 'c, 'o>), Failure> {
        let kept = head.clone();
        let deadlines = way.deadlines;
        let (metrics, direction) = way.exchange.counters();
        let retries = Retries::begin(&route.budget, metrics, direction);
        let wait = deadlines.first_wait();
        let (attempt, up) = route.send(None, wait, deadlines, (head, body)).await?;
        way.exchange.forwarded(attempt.lanes().name());
        let asking = Self {
            route,
            is_idempotent: is_idempotent(&kept),
            kept,
            body,
            deadlines,
            retries,
            attempt,
        };
        let relay = Relay::new(way, up, is_stream).within(asking.ends());
        Ok((asking, relay))
    }

    /// The first answer that there is. `head` has nothing of the request any more, and is sent again.
    pub(super) async fn answer(
        &mut self,
        relay: &mut Relay<'_, '_, '_>,
        head: &mut Parts,
    ) -> Result<(response::Parts, Framing), Failure> {
        loop {
            let failure = match relay.head().await {
                Ok(answered) => {
                    self.retries.answered();
                    self.attempt.answered(&answered.0);
                    spare::keep(std::mem::take(&mut self.kept.headers));
                    return Ok(answered);
                }
                Err(failure) => failure,
            };
            self.attempt.failed(&failure);
            let is_late = matches!(failure, Failure::TryTimeout(_));
            // Boxed, as it is rare.
            match Box::pin(self.again(failure, relay, head)).await {
                Ok((next, up)) => {
                    if is_late {
                        self.attempt.given_up_for(&next);
                    }
                    self.attempt = next;
                    relay.forwarded(self.attempt.lanes().name());
                    relay.ask_again(up, self.ends());
                }
                // What was asked may still be answered.
                Err(_) if is_late => relay.wait_on(),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Sends it once more after `failure`, if it may be.
    async fn again(
        &mut self,
        failure: Failure,
        relay: &mut Relay<'_, '_, '_>,
        head: &mut Parts,
    ) -> Result<(Attempt<'r>, Upstream), Failure> {
        let is_repeatable = self.is_idempotent && !relay.has_begun();
        let wait = relay.wait();
        if !relay.can_ask_again()
            || !self
                .retries
                .again(&failure, is_repeatable, wait.until)
                .await
        {
            return Err(failure);
        }
        head.clone_from(&self.kept);
        let failed = Some(self.attempt.endpoint());
        let route = self.route;
        route
            .send(failed, wait, self.deadlines, (head, self.body))
            .await
    }

    /// An attempt ends only where another may follow.
    fn ends(&self) -> Option<Instant> {
        self.attempt.ends.filter(|_| self.is_idempotent)
    }
}
