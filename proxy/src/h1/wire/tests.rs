use super::*;
use crate::body::Piece;
use crate::h1::body::Decoder;
use crate::h1::head::{Framing, Limits};
use crate::h1::poll_body;
use std::future::poll_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn piece(letter: u8, length: usize) -> Bytes {
    Bytes::from(vec![letter; length])
}

/// What arrives when a head and then pieces of these sizes are sent, each followed by a mark.
async fn arrives(sizes: &[usize], pipe: usize) -> (Vec<u8>, Vec<u8>) {
    let (near, mut far) = tokio::io::duplex(pipe);
    let mut wire = Wire::new(Box::new(near), BytesMut::new());
    let mut expected = b"head".to_vec();
    let sending = async move {
        wire.output().extend_from_slice(b"head");
        for (number, size) in (0..).zip(sizes) {
            poll_fn(|cx| wire.poll_room(cx)).await.unwrap();
            wire.send(piece(b'a' + number, *size));
            wire.output().extend_from_slice(b"\r\n");
        }
        poll_fn(|cx| wire.poll_shutdown(cx)).await.unwrap();
        assert!(wire.is_flushed());
    };
    for (number, size) in (0..).zip(sizes) {
        expected.extend(piece(b'a' + number, *size));
        expected.extend(b"\r\n");
    }
    let mut arrived = Vec::new();
    let (read, ()) = tokio::join!(far.read_to_end(&mut arrived), sending);
    read.unwrap();
    (arrived, expected)
}

#[tokio::test]
async fn what_is_sent_arrives_in_order_whatever_its_size() {
    for sizes in [
        &[][..],
        &[5],
        &[SMALL],
        &[SMALL + 1],
        &[200, 20, 3],
        &[100_000, 1, 100_000],
        &[3000, 3000],
        &[1; 25],
        &[ENOUGH; 3],
    ] {
        for pipe in [1, 7, 4096, 1 << 20] {
            let (arrived, expected) = arrives(sizes, pipe).await;
            assert!(arrived == expected, "{sizes:?} through {pipe} bytes");
        }
    }
}

#[tokio::test]
async fn a_wire_at_rest_notices_an_end_and_what_nobody_asked_for() {
    let (near, far) = tokio::io::duplex(64);
    let mut wire = Wire::new(Box::new(near), BytesMut::new());
    assert!(wire.is_at_rest(false));
    drop(far);
    assert!(!wire.is_at_rest(false));

    let (near, mut far) = tokio::io::duplex(64);
    let mut wire = Wire::new(Box::new(near), BytesMut::new());
    far.write_all(b"x").await.unwrap();
    assert!(!wire.is_at_rest(false));
}

#[tokio::test]
async fn what_a_large_message_has_made_grow_is_given_back() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let mut wire = Wire::new(Box::new(near), BytesMut::new());
    let sent = vec![b'x'; 500_000];
    far.write_all(&sent).await.unwrap();
    let mut read = 0;
    while read < sent.len() {
        read += poll_fn(|cx| wire.poll_fill(0, cx)).await.unwrap();
        assert!(wire.input.capacity() <= 2 * MOST_READ);
        wire.input.clear();
    }
    assert!(wire.input.capacity() > KEPT, "large reads for large bodies");
    wire.shrink(FIRST_READ);
    assert_eq!(wire.input.capacity(), 0);
}

#[tokio::test]
async fn what_is_known_to_come_is_read_at_once() {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let mut wire = Wire::new(Box::new(near), BytesMut::new());
    let sent = vec![b'x'; 50_000];
    far.write_all(&sent).await.unwrap();
    let read = poll_fn(|cx| wire.poll_fill(50_000, cx)).await.unwrap();
    assert_eq!(read, 50_000);
}

#[tokio::test]
async fn a_wire_that_waits_holds_little_for_what_may_come() {
    let (near, mut far) = tokio::io::duplex(64);
    let mut wire = Wire::new(Box::new(near), BytesMut::new());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(wire.poll_fill(MOST_READ as u64, &mut cx).is_pending());
    assert!(wire.input.capacity() <= KEPT);

    far.write_all(b"start").await.unwrap();
    assert!(matches!(wire.poll_fill(0, &mut cx), Poll::Ready(Ok(5))));
    assert!(wire.poll_fill(MOST_READ as u64, &mut cx).is_pending());
    assert_eq!(wire.input, "start", "what has come is kept");
}

#[tokio::test]
async fn a_body_that_filled_the_read_of_its_head_goes_on_with_what_came_behind() {
    const BODY: usize = 16_000;
    let limits = Limits {
        head_bytes: 1024,
        fields: 10,
        field_bytes: 1024,
        http10: false,
    };
    for (behind, expected) in [
        (BODY - FIRST_READ, BODY),
        (100, FIRST_READ + 100),
        (0, FIRST_READ),
    ] {
        let (near, mut far) = tokio::io::duplex(BODY);
        far.write_all(&piece(b'b', behind)).await.unwrap();
        let mut input = BytesMut::with_capacity(FIRST_READ);
        input.extend_from_slice(&piece(b'b', FIRST_READ));
        let mut wire = Wire::new(Box::new(near), input);
        let mut decoder = Decoder::new(Framing::Length(BODY as u64), &limits);
        let body = poll_fn(|cx| poll_body(&mut decoder, &mut wire, cx)).await;
        match body {
            Some(Ok(Piece::Data(data))) => assert_eq!(data.len(), expected, "{behind}"),
            other => panic!("{behind}: {other:?}"),
        }
    }
}
