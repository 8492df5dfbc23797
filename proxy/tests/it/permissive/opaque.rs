//! Bytes that nobody looks into.

use super::*;

/// A server of opaque TCP that says something first and then sends back what it hears.
async fn talker() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"welcome\n").await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    address
}

fn opaque(config: &mut Config) {
    config.inbound[0].protocol = Protocol::Tcp;
    config.timeouts.detect = SHORT;
}

#[tokio::test]
async fn opaque_bytes_in_plain_text_need_a_tcp_grant_to_unauthenticated() {
    let app = talker().await;
    let tcp = to_anyone("allow: [{tcp: true}]");
    let identities = document(
        "Grant",
        "all",
        "from: [\"spiffe://prod.example/**\"], validity: {notAfter: never, because: test}, allow: [{tcp: true}]",
    );
    let guard = document("Guard", "none", "deny: [{tcp: true}]");
    for documents in [
        String::new(),
        to_anyone("allow: [{methods: [\"*\"], path: \"/**\"}]"),
        identities.clone(),
        tcp.clone() + &guard,
    ] {
        let (_authority, orders) = permissive(app, &documents, opaque);
        let mut stream = TcpStream::connect(orders.inbound).await.unwrap();
        let _: io::Result<()> = stream.write_all(b"hello\n").await;
        assert_eq!(rest(&mut stream).await, "", "{documents}");
    }
    let (authority, orders) = permissive(app, &(tcp + &identities), opaque);
    // Who speaks first, and who waits for the server.
    for first in ["hello\n", ""] {
        let mut stream = TcpStream::connect(orders.inbound).await.unwrap();
        stream.write_all(first.as_bytes()).await.unwrap();
        said(&mut stream, "welcome\n").await;
        said(&mut stream, first).await;
        stream.write_all(b"more\n").await.unwrap();
        said(&mut stream, "more\n").await;
    }
    let frontend = authority.svid(FRONTEND, Life::Hour);
    let mut proven = tls(orders.inbound, &authority, Some(&frontend), b"tipstaff-tcp")
        .await
        .unwrap();
    let mut welcome = [0; 8];
    timeout(SOON, proven.read_exact(&mut welcome))
        .await
        .expect("bytes soon")
        .unwrap();

    // Withdrawn, the one in plain text ends and the other goes on.
    let mut plain = TcpStream::connect(orders.inbound).await.unwrap();
    said(&mut plain, "welcome\n").await;
    orders.policy.send_replace(Arc::new(compile(&identities)));
    assert_eq!(rest(&mut plain).await, "");
    proven.write_all(b"still\n").await.unwrap();
    let mut still = [0; 6];
    timeout(SOON, proven.read_exact(&mut still))
        .await
        .expect("bytes soon")
        .unwrap();
}

#[tokio::test]
async fn silence_at_an_opaque_port_does_not_hold_up_a_drain() {
    let app = talker().await;
    let (_authority, mut orders) = permissive(app, &to_anyone("allow: [{tcp: true}]"), |config| {
        opaque(config);
        config.timeouts.detect = Duration::from_secs(600);
    });
    let mut stream = TcpStream::connect(orders.inbound).await.unwrap();
    counted(&orders, "open_connections{direction=\"inbound\"} 1").await;
    orders.drain.start();
    timeout(SOON, &mut orders.running)
        .await
        .expect("drained")
        .unwrap();
    assert_eq!(rest(&mut stream).await, "");
}
