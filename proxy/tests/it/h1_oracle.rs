//! hyper reads the same bytes. What we accept, it accepts as the same; where it accepts more, that is on purpose.

#[cfg(feature = "real-programs")]
mod h11;

use crate::mutations::{mutated, requests};
use crate::transcript::{Message, Side, Transcript, ours};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Why we refuse what hyper reads, each with what hyper does instead.
const STRICTER: [(&str, &str); 12] = [
    (
        "ambiguous_framing",
        "a Content-Length beside Transfer-Encoding is dropped, equal lengths are one",
    ),
    ("bad_chunk_extension", "any octet but CR and LF is skipped"),
    (
        "bad_chunk_size",
        "white space and leading zeros are skipped",
    ),
    ("bad_content_length", "leading zeros are skipped"),
    ("bad_request_line", "empty lines before it are skipped"),
    (
        "bad_target_char",
        "a target is cut at '#', and may have opaque octets",
    ),
    (
        "bad_transfer_encoding",
        "the last coding alone is looked at",
    ),
    ("bare_lf", "it ends a line of a head"),
    ("header_too_long", "the head as a whole is limited"),
    ("http_version", "HTTP/1.0 is read"),
    ("target_too_long", "the head as a whole is limited"),
    (
        "unknown_transfer_coding",
        "the last coding alone is looked at",
    ),
];

const MUTATIONS: u64 = 12_000;

#[tokio::test]
async fn what_we_accept_hyper_accepts_as_the_same() {
    let seeds = requests();
    let mutations = (0..MUTATIONS).map(|number| mutated(&seeds, number));
    let (mut compared, mut failures, mut stricter) = (0, Vec::new(), BTreeSet::new());
    for message in seeds.iter().cloned().chain(mutations) {
        let text = String::from_utf8_lossy(&message).into_owned();
        let ours = ours(Side::Server, [&message[..]]);
        let theirs = Transcript {
            messages: hyper_reads(message.clone()).await,
            refused: None,
        };
        compared += ours.messages.len() as u64;
        failures.extend(difference(&ours, &theirs, &message));
        let complete = |read: &Transcript| read.messages.iter().filter(|m| m.is_complete).count();
        if complete(&theirs) > complete(&ours) {
            let reason = ours
                .refused
                .unwrap_or_else(|| panic!("hyper reads more of {text:?}"));
            stricter.insert(reason);
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(compared > MUTATIONS / 5, "{compared} compared");
    let listed = BTreeSet::from(STRICTER.map(|(reason, _)| reason));
    assert_eq!(stricter, listed);
}

/// Where they do not read all that we read, or not the same.
fn difference(ours: &Transcript, theirs: &Transcript, bytes: &[u8]) -> Option<String> {
    let is_same = |(index, message): (usize, &Message)| match theirs.messages.get(index) {
        Some(theirs) if message.is_complete => message == theirs,
        // A body that broke off: how much of it was seen depends on when that was noticed.
        Some(theirs) => message.start == theirs.start && message.fields == theirs.fields,
        None => false,
    };
    let all_same = ours.messages.iter().enumerate().all(is_same);
    let text = String::from_utf8_lossy(bytes);
    (!all_same).then(|| format!("{text:.400?}\nours: {ours:?}\ntheirs: {theirs:?}\n"))
}

/// What hyper makes of a connection with these bytes.
async fn hyper_reads(bytes: Vec<u8>) -> Vec<Message> {
    let messages = Arc::<Mutex<Vec<Message>>>::default();
    let service = service_fn(|request: http::Request<Incoming>| {
        let messages = Arc::clone(&messages);
        async move {
            let (parts, body) = request.into_parts();
            let index = {
                let mut messages = messages.lock().unwrap();
                messages.push(Message {
                    start: format!("{} {}", parts.method, parts.uri),
                    fields: parts.headers,
                    ..Message::default()
                });
                messages.len() - 1
            };
            let body = body.collect().await;
            let message = &mut messages.lock().unwrap()[index];
            if let Ok(body) = body {
                message.is_complete = true;
                message.trailers = body.trailers().cloned().unwrap_or_default();
                message.body = body.to_bytes().into();
            }
            let answer = Response::builder().status(StatusCode::OK);
            Ok::<_, Infallible>(answer.body(Empty::<Bytes>::new()).unwrap())
        }
    });
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(&bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let connection = http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(server), service);
    // How it ended is told by what was read.
    tokio::time::timeout(Duration::from_secs(5), connection)
        .await
        .expect("ends")
        .ok();
    std::mem::take(&mut messages.lock().unwrap())
}

/// What the parser below our reader lets through by itself, so that an update that starts to refuse it is noticed.
#[test]
fn httparse_alone_would_not_be_enough() {
    for (head, reason) in [
        (&b"GET / HTTP/1.1\nHost: a\n\n"[..], "bare_lf"),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", "bare_lf"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", "bare_lf"),
        (
            b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "bad_request_line",
        ),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "bare_lf"),
        (b"GET / HTTP/1.0\r\nHost: a\r\n\r\n", "http_version"),
        (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "bad_target_char"),
        (
            "GET /é HTTP/1.1\r\nHost: a\r\n\r\n".as_bytes(),
            "bad_target_char",
        ),
        (b"GET /\"<> HTTP/1.1\r\nHost: a\r\n\r\n", "bad_target_char"),
        (
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "ambiguous_framing",
        ),
        (
            b"GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "bad_content_length",
        ),
        (
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked, x\r\n\r\n",
            "bad_transfer_encoding",
        ),
    ] {
        let text = String::from_utf8_lossy(head);
        let mut fields = [httparse::EMPTY_HEADER; 4];
        let parsed = httparse::Request::new(&mut fields).parse(head);
        assert_eq!(
            parsed,
            Ok(httparse::Status::Complete(head.len())),
            "{text:?}"
        );
        assert_eq!(ours(Side::Server, [head]).refused, Some(reason), "{text:?}");
    }
}
