//! The documents as written (POLICY.md, section 1), read into types that cannot be wrong on their own.
//!
//! What concerns several documents at once (unique names, conflicting profiles) is [`crate::compile`]'s. Everything
//! that the format reserves and this version does not do yet is listed in [`later`] and refused, never skipped.

mod clause;
mod later;
mod limits;
mod test_case;

use std::time::{Duration, SystemTime};

use identity::SpiffeId;

pub(crate) use clause::Clause;
pub(crate) use test_case::{Call, TestCase, TestFile};

use crate::{
    limit::LimitSpec,
    pattern::IdPattern,
    target::{EmptySegments, EncodedSlash, PathParams, Profile},
    yaml::{self, Map, Node, Place, Problems, shown},
};
use clause::{Role, clauses};

const API_VERSION: &str = "tipstaff.dev/v1alpha1";

/// Grants are meant to end; two weeks is what a renewal takes when people are on holiday.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 86_400);

/// One document.
#[derive(Debug)]
pub(crate) enum Document {
    Grant(Grant),
    Guard(Guard),
    Limit(SharedLimit),
    HttpProfile(HttpProfile),
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
    pub(crate) allow: Vec<Clause>,
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
    pub(crate) deny: Vec<Clause>,
    pub(crate) except: Vec<IdPattern>,
    pub(crate) tests: Vec<TestCase>,
}

/// Limits that belong to no single grant.
#[derive(Debug)]
pub(crate) struct SharedLimit {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) scope: Scope,
    pub(crate) matching: Vec<Clause>,
    pub(crate) limits: Vec<LimitSpec>,
}

/// How requests to a port are read.
#[derive(Debug)]
pub(crate) struct HttpProfile {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) scope: Scope,
    pub(crate) profile: Profile,
}

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

/// When a grant holds. Both ends belong to it.
#[derive(Debug)]
pub(crate) struct Validity {
    pub(crate) not_before: Option<SystemTime>,
    /// `None` was written out as `never`, with a reason.
    pub(crate) not_after: Option<SystemTime>,
    pub(crate) warn_before: Duration,
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
    let limits = map.optional("limits", |node, problems| {
        limits::limits(&meta.name, node, problems)
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
    let limits = map.required("limits", |node, problems| {
        limits::limits(&meta.name, node, problems)
    });
    purpose(map, Presence::Optional);
    Some(Document::Limit(SharedLimit {
        name: meta.name,
        matching: matching.unwrap_or_else(|| vec![Clause::any(&meta.place)]),
        place: meta.place,
        scope: scope?,
        limits: limits?,
    }))
}

fn http_profile(map: &mut Map<'_>, meta: Meta) -> Option<Document> {
    later::refuse(map, later::HTTP_PROFILE);
    let scope = scope(map, &meta);
    let encoded_slash = map.optional(
        "encodedSlash",
        yaml::word(&[
            ("opaque", EncodedSlash::Opaque),
            ("reject", EncodedSlash::Reject),
        ]),
    );
    let path_params = map.optional(
        "pathParams",
        yaml::word(&[
            ("literal", PathParams::Literal),
            ("reject", PathParams::Reject),
        ]),
    );
    let empty_segments = map.optional(
        "emptySegments",
        yaml::word(&[
            ("literal", EmptySegments::Literal),
            ("reject", EmptySegments::Reject),
        ]),
    );
    purpose(map, Presence::Optional);
    Some(Document::HttpProfile(HttpProfile {
        name: meta.name,
        place: meta.place,
        scope: scope?,
        profile: Profile {
            encoded_slash: encoded_slash.unwrap_or_default(),
            path_params: path_params.unwrap_or_default(),
            empty_segments: empty_segments.unwrap_or_default(),
        },
    }))
}

/// `to` and `ports`. A document speaks only for workloads of its own namespace, unless it stands in the root namespace
/// (DESIGN, invariant 12).
fn scope(map: &mut Map<'_>, meta: &Meta) -> Option<Scope> {
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

pub(crate) fn port(node: &Node, problems: &Problems) -> Option<u16> {
    let port = yaml::number(node, problems)?;
    if port == 0 {
        problems.push(node.problem("expected a port from 1 to 65535, found 0"));
    }
    Some(port)
}

fn id_pattern(node: &Node, problems: &Problems) -> Option<IdPattern> {
    yaml::parsed("a SPIFFE ID, with `*` for a segment or a final `/**`")(node, problems)
}

fn id_patterns(node: &Node, problems: &Problems) -> Option<Vec<IdPattern>> {
    non_empty(node, problems, id_pattern)
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

fn validity(node: &Node, problems: &Problems) -> Option<Validity> {
    yaml::map(node, problems, |map| {
        let not_before = map.optional("notBefore", yaml::timestamp);
        let not_after = map.required("notAfter", |node, problems| {
            if node.is_word("never") {
                Some(None)
            } else {
                yaml::timestamp(node, problems).map(Some)
            }
        });
        let because = map.optional("because", yaml::text);
        let warn_before = map.optional("warnBefore", yaml::duration);
        let not_after = not_after?;
        if not_after.is_none() && because.is_none() {
            problems
                .push(node.problem("`notAfter: never` needs a reason: expected the key `because`"));
        }
        if let (Some(start), Some(end)) = (not_before, not_after)
            && start >= end
        {
            problems.push(node.problem("expected notBefore to be earlier than notAfter"));
        }
        Some(Validity {
            not_before,
            not_after,
            warn_before: warn_before.unwrap_or(WARN_BEFORE),
        })
    })
}
