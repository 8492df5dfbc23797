use policy::Decision;
use proptest::{prelude::*, sample::select};

use super::*;

const CALLERS: [&str; 3] = [
    FRONTEND,
    "spiffe://prod.example/ns/shop/sa/cart",
    "spiffe://prod.example/ns/pay/sa/cart",
];
/// Days of November 2026.
const DAYS: std::ops::Range<u8> = 1..31;

/// A grant or a guard as both sides get it.
#[derive(Debug, Clone)]
struct Rule {
    kind: Kind,
    /// Who is granted, or excepted from a guard; indices into [`CALLERS`].
    callers: Vec<usize>,
    /// Empty: every port.
    ports: Vec<u16>,
    /// For grants: the first and the last day, at midnight.
    days: (u8, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    GrantOfConnections,
    GrantOfRequests,
    Guard,
}

fn rule() -> impl Strategy<Value = Rule> {
    let kind = select(vec![
        Kind::GrantOfConnections,
        Kind::GrantOfConnections,
        Kind::GrantOfConnections,
        Kind::GrantOfRequests,
        Kind::Guard,
    ]);
    let callers = prop::sample::subsequence(vec![0, 1, 2], 1..3);
    let ports = prop::sample::subsequence(vec![80, 5432, 5433], 0..3);
    (kind, callers, ports, DAYS, DAYS).prop_map(|(kind, callers, ports, a, b)| Rule {
        kind,
        callers,
        ports,
        days: (a.min(b), a.max(b) + 1),
    })
}

impl Rule {
    fn document(&self, name: &str) -> String {
        let callers: Vec<String> = self
            .callers
            .iter()
            .map(|index| format!("\"{}\"", CALLERS[*index]))
            .collect();
        let callers = callers.join(", ");
        let ports = match &self.ports[..] {
            [] => String::new(),
            ports => format!("ports: {ports:?}, "),
        };
        let allow = match self.kind {
            Kind::Guard => {
                let spec = format!("{ports}deny: [{{path: /debug}}], except: [{callers}]");
                return guard(name, &spec);
            }
            Kind::GrantOfConnections => "{tcp: true}",
            Kind::GrantOfRequests => "{methods: [\"*\"], path: \"/**\"}",
        };
        let (first, last) = (midnight(self.days.0), midnight(self.days.1));
        let validity = format!("validity: {{notBefore: {first}, notAfter: {last}}}");
        let spec = format!("{ports}from: [{callers}], allow: [{allow}], {validity}");
        document("Grant", name, &spec)
    }

    fn speaks_of(&self, caller: usize, port: u16) -> bool {
        let names_caller = self.callers.contains(&caller) != (self.kind == Kind::Guard);
        names_caller && (self.ports.is_empty() || self.ports.contains(&port))
    }
}

fn midnight(day: u8) -> String {
    match day {
        31 => "2026-12-01T00:00:00Z".to_owned(),
        _ => format!("2026-11-{day:02}T00:00:00Z"),
    }
}

/// The last day on which the connection may go on, if it may begin.
fn oracle(rules: &[Rule], caller: usize, port: u16, day: u8) -> Option<u8> {
    let mut speaking = rules.iter().filter(|rule| rule.speaks_of(caller, port));
    if speaking.clone().any(|rule| rule.kind == Kind::Guard) {
        return None;
    }
    let mut last = None;
    for rule in speaking.by_ref() {
        if rule.kind == Kind::GrantOfConnections && rule.days.0 <= day && day <= rule.days.1 {
            last = last.max(Some(rule.days.1));
        }
    }
    last
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn engine_and_oracle_agree_on_connections(
        rules in prop::collection::vec(rule(), 0..7),
        questions in prop::collection::vec((0..CALLERS.len(), select(vec![80, 5432, 5433, 1]), DAYS), 16),
    ) {
        let documents = rules.iter().enumerate().map(|(index, rule)| rule.document(&format!("r{index}")));
        let text = documents.collect::<String>();
        for (caller, port, day) in questions {
            // A policy of its own, since an earlier day would not be believed after a later one.
            let policy = policy(&text);
            let view = policy.view(Caller::Identity(&id(CALLERS[caller])), &id(ORDERS), port);
            let until = match view.admit(at(&midnight(day))) {
                Decision::Allow(allow) => Some(allow.until()),
                _ => None,
            };
            let last = oracle(&rules, caller, port, day);
            let expected = last.map(|last| Some(at(&midnight(last)) + std::time::Duration::from_nanos(1)));
            prop_assert_eq!(until, expected, "caller {} to port {} on day {}", caller, port, day);
        }
    }
}
