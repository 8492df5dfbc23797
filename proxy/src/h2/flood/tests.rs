use super::frames::HEAD_BYTES;
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{advance, timeout};

const PREFACE: &[u8; PREFACE_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PRIORITY: u8 = 0x2;
const PING: u8 = 0x6;
const WINDOW_UPDATE: u8 = 0x8;
const UNKNOWN: u8 = 0xbb;

fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![
        0,
        (length >> 8) as u8,
        length as u8,
        kind,
        flags,
        0,
        0,
        0,
        1,
    ];
    frame.resize(HEAD_BYTES + length, 0xff);
    frame
}

/// A connection seen by both of its ends.
struct Seen {
    client: DuplexStream,
    server: Guarded<DuplexStream>,
    alarm: Alarm,
}

impl Seen {
    async fn new() -> Self {
        let (client, server) = tokio::io::duplex(1 << 20);
        let (server, alarm) = guard(server, Role::Client);
        let mut seen = Self {
            client,
            server,
            alarm,
        };
        assert_eq!(seen.receive(PREFACE).await, PREFACE.len());
        seen
    }

    /// How much of `bytes` the server gets to read.
    async fn receive(&mut self, bytes: &[u8]) -> usize {
        self.client.write_all(bytes).await.unwrap();
        let (mut buffer, mut length) = ([0; 1000], 0);
        while length < bytes.len() {
            // Time is paused: this ends at once when nothing more is coming.
            let read = self.server.read(&mut buffer);
            match timeout(Duration::from_nanos(1), read).await {
                Ok(read) => length += read.unwrap(),
                Err(_) => break,
            }
        }
        length
    }

    /// Receives frames like `frame` until the alarm is raised or `most` have passed.
    async fn until_flooded(&mut self, frame: &[u8], most: usize) -> usize {
        for count in 0..most {
            if self.alarm.raised().is_some() {
                return count;
            }
            self.receive(frame).await;
        }
        most
    }
}

#[tokio::test(start_paused = true)]
async fn frames_that_bring_nothing_are_a_flood() {
    for (kind, flags, length, each) in [
        (PING, 0, 8, 1),
        (PING, 1, 8, 1),
        (PRIORITY, 0, 5, 1),
        (WINDOW_UPDATE, 0, 4, 1),
        (Head::CONTINUATION, 0, 0, 1),
        (UNKNOWN, 0, 300, 1),
        (Head::DATA, 0, 0, 1),
        (Head::SETTINGS, 0, 6, WALK),
        (Head::SETTINGS, 1, 0, WALK),
        (Head::GOAWAY, 0, 8, WALK),
    ] {
        let mut seen = Seen::new().await;
        let passed = seen.until_flooded(&frame(kind, flags, length), 5000).await;
        assert_eq!(seen.alarm.raised(), Some(Flood::Frames), "kind {kind}");
        assert_eq!(passed, (IDLE_AT_ONCE / each) as usize + 1, "kind {kind}");
    }
}

/// Which used to be watched in callers alone.
#[tokio::test(start_paused = true)]
async fn of_a_server_frames_that_answer_nothing_are_a_flood() {
    for (kind, flags, length, each) in [
        (PING, 0, 8, 1),
        (WINDOW_UPDATE, 0, 4, 1),
        (UNKNOWN, 0, 300, 1),
        (Head::DATA, 0, 0, 1),
        (Head::RST_STREAM, 0, 4, 1),
        (Head::HEADERS, 4, 40, 1),
        (Head::SETTINGS, 0, 6, WALK),
        (Head::GOAWAY, 0, 8, WALK),
    ] {
        let (mut server, near) = tokio::io::duplex(1 << 20);
        let (mut near, alarm) = guard(near, Role::Server);
        near.write_all(PREFACE).await.unwrap();
        let (one, mut passed) = (frame(kind, flags, length), 0);
        while alarm.raised().is_none() {
            server.write_all(&one).await.unwrap();
            // Time is paused: this ends at once when nothing is given to read.
            let mut sunk = vec![0; one.len()];
            let read = timeout(Duration::from_nanos(1), near.read_exact(&mut sunk));
            passed += u32::from(read.await.is_ok());
        }
        assert_eq!(passed, IDLE_AT_ONCE / each, "kind {kind}");
    }
}

