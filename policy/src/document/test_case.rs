//! `tests`, inline and in files of their own (`kind: Test`, by convention in `*.test.yaml`).

use std::time::SystemTime;

use identity::SpiffeId;

use super::{Document, Meta, port};
use crate::{
    pattern::is_token,
    yaml::{self, Map, Node, Place, Problems, shown},
};

/// One question with the answer its author expects.
#[derive(Debug)]
pub(crate) struct TestCase {
    pub(crate) place: Place,
    /// A SPIFFE ID, a short ID without trust domain, or `unauthenticated`.
    pub(crate) from: String,
    /// As `from`; absent where the document has one callee only.
    pub(crate) to: Option<String>,
    pub(crate) port: Option<u16>,
    pub(crate) at: Option<SystemTime>,
    pub(crate) call: Call,
    pub(crate) host: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) expect: Expect,
}

/// What is asked for.
#[derive(Debug)]
pub(crate) enum Call {
    Http {
        method: &'static str,
        target: String,
    },
    /// `service/method`.
    Grpc(String),
    /// An opaque connection.
    Tcp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    Allow,
    Deny,
    Reject,
}

impl Expect {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Expect::Allow => "allow",
            Expect::Deny => "deny",
            Expect::Reject => "reject",
        }
    }
}

/// Tests that belong to no one document.
#[derive(Debug)]
pub(crate) struct TestFile {
    pub(crate) name: String,
    pub(crate) place: Place,
    /// The callee of tests that name none; gives short IDs their trust domain.
    pub(crate) to: SpiffeId,
    pub(crate) tests: Vec<TestCase>,
}

pub(super) fn test_file(map: &mut Map<'_>, meta: Meta) -> Option<Document> {
    let to = map.required("to", yaml::parsed::<SpiffeId>("a SPIFFE ID"));
    let tests = map.required("tests", test_cases);
    Some(Document::Test(TestFile {
        name: meta.name,
        place: meta.place,
        to: to?,
        tests: tests?,
    }))
}

pub(super) fn test_cases(node: &Node, problems: &Problems) -> Option<Vec<TestCase>> {
    yaml::list(test_case)(node, problems)
}

fn test_case(node: &Node, problems: &Problems) -> Option<TestCase> {
    const EXPECT: [(&str, Expect); 3] = [
        ("allow", Expect::Allow),
        ("deny", Expect::Deny),
        ("reject", Expect::Reject),
    ];
    yaml::map(node, problems, |map| {
        let from = map.required("from", yaml::text);
        let to = map.optional("to", yaml::text);
        let port = map.optional("port", port);
        let at = map.optional("at", yaml::timestamp);
        let call = call(map);
        if matches!(call, Some(Call::Tcp)) {
            for key in ["host", "headers"] {
                map.refuse(key, "a TCP connection is decided on without it");
            }
        }
        let host = map.optional("host", yaml::text);
        let headers = map.optional("headers", headers);
        let expect = map.required("expect", yaml::word(&EXPECT));
        Some(TestCase {
            place: node.place().clone(),
            from: from?,
            to,
            port,
            at,
            call: call?,
            host,
            headers: headers.unwrap_or_default(),
            expect: expect?,
        })
    })
}

/// `get: /path` and its like, `grpc: service/method` or `tcp: true`.
fn call(map: &mut Map<'_>) -> Option<Call> {
    const METHODS: [(&str, &str); 9] = [
        ("get", "GET"),
        ("head", "HEAD"),
        ("post", "POST"),
        ("put", "PUT"),
        ("patch", "PATCH"),
        ("delete", "DELETE"),
        ("options", "OPTIONS"),
        ("trace", "TRACE"),
        ("connect", "CONNECT"),
    ];
    let mut calls = Vec::new();
    for (key, method) in METHODS {
        calls.extend(
            map.optional(key, yaml::text)
                .map(|target| Call::Http { method, target }),
        );
    }
    calls.extend(map.optional("grpc", yaml::text).map(Call::Grpc));
    if let Some(node) = map.node_of("tcp") {
        if yaml::boolean(node, map.problems()) == Some(false) {
            map.problems()
                .push(node.problem("expected `true`; leave `tcp` out for a request"));
        }
        calls.push(Call::Tcp);
    }
    if calls.len() != 1 {
        let message = "expected exactly one call, such as `get: /path`, `grpc: service/method` or `tcp: true`";
        map.problems().push(map.node().problem(message));
    }
    calls.pop()
}

fn headers(node: &Node, problems: &Problems) -> Option<Vec<(String, String)>> {
    yaml::map(node, problems, |map| {
        let mut headers = Vec::new();
        for (name, value) in map.rest() {
            if !is_token(name) {
                problems.push(value.problem(format!(
                    "expected a header field name, found {}",
                    shown(name)
                )));
            }
            headers.push((name.to_ascii_lowercase(), yaml::text(value, problems)?));
        }
        Some(headers)
    })
}
