//! Waits for other replicas to say that something has changed.

use super::{LISTEN, Postgres};
use crate::store::changes::Nudge;
use std::future::poll_fn;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio_postgres::AsyncMessage;

/// Between attempts to listen again. Until then changes are found by polling.
const PAUSE: Duration = Duration::from_secs(1);

/// A thread with a connection of its own, on which nothing is asked. Ends when this is dropped.
#[derive(Debug)]
pub(in crate::store) struct Listener {
    /// `Some` until drop.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    pub(in crate::store) fn spawn(server: Postgres, nudge: Nudge) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("ca-listen".to_owned())
            .spawn(
                move || match Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime.block_on(async {
                        tokio::select! {
                            _ = stopped => {}
                            () = listen_for_ever(&server, &nudge) => {}
                        }
                    }),
                    Err(error) => tracing::warn!(%error, "not listening to other replicas"),
                },
            )?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

async fn listen_for_ever(server: &Postgres, nudge: &Nudge) {
    loop {
        if let Err(error) = listen(server, nudge).await {
            tracing::debug!(%error, "not listening to other replicas");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until the connection ends.
async fn listen(server: &Postgres, nudge: &Nudge) -> Result<(), tokio_postgres::Error> {
    let (client, mut connection) = server.config.connect(server.tls.clone()).await?;
    let messages = async {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(_) = message? {
                nudge.give();
            }
        }
        Ok(())
    };
    let listening = async {
        client.batch_execute(LISTEN).await?;
        // What was said before this was missed.
        nudge.give();
        std::future::pending().await
    };
    tokio::select! {
        ended = messages => ended,
        failed = listening => failed,
    }
}
