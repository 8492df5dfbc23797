//! An admin listener on loopback, where every user of this machine comes from the same addresses: the kernel is asked who it is.

use super::{ACCEPT_PAUSE, Answer, Times, serve_connection};
use anyhow::Context;
use hyper::Request;
use hyper::body::Incoming;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// For a scraper and a person with a browser, twice: what others hold is not taken from [`Asker::Trusted`].
const PLACES: usize = 8;
/// What is answered is in memory, and whoever asks is on this machine.
const TIMES: Times = Times {
    head: Duration::from_secs(1),
    connection: Duration::from_secs(5),
};

/// Who is on the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) enum Asker {
    /// Root, or the user that this process runs as.
    Trusted,
    /// Any other, or one that the kernel does not name.
    Other,
}

impl Asker {
    fn of(user: Option<u32>) -> Self {
        let own = rustix::process::geteuid().as_raw();
        match user {
            Some(user) if user == 0 || user == own => Self::Trusted,
            Some(_) | None => Self::Other,
        }
    }
}

/// Which user made the connection from the first address to the second.
type Owner = fn(SocketAddr, SocketAddr) -> io::Result<Option<u32>>;

/// A bound listener that does not answer yet.
#[derive(Debug)]
pub(in crate::commands) struct Listener {
    listener: TcpListener,
    owner: Owner,
    times: Times,
}

impl Listener {
    /// `address` is of loopback: elsewhere the kernel does not know who connects.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub(in crate::commands) async fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        Self::bind_knowing(proxy::loopback_owner, address).await
    }

    async fn bind_knowing(owner: Owner, address: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        Ok(Self {
            listener,
            owner,
            times: TIMES,
        })
    }

    /// Answers for as long as it is polled; its connections end with it. Whoever finds no place is closed at once.
    pub(in crate::commands) async fn serve<F, R>(self, answer: F)
    where
        F: Fn(Asker, Request<Incoming>) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Answer> + Send,
    {
        let [trusted, others] = [(); 2].map(|()| Arc::new(Semaphore::new(PLACES)));
        let mut connections = JoinSet::new();
        loop {
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            while connections.try_join_next().is_some() {}
            let user = stream
                .local_addr()
                .and_then(|local| (self.owner)(peer, local));
            let asker = Asker::of(user.ok().flatten());
            let places = match asker {
                Asker::Trusted => &trusted,
                Asker::Other => &others,
            };
            let Ok(place) = Arc::clone(places).try_acquire_owned() else {
                tracing::debug!(?asker, most = PLACES, "connection closed: no place");
                continue;
            };
            let (answer, times) = (answer.clone(), self.times);
            connections.spawn(async move {
                serve_connection(stream, |request| answer(asker, request), times).await;
                drop(place);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::http::tests::{ask, connect};
    use hyper::StatusCode;

    /// Everyone at 127.0.0.2 is root, and at 127.0.0.3 a user who is not; elsewhere nobody knows.
    fn owner(from: SocketAddr, _: SocketAddr) -> io::Result<Option<u32>> {
        match from.ip().to_string().as_str() {
            "127.0.0.2" => Ok(Some(0)),
            "127.0.0.3" => Ok(Some(u32::MAX - 1)),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    async fn served(owner: Owner) -> (SocketAddr, JoinSet<()>) {
        let any = "127.0.0.1:0".parse().unwrap();
        let mut listener = Listener::bind_knowing(owner, any).await.unwrap();
        // Nobody loses its place to a slow machine.
        listener.times = Times {
            head: Duration::from_secs(60),
            connection: Duration::from_secs(60),
        };
        let address = listener.listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(
            listener.serve(async |asker, _| Answer::text(StatusCode::OK, format!("{asker:?}\n"))),
        );
        (address, task)
    }

    /// One had every place, and nobody learned that the agent lived.
    #[tokio::test]
    async fn users_of_this_machine_cannot_keep_the_answers_from_root() {
        let (address, _task) = served(owner).await;
        let mut held = Vec::new();
        for from in ["127.0.0.3", "127.0.0.4"].repeat(PLACES) {
            held.push(connect(from, address).await);
        }
        assert_eq!(ask(connect("127.0.0.3", address).await).await, "");
        let answer = ask(connect("127.0.0.2", address).await).await;
        assert!(answer.ends_with("Trusted\n"), "{answer:?}");
    }

    #[tokio::test]
    async fn who_asks_is_what_the_kernel_says() {
        let (address, _task) = served(proxy::loopback_owner).await;
        let answer = ask(connect("127.0.0.2", address).await).await;
        assert!(answer.ends_with("Trusted\n"), "{answer:?}");
        let (address, _task) = served(owner).await;
        for (from, asker) in [
            ("127.0.0.2", "Trusted\n"),
            ("127.0.0.3", "Other\n"),
            ("127.0.0.4", "Other\n"),
        ] {
            let answer = ask(connect(from, address).await).await;
            assert!(answer.ends_with(asker), "{from}: {answer:?}");
        }
    }
}