/// However many requests there are before the first is answered.
#[tokio::test(start_paused = true)]
async fn what_a_server_is_sent_pays_for_its_answers() {
    let (mut server, near) = tokio::io::duplex(1 << 20);
    let (mut near, alarm) = guard(near, Role::Server);
    near.write_all(PREFACE).await.unwrap();
    for _ in 0..5000 {
        near.write_all(&frame(Head::HEADERS, 5, 40)).await.unwrap();
    }
    let answer = [
        frame(Head::HEADERS, 4, 10),
        frame(Head::HEADERS, 4, 10),
        frame(Head::DATA, 0, 100),
        frame(Head::HEADERS, 5, 10),
        frame(PING, 0, 8),
    ];
    let answer = answer.concat();
    for _ in 0..5000 {
        server.write_all(&answer).await.unwrap();
        near.read_exact(&mut vec![0; answer.len()]).await.unwrap();
    }
    assert_eq!(alarm.raised(), None);
}

#[tokio::test(start_paused = true)]
async fn requests_and_their_bodies_are_no_flood() {
    let mut seen = Seen::new().await;
    for (kind, flags, length) in [
        (Head::HEADERS, 5, 40),
        (Head::DATA, 0, 1),
        (Head::DATA, 1, 0),
    ] {
        let passed = seen.until_flooded(&frame(kind, flags, length), 5000).await;
        assert_eq!((passed, seen.alarm.raised()), (5000, None), "kind {kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_pays_for_the_updates_of_its_reader() {
    let mut seen = Seen::new().await;
    let update = frame(WINDOW_UPDATE, 0, 4).repeat(2);
    let ping = frame(PING, 0, 8);
    let (data, mut sunk) = (frame(Head::DATA, 0, 100), [0; 200]);
    for _ in 0..5000 {
        seen.server.write_all(&data).await.unwrap();
        seen.client
            .read_exact(&mut sunk[..data.len()])
            .await
            .unwrap();
        assert_eq!(seen.receive(&update).await, update.len());
        assert_eq!(seen.receive(&ping).await, ping.len());
    }
    assert_eq!(seen.alarm.raised(), None);
}

#[tokio::test(start_paused = true)]
async fn abandoned_requests_are_a_flood() {
    let mut seen = Seen::new().await;
    let request = [frame(Head::HEADERS, 5, 40), frame(Head::RST_STREAM, 0, 4)].concat();
    let passed = seen.until_flooded(&request, 5000).await;
    assert_eq!(seen.alarm.raised(), Some(Flood::Resets));
    assert_eq!(passed, RESETS_AT_ONCE as usize + 1);
}

#[tokio::test(start_paused = true)]
async fn answered_requests_let_as_many_be_abandoned_up_to_a_bound() {
    let (head, last) = (frame(Head::HEADERS, 4, 10), frame(Head::DATA, 1, 3));
    for (answers, expected) in [(500, RESETS_AT_ONCE + 500), (5000, RESETS_EARNED)] {
        let mut seen = Seen::new().await;
        let answer = [head.clone(), last.clone()].concat();
        for _ in 0..answers {
            let slices = [IoSlice::new(&head), IoSlice::new(&last)];
            let written = seen.server.write_vectored(&slices).await.unwrap();
            seen.server.write_all(&answer[written..]).await.unwrap();
            let mut sunk = vec![0; answer.len()];
            seen.client.read_exact(&mut sunk).await.unwrap();
        }
        let passed = seen
            .until_flooded(&frame(Head::RST_STREAM, 0, 4), 5000)
            .await;
        assert_eq!(passed, expected as usize + 1, "after {answers} answers");
    }
}

#[tokio::test(start_paused = true)]
async fn time_makes_up_for_frames_and_resets() {
    for (kind, at_once, per_second) in [
        (PING, IDLE_AT_ONCE, IDLE_PER_SECOND),
        (Head::RST_STREAM, RESETS_AT_ONCE, RESETS_PER_SECOND),
    ] {
        let mut seen = Seen::new().await;
        let one = frame(kind, 0, 4);
        assert_eq!(
            seen.until_flooded(&one, at_once as usize).await,
            at_once as usize
        );
        for _ in 0..10 {
            advance(Duration::from_secs(1)).await;
            let passed = seen.until_flooded(&one, per_second as usize).await;
            assert_eq!((passed, seen.alarm.raised()), (per_second as usize, None));
        }
        seen.receive(&one).await;
        assert!(seen.alarm.raised().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn the_verdict_does_not_depend_on_how_octets_arrive() {
    let mut stream = Vec::from(PREFACE);
    for length in 0..40 {
        stream.extend(frame(PING, 0, 8));
        stream.extend(frame(Head::HEADERS, 4, length * 9));
        stream.extend(frame(Head::DATA, 0, length));
    }
    let heads = |size: usize| {
        let mut frames = Frames::after(PREFACE_BYTES);
        let mut heads = Vec::new();
        for mut piece in stream.chunks(size) {
            while let Some(head) = frames.next(&mut piece) {
                heads.push(head);
            }
        }
        heads
    };
    let whole = heads(stream.len());
    assert_eq!(whole.len(), 120);
    for size in 1..200 {
        assert_eq!(heads(size), whole, "in pieces of {size}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_alarm_nothing_is_read() {
    let mut seen = Seen::new().await;
    let flood = frame(PING, 0, 8).repeat(5000);
    let read = seen.receive(&flood).await;
    assert!(read <= 17 * IDLE_AT_ONCE as usize, "{read}");
    assert_eq!(seen.receive(b"more").await, 0);
    // The server can still say why it leaves.
    seen.server
        .write_all(&frame(Head::GOAWAY, 0, 8))
        .await
        .unwrap();
}

/// A frame with this payload.
fn block(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    [&frame(kind, flags, payload.len())[..HEAD_BYTES], payload].concat()
}

#[tokio::test(start_paused = true)]
async fn a_header_block_may_begin_with_two_size_updates() {
    // To 0 and back to 4096, then the method; the same octets later on are a string.
    let good = b"\x20\x3f\xe1\x1f\x82\x00\x01x\x03\x20\x20\x20";
    let many = b"\x20\x3f\xe1\x1f\x20\x82";
    let (padded, prioritised) = (*b"\x03", *b"\0\0\0\0\x20");
    let rows = [
        (None, block(Head::HEADERS, 4, good)),
        (None, block(Head::HEADERS, 4, b"\x82").repeat(5)),
        (None, block(Head::HEADERS, 4, good).repeat(5)),
        (None, block(Head::DATA, 0, &[0x20; 100])),
        (
            None,
            block(
                Head::HEADERS,
                4 | 0x28,
                &[&padded[..], &prioritised, good].concat(),
            ),
        ),
        (Some(Flood::Frames), block(Head::HEADERS, 4, many)),
        (
            Some(Flood::Frames),
            block(Head::HEADERS, 4 | 0x8, &[&padded[..], many].concat()),
        ),
        (
            Some(Flood::Frames),
            block(Head::HEADERS, 4 | 0x20, &[&prioritised[..], many].concat()),
        ),
        (
            Some(Flood::Frames),
            [
                block(Head::HEADERS, 0, b"\x20\x3f\xe1"),
                block(Head::CONTINUATION, 4, b"\x1f\x20\x82"),
            ]
            .concat(),
        ),
        (
            Some(Flood::Frames),
            [block(Head::HEADERS, 4, many), block(Head::HEADERS, 4, good)].concat(),
        ),
    ];
    for (expected, octets) in rows {
        let mut whole = Seen::new().await;
        whole.receive(&octets).await;
        assert_eq!(whole.alarm.raised(), expected, "{octets:x?}");
        let mut single = Seen::new().await;
        for octet in octets.chunks(1) {
            single.receive(octet).await;
        }
        assert_eq!(single.alarm.raised(), expected, "{octets:x?}, one by one");
    }
}
