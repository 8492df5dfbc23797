//! One HTTP/2 connection to a server, and the exchanges on it.

use super::Ready;
use crate::body::{Broken, Piece};
use crate::error::ConnectError;
use crate::h1::head::Framing;
use crate::h2::flood::{self, Alarm, Guarded, Role};
use crate::h2::{self, FRAME, SEND_BUFFER, STREAM_WINDOW, Sender};
use crate::metrics::{Direction, Metrics};
use crate::proof::{Claim, Claims, Lasting, Validity};
use crate::socket::Socket;
use crate::tcp::CERTIFICATE_ENDED;
use crate::upgrade::Upgrade;
use ::h2::client::{Connection, ResponseFuture, SendRequest};
use ::h2::{Ping, RecvStream, SendStream};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, response};
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tokio::sync::SetOnce;

/// A sidecar that is gone without a FIN is noticed after two of these, if requests are waiting on it.
const PING: Duration = Duration::from_secs(10);
/// What a server may send as a head or as trailers: as much as over HTTP/1.1, in the octets that HTTP/2 counts.
const HEAD: u32 = 80 * 1024;
/// Requests at once on a lane before another is opened. Below what sidecars admit, so that none waits for a stream.
const STREAMS_PER_LANE: u32 = 200;
/// Responses that nobody reads do not block their neighbours on the same lane, however many there are.
const CONNECTION_WINDOW: u32 = STREAMS_PER_LANE * STREAM_WINDOW;

/// One connection.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) standing: Arc<Standing>,
    pub(super) validity: Option<Validity>,
}

impl Lane {
    /// Speaks HTTP/2 on `socket`, whose certificates may be proven again with `claims`; none in plain text. Why it ends before its
    /// time is counted.
    pub(super) async fn open(
        socket: Box<dyn Socket>,
        claims: Option<(Claim, Arc<Claims<Standing>>)>,
        (metrics, direction): (Arc<Metrics>, Direction),
    ) -> Result<Self, ConnectError> {
        let (socket, alarm) = flood::guard(socket, Role::Server);
        let (sender, connection) = ::h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_header_list_size(HEAD)
            .max_send_buffer_size(SEND_BUFFER)
            .handshake(socket)
            .await
            .map_err(|error| ConnectError::Http(Arc::new(error)))?;
        let (claim, claims) = claims.unzip();
        let validity = claim
            .as_ref()
            .map(|claim| Validity::new(SystemTime::now(), claim.ends.moment()));
        let standing = Arc::new(Standing {
            claim,
            claims,
            ..Standing::default()
        });
        if let Some(claims) = &standing.claims {
            claims.add(&standing);
        }
        // Boxed: making a task copies it several times.
        let driven = Box::pin(drive(connection, alarm, Arc::clone(&standing)));
        tokio::spawn(async move {
            if let Err(reason) = driven.await {
                metrics.upstream_ended(direction, reason);
            }
        });
        Ok(Self {
            sender,
            standing,
            validity,
        })
    }

    pub(super) fn load(&self) -> usize {
        self.standing.streams.load(Ordering::Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.load() < STREAMS_PER_LANE as usize && !self.is_full()
    }

    /// Whether the server takes no more on it: a request would wait for another to end.
    pub(super) fn is_full(&self) -> bool {
        self.load() >= self.sender.current_max_send_streams()
    }

    pub(super) fn reserve(&self) -> Ready {
        self.standing.streams.fetch_add(1, Ordering::Relaxed);
        Ready::Lane(self.sender.clone(), Place(Arc::clone(&self.standing)))
    }
}

/// What a lane's users know of it.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    pub(super) streams: AtomicUsize,
    /// None in plain text.
    claim: Option<Claim>,
    /// A service that loses the endpoint keeps what is open to it.
    claims: Option<Arc<Claims<Self>>>,
    pub(super) is_closed: AtomicBool,
    /// Set once the server has said what it takes, or will not.
    settled: SetOnce<()>,
}

impl Lasting for Standing {
    fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    fn is_needed(&self) -> bool {
        self.streams.load(Ordering::Relaxed) > 0 && !self.is_closed.load(Ordering::Relaxed)
    }
}

/// One request's place on a lane, counted until dropped.
#[derive(Debug)]
pub(crate) struct Place(pub(super) Arc<Standing>);

