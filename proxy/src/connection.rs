//! A caller's connection, in either protocol: when it winds down, and when it ends. The deadlines of single exchanges are in
//! `relay.rs`.

mod watch;

use crate::config::Config;
use crate::downstream::Downstream;
use crate::drain::Drain;
use crate::error::Failure;
use crate::exchange::{Exchange, Origin};
use crate::h1::server::Next;
use crate::h1::wire::Wire;
use crate::proof::Ends;
use crate::respond::{self, Manner};
use crate::socket::Socket;
use crate::tls::Alpn;
use crate::upstream::is_grpc;
use crate::{h1, h2};
use bytes::BytesMut;
use http::request;
use std::future::poll_fn;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use watch::Watch;

/// Requests that a connection begins before other connections have their turn: a millisecond or two of work.
const BEGUN_AT_ONCE: u32 = 32;

/// Whoever answers the requests of a connection.
pub(crate) trait Answer: Send + Sync + 'static {
    /// What its requests have in common.
    fn origin(&self) -> &Origin;

    /// The life of one request. What was decided is in `exchange`.
    ///
    /// # Errors
    /// What the caller is to be answered: no response has begun.
    fn handle(
        &self,
        head: &mut request::Parts,
        caller: &mut Downstream<'_>,
        exchange: &mut Exchange<'_>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Answers one request, whatever comes of it, and writes its record.
    fn answer(
        &self,
        mut head: request::Parts,
        mut caller: Downstream<'_>,
    ) -> impl Future<Output = ()> + Send {
        async move {
            let manner = Manner {
                version: caller.version(),
                is_grpc: is_grpc(&head.method, &head.headers),
            };
            let mut exchange = Exchange::begin(self.origin(), Some(&head));
            let handled = self.handle(&mut head, &mut caller, &mut exchange).await;
            if let Err(failure) = handled {
                respond::failure(&failure, manner, &mut caller, &mut exchange).await;
            }
            h1::spare::keep(head.headers);
        }
    }

    /// The connection ended by the caller's fault or ours; `reason` is from a closed set.
    fn ended(&self, reason: &'static str) {
        let origin = self.origin();
        origin
            .shared
            .metrics
            .connection_ended(origin.direction, reason);
    }
}

/// Which protocol to speak and when to stop.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) protocol: Alpn,
    /// Whether requests of HTTP/1.0 are taken.
    pub(crate) http10: bool,
    /// When the certificate of either side ends; none on the workload's own connections.
    pub(crate) ends: Option<Arc<Ends>>,
    pub(crate) drain: Drain,
}

/// Serves requests on `socket` until the caller leaves, nothing happens for the idle time, a certificate ends, or the drain
/// has let the last request finish. `start` is what was read from it already.
pub(crate) async fn serve<A: Answer>(
    socket: Box<dyn Socket>,
    start: BytesMut,
    terms: Terms,
    config: &Config,
    answer: Arc<A>,
) {
    let activity = Arc::<Activity>::default();
    let watch = Watch {
        activity: &activity,
        idle: config.timeouts.idle,
        ends: terms.ends,
        drain: terms.drain,
    };
    match terms.protocol {
        Alpn::Http1 => {
            let wire = Wire::new(socket, start);
            let connection =
                h1::server::Connection::new(wire, config, terms.http10, Arc::clone(&activity));
            watch
                .drive(Box::pin(serve_http1(connection, &activity, &*answer)))
                .await;
        }
        // Not HTTP: whoever accepted it carries it.
        Alpn::Tcp(_) | Alpn::Proof => {}
        Alpn::Http2 => {
            let handshake = Box::pin(h2::server::handshake(replay(start, socket), config));
            match timeout(config.timeouts.request_head, handshake).await {
                Ok(Ok(connection)) => {
                    watch
                        .drive(Box::pin(serve_http2(connection, &activity, &answer)))
                        .await;
                }
                Ok(Err(error)) => answer.ended(h2::ended_reason(&error)),
                Err(_) => answer.ended("preface_timeout"),
            }
        }
    }
}

