use super::*;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Both ends of a connection whose socket holds `room` bytes each way.
async fn pair(alpn: Alpn, room: usize) -> (Stream<DuplexStream>, Stream<DuplexStream>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], made.signing_key.into())
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = duplex(room);
    let (near, far) = tokio::join!(
        TlsConnector::from(Arc::new(client)).connect("localhost".try_into().unwrap(), near),
        TlsAcceptor::from(Arc::new(server)).accept(far),
    );
    let mut far = Stream::server(far.unwrap(), alpn);
    let mut near = Stream::client(near.unwrap(), alpn);
    // The server's tickets.
    far.write_all(b"x").await.unwrap();
    std::future::poll_fn(|cx| far.poll_send(cx)).await.unwrap();
    near.read_u8().await.unwrap();
    (near, far)
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn what_is_sent_arrives_in_whatever_pieces() {
    let sent: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    for alpn in [Alpn::Http1, Alpn::Http2] {
        for (room, written, read) in [
            (1000, 70_000, 100),
            (200_000, 33, 50_000),
            (40_000, 16_384, 7),
        ] {
            let (mut near, mut far) = pair(alpn, room).await;
            let send = async {
                for piece in sent.chunks(written) {
                    near.write_all(piece).await.unwrap();
                    near.flush().await.unwrap();
                }
                near.shutdown().await.unwrap();
            };
            let receive = async {
                let mut received = Vec::new();
                let mut piece = vec![0; read];
                loop {
                    match far.read(&mut piece).await.unwrap() {
                        0 => return received,
                        length => received.extend_from_slice(&piece[..length]),
                    }
                }
            };
            let ((), received) = tokio::join!(send, receive);
            assert!(received == sent, "{alpn:?} {room} {written} {read}");
        }
    }
}

#[tokio::test]
async fn what_http2_flushes_leaves_when_the_task_it_woke_reads() {
    let (mut near, mut far) = pair(Alpn::Http2, 1 << 20).await;
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut cx = Context::from_waker(&waker);
    for _ in 0..3 {
        assert!(Pin::new(&mut near).poll_write(&mut cx, b"frame").is_ready());
        assert!(Pin::new(&mut near).poll_flush(&mut cx).is_ready());
    }
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    let mut bytes = [0; 15];
    let mut buffer = ReadBuf::new(&mut bytes);
    assert!(
        Pin::new(&mut far)
            .poll_read(&mut cx, &mut buffer)
            .is_pending()
    );

    assert!(
        Pin::new(&mut near)
            .poll_read(&mut cx, &mut ReadBuf::new(&mut [0]))
            .is_pending()
    );
    assert!(
        Pin::new(&mut far)
            .poll_read(&mut cx, &mut buffer)
            .is_ready()
    );
    assert_eq!(buffer.filled(), b"frameframeframe");
    // Nothing waits: nobody is woken for it.
    let before = woken.0.load(Ordering::Relaxed);
    assert!(Pin::new(&mut near).poll_flush(&mut cx).is_ready());
    assert_eq!(woken.0.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn no_more_is_taken_than_has_room() {
    for alpn in [Alpn::Http1, Alpn::Http2] {
        let (mut near, _far) = pair(alpn, 1000).await;
        let mut cx = Context::from_waker(Waker::noop());
        let mut taken = 0;
        for _ in 0..1000 {
            match Pin::new(&mut near).poll_write(&mut cx, &[0; 10_000]) {
                Poll::Ready(written) => taken += written.unwrap(),
                Poll::Pending => break,
            }
            // Its answer is not waited for: HTTP/2 may go on reading.
            let _ = Pin::new(&mut near).poll_flush(&mut cx);
        }
        assert!((1..ENOUGH + 20_000).contains(&taken), "{alpn:?}: {taken}");
    }
}

/// Each used to keep 64 KiB.
#[tokio::test]
async fn a_reader_that_stalls_holds_no_buffer() {
    let (mut near, mut far) = pair(Alpn::Http1, 200_000).await;
    for _ in 0..100 {
        far.write_all(&[7; 1000]).await.unwrap();
        far.flush().await.unwrap();
    }
    for room in [2048, 8192, 32_768] {
        near.read_exact(&mut vec![0; room]).await.unwrap();
        assert_eq!(near.input.capacity(), 0, "after {room}");
    }
}

#[tokio::test]
async fn an_end_without_a_farewell_is_an_error() {
    let (mut near, far) = pair(Alpn::Http1, 1000).await;
    drop(far);
    let error = near.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);

    let (mut near, mut far) = pair(Alpn::Http2, 1000).await;
    far.write_all(b"last").await.unwrap();
    far.shutdown().await.unwrap();
    let mut rest = Vec::new();
    near.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"last");
}

#[tokio::test]
async fn what_came_before_the_other_side_left_is_read_though_nothing_can_be_sent() {
    let (mut near, mut far) = pair(Alpn::Http2, 1000).await;
    near.write_all(b"too late").await.unwrap();
    near.flush().await.unwrap();
    far.write_all(b"last").await.unwrap();
    far.shutdown().await.unwrap();
    drop(far);
    let mut rest = Vec::new();
    near.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"last");
}

#[tokio::test]
async fn what_is_no_record_of_the_peer_is_an_error() {
    let forged = [&[23, 3, 3, 0, 40][..], &[0; 40]].concat();
    for bytes in [&forged[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let (mut near, mut far) = pair(Alpn::Http1, 1000).await;
        far.socket.write_all(bytes).await.unwrap();
        let error = near.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn what_came_before_a_broken_record_is_read_and_then_the_error_again_and_again() {
    let (mut near, mut far) = pair(Alpn::Http1, 1 << 20).await;
    near.write_all(b"whole").await.unwrap();
    near.flush().await.unwrap();
    // Application data that nobody has encrypted.
    near.socket
        .write_all(b"\x17\x03\x03\x00\x14not what was agreed.")
        .await
        .unwrap();
    let mut heard = [0; 100];
    assert_eq!(far.read(&mut heard).await.unwrap(), 5);
    assert_eq!(&heard[..5], b"whole");
    for _ in 0..2 {
        let error = far.read(&mut heard).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
