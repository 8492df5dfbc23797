//! Decisions over random policies and requests: the laws that make a policy predictable, and a second evaluator.
#![no_main]

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

use identity::SpiffeId;
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use policy::explain::{self, Call, Explanation, Question, Verdict};
use policy::testing::Fields;
use policy::{Caller, Options, Policy, Source, compile};

const CALLER: &str = "spiffe://demo.test/ns/shop/sa/front";
const CALLEE: &str = "spiffe://demo.test/ns/shop/sa/orders";

fuzz::target!(|case: Case| {
    let policies = Policies::new(&case);
    for request in &case.requests {
        let answer = ask(&policies.plain, request, &request.target);
        order_makes_no_difference(&policies, request, &answer);
        spelling_makes_no_difference(&policies, request, &answer);
        grants_only_open_and_guards_only_close(&policies, request, &answer);
        only_what_is_granted_passes(&case.rules, request, &answer);
        // Still the same after all that was asked in between.
        assert_eq!(ask(&policies.plain, request, &request.target), answer);
    }
});

/// What is compared. Compiling is most of what an input costs, so that one policy answers several requests.
struct Policies {
    plain: Policy,
    reversed: Policy,
    with_grants: Policy,
    with_guards: Policy,
}

impl Policies {
    fn new(case: &Case) -> Self {
        let mut reversed = case.documents();
        reversed.reverse();
        let with = |denies| {
            let mut more = case.clone();
            let added = case.more.iter().filter(|rule| rule.denies == denies);
            more.rules.extend(added.cloned());
            compiled(&more.documents())
        };
        Self {
            plain: compiled(&case.documents()),
            reversed: compiled(&reversed),
            with_grants: with(false),
            with_guards: with(true),
        }
    }
}

fn order_makes_no_difference(policies: &Policies, request: &Request, answer: &Explanation) {
    let reversed = ask(&policies.reversed, request, &request.target);
    let decided = |answer: &Explanation| (answer.decision, answer.rule.clone(), answer.reason);
    assert_eq!(decided(&reversed), decided(answer), "{request:?}");
}

/// The canonical form is decided like what was sent; no other way to write a guarded path gets past the guard.
fn spelling_makes_no_difference(policies: &Policies, request: &Request, answer: &Explanation) {
    let policy = &policies.plain;
    if let Some(canonical) = &answer.canonical_path {
        assert_eq!(ask(policy, request, canonical), *answer, "{request:?}");
    }
    let target = &request.target;
    if let Some(at) = target.find(|c: char| c.is_ascii_alphanumeric())
        && !target[..at].contains(['%', '?'])
    {
        let escape = format!("%{:02x}", target.as_bytes()[at]);
        let escaped = format!("{}{escape}{}", &target[..at], &target[at + 1..]);
        assert_eq!(ask(policy, request, &escaped), *answer, "{request:?}");
    }
    if answer.reason != "explicit_deny" {
        return;
    }
    for variant in [
        target.to_ascii_uppercase(),
        format!("{target}/"),
        format!("{target}."),
        format!("{target};x=1"),
        format!("{target}%20"),
        target.replacen('/', "//", 1),
        target.replacen('/', "/./", 1),
        target.replacen('/', "/x/../", 1),
        target.replacen("/a", "/%EF%BD%81", 1),
        target.replace('/', "%2F").replacen("%2F", "/", 1),
    ] {
        let decision = ask(policy, request, &variant).decision;
        assert_ne!(decision, Verdict::Allow, "{variant} for {request:?}");
    }
}

/// Adding a guard never allows what was refused, adding a grant never refuses what was allowed.
fn grants_only_open_and_guards_only_close(
    policies: &Policies,
    request: &Request,
    answer: &Explanation,
) {
    for (policy, never) in [
        (&policies.with_grants, (Verdict::Allow, Verdict::Deny)),
        (&policies.with_guards, (Verdict::Deny, Verdict::Allow)),
    ] {
        let after = ask(policy, request, &request.target);
        assert_ne!((answer.decision, after.decision), never, "{request:?}");
        assert_eq!(answer.canonical_path, after.canonical_path);
    }
}

