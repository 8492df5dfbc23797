//! `docs/reference.md` says what is so: each row of its tables is compared with what the program has.

use super::*;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const REFERENCE: &str = include_str!("../../../../docs/reference.md");

#[test]
fn the_reference_has_a_row_for_each_timeout_and_size_and_the_right_default() {
    let rows = rows("key");
    let documented: BTreeMap<&str, &str> = rows.iter().map(|row| (code(row[0]), row[1])).collect();
    assert_eq!(documented.len(), rows.len(), "a key has two rows");

    let expected: BTreeSet<String> = keys(Timeouts::default())
        .map(|key| format!("timeouts.{key}"))
        .chain(keys(Sizes::default()).map(|key| format!("sizes.{key}")))
        .chain(["workers", "accessLog", "admin.listen"].map(str::to_owned))
        .collect();
    assert_eq!(
        documented.keys().copied().collect::<BTreeSet<_>>(),
        expected.iter().map(String::as_str).collect()
    );

    // No default, no value: what the cgroup allows is found at the start.
    assert_eq!(documented["sizes.maxMemory"], "the cgroup's limit");
    assert_eq!(Sizes::default().max_memory, None);
    let default = read("inbound: []").unwrap();
    for (key, value) in documented {
        if key != "sizes.maxMemory" {
            assert_eq!(read(&file(key, value)).as_ref(), Ok(&default), "{key}");
        }
    }
}

#[test]
fn the_reference_has_a_row_for_each_key_of_a_service_and_the_right_default() {
    let service = |keys: &str| {
        read(&format!(
            "outbound: {{listen: '127.0.0.1:15001', services: [{{hosts: [orders], endpoints: ['10.0.0.7:15006'], \
             identity: spiffe://demo.test/ns/shop/sa/orders{keys}}}]}}\n"
        ))
    };
    let rows = rows("key of a service");
    let documented: BTreeSet<String> = rows.iter().map(|row| code(row[0]).to_owned()).collect();
    assert_eq!(documented.len(), rows.len(), "a key has two rows");
    let expected = keys(Resilience::default()).collect();
    assert_eq!(documented, expected);
    let default = service("").unwrap();
    for row in rows {
        let key = format!(", {}: {}", code(row[0]), row[1]);
        assert_eq!(service(&key).as_ref(), Ok(&default), "{key}");
    }
}

#[test]
fn the_reference_has_the_values_of_constants_as_they_stand_in_the_source() {
    for row in rows("what") {
        let (file, name) = row[2].split_once(' ').unwrap();
        let path = format!("{}/src/{}", env!("CARGO_MANIFEST_DIR"), code(file));
        let source =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let start = format!("const {}: ", code(name));
        let constant = source.split(&start).nth(1).expect(name);
        let (_, value) = constant
            .split(';')
            .next()
            .unwrap()
            .split_once(" = ")
            .unwrap();
        assert_eq!(shown(value), row[1], "{name} of {path}");
    }
}

/// A time that nobody has written down is one that nobody expects.
#[test]
fn the_reference_has_every_time_that_stands_in_the_source() {
    let documented: BTreeSet<_> = rows("what").iter().map(|row| row[2].to_owned()).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // Settings have tables of their own.
    let left_out = ["config", "config.rs", "bench.rs", "tests", "tests.rs"];
    let (mut folders, mut missing) = (vec![root.clone()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if left_out.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let file = path.strip_prefix(&root).unwrap().display().to_string();
            let source = std::fs::read_to_string(&path).unwrap();
            let named = source
                .lines()
                .filter_map(time)
                .map(|name| format!("`{file}` `{name}`"));
            missing.extend(named.filter(|row| !documented.contains(row)));
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

/// The name of a constant that is a time, and not that of another.
fn time(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("const ")?;
    let is_item = before.is_empty() || before.starts_with("pub");
    rest.split_once(": Duration = Duration::")
        .filter(|_| is_item)
        .map(|(name, _)| name)
}

/// The cells of the table whose first heading is `first`.
fn rows(first: &str) -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        line.trim_matches('|').split('|').map(str::trim).collect()
    };
    let rows: Vec<_> = REFERENCE
        .lines()
        .skip_while(|line| !line.starts_with(&format!("| {first} |")))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(cells)
        .collect();
    assert!(!rows.is_empty(), "no table begins with {first:?}");
    rows
}

fn code(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// The keys that a section of a configuration has.
fn keys(section: impl Serialize) -> impl Iterator<Item = String> {
    let section = serde_json::to_value(section).unwrap();
    let keys: Map<String, Value> = serde_json::from_value(section).unwrap();
    keys.into_iter().map(|(key, _)| key)
}

/// A configuration that says nothing but this.
fn file(key: &str, value: &str) -> String {
    match key.split_once('.') {
        Some((section, key)) => format!("{section}: {{{key}: {value}}}"),
        None => format!("{key}: {value}"),
    }
}

/// A constant as the reference writes it.
fn shown(value: &str) -> String {
    let number = |text: &str| -> u64 {
        let factors = text.split(" * ").map(|factor| factor.replace('_', ""));
        factors
            .map(|factor| factor.parse::<u64>().expect(text))
            .product()
    };
    let of = |constructor: &str| value.strip_prefix(constructor)?.strip_suffix(')');
    if let Some(seconds) = of("Duration::from_secs(") {
        format!("{}s", number(seconds))
    } else if let Some(milliseconds) = of("Duration::from_millis(") {
        format!("{}ms", number(milliseconds))
    } else if value.ends_with(" * 1024") {
        format!("{}KiB", number(value) / 1024)
    } else {
        number(value).to_string()
    }
}
