//! The items of `allow`, `deny` and `match`.

use smallvec::SmallVec;

use super::{limits::Counted, non_empty};
use crate::{
    engine::{Folded, MAX_FOLDED_BYTES},
    pattern::{
        HeaderRule, HeaderTest, HostPattern, Method, Methods, PathPattern, Segment, is_token,
    },
    yaml::{self, Map, Node, Place, Problems, shown},
};

/// One thing that requests do. How narrowly it is read depends on the document it stands in.
#[derive(Debug)]
pub(crate) struct Clause {
    pub(crate) place: Place,
    pub(crate) path: PathPattern,
    pub(crate) methods: Methods,
    /// Empty: every host.
    pub(crate) hosts: Vec<HostPattern>,
    pub(crate) headers: Vec<HeaderRule>,
    /// Only gRPC calls (in a guard: the paths of these calls, however they are called).
    pub(crate) grpc: bool,
}

impl Clause {
    /// Every request.
    pub(super) fn any(place: &Place) -> Self {
        Self {
            place: place.clone(),
            path: PathPattern::any(),
            methods: Methods::Any,
            hosts: Vec::new(),
            headers: Vec::new(),
            grpc: false,
        }
    }
}

/// The items of one list: a request or connection that one of them speaks of is one that the list speaks of.
#[derive(Debug)]
pub(crate) struct Clauses {
    pub(crate) requests: Vec<Clause>,
    /// Where the list says `tcp: true`: it speaks of opaque TCP connections.
    pub(crate) tcp: Option<Place>,
}

impl Clauses {
    /// What a list that is not there speaks of.
    pub(super) fn everything(place: &Place) -> Self {
        Self {
            requests: vec![Clause::any(place)],
            tcp: Some(place.clone()),
        }
    }

    /// What the limits beside this list count.
    pub(super) fn counted(&self) -> Counted {
        match self.tcp {
            Some(_) if self.requests.is_empty() => Counted::Connections,
            _ => Counted::Requests,
        }
    }
}

/// What a clause is for: a grant has to say what it opens; a guard or limit that says less reaches further.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Grant,
    Guard,
    Limit,
}

pub(super) fn clauses(role: Role, node: &Node, problems: &Problems) -> Option<Clauses> {
    let mut all = Clauses {
        requests: Vec::new(),
        tcp: None,
    };
    let items = non_empty(node, problems, |node, problems| {
        yaml::map(node, problems, |map| {
            if let Some(value) = map.node_of("tcp") {
                return tcp(map, value).map(Item::Connections);
            }
            match map.node_of("grpc") {
                Some(service) => grpc(role, map, service).map(Item::Requests),
                None => http(role, map).map(|clause| Item::Requests(vec![clause])),
            }
        })
    })?;
    for item in items {
        match item {
            Item::Requests(clauses) => all.requests.extend(clauses),
            Item::Connections(place) => all.tcp = all.tcp.or(Some(place)),
        }
    }
    if role == Role::Grant && all.tcp.is_some() && !all.requests.is_empty() {
        problems.push(node.problem(
            "`tcp: true` opens connections with whatever they carry; put the other rules into a grant of their own",
        ));
    }
    Some(all)
}

enum Item {
    Requests(Vec<Clause>),
    Connections(Place),
}

/// `{tcp: true}`; `ports` of the document restrict it.
fn tcp(map: &mut Map<'_>, value: &Node) -> Option<Place> {
    for key in ["grpc", "methods", "path", "hosts", "headers"] {
        map.refuse(
            key,
            "`tcp: true` stands alone, as nobody looks into the connection; use `ports` of the document to restrict it",
        );
    }
    if !yaml::boolean(value, map.problems())? {
        map.problems()
            .push(value.problem("expected `true`; leave `tcp` out for rules about requests"));
    }
    Some(map.node().place().clone())
}

fn http(role: Role, map: &mut Map<'_>) -> Option<Clause> {
    let node = map.node();
    let (methods, path) = match role {
        Role::Grant => (map.required("methods", methods), map.required("path", path)),
        Role::Guard | Role::Limit => (map.optional("methods", methods), map.optional("path", path)),
    };
    let hosts = map.optional("hosts", |node, problems| {
        non_empty(
            node,
            problems,
            yaml::parsed::<HostPattern>("a host name, or `*.` and a host name"),
        )
    });
    let headers = map.optional("headers", |node, problems| headers(role, node, problems));
    if role != Role::Grant
        && methods.is_none()
        && path.is_none()
        && hosts.is_none()
        && headers.is_none()
    {
        map.problems().push(
            node.problem("expected at least one of methods, path, hosts, headers, grpc or tcp"),
        );
    }
    let (methods, path) = match role {
        Role::Grant => (methods?, path?),
        Role::Guard | Role::Limit => (
            methods.unwrap_or(Methods::Any),
            path.unwrap_or_else(PathPattern::any),
        ),
    };
    // Folding may lengthen it.
    let has_long_literal = path.sequence().segments.iter().any(
        |segment| matches!(segment, Segment::Literal(literal) if Folded::of(literal).text().is_none()),
    );
    if role == Role::Guard && has_long_literal {
        let message = format!("expected segments of at most {MAX_FOLDED_BYTES} bytes in a guard");
        map.problems().push(node.problem(message));
    }
    Some(Clause {
        place: node.place().clone(),
        path,
        methods,
        hosts: hosts.unwrap_or_default(),
        headers: headers.unwrap_or_default(),
        grpc: false,
    })
}