impl Place {
    /// Whether the lane takes extended CONNECT. One that was just opened has not said so yet.
    pub(super) async fn takes_upgrades(&self, sender: &SendRequest<Bytes>) -> bool {
        if !sender.is_extended_connect_protocol_enabled() {
            self.0.settled.wait().await;
        }
        sender.is_extended_connect_protocol_enabled()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One exchange on a lane.
#[derive(Debug)]
pub(crate) struct Stream {
    response: ResponseFuture,
    pub(in crate::upstream) sender: Sender,
    /// The protocol that was asked for.
    upgrade: Option<Upgrade>,
    /// From the response head on.
    body: Option<RecvStream>,
    _place: Place,
}

impl Stream {
    pub(super) fn new(
        response: ResponseFuture,
        request: SendStream<Bytes>,
        upgrade: Option<Upgrade>,
        place: Place,
    ) -> Self {
        Self {
            response,
            upgrade,
            sender: Sender::new(request),
            body: None,
            _place: place,
        }
    }

    pub(in crate::upstream) fn asks_for_upgrade(&self) -> bool {
        self.upgrade.is_some()
    }

    pub(in crate::upstream) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(response::Parts, Framing), Broken>> {
        let (mut head, body) = ready!(Pin::new(&mut self.response).poll(cx))?.into_parts();
        if let Some(upgrade) = &self.upgrade {
            upgrade.read_answer(&mut head);
        }
        let framing = if body.is_end_stream() {
            Framing::Empty
        } else {
            // h2 holds the body to the length; one that is no number it has refused.
            let length = head.headers.get(CONTENT_LENGTH).and_then(length);
            length.map_or(Framing::Chunked, Framing::Length)
        };
        self.body = Some(body);
        Poll::Ready(Ok((head, framing)))
    }

    pub(in crate::upstream) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Piece, Broken>>> {
        match &mut self.body {
            Some(body) => h2::poll_body(body, cx),
            None => Poll::Ready(None),
        }
    }

    pub(in crate::upstream) fn is_end(&self) -> bool {
        self.body.as_ref().is_none_or(RecvStream::is_end_stream)
    }
}

/// The number in a Content-Length field.
pub(crate) fn length(field: &HeaderValue) -> Option<u64> {
    let digits = field.to_str().ok()?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

/// Carries a lane's bytes. Ends when the other side closes or is gone, when nobody can send on it any more and the last
/// stream has ended, or with its certificates.
///
/// # Errors
/// Why it ended otherwise, as a word from a closed set.
async fn drive(
    mut connection: Connection<Guarded<Box<dyn Socket>>, Bytes>,
    alarm: Alarm,
    standing: Arc<Standing>,
) -> Result<(), &'static str> {
    let mut pings = connection.ping_pong();
    // A server's settings are the first that it says (RFC 9113 section 3.4): with the answer to this they are there.
    let is_asked = pings.as_mut().map(|pings| pings.send_ping(Ping::opaque()));
    let mut awaits_pong = matches!(is_asked, Some(Ok(())));
    let mut look = pin!(tokio::time::sleep(PING));
    let mut ended = pin!(async {
        match &standing.claim {
            Some(claim) => claim.ends.reached().await,
            None => std::future::pending().await,
        }
    });
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(ended.map_err(|error| {
                tracing::debug!(%error, "HTTP/2 connection to an upstream ended");
                h2::ended_reason(&error)
            }));
        }
        if let Some(flood) = alarm.raised() {
            return Poll::Ready(Err(flood.as_str()));
        }
        // Hard: nothing passes under a certificate that has ended or is revoked.
        if ended.as_mut().poll(cx).is_ready() {
            tracing::info!("HTTP/2 connection to an upstream closed, as its certificate has ended or is revoked");
            return Poll::Ready(Err(CERTIFICATE_ENDED));
        }
        let Some(pings) = &mut pings else {
            return Poll::Pending;
        };
        if awaits_pong && pings.poll_pong(cx).is_ready() {
            awaits_pong = false;
            // Fails from the second on.
            let _ = standing.settled.set(());
        }
        while look.as_mut().poll(cx).is_ready() {
            if awaits_pong {
                tracing::debug!("HTTP/2 connection to an upstream answers no PING");
                return Poll::Ready(Err("silent"));
            }
            // Sidecars alone are asked again. A server of others may take that for an attack: those of gRPC close the connection
            // when they are asked more than twice in five minutes.
            if standing.claim.is_some() && standing.streams.load(Ordering::Relaxed) > 0 {
                awaits_pong = pings.send_ping(Ping::opaque()).is_ok();
            }
            look.as_mut().reset(tokio::time::Instant::now() + PING);
        }
        Poll::Pending
    })
    .await;
    standing.is_closed.store(true, Ordering::Relaxed);
    let _ = standing.settled.set(());
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PING_FRAME: u8 = 6;
    const ACK: u8 = 1;

    /// A gRPC call on which nothing moved for half a minute was ended by the app: `too_many_pings`.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_no_sidecar_is_asked_once_whether_it_is_there() {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let counts = (Metrics::new(), Direction::Outbound);
        let lane = Lane::open(Box::new(near), None, counts).await.unwrap();
        let _waits = lane.reserve();
        far.read_exact(&mut [0; 24]).await.unwrap();
        far.write_all(&SETTINGS).await.unwrap();
        let mut asked = 0;
        let answering = async {
            loop {
                let mut head = [0; 9];
                far.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                far.read_exact(&mut payload).await.unwrap();
                if head[3] == PING_FRAME && head[4] & ACK == 0 {
                    asked += 1;
                    head[4] = ACK;
                    far.write_all(&[&head[..], &payload].concat())
                        .await
                        .unwrap();
                }
            }
        };
        let watched: Result<(), _> = timeout(PING * 10, answering).await;
        watched.expect_err("the connection stays open");
        assert_eq!(asked, 1);
    }
}
