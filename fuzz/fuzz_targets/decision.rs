//! Decisions over random policies and requests: the laws that make a policy predictable, and a second evaluator.
#![no_main]

use std::time::{Duration, SystemTime};

use identity::SpiffeId;
use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use policy::explain::{Explanation, Question, Verdict, explain};
use policy::testing::Fields;
use policy::{Caller, Options, Policy, Source, compile};

const CALLER: &str = "spiffe://demo.test/ns/shop/sa/front";
const CALLEE: &str = "spiffe://demo.test/ns/shop/sa/orders";

fuzz::target!(|case: Case| {
    let policy = compiled(&case.documents());
    let answer = ask(&policy, &case.request, &case.request.target);
    order_makes_no_difference(&case, &answer);
    spelling_makes_no_difference(&case, &policy, &answer);
    grants_only_open_and_guards_only_close(&case, &answer);
    only_what_is_granted_passes(&case, &answer);
    // Still the same after all that was asked in between.
    assert_eq!(ask(&policy, &case.request, &case.request.target), answer);
});

fn order_makes_no_difference(case: &Case, answer: &Explanation) {
    let mut documents = case.documents();
    documents.reverse();
    let reversed = ask(&compiled(&documents), &case.request, &case.request.target);
    let decided = |answer: &Explanation| (answer.decision, answer.rule.clone(), answer.reason);
    assert_eq!(decided(&reversed), decided(answer), "{case:#?}");
}

/// The canonical form is decided like what was sent; no other way to write a guarded path gets past the guard.
fn spelling_makes_no_difference(case: &Case, policy: &Policy, answer: &Explanation) {
    if let Some(canonical) = &answer.canonical_path {
        assert_eq!(ask(policy, &case.request, canonical), *answer, "{case:#?}");
    }
    let target = &case.request.target;
    if let Some(at) = target.find(|c: char| c.is_ascii_alphanumeric() && !target.contains('%')) {
        let escape = format!("%{:02x}", target.as_bytes()[at]);
        let escaped = format!("{}{escape}{}", &target[..at], &target[at + 1..]);
        assert_eq!(ask(policy, &case.request, &escaped), *answer, "{case:#?}");
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
        let decision = ask(policy, &case.request, &variant).decision;
        assert_ne!(decision, Verdict::Allow, "{variant} in {case:#?}");
    }
}

/// Adding a guard never allows what was refused, adding a grant never refuses what was allowed.
fn grants_only_open_and_guards_only_close(case: &Case, answer: &Explanation) {
    for denies in [false, true] {
        let mut more = case.clone();
        let added = case.more.iter().filter(|rule| rule.denies == denies);
        more.rules.extend(added.cloned());
        let after = ask(
            &compiled(&more.documents()),
            &case.request,
            &case.request.target,
        );
        let never = match denies {
            true => (Verdict::Deny, Verdict::Allow),
            false => (Verdict::Allow, Verdict::Deny),
        };
        assert_ne!((answer.decision, after.decision), never, "{case:#?}");
        assert_eq!(answer.canonical_path, after.canonical_path);
    }
}

/// A second evaluator, slow and plain: it knows the narrow reading only, which guards read at least as widely.
fn only_what_is_granted_passes(case: &Case, answer: &Explanation) {
    let Some(path) = &answer.canonical_path else {
        return;
    };
    let speaks = |rule: &&Rule| rule.speaks_of(&case.request, path);
    let granted = case
        .rules
        .iter()
        .filter(|rule| !rule.denies && !rule.expired)
        .any(|rule| speaks(&rule));
    let mut guards = case.rules.iter().filter(|rule| rule.denies).peekable();
    let is_guarded = guards.peek().is_some();
    let denied = guards.any(|rule| speaks(&rule));
    match answer.decision {
        Verdict::Allow => assert!(granted && !denied, "{answer:?} in {case:#?}"),
        _ => assert!(is_guarded || !granted, "{answer:?} in {case:#?}"),
    }
}

/// A policy, what may be added to it, and one request.
#[derive(Clone, Debug)]
struct Case {
    rules: Vec<Rule>,
    more: Vec<Rule>,
    profile: &'static str,
    request: Request,
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
            request: Request::arbitrary(u)?,
            profile: u.choose(&[
                "",
                "encodedSlash: opaque",
                "pathParams: literal",
                "emptySegments: literal",
                "encodedSlash: opaque, pathParams: literal, emptySegments: literal",
            ])?,
            rules: several(u, 5)?,
            more: several(u, 2)?,
        })
    }
}

impl<'a> Arbitrary<'a> for Rule {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let segments = [
            "a", "b", "A", "admin", "Admin", "v1.2", "{x}", "{y}", "%C3%A9",
        ];
        let mut path = String::new();
        for _ in 0..u.int_in_range(0..=4)? {
            path.extend(["/", *u.choose(&segments)?]);
        }
        path.push_str(u.choose(&["", "", "/", "/**"])?);
        if path.is_empty() {
            path.push('/');
        }
        Ok(Self {
            denies: u.arbitrary()?,
            expired: u.ratio(1, 4)?,
            method: u.choose(&["GET", "POST", "PURGE", "*"])?,
            path,
            host: *u.choose(&[None, None, Some("orders"), Some("*.shop.test")])?,
            header: *u.choose(&[None, None, Some(("x-tenant", "a")), Some(("accept", "b"))])?,
        })
    }
}

impl<'a> Arbitrary<'a> for Request {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let segments = [
            "a",
            "b",
            "A",
            "admin",
            "ADMIN",
            "admin.",
            "admin;x",
            "%61dmin",
            "%EF%BC%A1dmin",
            "a%2Fb",
            "a%2fadmin",
            "v1.2",
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
        let mut target = String::new();
        for _ in 0..u.int_in_range(1..=5)? {
            target.extend(["/", *u.choose(&segments)?]);
        }
        target.push_str(u.choose(&["", "", "/", "?q=1"])?);
        let names = [
            "x-tenant",
            "x_tenant",
            "accept",
            "x-http-method-override",
            "content-type",
        ];
        let values = ["a", "A", "b", "a,b", "", "GET", "POST", "application/grpc"];
        let mut headers = Vec::new();
        for _ in 0..u.int_in_range(0..=3)? {
            headers.push((
                u.choose(&names)?.to_string(),
                u.choose(&values)?.to_string(),
            ));
        }
        Ok(Self {
            method: u.choose(&["GET", "POST", "PURGE", "HEAD"])?,
            target,
            host: *u.choose(&[
                None,
                Some("orders"),
                Some("Orders."),
                Some("x.shop.test"),
                Some("a.b.shop.test"),
            ])?,
            headers,
        })
    }
}

fn several<'a>(u: &mut Unstructured<'a>, most: usize) -> Result<Vec<Rule>> {
    let count = u.int_in_range(0..=most)?;
    (0..count).map(|_| Rule::arbitrary(u)).collect()
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
        method: request.method,
        target,
        host: request.host,
        headers: &Fields(&request.headers),
        // In November 2026.
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000),
    };
    explain(policy, &question)
}
