//! The documents as written (POLICY.md, section 1), read into types that cannot be wrong on their own.
//!
//! What concerns several documents at once (unique names, conflicting profiles) is [`crate::compile`]'s. Everything
//! that the format reserves and this version does not do yet is listed in [`later`] and refused, never skipped.

mod clause;
mod http_profile;
mod later;
mod limits;
mod scope;
mod test_case;
mod validity;

pub(crate) use clause::{Clause, Clauses};
pub(crate) use scope::Scope;
pub(crate) use test_case::{Call, TestCase, TestFile};
pub(crate) use validity::Validity;

use crate::{
    limit::LimitSpec,
    pattern::IdPattern,
    profile::HttpProfile,
    yaml::{self, Map, Node, Place, Problems, shown},
};
use clause::{Role, clauses};
use http_profile::http_profile;
use limits::Counted;
use scope::{id_patterns, port, scope};
use validity::validity;

const API_VERSION: &str = "tipstaff.dev/v1alpha1";

/// One document.
#[derive(Debug)]
pub(crate) enum Document {
    Grant(Grant),
    Guard(Guard),
    Limit(SharedLimit),
    HttpProfile(ScopedProfile),
    Test(TestFile),
}

/// Who may do what to whom, why and until when.
#[derive(Debug)]
pub(crate) struct Grant {
    /// `namespace/name`.
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) from: Vec<IdPattern>,
    pub(crate) scope: Scope,
    /// Either requests or opaque TCP connections.
    pub(crate) allow: Clauses,
    pub(crate) validity: Validity,
    pub(crate) limits: Vec<LimitSpec>,
    pub(crate) tests: Vec<TestCase>,
}

/// What nobody may do, whatever is granted.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) scope: Scope,
    pub(crate) deny: Clauses,
    pub(crate) except: Vec<IdPattern>,
    pub(crate) tests: Vec<TestCase>,
}

/// Limits that belong to no single grant.
#[derive(Debug)]
pub(crate) struct SharedLimit {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) scope: Scope,
    pub(crate) matching: Clauses,
    pub(crate) limits: Vec<LimitSpec>,
}

/// How requests to a port are read.
#[derive(Debug)]
pub(crate) struct ScopedProfile {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) scope: Scope,
    pub(crate) profile: HttpProfile,
}

/// Reads one document; reports what is wrong with it and gives `None` then, at the latest when the caller looks at
/// `problems`.
pub(crate) fn read(node: &Node, root_namespace: &str, problems: &Problems) -> Option<Document> {
    yaml::map(node, problems, |map| {
        map.required("apiVersion", yaml::word(&[(API_VERSION, ())]));
        let kind = map.required("kind", kind);
        let meta = map.required("metadata", |node, problems| {
            meta(node, root_namespace, problems)
        });
        // Without a kind there is no telling what the spec should hold; asking keeps it from counting as unknown.
        let Some(spec) = map.node_of("spec") else {
            problems.push(node.problem("expected the key `spec`, which is missing"));
            return None;
        };
        let (kind, meta) = (kind?, meta?);
        yaml::map(spec, problems, |map| kind(map, meta))
    })
}

