//! HTTP/2 frames that break the protocol: what the sidecar says about them.

use crate::h2_frames::{
    CONTINUATION, DATA, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, HEADERS, Mesh, OPEN, PADDED, PING,
    PRIORITY, PROTOCOL_ERROR, PUSH_PROMISE, RST_STREAM, SETTINGS, WHOLE, WINDOW_UPDATE, frame,
    request,
};
use crate::harness::grant_all;

pub(crate) const INITIAL_WINDOW_SIZE: u16 = 0x4;

pub(crate) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, WHOLE, stream, &request("GET", "/a", &[]))
}

/// A request with a body to come.
pub(crate) fn upload(stream: u32) -> Vec<u8> {
    frame(HEADERS, OPEN, stream, &request("POST", "/a", &[]))
}

pub(crate) fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(
        SETTINGS,
        0,
        0,
        &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat(),
    )
}

pub(crate) fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &increment.to_be_bytes())
}

/// The sidecar may name an error of a frame's length or of a header block `PROTOCOL_ERROR`: that is what the `h2` crate
/// does, where RFC 9113 sections 4.2 and 4.3 have codes of their own. The connection ends all the same.
#[tokio::test]
async fn a_broken_frame_ends_the_connection() {
    let mesh = Mesh::new(&grant_all()).await;
    let rows = [
        ("DATA on stream 0", PROTOCOL_ERROR, frame(DATA, 0, 0, b"x")),
        (
            "DATA on an idle stream",
            PROTOCOL_ERROR,
            frame(DATA, 0, 1, b"x"),
        ),
        (
            "DATA with more padding than payload",
            PROTOCOL_ERROR,
            [upload(1), frame(DATA, PADDED, 1, b"\x09x")].concat(),
        ),
        (
            "DATA after the end of its stream",
            PROTOCOL_ERROR,
            [
                frame(HEADERS, WHOLE, 1, &request("GET", "/slow/60000", &[])),
                frame(DATA, 0, 1, b"x"),
            ]
            .concat(),
        ),
        ("HEADERS on stream 0", PROTOCOL_ERROR, get(0)),
        ("HEADERS on a server's stream", PROTOCOL_ERROR, get(2)),
        (
            "HEADERS on a stream passed over",
            PROTOCOL_ERROR,
            [get(5), get(3)].concat(),
        ),
        (
            "HEADERS with more padding than payload",
            PROTOCOL_ERROR,
            frame(HEADERS, WHOLE | PADDED, 1, b"\x09x"),
        ),
        (
            "a frame between HEADERS and CONTINUATION",
            PROTOCOL_ERROR,
            [frame(HEADERS, 1, 1, b"\x82"), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
        (
            "CONTINUATION of another stream",
            PROTOCOL_ERROR,
            [
                frame(HEADERS, 1, 1, b"\x82"),
                frame(CONTINUATION, 4, 3, b"\x87"),
            ]
            .concat(),
        ),
        (
            "CONTINUATION of nothing",
            PROTOCOL_ERROR,
            frame(CONTINUATION, 4, 1, b"\x82"),
        ),
        (
            "RST_STREAM of stream 0",
            PROTOCOL_ERROR,
            frame(RST_STREAM, 0, 0, &[0; 4]),
        ),
        (
            "RST_STREAM of an idle stream",
            PROTOCOL_ERROR,
            frame(RST_STREAM, 0, 1, &[0; 4]),
        ),
        (
            "RST_STREAM of three octets",
            PROTOCOL_ERROR,
            [upload(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
        ),
        (
            "SETTINGS of a stream",
            PROTOCOL_ERROR,
            frame(SETTINGS, 0, 1, b""),
        ),
        (
            "SETTINGS of five octets",
            PROTOCOL_ERROR,
            frame(SETTINGS, 0, 0, &[0; 5]),
        ),
        (
            "a window beyond 2^31",
            PROTOCOL_ERROR,
            setting(INITIAL_WINDOW_SIZE, 1 << 31),
        ),
        ("a frame size below 2^14", PROTOCOL_ERROR, setting(0x5, 1)),
        ("push neither on nor off", PROTOCOL_ERROR, setting(0x2, 2)),
        (
            "PUSH_PROMISE of a client",
            PROTOCOL_ERROR,
            [
                upload(1),
                frame(
                    PUSH_PROMISE,
                    4,
                    1,
                    &[&2_u32.to_be_bytes()[..], &request("GET", "/a", &[])].concat(),
                ),
            ]
            .concat(),
        ),
        (
            "PING of seven octets",
            PROTOCOL_ERROR,
            frame(PING, 0, 0, &[0; 7]),
        ),
        (
            "PING of a stream",
            PROTOCOL_ERROR,
            frame(PING, 0, 1, &[0; 8]),
        ),
        (
            "PRIORITY of stream 0",
            PROTOCOL_ERROR,
            frame(PRIORITY, 0, 0, &[0, 0, 0, 3, 1]),
        ),
        (
            "WINDOW_UPDATE of nothing",
            PROTOCOL_ERROR,
            window_update(0, 0),
        ),
        (
            "WINDOW_UPDATE of a stream by nothing",
            PROTOCOL_ERROR,
            [upload(1), window_update(1, 0)].concat(),
        ),
        (
            "WINDOW_UPDATE of an idle stream",
            PROTOCOL_ERROR,
            window_update(1, 1),
        ),
        (
            "WINDOW_UPDATE beyond 2^31",
            FLOW_CONTROL_ERROR,
            window_update(0, 0x7fff_ffff),
        ),
        (
            "more than the connection's window",
            FLOW_CONTROL_ERROR,
            [upload(1), upload(3)]
                .concat()
                .into_iter()
                .chain((0..600).flat_map(|n| frame(DATA, 0, 1 + 2 * (n % 2), &[0; 16_000])))
                .collect(),
        ),
        (
            "a frame longer than allowed",
            FRAME_SIZE_ERROR,
            frame(HEADERS, WHOLE, 1, &[0x82; 40_000]),
        ),
        (
            "an entry no table has",
            PROTOCOL_ERROR,
            frame(HEADERS, WHOLE, 1, b"\xff\xff\x7f"),
        ),
        (
            "entry 0 of the table",
            PROTOCOL_ERROR,
            frame(HEADERS, WHOLE, 1, b"\x80"),
        ),
        (
            "a number without end",
            PROTOCOL_ERROR,
            frame(HEADERS, WHOLE, 1, &[0xff; 40]),
        ),
        (
            "a string that breaks off",
            PROTOCOL_ERROR,
            frame(HEADERS, WHOLE, 1, b"\x82\x87\x00\x05x"),
        ),
        (
            "a string that is no Huffman code",
            PROTOCOL_ERROR,
            frame(HEADERS, WHOLE, 1, b"\x82\x87\x04\x84\xff\xff\xff\xff"),
        ),
        (
            "a table larger than allowed",
            PROTOCOL_ERROR,
            frame(HEADERS, WHOLE, 1, b"\x3f\xff\xff\x03"),
        ),
    ];
    let mut failures = Vec::new();
    for (name, code, frames) in &rows {
        let mut raw = mesh.connect().await;
        raw.write(frames).await;
        let heard = raw.until_closed().await;
        if heard.goaway != Some(*code) {
            failures.push(format!("{name}: expected {code}, {heard:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(rows.len(), 35);
}

#[tokio::test]
async fn a_broken_stream_ends_alone() {
    let mesh = Mesh::new(&grant_all()).await;
    let rows = [
        (
            "a window beyond 2^31",
            FLOW_CONTROL_ERROR,
            [upload(1), window_update(1, 0x7fff_ffff)].concat(),
        ),
        (
            "depending on itself",
            PROTOCOL_ERROR,
            [upload(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 1])].concat(),
        ),
        (
            "trailers that go on",
            PROTOCOL_ERROR,
            [upload(1), frame(HEADERS, OPEN, 1, b"")].concat(),
        ),
        ("no head", PROTOCOL_ERROR, frame(HEADERS, WHOLE, 1, b"")),
    ];
    for (name, code, frames) in rows {
        let mut raw = mesh.connect().await;
        raw.write(&frames).await;
        assert_eq!(raw.until_ended(1).await.resets, [(1, code)], "{name}");
        raw.write(&get(3)).await;
        let heard = raw.until_ended(3).await;
        assert_eq!(heard.statuses.last(), Some(&(3, 200)), "{name}: {heard:?}");
    }
}

#[tokio::test]
async fn a_preface_that_is_none_ends_the_connection() {
    let mesh = Mesh::new(&grant_all()).await;
    for start in [
        &b"GET / HTTP/1.1\r\nhost: orders.shop.example\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
    ] {
        let mut raw = mesh.silent().await;
        raw.write(start).await;
        assert!(raw.until_closed().await.is_closed);
    }
    assert_eq!(mesh.app.requests(), 0);
}
