//! When a connection has to wind down or end.

use super::Activity;
use crate::authorize::LOOK_AGAIN;
use crate::drain::Drain;
use crate::progress::{Polled, poll_regardless};
use crate::proof::Ends;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep_until};

/// Decides when a connection has to wind down or end. One timer per connection, none per request.
pub(super) struct Watch<'c> {
    pub(super) activity: &'c Activity,
    pub(super) idle: Duration,
    pub(super) ends: Option<Arc<Ends>>,
    pub(super) drain: Drain,
}

/// How far a connection is on its way to its end.
struct Stage {
    /// No more requests are wanted.
    winding_down: bool,
    /// Nor is the one waited for that may be on its way.
    leaving: bool,
    is_draining: bool,
    leave_at: Option<SystemTime>,
    idle_at: Instant,
    /// Requests that had begun when the idle time did.
    seen: u32,
}

impl Watch<'_> {
    /// Boxed by the caller: an idle connection is as large as what it may become, and there are many.
    pub(super) async fn drive(self, mut connection: Pin<Box<impl Future<Output = ()>>>) {
        let mut stage = Stage {
            winding_down: false,
            leaving: false,
            is_draining: false,
            leave_at: self.ends.as_deref().map(|ends| leave_at(ends.moment())),
            idle_at: Instant::now() + self.idle,
            seen: self.activity.begun.load(Ordering::Relaxed),
        };
        let mut timer = pin!(sleep_until(self.next(&stage)));
        let mut draining = pin!(self.drain.started());
        let mut polled = Polled::default();
        loop {
            let event = poll_fn(|cx| {
                // Before the connection, which under an ended certificate begins nothing.
                let has_order = !stage.leaving && self.has_order(stage.is_draining);
                if !polled.by(cx) || timer.is_elapsed() || has_order {
                    polled.set(cx);
                    if !stage.leaving && poll_regardless(draining.as_mut(), cx).is_ready() {
                        return Poll::Ready(Event::Draining);
                    }
                    if poll_regardless(timer.as_mut(), cx).is_ready() {
                        return Poll::Ready(Event::Due);
                    }
                }
                connection.as_mut().poll(cx).map(|()| Event::Ended)
            });
            match event.await {
                Event::Ended => return,
                // First the requests to come, then the connections that bring none.
                Event::Draining => {
                    stage.winding_down = true;
                    stage.leaving = stage.is_draining;
                    if !stage.is_draining {
                        stage.is_draining = true;
                        draining.set(self.drain.closing_idle());
                    }
                }
                Event::Due if self.is_over(&mut stage) => return,
                Event::Due => timer.as_mut().reset(self.next(&stage)),
            }
            polled.clear();
            // The next turn of the loop polls the connection, which looks at this.
            let activity = self.activity;
            let (closing, leaving) = (stage.winding_down, stage.leaving);
            activity.closing.store(closing, Ordering::Relaxed);
            activity.leaving.store(leaving, Ordering::Relaxed);
        }
    }

    /// Whether the connection ends now, for its certificate or for want of requests; if not, `stage` is what follows.
    fn is_over(&self, stage: &mut Stage) -> bool {
        let now = SystemTime::now();
        // Hard: nothing passes under a certificate that has ended or is revoked.
        let ends = self.ends.as_deref();
        if ends.is_some_and(|ends| now >= ends.moment()) {
            tracing::info!("connection closed, as its certificate has ended or is revoked");
            return true;
        }
        stage.leaving |= stage.leave_at.is_some_and(|leave_at| now >= leave_at);
        if Instant::now() >= stage.idle_at {
            let is_unused = self.activity.is_unused_since(stage.seen);
            if is_unused && stage.winding_down {
                return true;
            }
            stage.leaving |= is_unused;
            stage.seen = self.activity.begun.load(Ordering::Relaxed);
            stage.idle_at = Instant::now() + self.idle;
        }
        stage.winding_down |= stage.leaving;
        false
    }

    /// Whether the drain has come to its next step.
    fn has_order(&self, is_draining: bool) -> bool {
        if is_draining {
            self.drain.is_closing_idle()
        } else {
            self.drain.is_started()
        }
    }

    /// When to look again: after the idle time, or when a certificate asks for it by a clock that may be set.
    fn next(&self, stage: &Stage) -> Instant {
        let ends = || self.ends.as_deref().map(Ends::moment);
        let due = if stage.winding_down {
            ends()
        } else {
            stage.leave_at
        };
        due.map_or(stage.idle_at, |due| {
            let left = due.duration_since(SystemTime::now()).unwrap_or_default();
            // At least a moment, so that a clock behind the timer does not make this spin.
            let wait = left.clamp(Duration::from_millis(10), LOOK_AGAIN);
            stage.idle_at.min(Instant::now() + wait)
        })
    }
}

/// What a connection waits for besides its requests.
enum Event {
    Ended,
    Draining,
    Due,
}

/// When a connection stops taking requests before its certificate ends: after the calling sidecar has moved on by
/// itself, and with time for requests in flight.
fn leave_at(ends: SystemTime) -> SystemTime {
    let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
    ends - (left / 8).min(Duration::from_secs(10))
}
