//! `from`, `to` and `ports`: whom a document speaks of, and whom it may.

use identity::SpiffeId;

use super::{Meta, non_empty};
use crate::{
    pattern::IdPattern,
    yaml::{self, Map, Node, Problems, shown},
};

/// The callees and ports a document speaks of.
#[derive(Debug)]
pub(crate) struct Scope {
    /// Never empty.
    pub(crate) to: Vec<IdPattern>,
    /// Empty: every port.
    pub(crate) ports: Vec<u16>,
}

impl Scope {
    pub(crate) fn reaches(&self, callee: &SpiffeId, port: u16) -> bool {
        self.has_port(port) && self.to.iter().any(|to| to.matches_id(callee))
    }

    pub(crate) fn has_port(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    /// Whether this reaches everything that `other` reaches.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let ports = match &other.ports[..] {
            [] => self.ports.is_empty(),
            theirs => theirs.iter().all(|port| self.has_port(*port)),
        };
        ports && IdPattern::all_covered(&other.to, &self.to)
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let ports = match (&self.ports[..], &other.ports[..]) {
            ([], _) | (_, []) => true,
            (mine, theirs) => mine.iter().any(|port| theirs.contains(port)),
        };
        ports
            && self
                .to
                .iter()
                .any(|mine| other.to.iter().any(|theirs| mine.overlaps(theirs)))
    }
}

/// `to` and `ports`. A document speaks only for workloads of its own namespace, unless it stands in the root namespace
/// (DESIGN, invariant 12).
pub(super) fn scope(map: &mut Map<'_>, meta: &Meta) -> Option<Scope> {
    let own = |node: &Node, problems: &Problems| {
        let pattern = id_pattern(node, problems)?;
        let namespace = &meta.namespace;
        if pattern.trust_domain().is_none() {
            problems.push(node.problem("expected a SPIFFE ID: a callee always has one"));
        } else if !meta.is_root && !pattern.is_within(namespace) {
            problems.push(node.problem(format!(
                "a document of namespace `{namespace}` may name only workloads in /ns/{namespace}/..., found {}",
                shown(pattern.as_str())
            )));
        }
        Some(pattern)
    };
    let to = map.required("to", |node, problems| non_empty(node, problems, own));
    let ports = map.optional("ports", |node, problems| non_empty(node, problems, port));
    Some(Scope {
        to: to?,
        ports: ports.unwrap_or_default(),
    })
}

pub(super) fn port(node: &Node, problems: &Problems) -> Option<u16> {
    let port = yaml::number(node, problems)?;
    if port == 0 {
        problems.push(node.problem("expected a port from 1 to 65535, found 0"));
    }
    Some(port)
}

fn id_pattern(node: &Node, problems: &Problems) -> Option<IdPattern> {
    yaml::parsed("a SPIFFE ID, with `*` for a segment or a final `/**`")(node, problems)
}

pub(super) fn id_patterns(node: &Node, problems: &Problems) -> Option<Vec<IdPattern>> {
    non_empty(node, problems, id_pattern)
}
