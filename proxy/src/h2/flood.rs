//! Ends HTTP/2 connections, of callers and to servers, whose frames ask for work and bring nothing.
//!
//! The `h2` crate bounds what such frames cost in memory, and some of them in number: resets before we looked, streams
//! that it had to reset itself, CONTINUATION and empty DATA frames, header lists. It answers any number of PING and
//! SETTINGS frames, walks every open stream for each change of the window, ignores PRIORITY and unknown frames one by
//! one, carries out any number of table size updates in a header block, and lets a caller start and abandon requests for
//! ever if only it waits a moment in between. Those are counted here, where the frames pass: of each its head of nine octets
//! is read (RFC 9113 section 4.1), and of a header block whether it begins with size updates.

mod frames;

use frames::{Frames, Head};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// What the client sends first (RFC 9113 section 3.4); it is no frame.
const PREFACE_BYTES: usize = 24;

/// Frames without progress that may come at once. nghttp2 and Envoy start at 1000, too.
const IDLE_AT_ONCE: u32 = 1000;
/// Frames without progress per second in the long run: keep-alive takes one in many seconds.
const IDLE_PER_SECOND: u32 = 50;
/// What a request or a piece of an answer pays for: two WINDOW_UPDATE frames, a PING that measures, a PRIORITY.
const IDLE_PER_PROGRESS: u32 = 4;
/// What a request, or a piece of one, lets its server say: a head that says to wait, the head of the answer, its trailers, a
/// reset; or two WINDOW_UPDATE frames and a PING. Pieces of the answer let it say no more: how many there are is its own choice.
const ANSWERS_PER_FRAME: u32 = 4;
/// SETTINGS and GOAWAY frames make the `h2` crate visit each stream.
const WALK: u32 = 16;

/// Requests that a caller may abandon before any was answered: each may have reached the app.
const RESETS_AT_ONCE: u32 = 128;
/// What answers to earlier requests let a caller abandon at once: a workload that ends drops all it waited for.
const RESETS_EARNED: u32 = 1024;
/// Requests abandoned per second in the long run without an answer to any.
const RESETS_PER_SECOND: u32 = 20;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// Watches the frames on `stream`, a connection with a `peer` of which not even the preface has been read or written.
///
/// Once the alarm is raised the stream gives nothing more to read: whoever polls the connection has to ask the alarm
/// whenever that poll is pending, and to end the connection, a client's with `ENHANCE_YOUR_CALM`.
pub(crate) fn guard<T>(stream: T, peer: Role) -> (Guarded<T>, Alarm) {
    let alarm = Alarm::default();
    let (before_received, before_sent) = match peer {
        Role::Client => (PREFACE_BYTES, 0),
        Role::Server => (0, PREFACE_BYTES),
    };
    let guarded = Guarded {
        stream,
        received: Frames::after(before_received),
        sent: Frames::after(before_sent),
        budget: Budget::new(peer, Instant::now()),
        alarm: alarm.clone(),
    };
    (guarded, alarm)
}

/// What a connection was flooded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Flood {
    /// Frames that neither open a request nor carry one on, or parts of them that say nothing.
    Frames = 1,
    /// Requests that were abandoned.
    Resets = 2,
}

impl Flood {
    /// A word from a closed set, as a metric label.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Frames => "frame_flood",
            Self::Resets => "reset_flood",
        }
    }
}

/// Tells the task that owns a connection that it has to end. Once raised it stays so.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alarm(Arc<AtomicU8>);

impl Alarm {
    pub(crate) fn raised(&self) -> Option<Flood> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            1 => Some(Flood::Frames),
            _ => Some(Flood::Resets),
        }
    }

    fn raise(&self, flood: Flood) {
        self.0.store(flood as u8, Ordering::Relaxed);
    }
}

/// A socket that speaks HTTP/2, whose frames are counted in both directions.
#[derive(Debug)]
pub(crate) struct Guarded<T> {
    stream: T,
    received: Frames,
    sent: Frames,
    budget: Budget,
    alarm: Alarm,
}

