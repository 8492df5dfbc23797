//! `policy test`: the tests in documents and in Test documents, put to the proxy's evaluator.

use std::{collections::HashSet, time::SystemTime};

use identity::{SpiffeId, TrustDomain};
use serde::Serialize;

use crate::{
    Caller, Headers, Policy,
    document::{self, TestCase, Validity},
    explain::{Call, Explanation, Question, Request, explain},
    is_same_field,
    pattern::IdPattern,
    yaml::{Problem, shown},
};

/// What came of running all tests.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub passed: usize,
    pub failures: Vec<Failure>,
    /// Grants and guards that decided no test, `namespace/name`.
    pub unreached: Vec<String>,
}

/// A test whose answer is not the one its author expects.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// `file:line`.
    pub at: String,
    pub expected: &'static str,
    pub found: Explanation,
}

/// Runs every test of a policy. `now` is used only where neither the test nor its document says when.
///
/// # Errors
/// Tests that cannot be asked: an ID that is none, a callee that is not clear.
pub fn run(policy: &Policy, now: SystemTime) -> Result<Report, Vec<Problem>> {
    let rules = policy.rules();
    let mut run = Run {
        policy,
        report: Report::default(),
        problems: Vec::new(),
        reached: HashSet::new(),
    };
    for grant in &rules.grants {
        let at = inside(&grant.validity, now);
        let context = Context::new(&grant.from, &grant.scope.to, &grant.scope.ports, at);
        grant.tests.iter().for_each(|case| run.case(case, &context));
    }
    for guard in &rules.guards {
        let context = Context::new(&guard.scope.to, &guard.scope.to, &guard.scope.ports, now);
        guard.tests.iter().for_each(|case| run.case(case, &context));
    }
    for file in &rules.tests {
        let context = Context {
            trust_domain: Some(file.to.trust_domain()),
            callee: Some(file.to.clone()),
            port: 80,
            at: now,
        };
        file.tests.iter().for_each(|case| run.case(case, &context));
    }
    let names = rules
        .grants
        .iter()
        .map(|g| &g.name)
        .chain(rules.guards.iter().map(|g| &g.name));
    run.report.unreached = names
        .filter(|name| !run.reached.contains(*name))
        .cloned()
        .collect();
    if run.problems.is_empty() {
        Ok(run.report)
    } else {
        Err(run.problems)
    }
}

/// An instant at which a grant holds, so that no test breaks on a date.
fn inside(validity: &Validity, now: SystemTime) -> SystemTime {
    match (validity.not_before, validity.not_after) {
        _ if validity.contains(now) => now,
        (Some(start), _) => start,
        (None, Some(end)) => end,
        (None, None) => now,
    }
}

/// What a document says for all its tests.
struct Context {
    /// Short IDs belong to it.
    trust_domain: Option<TrustDomain>,
    callee: Option<SpiffeId>,
    port: u16,
    at: SystemTime,
}

impl Context {
    fn new(ids: &[IdPattern], to: &[IdPattern], ports: &[u16], at: SystemTime) -> Self {
        let callee = match to {
            [only] => only.literal(),
            _ => None,
        };
        let trust_domain = ids
            .iter()
            .chain(to)
            .find_map(IdPattern::trust_domain)
            .cloned();
        Self {
            trust_domain,
            callee,
            port: ports.first().copied().unwrap_or(80),
            at,
        }
    }

    fn id(&self, text: &str) -> Option<SpiffeId> {
        if text.contains("://") {
            return SpiffeId::parse(text).ok();
        }
        SpiffeId::parse(&format!("spiffe://{}/{text}", self.trust_domain.as_ref()?)).ok()
    }
}

struct Run<'p> {
    policy: &'p Policy,
    report: Report,
    problems: Vec<Problem>,
    reached: HashSet<String>,
}

impl Run<'_> {
    fn case(&mut self, case: &TestCase, context: &Context) {
        match self.ask(case, context) {
            Err(problem) => self.problems.push(problem),
            Ok(found) => {
                self.reached.extend(found.rule.clone());
                let expected = case.expect.as_str();
                if found.decision.as_str() == expected {
                    self.report.passed += 1;
                } else {
                    let at = format!("{}:{}", case.place.file(), case.place.line());
                    self.report.failures.push(Failure {
                        at,
                        expected,
                        found,
                    });
                }
            }
        }
    }

    fn ask(&self, case: &TestCase, context: &Context) -> Result<Explanation, Problem> {
        let id = |text: &str| {
            let unreadable = || {
                case.place.problem(format!(
                    "expected a SPIFFE ID or its path, found {}",
                    shown(text)
                ))
            };
            context.id(text).ok_or_else(unreadable)
        };
        let callee = match (&case.to, &context.callee) {
            (Some(to), _) => id(to)?,
            (None, Some(callee)) => callee.clone(),
            (None, None) => {
                return Err(case
                    .place
                    .problem("expected the key `to`: the document has several callees"));
            }
        };
        let from = if case.from == "unauthenticated" {
            None
        } else {
            Some(id(&case.from)?)
        };
        let rpc;
        let mut headers = case.headers.clone();
        let request = match &case.call {
            document::Call::Http { method, target } => Some((*method, target.as_str())),
            document::Call::Grpc(path) => {
                headers.push(("content-type".to_owned(), "application/grpc".to_owned()));
                rpc = format!("/{path}");
                Some(("POST", rpc.as_str()))
            }
            document::Call::Tcp => None,
        };
        let fields = Fields(&headers);
        let call = request.map_or(Call::Tcp, |(method, target)| {
            Call::Request(Request {
                method,
                target,
                host: case.host.as_deref(),
                headers: &fields,
            })
        });
        let question = Question {
            caller: from
                .as_ref()
                .map_or(Caller::Unauthenticated, Caller::Identity),
            callee: &callee,
            port: case.port.unwrap_or(context.port),
            call,
            at: case.at.unwrap_or(context.at),
        };
        Ok(explain(self.policy, &question))
    }
}

/// Header fields from a list of names in lower case and values.
#[derive(Debug)]
pub struct Fields<'f>(pub &'f [(String, String)]);

impl Headers for Fields<'_> {
    fn values(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        self.0
            .iter()
            .filter(|(field, _)| is_same_field(field, name))
            .for_each(|(_, value)| see(value.as_bytes()));
    }
}
