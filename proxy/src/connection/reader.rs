//! Readers that stop reading an HTTP/2 stream while others on its connection go on.
//!
//! A body does not see that, since nobody asks it for a frame then; the task that runs the stream does.

use crate::exchange::Body;
use crate::progress::BodyError;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::rt::Executor;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// The number of the frame that waits for its reader; 0 while none does.
type Waiting = Arc<AtomicU32>;

/// A response body that says whether its reader or its source is waited for. Holds `G` to its end.
pub(super) struct Read<G> {
    body: Body,
    frames: u32,
    waiting: Option<Waiting>,
    _guard: G,
}

impl<G> Read<G> {
    /// `waiting` is of [`Streams::begin`]; none on HTTP/1.1, where the connection is the stream.
    pub(super) fn new(body: Body, waiting: Option<Waiting>, guard: G) -> Self {
        Self {
            body,
            frames: 0,
            waiting,
            _guard: guard,
        }
    }
}

impl<G: Unpin> http_body::Body for Read<G> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let this = &mut *self;
        if let Some(waiting) = &this.waiting {
            let is_frame = matches!(frame, Poll::Ready(Some(_)));
            this.frames = this.frames.wrapping_add(1).max(1);
            waiting.store(if is_frame { this.frames } else { 0 }, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs the streams of one connection, each until it has ended or its reader has not taken a frame for `limit`.
#[derive(Clone)]
pub(super) struct Streams {
    limit: Duration,
    /// Of the request that was taken in last: hyper calls the service and then hands over the stream's task.
    newest: Arc<Mutex<Waiting>>,
}

impl Streams {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            newest: Arc::default(),
        }
    }

    /// For the body of the request that is being taken in.
    pub(super) fn begin(&self) -> Waiting {
        let waiting = Waiting::default();
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&waiting);
        waiting
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::spawn(Stream {
            stream: Box::pin(stream),
            waiting: Arc::clone(&newest),
            limit: self.limit,
            seen: 0,
            timer: None,
        });
    }
}

/// Ends with the stream; dropping it before resets the stream.
struct Stream<F> {
    stream: Pin<Box<F>>,
    waiting: Waiting,
    limit: Duration,
    seen: u32,
    /// Made when a frame first waits: most responses never do.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let waiting = this.waiting.load(Ordering::Relaxed);
        if waiting == 0 {
            return Poll::Pending;
        }
        let timer = this.timer.get_or_insert_with(|| {
            this.seen = waiting;
            Box::pin(tokio::time::sleep(this.limit))
        });
        loop {
            ready!(timer.as_mut().poll(cx));
            if this.seen == waiting {
                return Poll::Ready(());
            }
            this.seen = waiting;
            timer.as_mut().reset(Instant::now() + this.limit);
        }
    }
}