impl<T> Guarded<T> {
    fn has_received(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.received.next(&mut bytes) {
            if let Err(flood) = self.budget.received(head) {
                return self.alarm.raise(flood);
            }
        }
        if self.received.has_idle_block() {
            self.alarm.raise(Flood::Frames);
        }
    }

    fn has_sent(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.sent.next(&mut bytes) {
            self.budget.sent(head);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.alarm.raised().is_none() {
            let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
            self.has_received(&buffer.filled()[before..]);
            if self.alarm.raised().is_none() {
                return read;
            }
        }
        // Nobody is woken: the owner looks at the alarm after this very poll.
        buffer.set_filled(before);
        Poll::Pending
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(length)) = written {
            self.has_sent(&bytes[..length]);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(mut length)) = written {
            for slice in slices {
                let taken = length.min(slice.len());
                self.has_sent(&slice[..taken]);
                length -= taken;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What the other side may still do that brings nothing.
#[derive(Debug)]
struct Budget {
    peer: Role,
    /// What a server may still say to what it was sent. Without a bound: it may take its time with any number of requests.
    answers: u32,
    idle: Bucket,
    resets: Bucket,
}

impl Budget {
    fn new(peer: Role, now: Instant) -> Self {
        Self {
            peer,
            answers: 0,
            idle: Bucket {
                left: IDLE_AT_ONCE,
                most: IDLE_AT_ONCE,
                per_second: IDLE_PER_SECOND,
                filled_at: now,
            },
            resets: Bucket {
                left: RESETS_AT_ONCE,
                most: RESETS_EARNED,
                per_second: RESETS_PER_SECOND,
                filled_at: now,
            },
        }
    }

    fn received(&mut self, head: Head) -> Result<(), Flood> {
        let is_within = match head.kind {
            Head::DATA if head.length > 0 || head.ends_stream() => true,
            Head::SETTINGS | Head::GOAWAY => self.take(WALK),
            // There may be any number of heads that say to wait (1xx).
            _ if self.peer == Role::Server => self.take(1),
            Head::HEADERS => {
                self.idle.give(IDLE_PER_PROGRESS);
                true
            }
            Head::RST_STREAM if !self.resets.take(1) => return Err(Flood::Resets),
            Head::RST_STREAM => true,
            _ => self.take(1),
        };
        if is_within {
            Ok(())
        } else {
            Err(Flood::Frames)
        }
    }

    fn take(&mut self, count: u32) -> bool {
        match self.answers.checked_sub(count) {
            Some(left) => {
                self.answers = left;
                true
            }
            None => self.idle.take(count),
        }
    }

    fn sent(&mut self, head: Head) {
        if matches!(head.kind, Head::HEADERS | Head::DATA) {
            match self.peer {
                Role::Client => self.idle.give(IDLE_PER_PROGRESS),
                Role::Server => self.answers = self.answers.saturating_add(ANSWERS_PER_FRAME),
            }
        }
        if head.ends_stream() {
            self.resets.give(1);
        }
    }
}

/// A token bucket that looks at the clock only when it is empty: frames in good order cost an addition.
#[derive(Debug)]
struct Bucket {
    left: u32,
    most: u32,
    per_second: u32,
    filled_at: Instant,
}

impl Bucket {
    fn take(&mut self, count: u32) -> bool {
        if self.left < count {
            self.fill(Instant::now());
        }
        let Some(left) = self.left.checked_sub(count) else {
            return false;
        };
        self.left = left;
        true
    }

    fn give(&mut self, count: u32) {
        self.left = self.left.saturating_add(count).min(self.most);
    }

    /// Gives what the time since the last filling is worth, in whole tokens.
    fn fill(&mut self, now: Instant) {
        let each = Duration::from_secs(1) / self.per_second;
        let due = now.duration_since(self.filled_at).as_nanos() / each.as_nanos();
        let due = u32::try_from(due).unwrap_or(u32::MAX).min(self.most);
        if due > 0 {
            self.filled_at = now;
            self.give(due);
        }
    }
}

#[cfg(test)]
mod tests;
