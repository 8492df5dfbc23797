//! Every row of the bypass corpus whose verdict is this module's: what it rejects has to be rejected for the same
//! reason, what it decides has to be read, and forwarded as it says.

use serde_json::Value;

use super::*;

const CORPUS: &str = include_str!("../../../../tests/vectors/http/path_bypass_sample.json");

/// Reasons of other parts: framing, request line, methods, fields, gRPC.
const ELSEWHERE: [&str; 8] = [
    "ambiguous_framing",
    "bad_header_value",
    "bad_request_line",
    "connect_not_enabled",
    "grpc_bad_path",
    "h2_connection_header",
    "h2_duplicate_pseudo",
    "non_canonical_method",
];

#[test]
fn targets_and_hosts_are_read_as_the_corpus_says() {
    let corpus: Value = serde_json::from_str(CORPUS).unwrap();
    let mut checked = 0;
    for row in corpus["vectors"].as_array().unwrap() {
        let expect = &row["expect"];
        let reason = expect["reason"].as_str().unwrap();
        if ELSEWHERE.contains(&reason) {
            continue;
        }
        checked += 1;
        let profile = profile(&corpus["rulesets"][row["ruleset"].as_str().unwrap()]);
        let read = read(&row["request"], &profile);
        if expect["decision"] == "REJECT" {
            let rejected = read.map_err(|reject| (reject.reason(), reject.status().into()));
            let expected = (reason, expect["status"].as_u64().unwrap());
            assert_eq!(rejected, Err(expected), "{row}");
        } else {
            let path = read.unwrap_or_else(|reject| panic!("{reject} in {row}"));
            if let Some(forward) = expect["forward_path"].as_str() {
                assert_eq!(path, forward, "{row}");
            }
        }
    }
    assert!(checked > 75, "only {checked} rows were checked");
}

fn profile(ruleset: &Value) -> Profile {
    let opted_in = |key: &str| ruleset.get(key).is_some();
    Profile {
        encoded_slash: if opted_in("encodedSlash") {
            EncodedSlash::Opaque
        } else {
            EncodedSlash::Reject
        },
        path_params: if opted_in("pathParams") {
            PathParams::Literal
        } else {
            PathParams::Reject
        },
        empty_segments: EmptySegments::Reject,
    }
}

/// The canonical path, once target and host are accepted.
fn read(request: &Value, profile: &Profile) -> Result<String, Reject> {
    let field = |list: &str, name: &str| {
        let fields = request[list].as_array()?;
        let field = fields
            .iter()
            .find(|field| field[0].as_str().unwrap().eq_ignore_ascii_case(name))?;
        Some(octets(field[1].as_str().unwrap()))
    };
    let (target, authority);
    let canonical = if request["proto"] == "h2" {
        target = field("pseudo", ":path").unwrap();
        authority = field("pseudo", ":authority");
        canonicalise_path(&target, profile)?
    } else {
        let line = request["line"].as_str().unwrap();
        target = octets(line.split(' ').nth(1).unwrap());
        let target = canonicalise(&target, profile)?;
        authority = target
            .authority
            .map(|authority| authority.as_bytes().to_vec());
        target
    };
    host::agree(
        field("headers", "host").as_deref(),
        authority.as_deref(),
        80,
    )?;
    Ok(canonical.path.into_owned())
}

/// The corpus writes octets as Latin-1.
fn octets(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).unwrap())
        .collect()
}
