//! What a caller sends, with a deadline and in a bounded room: whoever begins a message has to end it.
//!
//! A message is held in memory until it is whole, and a call with one message is not answered before its body ends. Without
//! a deadline, whoever sends all but the last byte has that memory for as long as it likes; and without a bound over all of
//! one user's connections, as many times as it has streams.

use hyper::body::{Body, Bytes, Frame, SizeHint};
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::Status;

/// What has to end in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    /// All of it: a call with one message, and nothing after that.
    Body,
    /// Each message of a stream, the first from the beginning of the call. Between two there may be any time.
    EachMessage,
}

/// A body that ends in time, or with `DeadlineExceeded`.
#[derive(Debug)]
pub(super) struct Arriving<B> {
    body: B,
    ends: Ends,
    patience: Duration,
    /// `None` between two messages of a stream.
    deadline: Option<Pin<Box<Sleep>>>,
    framing: Framing,
    /// How many messages have ended.
    whole: usize,
    /// What all of the user's messages share, in bytes.
    room: Arc<Semaphore>,
    /// This one's part of it.
    taken: Option<OwnedSemaphorePermit>,
}

impl<B> Arriving<B> {
    pub(super) fn new(body: B, ends: Ends, patience: Duration, room: Arc<Semaphore>) -> Self {
        Self {
            body,
            ends,
            patience,
            deadline: Some(Box::pin(sleep(patience))),
            framing: Framing::default(),
            whole: 0,
            room,
            taken: None,
        }
    }

    /// # Errors
    /// When there is no room for the message, or should be none.
    fn read(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let ended = self.framing.read(bytes);
        let is_another = ended > 0;
        self.whole = self.whole.saturating_add(ended);
        // tonic reads what follows the one message as long as it comes, each in memory that nobody has asked for.
        if self.ends == Ends::Body && self.whole > usize::from(self.framing.is_between()) {
            return Err(Status::unimplemented("expected one message, found more"));
        }
        // What is whole has been handed on; of a call with one message all of it is kept to its end.
        if self.ends == Ends::EachMessage && (is_another || self.framing.is_between()) {
            self.taken = None;
        }
        if self.taken.is_none()
            && let Some(length) = self.framing.length()
        {
            let room = Arc::clone(&self.room);
            let full = |_| Status::resource_exhausted("this user sends too much at once");
            self.taken = Some(room.try_acquire_many_owned(length).map_err(full)?);
        }
        if self.ends == Ends::Body {
            return Ok(());
        }
        if self.framing.is_between() {
            self.deadline = None;
        } else if is_another || self.deadline.is_none() {
            self.deadline = Some(Box::pin(sleep(self.patience)));
        }
        Ok(())
    }
}

