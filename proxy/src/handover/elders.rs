//! The processes before this one that still carry streams. A proof comes to whoever accepts, which is the newest process, and
//! the connection that it names may be one of theirs (see `proof.rs`). They are told on the conversations in which they
//! gave their sockets away, so nobody else can tell them anything, and each looks by itself whether the name is of a connection of
//! its own between the same two. What cannot be asked has not agreed: such a stream ends with its certificates.
//!
//! A conversation goes on to the next process with the sockets, in the list of `wire.rs`. On it: the name, the moment until which
//! the proof holds (seconds since 1970 in 8 octets), and both identities, each behind its length in two octets. The answer is
//! the name again, and `YES` or `NO`.

use crate::proof::{Held, NAME_BYTES, Name, Proof};
use identity::SpiffeId;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

const YES: u8 = b'y';
const NO: u8 = b'n';
/// It looks into a map.
const ANSWER: Duration = Duration::from_secs(1);
/// Upgrades within the life of one stream. Beyond that the streams of the oldest end with their certificates.
pub(super) const MOST: usize = 64;

/// The conversations, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Elders {
    lines: Mutex<Vec<UnixStream>>,
}

impl Elders {
    /// Those whose sockets are this process's now. Has to be called within the runtime that lasts longest.
    pub(super) async fn add(&self, given: Vec<StdUnixStream>) {
        let mut lines = self.lines.lock().await;
        for line in given {
            let line = line
                .set_nonblocking(true)
                .and_then(|()| UnixStream::from_std(line));
            match line {
                Ok(line) if is_open(&line) => lines.push(line),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "streams of a process before this one cannot be proven again");
                }
            }
        }
        let over = lines.len().saturating_sub(MOST);
        lines.drain(..over);
    }

    /// Whether one of them has let a connection of its own go on. A caller that does not wait for that breaks nothing off.
    pub(crate) async fn prove(self: &Arc<Self>, proof: &Proof) -> bool {
        if self.lines.try_lock().is_ok_and(|lines| lines.is_empty()) {
            return false;
        }
        let (elders, question, name) = (Arc::clone(self), written(proof).into(), proof.name);
        let (agrees, agreed) = oneshot::channel();
        tokio::spawn(async move { elders.ask(question, name, agrees).await });
        agreed.await.is_ok()
    }

    /// All at once, and `agrees` is told by the first that has: nobody waits for one that is stuck to hear of another.
    async fn ask(&self, question: Arc<[u8]>, name: Name, agrees: oneshot::Sender<()>) {
        let mut lines = self.lines.lock().await;
        let mut asking = JoinSet::new();
        for (place, mut line) in lines.drain(..).enumerate() {
            let question = Arc::clone(&question);
            asking.spawn(async move {
                let answer = timeout(ANSWER, asked(&mut line, &question, &name)).await;
                // It ends with its last stream. What comes late would be taken for the answer to something else.
                Some((place, line, answer.ok()?.ok()?))
            });
        }
        let (mut agrees, mut kept) = (Some(agrees), Vec::new());
        while let Some(answered) = asking.join_next().await {
            let Ok(Some((place, line, has_agreed))) = answered else {
                continue;
            };
            kept.push((place, line));
            if let Some(agrees) = agrees.take_if(|_| has_agreed) {
                // Whoever asked may have gone.
                let _ = agrees.send(());
            }
        }
        kept.sort_by_key(|(place, _)| *place);
        lines.extend(kept.into_iter().map(|(_, line)| line));
    }

    /// Second handles for the process to come, which may use them when this one does not any more.
    pub(super) async fn handles(&self) -> io::Result<Vec<OwnedFd>> {
        let mut lines = self.lines.lock().await;
        lines.retain(is_open);
        let handles = lines.iter().map(|line| line.as_fd().try_clone_to_owned());
        handles.collect()
    }

    /// Nothing is asked while this is held; cleared, nothing is any more.
    pub(super) async fn hush(&self) -> MutexGuard<'_, Vec<UnixStream>> {
        self.lines.lock().await
    }
}

/// Whether the other end is there and has said nothing unasked.
fn is_open(line: &UnixStream) -> bool {
    let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(
        rustix::net::recv(line, &mut [0_u8; 1], peek),
        Err(Errno::AGAIN)
    )
}

async fn asked(line: &mut UnixStream, question: &[u8], name: &Name) -> io::Result<bool> {
    line.write_all(question).await?;
    let mut answer = [0; NAME_BYTES + 1];
    line.read_exact(&mut answer).await?;
    match answer.split_last() {
        Some((&YES, of)) if of == name => Ok(true),
        Some((&NO, of)) if of == name => Ok(false),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// Lets connections of this process go on as the process says that has its sockets, until that ends.
///
/// # Errors
/// When it says what no process says.
pub(super) async fn heed(line: &mut UnixStream, held: &Held) -> io::Result<()> {
    loop {
        let proof = match read(line).await {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let answer = if held.prove(&proof) { YES } else { NO };
        let answer = [&proof.name[..], &[answer]].concat();
        line.write_all(&answer).await?;
    }
}

fn written(proof: &Proof) -> Vec<u8> {
    let mut octets = proof.name.to_vec();
    octets.extend(proof.until.to_be_bytes());
    for id in [&proof.peer, &proof.own] {
        // A SPIFFE ID has at most 2048 octets.
        let length = u16::try_from(id.as_str().len()).unwrap_or(u16::MAX);
        octets.extend(length.to_be_bytes());
        octets.extend(id.as_str().as_bytes());
    }
    octets
}

async fn read(line: &mut UnixStream) -> io::Result<Proof> {
    let mut name = [0; NAME_BYTES];
    line.read_exact(&mut name).await?;
    Ok(Proof {
        name,
        until: line.read_u64().await?,
        peer: read_id(line).await?,
        own: read_id(line).await?,
    })
}

async fn read_id(line: &mut UnixStream) -> io::Result<SpiffeId> {
    let length = line.read_u16().await?;
    let mut text = vec![0; length.into()];
    line.read_exact(&mut text).await?;
    let garbage = |error: &dyn std::fmt::Display| {
        io::Error::new(
            ErrorKind::InvalidData,
            format!("expected a SPIFFE ID: {error}"),
        )
    };
    let text = String::from_utf8(text).map_err(|error| garbage(&error))?;
    SpiffeId::parse(&text).map_err(|error| garbage(&error))
}

#[cfg(test)]
mod tests;
