//! Tests of the policy crate through its public API.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a panic is a failed test"
)]

/// Deciding allocates nothing, whatever the number of grants.
mod allocation;
/// Connections against an oracle as dull as that of requests.
mod connection_oracle;
/// Opaque TCP: who may open a connection, what cuts it off, when it ends.
mod connections;
/// The bypass corpus, as far as policy alone can answer it.
mod corpus;
/// Guards, specificity, validity, limits: what decides.
mod decisions;
/// Metamorphic laws over generated policies and requests.
mod laws;
/// How servers get from a target to a resource.
mod normalisers;
/// Decisions against a dull oracle, and against what servers make of a path.
mod oracle;
/// What a callee's port takes beyond the strict profile: upgrades, HTTP/1.0, CORS preflights.
mod profiles;
/// Documents that must not be accepted, and what their authors are told.
mod refusals;
/// explain, lint and test.
mod tools;

use std::time::SystemTime;

use identity::SpiffeId;
use policy::{
    Caller, Options, Policy, Source,
    explain::{Call, Explanation, Question, Request, explain},
    testing::Fields,
    yaml,
};

pub(crate) const FRONTEND: &str = "spiffe://prod.example/ns/shop/sa/frontend";
pub(crate) const ORDERS: &str = "spiffe://prod.example/ns/shop/sa/orders";

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

/// The instant most tests decide at.
pub(crate) fn now() -> SystemTime {
    at("2026-11-22T00:00:00Z")
}

pub(crate) fn at(text: &str) -> SystemTime {
    yaml::parse_timestamp(text).unwrap()
}

pub(crate) fn source(text: &str) -> Source {
    Source {
        name: "p.yaml".to_owned(),
        text: text.to_owned(),
    }
}

pub(crate) fn policy(text: &str) -> Policy {
    // A file without a document would be refused.
    let sources = if text.is_empty() {
        vec![]
    } else {
        vec![source(text)]
    };
    policy::compile(&sources, &Options::default())
        .unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// A document of the shop namespace; `spec` is YAML in flow style, without the braces.
pub(crate) fn document(kind: &str, name: &str, spec: &str) -> String {
    let purpose = "purpose: {id: p, owner: o}";
    format!(
        "---\napiVersion: tipstaff.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{to: [\"{ORDERS}\"], {purpose}, {spec}}}\n"
    )
}

/// A grant for the front end that never ends.
pub(crate) fn grant(name: &str, spec: &str) -> String {
    document(
        "Grant",
        name,
        &format!("from: [\"{FRONTEND}\"], validity: {{notAfter: never, because: test}}, {spec}"),
    )
}

pub(crate) fn guard(name: &str, spec: &str) -> String {
    document("Guard", name, spec)
}

/// Asks as the front end for something of the orders service.
pub(crate) fn ask(
    policy: &Policy,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Explanation {
    let own = |(name, value): &(&str, &str)| (name.to_ascii_lowercase(), (*value).to_owned());
    let headers: Vec<(String, String)> = headers.iter().map(own).collect();
    let host = headers
        .iter()
        .find(|(name, _)| name == "host")
        .map(|(_, host)| host.as_str());
    explain(
        policy,
        &Question {
            caller: Caller::Identity(&id(FRONTEND)),
            callee: &id(ORDERS),
            port: 8080,
            call: Call::Request(Request {
                method,
                target,
                host,
                headers: &Fields(&headers),
            }),
            at: now(),
        },
    )
}

/// The decision alone: `allow`, `deny` or `reject`.
pub(crate) fn verdict(policy: &Policy, method: &str, target: &str) -> &'static str {
    ask(policy, method, target, &[]).decision.as_str()
}
