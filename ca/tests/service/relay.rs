//! A way to the CA on which replies get lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Stands between clients and the CA, to lose replies.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    loses_replies: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn start(ca: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let loses_replies = Arc::new(AtomicBool::new(false));
        let losing = Arc::clone(&loses_replies);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(ca).await.unwrap();
                let losing = losing.load(Relaxed);
                connections.spawn(async move { relay(client, server, losing).await.ok() });
            }
        });
        Self {
            address,
            loses_replies,
            _tasks: tasks,
        }
    }

    /// From now on the CA hears every new client, and no such client hears an answer to its call.
    pub(crate) fn lose_replies(&self, lose: bool) {
        self.loses_replies.store(lose, Relaxed);
    }
}

async fn relay(mut client: TcpStream, mut server: TcpStream, losing: bool) -> std::io::Result<()> {
    if !losing {
        tokio::io::copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    let (mut asked, mut told) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    let (mut flights, mut lost) = (0, 0);
    // A reply with a certificate is longer than all that HTTP/2 says before it.
    while lost < 1000 {
        tokio::select! {
            read = client.read(&mut asked) => {
                let read = read?;
                if read == 0 {
                    break;
                }
                flights += 1;
                server.write_all(&asked[..read]).await?;
            }
            read = server.read(&mut told) => {
                let read = read?;
                if read == 0 {
                    break;
                }
                // The client's second flight ends the handshake.
                if flights < 2 {
                    client.write_all(&told[..read]).await?;
                } else {
                    lost += read;
                }
            }
        }
    }
    Ok(())
}