/// A second evaluator, slow and plain: it knows the narrow reading only, which guards read at least as widely.
fn only_what_is_granted_passes(rules: &[Rule], request: &Request, answer: &Explanation) {
    let Some(path) = &answer.canonical_path else {
        return;
    };
    let speaks = |rule: &&Rule| rule.speaks_of(request, path);
    let granted = rules
        .iter()
        .filter(|rule| !rule.denies && !rule.expired)
        .any(|rule| speaks(&rule));
    let mut guards = rules.iter().filter(|rule| rule.denies).peekable();
    let is_guarded = guards.peek().is_some();
    let denied = guards.any(|rule| speaks(&rule));
    match answer.decision {
        Verdict::Allow => assert!(
            granted && !denied,
            "{answer:?} for {request:?} in {rules:#?}"
        ),
        _ => assert!(
            is_guarded || !granted,
            "{answer:?} for {request:?} in {rules:#?}"
        ),
    }
}

/// A policy, what may be added to it, and requests.
#[derive(Clone, Debug)]
struct Case {
    rules: Vec<Rule>,
    more: Vec<Rule>,
    profile: &'static str,
    requests: Vec<Request>,
}

#[derive(Clone, Debug)]
struct Rule {
    denies: bool,
    expired: bool,
    method: &'static str,
    path: String,
    host: Option<&'static str>,
    header: Option<(&'static str, &'static str)>,
}

#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    target: String,
    host: Option<&'static str>,
    headers: Vec<(String, String)>,
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self {
            profile: mostly(
                u,
                &[""],
                &[
                    "encodedSlash: opaque",
                    "pathParams: literal",
                    "emptySegments: literal",
                    "encodedSlash: opaque, pathParams: literal, emptySegments: literal",
                ],
            )?,
            rules: several(u, 0..=4)?,
            more: several(u, 0..=2)?,
            requests: several(u, 1..=4)?,
        })
    }
}

impl<'a> Arbitrary<'a> for Rule {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut path = String::new();
        for _ in 0..u.int_in_range(0..=3)? {
            path.extend([
                "/",
                mostly(u, &["a", "b", "admin", "{x}"], &OTHER_LITERALS)?,
            ]);
        }
        path.push_str(u.choose(&["", "", "/", "/**", "/**"])?);
        if path.is_empty() {
            path.push('/');
        }
        Ok(Self {
            denies: u.ratio(1, 3)?,
            expired: u.ratio(1, 6)?,
            method: mostly(u, &["GET", "*"], &["POST", "PURGE"])?,
            path,
            host: mostly(u, &[None], &[Some("orders"), Some("*.shop.test")])?,
            header: mostly(
                u,
                &[None],
                &[Some(("x-tenant", "a")), Some(("accept", "b"))],
            )?,
        })
    }
}

impl<'a> Arbitrary<'a> for Request {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut target = String::new();
        for _ in 0..u.int_in_range(1..=4)? {
            target.extend([
                "/",
                mostly(u, &["a", "b", "admin", "v1.2"], &OTHER_SEGMENTS)?,
            ]);
        }
        target.push_str(mostly(u, &[""], &["/", "?q=1"])?);
        let mut headers = Vec::new();
        for _ in 0..u.int_in_range(0..=3)? {
            headers.push((
                u.choose(&FIELDS)?.to_string(),
                u.choose(&VALUES)?.to_string(),
            ));
        }
        Ok(Self {
            method: mostly(u, &["GET"], &["POST", "PURGE", "HEAD"])?,
            target,
            host: *u.choose(&HOSTS)?,
            headers,
        })
    }
}

const OTHER_LITERALS: [&str; 5] = ["A", "Admin", "v1.2", "{y}", "%C3%A9"];

/// What a guard has to see through, and what is refused before any rule is asked.
const OTHER_SEGMENTS: [&str; 18] = [
    "A",
    "ADMIN",
    "admin.",
    "admin;x",
    "%61dmin",
    "%EF%BC%A1dmin",
    "a%2Fb",
    "a%2fadmin",
    "%C3%A9",
    "%c3%89",
    "",
    ".",
    "..",
    ";x",
    "%20",
    "a%20",
    "%25",
    "%252e",
];

const FIELDS: [&str; 5] = [
    "x-tenant",
    "x_tenant",
    "accept",
    "x-http-method-override",
    "content-type",
];

const VALUES: [&str; 8] = ["a", "A", "b", "a,b", "", "GET", "POST", "application/grpc"];

const HOSTS: [Option<&str>; 5] = [
    None,
    Some("orders"),
    Some("Orders."),
    Some("x.shop.test"),
    Some("a.b.shop.test"),
];

