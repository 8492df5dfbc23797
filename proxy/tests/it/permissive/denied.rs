//! Whoever needs no identity to connect must not keep the places of those who have one.

use super::*;

#[tokio::test]
async fn a_denied_outsider_loses_its_connection_and_a_granted_one_keeps_it() {
    let app = App::start().await;
    let (_authority, orders) = permissive(app.address, &reads(), |_| ());
    let mut stream = TcpStream::connect(orders.inbound).await.unwrap();
    let both =
        b"GET /open/1 HTTP/1.1\r\nhost: orders\r\n\r\nGET /closed HTTP/1.1\r\nhost: orders\r\n\r\n";
    stream.write_all(both).await.unwrap();
    let answers = rest(&mut stream).await;
    let (first, second) = answers.rsplit_once("HTTP/1.1 ").unwrap();
    assert!(first.starts_with("HTTP/1.1 200"), "{first}");
    assert!(!first.contains("connection: close"), "{first}");
    assert!(second.starts_with("403"), "{second}");
    assert!(second.contains("connection: close"), "{second}");

    let mut caller = Caller::workload_http2(orders.inbound).await;
    for (path, status) in [
        ("/open/1", StatusCode::OK),
        ("/closed", StatusCode::FORBIDDEN),
    ] {
        assert_eq!(caller.get("orders", path).await.status, status);
    }
    let closed = async {
        while !caller.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, closed).await.expect("it is asked to leave");
}

#[tokio::test]
async fn a_denied_outsider_that_is_asked_to_leave_and_does_not_is_cut_off() {
    let app = App::start().await;
    let (_authority, orders) = permissive(app.address, &reads(), |_| ());
    let mut stream = TcpStream::connect(orders.inbound).await.unwrap();
    let (mut read, mut write) = stream.split();
    write
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    // It hears neither GOAWAY nor PING, and never stops asking.
    let asks = async {
        for stream in (1..).step_by(2) {
            if write.write_all(&closed(stream)).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = rest(&mut read) => {}
        () = asks => {}
    }
    counted(&orders, "open_connections{direction=\"inbound\"} 0").await;
    assert_eq!(app.requests(), 0);
}

/// `GET /closed` in HEADERS that end the stream (RFC 9113 section 6.2), in literals of HPACK.
fn closed(stream: u32) -> Vec<u8> {
    let fields = b"\x82\x86\x01\x06orders\x04\x07/closed";
    let mut frame = vec![0, 0, u8::try_from(fields.len()).unwrap(), 1, 5];
    frame.extend(stream.to_be_bytes());
    frame.extend(fields);
    frame
}