/// Reads the `spec` of one kind.
type SpecReader = fn(&mut Map<'_>, Meta) -> Option<Document>;

fn kind(node: &Node, problems: &Problems) -> Option<SpecReader> {
    if later::is_kind_of_later(node, problems) {
        return None;
    }
    let words: [(&str, SpecReader); 5] = [
        ("Grant", grant),
        ("Guard", guard),
        ("Limit", shared_limit),
        ("HttpProfile", http_profile),
        ("Test", test_case::test_file),
    ];
    yaml::word(&words)(node, problems)
}

/// Who a document is and for whom it may speak.
struct Meta {
    name: String,
    place: Place,
    namespace: String,
    is_root: bool,
}

fn meta(node: &Node, root_namespace: &str, problems: &Problems) -> Option<Meta> {
    yaml::map(node, problems, |map| {
        let name = map.required("name", name);
        let namespace = map.required("namespace", self::name);
        let (name, namespace) = (name?, namespace?);
        Some(Meta {
            name: format!("{namespace}/{name}"),
            place: node.place().clone(),
            is_root: namespace == root_namespace,
            namespace,
        })
    })
}

/// A name that can stand in a path, a metric or a log line as it is.
fn name(node: &Node, problems: &Problems) -> Option<String> {
    let text = yaml::text(node, problems)?;
    let fits = text.len() <= 253
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if text.is_empty() || !fits {
        let found = shown(&text);
        problems.push(node.problem(format!(
            "expected a name of letters, digits, '-', '_' or '.', found {found}"
        )));
        return None;
    }
    Some(text)
}

fn grant(map: &mut Map<'_>, meta: Meta) -> Option<Document> {
    later::refuse(map, later::GRANT);
    let from = map.required("from", id_patterns);
    let scope = scope(map, &meta);
    let allow = map.required("allow", |node, problems| {
        clauses(Role::Grant, node, problems)
    });
    purpose(map, Presence::Required);
    let validity = map.required("validity", validity);
    let counted = allow.as_ref().map_or(Counted::Requests, Clauses::counted);
    let limits = map.optional("limits", |node, problems| {
        limits::limits(&meta.name, counted, node, problems)
    });
    let tests = map.optional("tests", test_case::test_cases);
    Some(Document::Grant(Grant {
        name: meta.name,
        place: meta.place,
        from: from?,
        scope: scope?,
        allow: allow?,
        validity: validity?,
        limits: limits.unwrap_or_default(),
        tests: tests.unwrap_or_default(),
    }))
}

fn guard(map: &mut Map<'_>, meta: Meta) -> Option<Document> {
    later::refuse(map, later::GUARD);
    let scope = scope(map, &meta);
    let deny = map.required("deny", |node, problems| {
        clauses(Role::Guard, node, problems)
    });
    let except = map.optional("except", id_patterns);
    purpose(map, Presence::Required);
    let tests = map.optional("tests", test_case::test_cases);
    Some(Document::Guard(Guard {
        name: meta.name,
        place: meta.place,
        scope: scope?,
        deny: deny?,
        except: except.unwrap_or_default(),
        tests: tests.unwrap_or_default(),
    }))
}

fn shared_limit(map: &mut Map<'_>, meta: Meta) -> Option<Document> {
    let scope = scope(map, &meta);
    let matching = map.optional("match", |node, problems| {
        clauses(Role::Limit, node, problems)
    });
    let counted = matching
        .as_ref()
        .map_or(Counted::Requests, Clauses::counted);
    let limits = map.required("limits", |node, problems| {
        limits::limits(&meta.name, counted, node, problems)
    });
    purpose(map, Presence::Optional);
    Some(Document::Limit(SharedLimit {
        name: meta.name,
        matching: matching.unwrap_or_else(|| Clauses::everything(&meta.place)),
        place: meta.place,
        scope: scope?,
        limits: limits?,
    }))
}

/// An empty list says neither everyone nor no one clearly enough.
fn non_empty<'n, T>(
    node: &'n Node,
    problems: &'n Problems,
    read: impl Fn(&'n Node, &'n Problems) -> Option<T>,
) -> Option<Vec<T>> {
    let items = yaml::list(read)(node, problems)?;
    if items.is_empty() {
        problems.push(node.problem("expected at least one item, found none"));
    }
    Some(items)
}

#[derive(Clone, Copy)]
enum Presence {
    Required,
    Optional,
}

/// Read for its own sake: nothing is decided by a purpose, but nobody gets away without one.
fn purpose(map: &mut Map<'_>, presence: Presence) {
    let read = |node: &Node, problems: &Problems| {
        yaml::map(node, problems, |map| {
            let id = map.required("id", yaml::text);
            let owner = map.required("owner", yaml::text);
            map.optional("ticket", yaml::text);
            id.and(owner).map(drop)
        })
    };
    match presence {
        Presence::Required => map.required("purpose", read),
        Presence::Optional => map.optional("purpose", read),
    };
}
