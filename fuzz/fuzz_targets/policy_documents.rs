//! Policy documents: a directory compiles, or every refusal says where; what compiles is the same every time, and opens
//! nothing that no grant of it names.
//!
//! A form feed separates the files of a directory.
#![no_main]

use std::time::{Duration, SystemTime};

use identity::SpiffeId;
use policy::explain::{Call, Question, Request, Verdict, explain};
use policy::testing::{self, Fields};
use policy::yaml::Problem;
use policy::{Caller, Options, Policy, Source, compile, lint};

fuzz::target!(|text: &str| {
    let mut sources: Vec<Source> = text.split('\u{c}').zip(0..).map(source).collect();
    let compiled = compile(&sources, &Options::default());
    sources.reverse();
    let reversed = compile(&sources, &Options::default());
    match (compiled, reversed) {
        (Ok(policy), Ok(reversed)) => {
            laws(&policy);
            assert_eq!(policy.counts(), reversed.counts());
            assert_eq!(policy.fingerprint(), reversed.fingerprint());
        }
        (Err(problems), Err(_)) => told(&problems),
        (one, other) => panic!("the order decides: {one:?}, {other:?}"),
    }
    let nothing = Policy::deny_all();
    assert_eq!(
        ask(&nothing, "spiffe://demo.test/a", Call::Tcp),
        Verdict::Deny
    );
});

fn source((text, index): (&str, usize)) -> Source {
    Source {
        name: format!("{index}.yaml"),
        text: text.to_owned(),
    }
}

fn laws(policy: &Policy) {
    let request = Call::Request(Request {
        method: "GET",
        target: "/a",
        host: Some("orders"),
        headers: &Fields(&[]),
    });
    for call in [request, Call::Tcp] {
        // Grants have a `from`, and patterns name their trust domain, so that a stranger has nothing.
        assert_eq!(
            ask(policy, "spiffe://stranger.invalid/a", call),
            Verdict::Deny
        );
        if policy.counts().grants == 0 {
            assert_eq!(ask(policy, "spiffe://demo.test/a", call), Verdict::Deny);
        }
    }
    // The tools run on whatever compiles.
    told(&lint::lint(policy, now()));
    if let Err(problems) = testing::run(policy, now()) {
        assert!(!problems.is_empty());
        told(&problems);
    }
}

fn told(problems: &[Problem]) {
    for problem in problems {
        assert!(problem.line > 0 && problem.column > 0, "{problem}");
        fuzz::assert_one_line(problem);
    }
}

fn ask(policy: &Policy, caller: &str, call: Call<'_>) -> Verdict {
    let id = |text| SpiffeId::parse(text).expect("a SPIFFE ID");
    let question = Question {
        caller: Caller::Identity(&id(caller)),
        callee: &id("spiffe://demo.test/ns/shop/sa/orders"),
        port: 8080,
        call,
        at: now(),
    };
    explain(policy, &question).decision
}

/// In November 2026.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}
