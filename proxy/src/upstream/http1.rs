//! A pool of HTTP/1.1 connections to the app.

use super::{Deadlines, RequestBody, connect_tcp};
use crate::config::Endpoint;
use crate::error::{ConnectError, Failure};
use crate::gather::Gather;
use crate::progress::within;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Idle connections kept. An app with more callers at once than this has connections opened and closed at the margin.
const MAX_IDLE: usize = 256;
/// What one response holds in us while its reader takes its time, and the longest head an app may send.
const READ_BUFFER: usize = 64 * 1024;

/// The idle connections to one app, most recently used last.
#[derive(Debug)]
pub(crate) struct Pool {
    endpoint: Endpoint,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Sends a request and waits for the response head.
    ///
    /// A pooled connection may close under the request; it is sent again only when hyper hands it back, which it does
    /// when not one byte of it was written.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut request: Box<Request<RequestBody>>,
        deadlines: Deadlines,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let upload = request.body().upload();
        loop {
            let pooled = self.take();
            let reused = pooled.is_some();
            let mut sender = match pooled {
                Some(sender) => sender,
                // Boxed: rare, and its state would make every request's future as large.
                None => Box::pin(self.connect(deadlines.connect)).await?,
            };
            let response = sender.try_send_request(*request);
            match within(deadlines.response, upload.as_deref(), pin!(response)).await {
                None => return Err(Failure::ResponseTimeout(deadlines.response)),
                Some(Ok(response)) => {
                    let pool = Arc::clone(self);
                    return Ok((response, Lease { pool, sender }));
                }
                Some(Err(mut error)) => match error.take_message() {
                    Some(unsent) if reused => *request = unsent,
                    _ => return Err(Failure::NoResponse(error.into_error())),
                },
            }
        }
    }

    /// Closes what has been idle for longer than `limit`. Called now and then by the worker.
    pub(crate) fn sweep(&self, limit: Duration) {
        self.lock()
            .retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < limit);
    }

    fn take(&self) -> Option<SendRequest<RequestBody>> {
        let mut idle = self.lock();
        // A connection whose last exchange is not quite over (an upload that the app did not read) is not ready.
        while let Some(place) = idle.iter().rposition(|idle| idle.sender.is_ready()) {
            let candidate = idle.swap_remove(place);
            if !candidate.sender.is_closed() {
                return Some(candidate.sender);
            }
        }
        None
    }

    fn put(&self, sender: SendRequest<RequestBody>) {
        let mut idle = self.lock();
        if idle.len() < MAX_IDLE && !sender.is_closed() {
            let since = Instant::now();
            idle.push(Idle { sender, since });
        }
    }

    async fn connect(&self, limit: Duration) -> Result<SendRequest<RequestBody>, ConnectError> {
        let connect = async {
            let stream = connect_tcp(&self.endpoint).await?;
            http1::Builder::new()
                .max_buf_size(READ_BUFFER)
                .handshake(TokioIo::new(Gather(stream)))
                .await
                .map_err(|error| ConnectError::Http(Arc::new(error)))
        };
        let (sender, connection) = timeout(limit, connect)
            .await
            .map_err(|_| ConnectError::Timeout(limit))??;
        // Ends when the app closes, or when the sender is dropped; what goes wrong is told to the request in flight.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the app ended");
            }
        });
        Ok(sender)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection to the app that one exchange uses.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Arc<Pool>,
    sender: SendRequest<RequestBody>,
}

impl Lease {
    pub(super) fn give_back(self) {
        self.pool.put(self.sender);
    }
}
