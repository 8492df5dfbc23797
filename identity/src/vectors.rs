//! The conformance vectors of the public SPIFFE implementations (`tests/vectors`), for tests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The cases of `spiffe/<name>.json`.
pub(crate) fn read(name: &str) -> Vec<Value> {
    read_from("spiffe", name)
}

/// The cases of `<folder>/<name>.json`.
pub(crate) fn read_from(folder: &str, name: &str) -> Vec<Value> {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors");
    let text = std::fs::read(format!("{vectors}/{folder}/{name}.json")).unwrap();
    let mut file: Value = serde_json::from_slice(&text).unwrap();
    let Value::Array(cases) = file["vectors"].take() else {
        panic!("expected {name}.json to have an array \"vectors\"");
    };
    assert_eq!(file["count"], cases.len(), "{name}.json is incomplete");
    cases
}

/// The text of a member that the case has to have.
pub(crate) fn text<'v>(case: &'v Value, member: &str) -> &'v str {
    case[member]
        .as_str()
        .unwrap_or_else(|| panic!("expected {member:?} in {case}"))
}

/// The bytes of a member in base64.
pub(crate) fn bytes(case: &Value, member: &str) -> Vec<u8> {
    decode(&case[member])
}

pub(crate) fn decode(base64: &Value) -> Vec<u8> {
    STANDARD.decode(base64.as_str().unwrap()).unwrap()
}

/// Fails with one line for each case that did not go as expected.
pub(crate) fn report(failures: &[String]) {
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
