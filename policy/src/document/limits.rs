//! `limits`, in a Grant and in a Limit document (POLICY.md, section 6).

use std::collections::HashSet;

use super::later;
use crate::{
    limit::{Definition, Key, LimitSpec, Rate},
    pattern::Method,
    yaml::{self, Node, Problems},
};

/// What the limits of a document count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// Requests; beside them perhaps connections, which then share one budget where a key asks for parts of a request.
    Requests,
    /// Opaque TCP connections alone.
    Connections,
}

pub(super) fn limits(
    document: &str,
    counted: Counted,
    node: &Node,
    problems: &Problems,
) -> Option<Vec<LimitSpec>> {
    let read = |node: &Node, problems: &Problems| limit(document, counted, node, problems);
    let limits = yaml::list(read)(node, problems)?;
    let mut seen = HashSet::new();
    if let Some(twice) = limits.iter().find(|limit| !seen.insert(limit.alias())) {
        problems.push(node.problem(format!("two limits have the name `{}`", twice.alias())));
    }
    Some(limits)
}

fn limit(document: &str, counted: Counted, node: &Node, problems: &Problems) -> Option<LimitSpec> {
    yaml::map(node, problems, |map| {
        later::refuse(map, later::LIMIT);
        let name = map.required("name", yaml::text);
        let key = map.optional("key", yaml::list(yaml::parsed::<Key>("what to count by")));
        let rate = map.required("rate", yaml::parsed::<Rate>("a rate"));
        let burst = map.optional("burst", yaml::number);
        let cost = map.optional("cost", costs);
        let ipv6_prefix = map.optional("ipv6Prefix", yaml::number);
        if counted == Counted::Connections {
            connections_only(node, key.as_deref(), cost.as_deref(), problems);
        }
        let alias = name?;
        let definition = Definition {
            id: format!("{document}/{alias}"),
            alias,
            key: key.unwrap_or_default(),
            rate: rate?,
            burst,
            cost: cost.unwrap_or_default(),
            ipv6_prefix: ipv6_prefix.unwrap_or(Definition::IPV6_PREFIX),
        };
        LimitSpec::new(definition)
            .map_err(|error| problems.push(node.problem(error.to_string())))
            .ok()
    })
}

/// A limit that asks for what a connection does not have would say less than it seems to.
fn connections_only(
    node: &Node,
    key: Option<&[Key]>,
    cost: Option<&[(String, u32)]>,
    problems: &Problems,
) {
    if key.is_some_and(|keys| keys.iter().any(Key::is_of_request)) {
        problems.push(node.problem(
            "a limit on TCP connections counts by identity, namespace or clientIp; a connection has no route, method or header",
        ));
    }
    if cost.is_some() {
        problems.push(node.problem("a limit on TCP connections has no `cost`: each costs 1"));
    }
}

fn costs(node: &Node, problems: &Problems) -> Option<Vec<(String, u32)>> {
    yaml::map(node, problems, |map| {
        let mut costs = Vec::new();
        for (method, cost) in map.rest() {
            let cost_of_one = yaml::number(cost, problems)?;
            match method.parse::<Method>() {
                Ok(_) => costs.push((method.to_owned(), cost_of_one)),
                Err(error) => {
                    problems.push(cost.problem(format!("expected a method as the key: {error}")));
                }
            }
        }
        Some(costs)
    })
}
