//! Floods of HTTP/2 frames that are allowed one by one: the sidecar asks for calm, and the app sees few requests. What they
//! cost in time and memory is measured by `benches/hostile/http2`.

use crate::h2_errors::{INITIAL_WINDOW_SIZE, get, setting, upload, window_update};
use crate::h2_frames::{
    CONTINUATION, DATA, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, Mesh, OPEN, PADDED, PING,
    PRIORITY, RST_STREAM, STREAM_CLOSED, WHOLE, block, frame, request, string,
};
use crate::harness::grant_all;
use std::time::Duration;

/// Each flood is written without pause. The app may see what came before the sidecar had enough.
#[tokio::test]
async fn a_flood_is_asked_to_calm_down() {
    const MANY: u32 = 20_000;
    let streams =
        |each: fn(u32) -> Vec<u8>| (0..MANY).flat_map(|n| each(2 * n + 3)).collect::<Vec<u8>>();
    let mesh = Mesh::new(&grant_all()).await;
    let again = |first: &[u8], each: &[u8]| [first, &each.repeat(MANY as usize)].concat();
    let half = frame(HEADERS, 0, 1, &request("GET", "/a", &[]));
    let both_ways = [
        setting(INITIAL_WINDOW_SIZE, 1),
        setting(INITIAL_WINDOW_SIZE, 65_535),
    ]
    .concat();
    let rows = [
        (
            "rapid reset",
            streams(|stream| [get(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()),
        ),
        (
            "made to reset: window",
            streams(|stream| [upload(stream), window_update(stream, 0x7fff_ffff)].concat()),
        ),
        (
            "made to reset: dependency",
            streams(|stream| {
                [
                    upload(stream),
                    frame(
                        PRIORITY,
                        0,
                        stream,
                        &[&stream.to_be_bytes()[..], b"\0"].concat(),
                    ),
                ]
                .concat()
            }),
        ),
        (
            "made to reset: length",
            streams(|stream| {
                [
                    frame(
                        HEADERS,
                        OPEN,
                        stream,
                        &request("POST", "/a", &[("content-length", "1")]),
                    ),
                    frame(DATA, END_STREAM, stream, b"xx"),
                ]
                .concat()
            }),
        ),
        (
            "no heads",
            streams(|stream| frame(HEADERS, WHOLE, stream, b"")),
        ),
        (
            "CONTINUATION",
            again(&half, &frame(CONTINUATION, 0, 1, b"")),
        ),
        (
            "CONTINUATION with fields",
            again(&half, &frame(CONTINUATION, 0, 1, &block(&[("x", "y")]))),
        ),
        ("empty DATA", again(&upload(1), &frame(DATA, 0, 1, b""))),
        ("padding", again(&upload(1), &frame(DATA, PADDED, 1, b"\0"))),
        ("PING", again(b"", &frame(PING, 0, 0, &[0; 8]))),
        ("PING answers", again(b"", &frame(PING, 1, 0, &[0; 8]))),
        ("SETTINGS", again(&upload(1), &both_ways)),
        (
            "PRIORITY",
            again(b"", &frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])),
        ),
        (
            "table size updates",
            frame(
                HEADERS,
                WHOLE,
                1,
                &[vec![0x20; 9000], request("GET", "/a", &[])].concat(),
            ),
        ),
        ("unknown frames", again(b"", &frame(0xbb, 0, 1, b"x"))),
        ("WINDOW_UPDATE", again(b"", &window_update(0, 1))),
        (
            "WINDOW_UPDATE of a stream",
            again(&upload(1), &window_update(1, 1)),
        ),
        ("GOAWAY", again(&upload(1), &frame(GOAWAY, 0, 0, &[0; 8]))),
        (
            "RST_STREAM of one that ended",
            again(&get(1), &frame(RST_STREAM, 0, 1, &[0; 4])),
        ),
    ];
    for (name, frames) in rows {
        let before = mesh.app.requests();
        let mut raw = mesh.connect().await;
        raw.write(&frames).await;
        let heard = raw.until_closed().await;
        let seen = mesh.app.requests() - before;
        assert_eq!(
            heard.goaway,
            Some(ENHANCE_YOUR_CALM),
            "{name}: {seen} at the app, {heard:?}"
        );
        assert!(seen <= 300, "{name}: {seen} requests at the app");
    }
}

/// One that waits until the app has the request before it goes back on it.
#[tokio::test]
async fn a_patient_rapid_reset_is_asked_to_calm_down() {
    let mesh = Mesh::new(&grant_all()).await;
    let mut raw = mesh.connect().await;
    let slow = request("GET", "/slow/60000", &[]);
    for stream in (1..4000).step_by(2) {
        let seen = mesh.app.requests();
        if !raw.write(&frame(HEADERS, WHOLE, stream, &slow)).await {
            break;
        }
        for _ in 0..100 {
            if mesh.app.requests() > seen {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        raw.write(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]))
            .await;
    }
    let heard = raw.until_closed().await;
    assert_eq!(heard.goaway, Some(ENHANCE_YOUR_CALM), "{heard:?}");
    assert!(mesh.app.requests() < 1000, "{}", mesh.app.requests());
}

