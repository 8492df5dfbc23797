//! Exchanges that stop moving: how that is noticed, and what it costs one that does move. A timer is armed when somebody
//! first has to wait, and not touched by each move: it looks back when it fires.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep};

/// Less than this in one wait is a trickle that holds a connection, not an upload (slowloris in the body).
const LEAST: u64 = 1024;

/// A timer that may be put off at no cost. One serves all waits of a connection, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    /// Ready once it is `at` or later. `at` may be another with each call.
    pub(crate) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = match &mut self.timer {
            Some(timer) => {
                // An earlier alarm than needed is left as it is: it is looked at when it fires.
                if timer.deadline() > at {
                    timer.as_mut().reset(at);
                }
                timer
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(at))),
        };
        loop {
            ready!(timer.as_mut().poll(cx));
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            timer.as_mut().reset(at);
        }
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