/// One of the usual three times out of four: otherwise hardly any request would match a rule.
fn mostly<T: Copy>(u: &mut Unstructured<'_>, usual: &[T], other: &[T]) -> Result<T> {
    let from = if u.ratio(3, 4)? { usual } else { other };
    u.choose(from).copied()
}

fn several<'a, T: Arbitrary<'a>>(
    u: &mut Unstructured<'a>,
    range: RangeInclusive<usize>,
) -> Result<Vec<T>> {
    let count = u.int_in_range(range)?;
    (0..count).map(|_| T::arbitrary(u)).collect()
}

impl Case {
    /// Named by their place, so that an order can be chosen apart from the names.
    fn documents(&self) -> Vec<String> {
        let rules = self
            .rules
            .iter()
            .zip(0..)
            .map(|(rule, index)| rule.document(index));
        let profile =
            (!self.profile.is_empty()).then(|| document("HttpProfile", "p", self.profile));
        rules.chain(profile).collect()
    }
}

impl Rule {
    fn document(&self, index: usize) -> String {
        let host = self
            .host
            .map(|host| format!(", hosts: [\"{host}\"]"))
            .unwrap_or_default();
        let header = self
            .header
            .map(|(name, value)| format!(", headers: [{{name: {name}, exact: {value}}}]"))
            .unwrap_or_default();
        let clause = format!(
            "[{{methods: [\"{}\"], path: \"{}\"{host}{header}}}]",
            self.method, self.path
        );
        if self.denies {
            return document("Guard", &format!("d{index}"), &format!("deny: {clause}"));
        }
        let until = if self.expired {
            "2020-01-01T00:00:00Z"
        } else {
            "2100-01-01T00:00:00Z"
        };
        let spec =
            format!("from: [\"{CALLER}\"], validity: {{notAfter: {until}}}, allow: {clause}");
        document("Grant", &format!("g{index}"), &spec)
    }

    /// As POLICY says for grants: exact, with one value for each header field.
    fn speaks_of(&self, request: &Request, path: &str) -> bool {
        let method = ["*", request.method].contains(&self.method);
        let host = match (self.host, request.host) {
            (None, _) => true,
            (Some("orders"), Some("orders" | "Orders.")) => true,
            (Some("*.shop.test"), Some("x.shop.test")) => true,
            _ => false,
        };
        let header = self.header.is_none_or(|(name, value)| {
            let name = name.replace('-', "_");
            let mut fields = request
                .headers
                .iter()
                .filter(|(field, _)| field.replace('-', "_") == name);
            fields.next().is_some_and(|(_, found)| found == value) && fields.next().is_none()
        });
        method && host && header && covers(&self.path, path)
    }
}

fn covers(pattern: &str, path: &str) -> bool {
    let (pattern, rest) = match pattern.strip_suffix("/**") {
        Some(prefix) => (prefix, true),
        None => (pattern, false),
    };
    let mut path = path.split('/').skip(1);
    for expected in pattern.split('/').skip(1) {
        match path.next() {
            Some(segment)
                if expected == segment || (expected.starts_with('{') && !segment.is_empty()) => {}
            _ => return false,
        }
    }
    path.next().is_some() == rest
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    let purpose = "purpose: {id: p, owner: o}";
    format!(
        "---\napiVersion: tipstaff.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{to: [\"{CALLEE}\"], {purpose}, {spec}}}\n"
    )
}

fn compiled(documents: &[String]) -> Policy {
    if documents.is_empty() {
        return Policy::deny_all();
    }
    let source = Source {
        name: "p.yaml".to_owned(),
        text: documents.concat(),
    };
    compile(&[source], &Options::default())
        .unwrap_or_else(|problems| panic!("{problems:#?} in {documents:#?}"))
}

fn ask(policy: &Policy, request: &Request, target: &str) -> Explanation {
    let id = |text| SpiffeId::parse(text).expect("a SPIFFE ID");
    let question = Question {
        caller: Caller::Identity(&id(CALLER)),
        callee: &id(CALLEE),
        port: 8080,
        call: Call::Request(explain::Request {
            method: request.method,
            target,
            host: request.host,
            headers: &Fields(&request.headers),
        }),
        // In November 2026.
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000),
    };
    explain::explain(policy, &question)
}
