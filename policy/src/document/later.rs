//! What POLICY.md describes and this version does not do yet.
//!
//! Fail closed: a document that relies on one of these is refused, since without it the document would say something
//! else. Implementing one means taking it from here into the reader of its kind.

use crate::yaml::{Map, Node, Problems};

const KINDS: &[&str] = &["Quarantine", "BreakGlass"];

/// Conditions, and grants that are decided and logged without effect.
pub(super) const GRANT: &[&str] = &["when", "mode", "replaces"];
pub(super) const GUARD: &[&str] = &["when"];
pub(super) const LIMIT: &[&str] = &[
    "concurrency",
    "mode",
    "onExceed",
    "fairness",
    "scope",
    "whenDown",
];

pub(super) fn refuse(map: &mut Map<'_>, keys: &'static [&'static str]) {
    for key in keys {
        map.refuse(key, &format!("`{key}` is not supported yet"));
    }
}

pub(super) fn is_kind_of_later(node: &Node, problems: &Problems) -> bool {
    let Some(kind) = KINDS.iter().find(|kind| node.is_word(kind)) else {
        return false;
    };
    problems.push(node.problem(format!("documents of kind {kind} are not supported yet")));
    true
}