fn path(node: &Node, problems: &Problems) -> Option<PathPattern> {
    yaml::parsed("a path pattern such as /orders/{id} or /public/**")(node, problems)
}

/// `"*"` has to be written out, so that nobody opens all methods by forgetting a line.
fn methods(node: &Node, problems: &Problems) -> Option<Methods> {
    let read = non_empty(node, problems, |node, problems| {
        if node.is_word("*") {
            Some(None)
        } else {
            yaml::parsed::<Method>("a method")(node, problems).map(Some)
        }
    })?;
    if read.len() > 1 && read.contains(&None) {
        problems.push(node.problem("`*` stands for all methods; expected it alone"));
    }
    let listed: Option<SmallVec<[Method; 2]>> = read.into_iter().collect();
    Some(listed.map_or(Methods::Any, Methods::Listed))
}

/// Fields that are taken out of a request before it is decided on (RFC 9110, section 7.6.1): a guard that asks for one
/// would never hold.
const OF_THE_CONNECTION: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

fn headers(role: Role, node: &Node, problems: &Problems) -> Option<Vec<HeaderRule>> {
    non_empty(node, problems, |node, problems| {
        yaml::map(node, problems, |map| {
            let name = map.required("name", |node, problems| {
                let name = yaml::text(node, problems)?;
                if !is_token(&name) {
                    problems.push(node.problem(format!(
                        "expected a header field name, found {}",
                        shown(&name)
                    )));
                }
                let name = name.to_ascii_lowercase();
                if OF_THE_CONNECTION.contains(&name.as_str()) {
                    problems.push(node.problem(format!(
                        "no rule sees `{name}`: it belongs to the connection, not to the request"
                    )));
                }
                Some(name)
            });
            let value = |node: &Node, problems: &Problems| {
                let value = yaml::text(node, problems)?;
                if role == Role::Grant && value.contains(',') {
                    problems.push(node.problem("a grant matches only values without a comma"));
                }
                Some(value)
            };
            let exact = map
                .optional("exact", value)
                .map(|value| HeaderTest::OneOf(vec![value]));
            let one_of = map.optional("oneOf", |node, problems| non_empty(node, problems, value));
            let present = map
                .optional("present", yaml::boolean)
                .map(HeaderTest::Present);
            let tests = [exact, one_of.map(HeaderTest::OneOf), present];
            let mut tests = tests.into_iter().flatten();
            let (Some(test), None) = (tests.next(), tests.next()) else {
                problems.push(node.problem("expected exactly one of exact, oneOf and present"));
                return None;
            };
            Some(HeaderRule { name: name?, test })
        })
    })
}

/// `{grpc: service, methods: [...]}`; one clause for each method.
fn grpc(role: Role, map: &mut Map<'_>, service: &Node) -> Option<Vec<Clause>> {
    let service = grpc_name(
        service,
        map.problems(),
        "a gRPC service such as pay.v1.Payments, or `*`",
    );
    let read = |node: &Node, problems: &Problems| {
        non_empty(node, problems, |node, problems| {
            grpc_name(node, problems, "a gRPC method, or `*`")
        })
    };
    let methods = match role {
        Role::Grant => map.required("methods", read),
        Role::Guard | Role::Limit => {
            Some(map.optional("methods", read).unwrap_or_else(|| vec![None]))
        }
    };
    let (service, place) = (service?, map.node().place());
    let clause = |method: Option<String>| Clause {
        path: PathPattern::grpc(service.as_deref(), method.as_deref()),
        grpc: true,
        ..Clause::any(place)
    };
    Some(methods?.into_iter().map(clause).collect())
}

/// A literal name, or `Some(None)` for `*`.
fn grpc_name(node: &Node, problems: &Problems, expected: &str) -> Option<Option<String>> {
    if node.is_word("*") {
        return Some(None);
    }
    let text = yaml::text(node, problems)?;
    let is_identifier = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    if !text.split('.').all(is_identifier) || text.len() > MAX_FOLDED_BYTES {
        problems.push(node.problem(format!("expected {expected}, found {}", shown(&text))));
        return None;
    }
    Some(Some(text))
}
