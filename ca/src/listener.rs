//! How the CA's listeners bind.

use std::io;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel may hold for us between two turns of an accept loop. When a fleet comes at once and there is no
/// room for more, it drops their SYN, and they try again after a second or more.
const BACKLOG: u32 = 1024;

/// Listens at `address`, also right after another process did.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_surge_waits_to_be_accepted_and_is_not_told_to_come_again() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        for number in 0..256 {
            // Nobody accepts: what finds no room never connects.
            let connect = timeout(Duration::from_secs(10), TcpStream::connect(address)).await;
            let socket = connect.unwrap_or_else(|_| panic!("no room for number {number}"));
            waiting.push(socket.unwrap());
        }
    }
}
