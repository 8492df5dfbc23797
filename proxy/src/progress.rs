//! Exchanges that stop moving: how that is noticed, and what it costs one that does move. A timer is armed when somebody
//! first has to wait, and not touched by each move: it looks back when it fires.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};

/// Less than this in one wait is a trickle that holds a connection, not an upload (slowloris in the body).
const LEAST: u64 = 1024;

/// The task that has polled something last: as long as that does not fire, there is nothing to gain from polling it again,
/// and a connection's task is polled with each of its bytes.
#[derive(Debug, Default)]
pub(crate) struct Polled(Option<Waker>);

impl Polled {
    /// Whether the task at hand is the one that will be woken.
    pub(crate) fn by(&self, cx: &Context<'_>) -> bool {
        self.0
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
    }

    pub(crate) fn set(&mut self, cx: &Context<'_>) {
        self.0 = Some(cx.waker().clone());
    }

    /// What was polled has fired, or is another now.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}

/// Polls what has to be asked whatever the task has done before: with its share of a turn used up, which a peer's bytes can
/// do, a timer or a channel answers that it is pending without having noted whom to wake.
pub(crate) fn poll_regardless<F: Future + Unpin>(
    future: F,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    Pin::new(&mut unconstrained(future)).poll(cx)
}

/// A timer that may be put off at no cost. One serves all waits of a connection, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    timer: Option<Pin<Box<Sleep>>>,
    polled: Polled,
}

impl Deadline {
    /// Ready once it is `at` or later. `at` may be another with each call.
    pub(crate) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = match &mut self.timer {
            Some(timer) => {
                // An earlier alarm than needed is left as it is: it is looked at when it fires.
                if timer.deadline() > at {
                    timer.as_mut().reset(at);
                } else if self.polled.by(cx) && !timer.is_elapsed() {
                    return Poll::Pending;
                }
                self.polled.set(cx);
                timer
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(at))),
        };
        while poll_regardless(timer.as_mut(), cx).is_ready() {
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
        Poll::Pending
    }
}

/// When an exchange last got further, whichever way its bytes went: on a stream either side may rest while the other moves.
#[derive(Debug)]
pub(crate) struct Progress {
    /// When it last had to wait after a move.
    waits_since: Instant,
    has_moved: bool,
    /// Bytes of the upload that count as a move.
    step: u64,
    uploaded: u64,
}

impl Progress {
    /// Of an exchange that began at `begun`. `is_stream` says that single small messages are to be expected.
    pub(crate) fn new(is_stream: bool, begun: Instant) -> Self {
        Self {
            waits_since: begun,
            has_moved: false,
            step: if is_stream { 1 } else { LEAST },
            uploaded: 0,
        }
    }

    /// `bytes` more of the upload were passed on.
    pub(crate) fn upload(&mut self, bytes: u64) {
        let before = self.uploaded;
        self.uploaded += bytes;
        if self.uploaded / self.step > before / self.step {
            self.touch();
        }
    }

    /// Something else of the exchange moved: the upload's end, or the response.
    pub(crate) fn touch(&mut self) {
        self.has_moved = true;
    }

    /// To be asked when the exchange has to wait: when something last moved.
    pub(crate) fn moved(&mut self) -> Instant {
        // The clock is read once for all moves since the last wait.
        if std::mem::take(&mut self.has_moved) {
            self.waits_since = Instant::now();
        }
        self.waits_since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;
    use tokio::task::coop;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_wakes_whoever_polled_it_last_and_when_it_was_last_told() {
        let start = Instant::now();
        let mut deadline = Deadline::default();
        let mut another = Context::from_waker(Waker::noop());
        for (whose, seconds) in [("new", 1), ("put off", 5), ("brought forward", 7)] {
            let at = start + Duration::from_secs(seconds);
            for later in [60, 0] {
                let at = at + Duration::from_secs(later);
                assert!(deadline.poll(at, &mut another).is_pending(), "{whose}");
            }
            poll_fn(|cx| deadline.poll(at, cx)).await;
            assert_eq!(Instant::now(), at, "{whose}");
        }
    }

    /// Two hundred answers in one turn are enough, and how many there are is for the peer to say.
    #[tokio::test(start_paused = true)]
    async fn a_deadline_wakes_who_had_used_up_its_turn_when_it_asked() {
        let at = Instant::now() + Duration::from_secs(1);
        let mut deadline = Deadline::default();
        poll_fn(|cx| {
            while coop::has_budget_remaining() {
                let _ = pin!(coop::consume_budget()).poll(cx);
            }
            deadline.poll(at, cx)
        })
        .await;
        assert_eq!(Instant::now(), at);
    }
}
