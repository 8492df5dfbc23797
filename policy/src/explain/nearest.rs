//! For what no grant allows: which one nearly does, and what of it does not hold.

use std::fmt;

use super::{Failed, Nearest, Question, instant};
use crate::{
    Attributes, Policy,
    document::{Clause, Grant},
    engine::Mismatch,
    pattern::{Methods, segments},
    yaml::Place,
};

/// Beyond so many conditions that do not hold there is no telling what a rule's author meant.
const MAX_FAILED: usize = 2;

/// The rule with the fewest conditions that do not hold; of several, the one whose path agrees longest.
pub(super) fn to_request(
    policy: &Policy,
    question: &Question<'_>,
    request: &Attributes<'_>,
) -> Option<Nearest> {
    let rules = policy.rules().grants.iter().flat_map(|grant| {
        grant
            .allow
            .requests
            .iter()
            .map(move |clause| (grant, clause))
    });
    let misses = rules.map(|(grant, clause)| {
        let failed = [
            failed_scope(grant, question),
            failed_clause(clause, request),
        ]
        .concat();
        (grant, clause, failed)
    });
    let (grant, clause, failed) = misses
        .filter(|(_, _, failed)| failed.len() <= MAX_FAILED)
        .min_by_key(|(_, clause, failed)| {
            (failed.len(), usize::MAX - agreement(clause, request.path))
        })?;
    Some(nearest(grant, &clause.place, failed))
}

/// Among the grants of connections, the one with the fewest conditions that do not hold.
pub(super) fn to_connection(policy: &Policy, question: &Question<'_>) -> Option<Nearest> {
    let grants = policy.rules().grants.iter();
    let grants = grants.filter_map(|grant| Some((grant, grant.allow.tcp.as_ref()?)));
    let misses = grants.map(|(grant, place)| (grant, place, failed_scope(grant, question)));
    let (grant, place, failed) = misses
        .filter(|(_, _, failed)| failed.len() <= MAX_FAILED)
        .min_by_key(|(_, _, failed)| failed.len())?;
    Some(nearest(grant, place, failed))
}

fn nearest(grant: &Grant, place: &Place, failed: Vec<Failed>) -> Nearest {
    Nearest {
        grant: grant.name.clone(),
        at: format!("{}:{}", place.file(), place.line()),
        failed,
    }
}

/// How many leading segments of the pattern and the path are equal.
fn agreement(clause: &Clause, path: &str) -> usize {
    let pattern = segments(clause.path.as_str());
    pattern
        .zip(segments(path))
        .take_while(|(pattern, segment)| pattern == segment)
        .count()
}

/// What of a grant does not hold for caller, callee, port and instant.
fn failed_scope(grant: &Grant, question: &Question<'_>) -> Vec<Failed> {
    let mut failed = Vec::new();
    let mut fail = |clause, expected, found| failed.push(Failed::new(clause, expected, found));
    let scope = &grant.scope;
    if !grant.from.iter().any(|from| from.matches(question.caller)) {
        fail("from", one_of(&grant.from), question.caller.to_string());
    }
    if !scope.to.iter().any(|to| to.matches_id(question.callee)) {
        fail("to", one_of(&scope.to), question.callee.to_string());
    }
    if !scope.has_port(question.port) {
        fail("ports", one_of(&scope.ports), question.port.to_string());
    }
    if !grant.validity.contains(question.at) {
        let (start, end) = (grant.validity.not_before, grant.validity.not_after);
        let expected = format!("{} to {}", instant(start, "always"), instant(end, "never"));
        fail("validity", expected, instant(Some(question.at), ""));
    }
    failed
}

/// What of a rule does not hold for a request.
fn failed_clause(clause: &Clause, request: &Attributes<'_>) -> Vec<Failed> {
    let mut failed = Vec::new();
    let mut fail = |clause, expected, found| failed.push(Failed::new(clause, expected, found));
    if !clause.path.matches(request.path) {
        fail("path", clause.path.to_string(), request.path.to_owned());
    }
    match clause.mismatch(request) {
        Some(Mismatch::Protocol) => fail(
            "grpc",
            "a gRPC call: POST with content-type application/grpc".to_owned(),
            "none".to_owned(),
        ),
        Some(Mismatch::Method) => fail(
            "methods",
            methods(&clause.methods),
            request.method.to_owned(),
        ),
        Some(Mismatch::Host) => fail("hosts", one_of(&clause.hosts), request.host.to_owned()),
        Some(Mismatch::Header(index)) => {
            let rule = &clause.headers[index];
            fail(
                "headers",
                rule.to_string(),
                format!("{} as sent", rule.name),
            );
        }
        None => {}
    }
    failed
}

impl Failed {
    fn new(clause: &'static str, expected: String, found: String) -> Self {
        Self {
            clause,
            expected,
            found,
        }
    }
}

fn one_of<T: fmt::Display>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    items.join(", ")
}

fn methods(methods: &Methods) -> String {
    match methods {
        Methods::Any => "*".to_owned(),
        Methods::Listed(listed) => one_of(listed),
    }
}