/// A header list of megabytes in a frame: an entry of the dynamic table, named with an octet each time.
#[tokio::test]
async fn a_bomb_of_header_fields_does_not_go_off() {
    let mesh = Mesh::new(&grant_all()).await;
    let entry = [vec![0x40], string("bomb"), string(&"b".repeat(4000))].concat();
    let lit = frame(
        HEADERS,
        WHOLE,
        1,
        &[request("GET", "/a", &[]), entry].concat(),
    );
    let bomb = |times| {
        frame(
            HEADERS,
            WHOLE,
            3,
            &[request("GET", "/a", &[]), vec![0xbe; times]].concat(),
        )
    };

    // Above the limit on heads the request is refused.
    let mut raw = mesh.connect().await;
    raw.write(&lit).await;
    assert_eq!(raw.until_ended(1).await.statuses, [(1, 200)]);
    raw.write(&bomb(10)).await;
    let heard = raw.until_ended(3).await;
    assert_eq!(heard.statuses, [(3, 431)], "{heard:?}");

    // Far above it the connection ends.
    let mut raw = mesh.connect().await;
    raw.write(&lit).await;
    assert_eq!(raw.until_ended(1).await.statuses, [(1, 200)]);
    raw.write(&bomb(2000)).await;
    let heard = raw.until_closed().await;
    assert_eq!(heard.goaway, Some(ENHANCE_YOUR_CALM), "{heard:?}");
    assert_eq!(mesh.app.requests(), 2);
}

/// What comes on a stream after the sidecar forgot it is refused for that stream, and too much of it altogether.
#[tokio::test]
async fn data_on_a_forgotten_stream_is_refused() {
    let mesh = Mesh::new(&grant_all()).await;
    let mut raw = mesh.connect().await;
    raw.write(&get(1)).await;
    assert_eq!(raw.until_ended(1).await.statuses, [(1, 200)]);
    raw.write(&frame(DATA, 0, 1, b"x")).await;
    let heard = raw.until_ended(1).await;
    assert_eq!(heard.resets, [(1, STREAM_CLOSED)], "{heard:?}");
    raw.write(&frame(DATA, 0, 1, b"x").repeat(20_000)).await;
    let heard = raw.until_closed().await;
    assert_eq!(heard.goaway, Some(ENHANCE_YOUR_CALM), "{heard:?}");
    assert_eq!(mesh.app.requests(), 1);
}

/// The workload is held to the same: a library of its own gone wild would otherwise take the sidecar's time.
#[tokio::test]
async fn a_workload_that_floods_its_own_sidecar_is_asked_to_calm_down() {
    let mesh = Mesh::new(&grant_all()).await;
    for flood in [
        frame(PING, 0, 0, &[0; 8]).repeat(20_000),
        (0..20_000)
            .flat_map(|n| [get(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &[0; 4])].concat())
            .collect(),
    ] {
        let mut raw = mesh.connect_workload().await;
        raw.write(&flood).await;
        let heard = raw.until_closed().await;
        assert_eq!(heard.goaway, Some(ENHANCE_YOUR_CALM), "{heard:?}");
    }
    assert_eq!(mesh.app.requests(), 0);
}

#[tokio::test]
async fn why_a_connection_ended_is_counted() {
    let mesh = Mesh::new(&grant_all()).await;
    let rows = [
        ("frame_flood", frame(PING, 0, 0, &[0; 8]).repeat(20_000)),
        (
            "reset_flood",
            [get(1), frame(RST_STREAM, 0, 1, &[0; 4]).repeat(20_000)].concat(),
        ),
        (
            "enhance_your_calm",
            [upload(1), frame(DATA, 0, 1, b"").repeat(500)].concat(),
        ),
        ("protocol_error", window_update(0, 0)),
    ];
    for (reason, frames) in rows {
        let sample = format!(
            "tipstaff_ended_connections_total{{direction=\"inbound\",reason=\"{reason}\"}} 1\n"
        );
        let mut raw = mesh.connect().await;
        raw.write(&frames).await;
        raw.until_closed().await;
        // It is counted when the last octet has left, and the client may hear that first.
        let counted = async {
            while !mesh.sidecar.metrics().await.contains(&sample) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), counted).await;
        let all = mesh.sidecar.metrics().await;
        assert!(in_time.is_ok(), "{sample}{all}");
    }
}
