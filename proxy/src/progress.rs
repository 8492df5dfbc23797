//! Bodies that stop moving: how that is noticed, and what it costs a body that does move. No timer is made before a body
//! has to wait, and one that is armed is not touched by each frame: it looks back when it fires.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Less than this in one wait is a trickle that holds a connection, not an upload (slowloris in the body).
const LEAST: u64 = 1024;

/// The upload of one exchange: counted, and when the exchange last got further. Shared by its two bodies, since on a
/// stream either may rest while the other moves.
#[derive(Debug)]
pub(crate) struct Upload {
    received: AtomicU64,
    begun: Instant,
    /// Milliseconds since `begun`.
    moved: AtomicU64,
    /// Bytes that count as a move.
    step: u64,
}

impl Upload {
    /// `is_stream` says that single small messages are to be expected.
    pub(crate) fn new(is_stream: bool) -> Self {
        Self {
            received: AtomicU64::new(0),
            begun: Instant::now(),
            moved: AtomicU64::new(0),
            step: if is_stream { 1 } else { LEAST },
        }
    }

    /// Bytes passed on so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// `bytes` more were passed on.
    pub(crate) fn pass(&self, bytes: u64) {
        let before = self.received.fetch_add(bytes, Ordering::Relaxed);
        if (before + bytes) / self.step > before / self.step {
            self.touch();
        }
    }

    /// Something else of the exchange moved: the upload's end, or the response.
    pub(crate) fn touch(&self) {
        let moved = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(moved, Ordering::Relaxed);
    }

    /// How long nothing has moved.
    pub(crate) fn still_for(&self) -> Duration {
        let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
        self.begun.elapsed().saturating_sub(moved)
    }
}

/// Waits for a response head for `limit` after the last move of the upload: a large body is no slow app.
pub(crate) async fn within<T>(
    limit: Duration,
    upload: Option<&Upload>,
    mut response: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    // By hand rather than with `timeout`, and by reference: every request waits here, and its future is as large as this.
    let mut timer = std::pin::pin!(tokio::time::sleep(limit));
    std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = response.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            std::task::ready!(timer.as_mut().poll(cx));
            let left = limit.saturating_sub(upload.map_or(limit, Upload::still_for));
            if left.is_zero() {
                return Poll::Ready(None);
            }
            timer.as_mut().reset(Instant::now() + left);
        }
    })
    .await
}

/// How long a body may have to wait for its next frame.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    /// From the first wait on.
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    timer: Pin<Box<Sleep>>,
    moved: Instant,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            waiting: None,
        }
    }

    /// A frame came.
    pub(crate) fn renew(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            waiting.moved = Instant::now();
        }
    }

    /// To be asked whenever the body has to wait: ready once neither it nor `upload` has moved for the limit.
    pub(crate) fn poll_end(&mut self, upload: Option<&Upload>, cx: &mut Context<'_>) -> Poll<()> {
        let Waiting { timer, moved } = self.waiting.get_or_insert_with(|| Waiting {
            timer: Box::pin(tokio::time::sleep(self.limit)),
            moved: Instant::now(),
        });
        while timer.as_mut().poll(cx).is_ready() {
            let still = moved.elapsed();
            let still = upload.map_or(still, |upload| still.min(upload.still_for()));
            if still >= self.limit {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + (self.limit - still));
        }
        Poll::Pending
    }

    /// The same, as a body says it.
    pub(crate) fn poll_stall<T>(
        &mut self,
        upload: Option<&Upload>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<T, BodyError>>> {
        let end = self.poll_end(upload, cx);
        end.map(|()| Some(Err(BodyError::Stalled(self.limit))))
    }
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the other side broke off")]
    Broken(#[from] hyper::Error),
    #[error("expected the body to go on within {0:?}, found nothing")]
    Stalled(Duration),
}

impl BodyError {
    /// A word from a closed set, for the access log and as a metric label.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Broken(_) => "response_broken",
            Self::Stalled(_) => "response_stalled",
        }
    }
}
