//! The process that runs, asked for its sockets.

use super::{DONE, Handover, KEPT, Loan, NotNow, PROTOCOL, READY, elders, wire};
use crate::drain::Drain;
use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Parts};
use hyper_util::rt::TokioIo;
use rustix::net::SendFlags;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// From the request until the new process serves: more than it gives itself to obtain an identity.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Why a request for the sockets is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error("expected the field Upgrade: {PROTOCOL}; `tipstaff proxy --upgrade` sends it")]
    Protocol,
    #[error(transparent)]
    NotNow(#[from] NotNow),
}

/// Agrees to hand over the sockets, and does so in a task that ends with its time, or with the new process: as long as that lives it
/// is heeded.
pub(crate) fn answer(
    request: &mut Request<Incoming>,
    handover: &Arc<Handover>,
    drain: &Drain,
) -> Result<Response<Full<Bytes>>, Refused> {
    let is_known = request
        .headers()
        .get(UPGRADE)
        .is_some_and(|asked| asked.as_bytes() == PROTOCOL.as_bytes());
    if !is_known {
        return Err(Refused::Protocol);
    }
    if drain.is_started() {
        return Err(NotNow::Stopping.into());
    }
    let loan = handover.lend()?;
    let (upgrade, drain) = (hyper::upgrade::on(request), drain.clone());
    let held = Arc::clone(&handover.held);
    tokio::spawn(async move {
        match give(upgrade, loan, &drain).await {
            Ok(mut heir) => {
                tracing::info!("a new process has taken over; draining");
                if let Err(error) = elders::heed(&mut heir.stream, &held).await {
                    tracing::warn!(%error, "the new process is not heeded any more; streams end with their certificates");
                }
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "no new process has taken over; this one goes on serving"
            ),
        }
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}

async fn give(upgrade: OnUpgrade, loan: Loan, drain: &Drain) -> Result<Heir, GiveError> {
    let upgraded = upgrade.await.map_err(GiveError::Upgrade)?;
    let Ok(Parts { io, read_buf, .. }) = upgraded.downcast::<TokioIo<UnixStream>>() else {
        return Err(GiveError::NoSocket);
    };
    let mut heir = Heir {
        stream: io.into_inner(),
        is_told: false,
    };
    if !read_buf.is_empty() {
        return Err(GiveError::Garbage);
    }
    tokio::select! {
        biased;
        () = drain.started() => return Err(GiveError::Stopping),
        ready = timeout(READY_WITHIN, heir.become_ready(&loan)) => {
            ready.map_err(|_| GiveError::Late)??;
        }
    }
    // It asks the processes before this one from now on: of two at once each would hear the other's answers.
    let mut asked = loan.handover.held.elders.hush().await;
    // Said first: to a process that has ended meanwhile it cannot be said.
    heir.stream.write_all(&[DONE]).await?;
    heir.is_told = true;
    asked.clear();
    drop(asked);
    loan.give();
    drain.relieve();
    Ok(heir)
}

/// The process to come. However this ends, it is told.
struct Heir {
    stream: UnixStream,
    is_told: bool,
}

impl Heir {
    async fn become_ready(&mut self, loan: &Loan) -> Result<(), GiveError> {
        let elders = loan.handover.held.elders.handles().await?;
        wire::send(&mut self.stream, &loan.sockets, &elders).await?;
        match self.stream.read_u8().await {
            Ok(READY) => Ok(()),
            Ok(_) => Err(GiveError::Garbage),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(GiveError::Ended),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        if !self.is_told {
            // Without this word it would take us for dead, and the sockets for its own. There is room for one octet.
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let _ = rustix::net::send(&self.stream, &[KEPT], flags);
        }
    }
}

/// Why the sockets were kept.
#[derive(Debug, thiserror::Error)]
enum GiveError {
    #[error("the new process did not wait for an answer")]
    Upgrade(#[source] hyper::Error),
    #[error("the new process did not ask on a Unix socket")]
    NoSocket,
    #[error("the new process said something that no new process says")]
    Garbage,
    #[error("the new process ended before it served; its own log says why")]
    Ended,
    #[error("the new process did not serve within {} s", READY_WITHIN.as_secs())]
    Late,
    #[error("this process was told to stop meanwhile")]
    Stopping,
    #[error("the new process cannot be talked to")]
    Io(#[from] io::Error),
}
