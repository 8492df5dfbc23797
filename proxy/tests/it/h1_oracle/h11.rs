//! The other oracle comes from another ecosystem: Python's h11.

use super::{MUTATIONS, difference};
use crate::mutations::{mutated, requests};
use crate::transcript::{Message, Side, Transcript, ours};
use http::header::{HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use serde_json::Value;
use std::fmt::Write as _;
use std::process::{Command, Stdio};

const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/h1_oracle/h11_reads.py"
);

#[test]
fn what_we_accept_h11_accepts_as_the_same() {
    let seeds = requests();
    let mutations = (0..MUTATIONS).map(|number| mutated(&seeds, number));
    let messages: Vec<Vec<u8>> = seeds.iter().cloned().chain(mutations).collect();
    let theirs = h11_reads(&messages);
    assert_eq!(theirs.len(), messages.len());
    let (mut compared, mut failures) = (0, Vec::new());
    for (bytes, theirs) in messages.iter().zip(&theirs) {
        let mut ours = ours(Side::Server, [&bytes[..]]);
        // A Host that is missing or repeated is refused by h11 at once, and by us when the request is normalised.
        let hosts = |message: &Message| message.fields.get_all(HOST).iter().count();
        if let Some(bad) = ours.messages.iter().position(|m| hosts(m) != 1) {
            ours.messages.truncate(bad);
        }
        for message in &mut ours.messages {
            // h11 writes it in lower case.
            if message.fields.contains_key(TRANSFER_ENCODING) {
                let chunked = HeaderValue::from_static("chunked");
                message.fields.insert(TRANSFER_ENCODING, chunked);
            }
        }
        compared += ours.messages.len() as u64;
        failures.extend(difference(&ours, theirs, bytes));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(compared > MUTATIONS / 6, "{compared} compared");
}

/// What h11 makes of connections with these bytes.
fn h11_reads(connections: &[Vec<u8>]) -> Vec<Transcript> {
    let mut input = String::new();
    for connection in connections {
        for byte in connection {
            write!(input, "{byte:02x}").unwrap();
        }
        input.push('\n');
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "tests/run says where the packages are"
    )]
    let python = std::env::var("TIPSTAFF_TEST_PYTHON");
    let python = python.expect("TIPSTAFF_TEST_PYTHON: run this through tests/run, which sets it");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("connections");
    std::fs::write(&path, input).unwrap();
    let output = Command::new(python)
        .arg(SCRIPT)
        .stdin(Stdio::from(std::fs::File::open(&path).unwrap()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = str::from_utf8(&output.stdout).unwrap().lines();
    lines
        .map(|line| transcript(&serde_json::from_str(line).unwrap()))
        .collect()
}

fn transcript(value: &Value) -> Transcript {
    let messages = value["messages"].as_array().unwrap().iter();
    Transcript {
        messages: messages.map(message).collect(),
        refused: value["error"].as_str().map(|_| "h11"),
    }
}

fn message(value: &Value) -> Message {
    let text = |key: &str| String::from_utf8_lossy(&octets(&value[key])).into_owned();
    // Written the way ours is.
    let target = text("target");
    let target = target.parse::<Uri>().map_or(target, |uri| uri.to_string());
    Message {
        start: format!("{} {target}", text("method")),
        fields: fields(&value["fields"]),
        body: octets(&value["body"]),
        trailers: fields(&value["trailers"]),
        is_complete: value["is_complete"] == true,
    }
}

fn fields(value: &Value) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for field in value.as_array().unwrap() {
        let name = HeaderName::from_bytes(&octets(&field[0]));
        let value = HeaderValue::from_bytes(&octets(&field[1]));
        // What `http` cannot hold differs from whatever we have accepted.
        let (name, value) = match (name, value) {
            (Ok(name), Ok(value)) => (name, value),
            _ => (
                HeaderName::from_static("not-a-field"),
                HeaderValue::from_static(""),
            ),
        };
        fields.append(name, value);
    }
    fields
}

fn octets(hex: &Value) -> Vec<u8> {
    let digits = hex.as_str().unwrap().as_bytes();
    let octet = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(octet).collect()
}