/// `socket`, with what was read from it put back.
fn replay(start: BytesMut, socket: Box<dyn Socket>) -> Box<dyn Socket> {
    if start.is_empty() {
        return socket;
    }
    let (read, write) = tokio::io::split(socket);
    let read = AsyncReadExt::chain(Cursor::new(start), read);
    Box::new(tokio::io::join(read, write))
}

async fn serve_http1(
    mut connection: h1::server::Connection,
    activity: &Arc<Activity>,
    answer: &impl Answer,
) {
    loop {
        match connection.next().await {
            Next::Request(head) => {
                let _turn = Turn::new(activity);
                answer
                    .answer(head.parts, Downstream::Http1(&mut connection))
                    .await;
                if !connection.finish().await {
                    break;
                }
            }
            Next::Refused(error) => {
                respond::refusal(error, Downstream::Http1(&mut connection), answer.origin()).await;
                break;
            }
            Next::End => return,
        }
    }
    connection.close().await;
}

async fn serve_http2(
    mut connection: h2::server::Connection,
    activity: &Arc<Activity>,
    answer: &Arc<impl Answer>,
) {
    let mut winding_down = false;
    let mut begun = 0;
    loop {
        // What one read has brought may be hundreds of requests, each of them a connection to the app: others have their turn
        // in between, and it may turn out that the rest is a flood.
        if begun == BEGUN_AT_ONCE {
            begun = 0;
            tokio::task::yield_now().await;
        }
        let accepted = poll_fn(|cx| {
            if activity.is_closing() && !winding_down {
                winding_down = true;
                connection.wind_down();
            }
            if activity.is_dismissed() {
                return Poll::Ready(None);
            }
            let accepted = connection.poll_accept(cx);
            if accepted.is_pending() {
                begun = 0;
            }
            accepted
        });
        let Some(accepted) = accepted.await else {
            if activity.is_dismissed() {
                connection.refuse(|| activity.is_quiet()).await;
            }
            return;
        };
        match accepted {
            Ok((request, respond)) => {
                let (head, stream) = h2::server::Stream::new(request, respond, Turn::new(activity));
                let answer = Arc::clone(answer);
                // Boxed: making a task, running and ending it each copy what it is made from.
                tokio::spawn(Box::pin(async move {
                    answer.answer(head, Downstream::Http2(stream)).await;
                }));
                begun += 1;
            }
            Err(reason) => {
                answer.ended(reason);
                return connection.dismiss().await;
            }
        }
    }
}

/// What happens on a connection, as far as its end depends on it. Frames that carry no request do not count: a caller may
/// send PING for ever.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    /// No more requests are wanted. Whoever sets it polls the connection again.
    closing: AtomicBool,
    /// Nor is the one waited for that may be on its way.
    leaving: AtomicBool,
    /// Whoever is there gets nothing, and no more of its requests are answered.
    dismissed: AtomicBool,
    /// Requests taken in.
    begun: AtomicU32,
    /// Requests whose response has not ended.
    open: AtomicU32,
}

impl Activity {
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::Relaxed)
    }

    /// Whether no request is in work.
    fn is_quiet(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Whether none was since `begun` was read.
    fn is_unused_since(&self, begun: u32) -> bool {
        self.is_quiet() && self.begun.load(Ordering::Relaxed) == begun
    }
}

/// A request from its head to the end of its response.
#[derive(Debug)]
pub(crate) struct Turn(Arc<Activity>);

impl Turn {
    fn new(activity: &Arc<Activity>) -> Self {
        for count in [&activity.begun, &activity.open] {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Self(Arc::clone(activity))
    }

    /// Has the connection end with the requests that are in work.
    pub(crate) fn dismiss(&self) {
        self.0.dismissed.store(true, Ordering::Relaxed);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
