//! Readers for single values and lists.

use std::{
    str::FromStr,
    time::{Duration, SystemTime},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Node, Problems, Value, is_null, map::one_of};

/// Text. A plain scalar that YAML reads as a number, a truth value or nothing is refused: its author may have meant
/// that, and quotes make it clear.
pub fn text(node: &Node, problems: &Problems) -> Option<String> {
    let kind = match &node.value {
        Value::Scalar { text, quoted: true } => return Some(text.clone()),
        Value::Scalar { text, .. } if is_null(text) => "text, found nothing",
        Value::Scalar { text, .. } if looks_boolean(text) => "text, found a truth value; quote it",
        Value::Scalar { text, .. } if looks_numeric(text) => "text, found a number; quote it",
        Value::Scalar { text, .. } => return Some(text.clone()),
        Value::List(_) => "text, found a list",
        Value::Map(_) => "text, found a map",
    };
    problems.push(node.problem(format!("expected {kind}")));
    None
}

/// `true` or `false`, not quoted.
pub fn boolean(node: &Node, problems: &Problems) -> Option<bool> {
    scalar(node, problems, "true or false", |text, quoted| {
        (!quoted).then(|| text.parse().ok())?
    })
}

/// A whole decimal number that fits `T`, such as `u16`, not quoted.
pub fn number<T: FromStr>(node: &Node, problems: &Problems) -> Option<T> {
    scalar(node, problems, "a whole number in range", |text, quoted| {
        (!quoted && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
    })
}

/// A duration as [`parse_duration`] reads it.
pub fn duration(node: &Node, problems: &Problems) -> Option<Duration> {
    scalar(node, problems, DURATION, |text, _| {
        parse_duration(text).ok()
    })
}

const DURATION: &str = "a duration such as 500ms, 5s, 10m, 24h or 14d";

/// A number and one unit out of `ms`, `s`, `m`, `h`, `d`: `500ms`, `14d`.
///
/// # Errors
/// What was expected, for flags of a command line.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parse = || {
        let (count, unit) = split_unit(text)?;
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        count.checked_mul(millis).map(Duration::from_millis)
    };
    parse().ok_or_else(|| format!("expected {DURATION}"))
}

/// A number of bytes with its unit out of `B`, `KiB`, `MiB`, `GiB`: `64KiB`.
pub fn byte_size(node: &Node, problems: &Problems) -> Option<u64> {
    scalar(
        node,
        problems,
        "a size such as 512B, 64KiB or 4MiB",
        |text, _| {
            let (count, unit) = split_unit(text)?;
            let shift = match unit {
                "B" => 0,
                "KiB" => 10,
                "MiB" => 20,
                "GiB" => 30,
                _ => return None,
            };
            count.checked_mul(1 << shift)
        },
    )
}

/// An instant as [`parse_timestamp`] reads it.
pub fn timestamp(node: &Node, problems: &Problems) -> Option<SystemTime> {
    scalar(node, problems, TIMESTAMP, |text, _| {
        parse_timestamp(text).ok()
    })
}

const TIMESTAMP: &str = "a time such as 2026-11-01T00:00:00Z";

/// An instant after 1970 as RFC 3339 writes it, with its zone: `2026-11-01T00:00:00Z`.
///
/// # Errors
/// What was expected, for flags of a command line.
pub fn parse_timestamp(text: &str) -> Result<SystemTime, String> {
    let parse = || {
        let instant = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        let since = Duration::try_from(instant - OffsetDateTime::UNIX_EPOCH).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(since)
    };
    parse().ok_or_else(|| format!("expected {TIMESTAMP}"))
}

/// A reader for anything with a `FromStr`; `expected` names it with an example.
pub fn parsed<T: FromStr>(expected: &'static str) -> impl Fn(&Node, &Problems) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    move |node, problems| {
        let text = text(node, problems)?;
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                problems.push(node.problem(format!(
                    "expected {expected}, found {}: {error}",
                    node.found()
                )));
                None
            }
        }
    }
}

/// A reader for an enumeration: accepts the listed words and lists them when it meets another.
pub fn word<T: Copy>(words: &[(&str, T)]) -> impl Fn(&Node, &Problems) -> Option<T> {
    move |node, problems| one_of(node, words, problems)
}

/// A reader for a list; reports every bad item, and gives the list only if there was none.
pub fn list<'n, T>(
    read: impl Fn(&'n Node, &'n Problems) -> Option<T>,
) -> impl Fn(&'n Node, &'n Problems) -> Option<Vec<T>> {
    move |node, problems| {
        let Value::List(items) = &node.value else {
            problems.push(node.problem(format!("expected a list, found {}", node.found())));
            return None;
        };
        // Not `collect::<Option<_>>`, which would stop at the first bad item.
        let read: Vec<Option<T>> = items.iter().map(|item| read(item, problems)).collect();
        read.into_iter().collect()
    }
}

fn scalar<T>(
    node: &Node,
    problems: &Problems,
    expected: &str,
    read: impl FnOnce(&str, bool) -> Option<T>,
) -> Option<T> {
    let value = match &node.value {
        Value::Scalar { text, quoted } => read(text, *quoted),
        _ => None,
    };
    if value.is_none() {
        problems.push(node.problem(format!("expected {expected}, found {}", node.found())));
    }
    value
}

fn split_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    Some((count.parse().ok()?, unit))
}

fn looks_boolean(plain: &str) -> bool {
    ["true", "false"]
        .iter()
        .any(|word| plain.eq_ignore_ascii_case(word))
}

fn looks_numeric(plain: &str) -> bool {
    // `inf` and `nan` are numbers to Rust, not to YAML.
    let has_digit = plain.bytes().any(|byte| byte.is_ascii_digit());
    has_digit && plain.parse::<f64>().is_ok() || plain.starts_with("0x") || plain.starts_with("0o")
}