impl<B> Body for Arriving<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        // Looked at first, so that whoever sends without end is not heard without end.
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            let late = Status::deadline_exceeded("expected the rest of a message");
            return Poll::Ready(Some(Err(late.into())));
        }
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(Into::into)?;
        if let Some(bytes) = frame.data_ref()
            && let Err(refused) = self.read(bytes)
        {
            return Poll::Ready(Some(Err(refused.into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where messages begin and end: a flag and four bytes of length before each (gRPC over HTTP/2, Length-Prefixed-Message).
#[derive(Debug, Default)]
struct Framing {
    prefix: [u8; 5],
    known: usize,
    left: usize,
}

impl Framing {
    /// How many messages ended within `bytes`.
    fn read(&mut self, mut bytes: &[u8]) -> usize {
        let mut ended = 0;
        while let Some((first, rest)) = bytes.split_first() {
            if let Some(next) = self.prefix.get_mut(self.known) {
                *next = *first;
                self.known += 1;
                bytes = rest;
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
            } else {
                let taken = self.left.min(bytes.len());
                self.left -= taken;
                bytes = &bytes[taken..];
            }
            if self.known == self.prefix.len() && self.left == 0 {
                *self = Self::default();
                ended += 1;
            }
        }
        ended
    }

    fn is_between(&self) -> bool {
        self.known == 0
    }

    /// Of the message at hand, once it has said so. Room is made for all of it then (tonic).
    fn length(&self) -> Option<u32> {
        let [_, length @ ..] = self.prefix;
        (self.known == self.prefix.len()).then_some(u32::from_be_bytes(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::convert::Infallible;

    /// Sends what it has, and nothing more for ever.
    struct Stalled(VecDeque<Bytes>);

    impl Body for Stalled {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Poll::Pending,
            }
        }
    }

    fn room(bytes: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(bytes))
    }

    /// All of a user's streams together could hold the longest message each.
    #[tokio::test]
    async fn messages_that_are_not_whole_share_the_room_of_a_user() {
        const BEGUN: &[u8] = &[0, 0, 0, 0, 60, b'a'];
        let room = room(100);
        let arriving = |ends, parts: &[&'static [u8]]| {
            let parts = parts.iter().map(|part| Bytes::from_static(part));
            let body = Stalled(parts.collect());
            Arriving::new(body, ends, Duration::from_secs(10), Arc::clone(&room))
        };
        async fn next(body: &mut Arriving<Stalled>) -> Result<(), tonic::Code> {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
            let failed = frame.unwrap().map(drop);
            failed.map_err(|error| error.downcast::<Status>().unwrap().code())
        }
        let mut first = arriving(Ends::EachMessage, &[BEGUN, &[b'a'; 59]]);
        next(&mut first).await.unwrap();
        let mut second = arriving(Ends::EachMessage, &[BEGUN]);
        let refused = next(&mut second).await;
        assert_eq!(refused, Err(tonic::Code::ResourceExhausted));
        next(&mut first).await.unwrap();
        assert_eq!(room.available_permits(), 100, "it is whole");
        let mut call = arriving(Ends::Body, &[BEGUN, &[b'a'; 59]]);
        next(&mut call).await.unwrap();
        next(&mut call).await.unwrap();
        assert_eq!(room.available_permits(), 40, "it is kept to its end");
        drop(call);
        assert_eq!(room.available_permits(), 100);
    }

    /// What ends a stalled body; `None` when it may rest.
    async fn end_of(parts: &[&'static [u8]], ends: Ends) -> Option<Status> {
        let parts = parts.iter().map(|part| Bytes::from_static(part));
        let body = Stalled(parts.collect());
        let mut body = Arriving::new(body, ends, Duration::from_millis(20), room(1024));
        loop {
            let is_waited_for = body.deadline.is_some();
            if body.body.0.is_empty() && !is_waited_for {
                return None;
            }
            let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            if let Err(error) = frame.unwrap() {
                return error.downcast::<Status>().ok().map(|status| *status);
            }
        }
    }

    #[tokio::test]
    async fn whoever_begins_a_message_has_to_end_it_and_of_a_call_with_one_there_is_no_other() {
        let late = Some(tonic::Code::DeadlineExceeded);
        let more = Some(tonic::Code::Unimplemented);
        let cases: [(&[&'static [u8]], _, _); 8] = [
            (&[], late, late),
            (&[&[0, 0, 0, 0, 2, b'a']], late, late),
            (&[&[0, 0, 0, 0, 2], b"a"], late, late),
            (&[&[0, 0, 0, 0, 2], b"a", b"b"], late, None),
            (&[&[0, 0, 0, 0, 0]], late, None),
            (&[&[0, 0, 0, 0, 1, b'a', 0]], more, late),
            (&[&[0, 0, 0, 0, 0], &[0, 0, 0, 0, 60]], more, late),
            (&[&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0]], more, None),
        ];
        for (parts, whole, each) in cases {
            for (ends, expected) in [(Ends::Body, whole), (Ends::EachMessage, each)] {
                let code = end_of(parts, ends).await.map(|status| status.code());
                assert_eq!(code, expected, "{parts:?}, {ends:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn messages_end_where_they_end_however_they_are_cut(
            lengths in prop::collection::vec(0_u8..20, 0..6),
            cut in 1_usize..9,
        ) {
            let mut whole = Vec::new();
            let mut ends = vec![0];
            for length in lengths {
                whole.extend_from_slice(&[0, 0, 0, 0, length]);
                whole.extend(std::iter::repeat_n(0xff, usize::from(length)));
                ends.push(whole.len());
            }
            let (mut framing, mut read) = (Framing::default(), 0);
            for part in whole.chunks(cut) {
                framing.read(part);
                read += part.len();
                prop_assert_eq!(framing.is_between(), ends.contains(&read));
            }
        }
    }
}
