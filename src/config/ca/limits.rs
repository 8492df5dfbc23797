//! `limits:`, how much the CA is asked for at most.

use ca::server::Options;
use policy::yaml::{self, Node, Problems};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// Per minute. A CA does not get near the upper end, which so means: no limit.
const PER_MINUTE: RangeInclusive<u32> = 1..=10_000_000;
/// Each waits for the disk once; more than these gain nothing.
const AT_ONCE: RangeInclusive<usize> = 1..=4096;
/// Each holds a message of up to 16 KiB.
const WAITING: RangeInclusive<usize> = 1..=65_536;
/// A call has 10 s in all, of which the certificate takes its part.
const LONGEST_WAIT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(8);

pub(super) fn read(node: &Node, problems: &Problems) -> Option<Options> {
    yaml::map(node, problems, |map| {
        let per_identity = map.optional("certificatesPerMinute", within(PER_MINUTE));
        let per_address = map.optional("certificatesPerMinutePerAddress", within(PER_MINUTE));
        let refusals = map.optional("refusalsPerMinute", within(PER_MINUTE));
        let at_once = map.optional("issuedAtOnce", within(AT_ONCE));
        let waiting = map.optional("waiting", within(WAITING));
        let longest_wait = map.optional("longestWait", longest_wait);
        let handshakes = map.optional("handshakesAtOnce", within(AT_ONCE));
        let reads = map.optional("readsPerMinutePerAddress", within(PER_MINUTE));
        let default = Options::default();
        Some(Options {
            certificates_per_minute: per_identity.unwrap_or(default.certificates_per_minute),
            certificates_per_minute_per_address: per_address
                .unwrap_or(default.certificates_per_minute_per_address),
            refusals_per_minute: refusals.unwrap_or(default.refusals_per_minute),
            issued_at_once: at_once.unwrap_or(default.issued_at_once),
            waiting: waiting.unwrap_or(default.waiting),
            longest_wait: longest_wait.unwrap_or(default.longest_wait),
            handshakes_at_once: handshakes.unwrap_or(default.handshakes_at_once),
            reads_per_minute_per_address: reads.unwrap_or(default.reads_per_minute_per_address),
            ..default
        })
    })
}

fn within<T>(range: RangeInclusive<T>) -> impl Fn(&Node, &Problems) -> Option<T>
where
    T: FromStr + PartialOrd + Display,
{
    move |node, problems| {
        let number = yaml::number(node, problems)?;
        if range.contains(&number) {
            return Some(number);
        }
        let (least, most) = (range.start(), range.end());
        problems.push(node.problem(format!("expected {least} to {most}, found {number}")));
        None
    }
}

fn longest_wait(node: &Node, problems: &Problems) -> Option<Duration> {
    let wait = yaml::duration(node, problems)?;
    if LONGEST_WAIT.contains(&wait) {
        return Some(wait);
    }
    problems.push(node.problem(format!(
        "expected {} ms to {} s, found {} ms",
        LONGEST_WAIT.start().as_millis(),
        LONGEST_WAIT.end().as_secs(),
        wait.as_millis()
    )));
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const REFERENCE: &str = include_str!("../../../docs/reference.md");

    fn limits(text: &str) -> Result<Options, String> {
        let problems = Problems::new();
        let node = yaml::parse_one("ca.yaml", text, &problems);
        let limits = node.and_then(|node| read(&node, &problems));
        problems
            .or_value(limits)
            .map_err(|problems| crate::config::problems_text(&problems))
    }

    /// Key and default of each row.
    fn documented() -> BTreeMap<&'static str, &'static str> {
        let table = REFERENCE.split("| limit of the CA |").nth(1).unwrap();
        let rows = table.lines().skip(2);
        rows.take_while(|row| row.starts_with('|'))
            .map(|row| {
                let mut cells = row.split('|').skip(1).map(str::trim);
                let key = cells.next().unwrap().trim_matches('`');
                (key.strip_prefix("limits.").unwrap(), cells.next().unwrap())
            })
            .collect()
    }

    #[test]
    fn the_reference_has_a_row_for_each_limit_and_the_right_default() {
        let documented = documented();
        let default = format!("{:?}", Options::default());
        for (key, value) in &documented {
            let told = limits(&format!("{key}: {value}\n")).unwrap();
            assert_eq!(format!("{told:?}"), default, "{key}");
        }
        // Each of them is another number, so that all of them together change as many.
        let told: String = documented
            .keys()
            .map(|key| match *key {
                "longestWait" => format!("{key}: 7s\n"),
                key => format!("{key}: 77\n"),
            })
            .collect();
        let told = format!("{:?}", limits(&told).unwrap());
        let changed = told.matches(": 77,").count() + told.matches(": 7s,").count();
        assert_eq!((changed, documented.len()), (8, 8), "{told}");
    }

    #[test]
    fn a_limit_that_cannot_be_is_said_with_its_line_and_all_of_them_at_once() {
        let said = limits(
            "certificatesPerMinute: 0\ncertificatesPerMinutePerAddress: -1\nissuedAtOnce: 5000\n\
             waiting: 1.5\nlongestWait: 9s\nhandshakesAtOnce: '64'\nper: minute\n",
        )
        .unwrap_err();
        for (line, words) in [
            (1, "certificatesPerMinute: expected 1 to 10000000, found 0"),
            (
                2,
                "certificatesPerMinutePerAddress: expected a whole number",
            ),
            (3, "issuedAtOnce: expected 1 to 4096, found 5000"),
            (4, "waiting: expected a whole number"),
            (5, "longestWait: expected 100 ms to 8 s, found 9000 ms"),
            (6, "handshakesAtOnce: expected a whole number"),
            (7, "per: unknown key"),
        ] {
            let at = format!("ca.yaml:{line}:");
            let found = said
                .lines()
                .any(|problem| problem.starts_with(&at) && problem.contains(words));
            assert!(found, "{at} {words} in\n{said}");
        }
    }
}
