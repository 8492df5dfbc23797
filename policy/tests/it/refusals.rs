use super::*;

/// Documents as such: where they stand, what they are, what they say together.
mod documents;

/// The problems with one document, without the file name.
fn problems(text: &str) -> Vec<String> {
    let found = policy::compile(&[source(text)], &Options::default())
        .err()
        .unwrap_or_default();
    found
        .iter()
        .map(|problem| format!("{}: {}", problem.key, problem.message))
        .collect()
}

const ALLOW: &str = "allow: [{methods: [GET], path: /a}]";

#[test]
fn a_grant_that_says_too_little_too_much_or_nonsense_is_refused() {
    for (spec, expected) in [
        (
            "allow: []",
            "spec.allow: expected at least one item, found none",
        ),
        (
            "allow: [{path: /a}]",
            "spec.allow[0]: expected the key `methods`, which is missing",
        ),
        (
            "allow: [{methods: [GET]}]",
            "spec.allow[0]: expected the key `path`, which is missing",
        ),
        (
            "allow: [{methods: [], path: /a}]",
            "spec.allow[0].methods: expected at least one item, found none",
        ),
        (
            "allow: [{methods: [get], path: /a}]",
            "spec.allow[0].methods[0]: expected a method, found \"get\": methods are case-sensitive; did you mean `GET`?",
        ),
        (
            "allow: [{methods: [\"*\", GET], path: /a}]",
            "spec.allow[0].methods: `*` stands for all methods; expected it alone",
        ),
        (
            "allow: [{methods: [GET], path: \"/a/**/b\"}]",
            "spec.allow[0].path: expected a path pattern such as /orders/{id} or /public/**, found \"/a/**/b\": \
             `**` is allowed only as the last segment",
        ),
        (
            "allow: [{methods: [GET], path: /a, pth: /b}]",
            "spec.allow[0].pth: unknown key; did you mean `path`?",
        ),
        (
            "allow: [{methods: [GET], path: /a, headers: [{name: x, exact: a, present: true}]}]",
            "spec.allow[0].headers[0]: expected exactly one of exact, oneOf and present",
        ),
        (
            "allow: [{methods: [GET], path: /a, headers: [{name: x, exact: \"a,b\"}]}]",
            "spec.allow[0].headers[0].exact: a grant matches only values without a comma",
        ),
        (
            "allow: [{methods: [GET], path: /a, hosts: [\"a:8080\"]}]",
            "spec.allow[0].hosts[0]: expected a host name, or `*.` and a host name, found \"a:8080\": \
             a host is matched without its port; use `ports`",
        ),
        (
            "allow: [{grpc: shop.v1.Orders}]",
            "spec.allow[0]: expected the key `methods`, which is missing",
        ),
        (
            "allow: [{grpc: shop/Orders, methods: [Get]}]",
            "spec.allow[0].grpc: expected a gRPC service such as pay.v1.Payments, or `*`, found \"shop/Orders\"",
        ),
        (
            "allow: [{tcp: false}]",
            "spec.allow[0].tcp: expected `true`; leave `tcp` out for rules about requests",
        ),
        (
            "allow: [{tcp: yes}]",
            "spec.allow[0].tcp: expected true or false, found \"yes\"",
        ),
        (
            "allow: [{tcp: true}, {methods: [GET], path: /a}]",
            "spec.allow: `tcp: true` opens connections with whatever they carry; put the other rules into a grant of their own",
        ),
        (
            "allow: [{tcp: true, port: 5432}]",
            "spec.allow[0].port: unknown key; known here: tcp, grpc, methods, path, hosts, headers",
        ),
        (
            "ports: [0]",
            "spec.ports[0]: expected a port from 1 to 65535, found 0",
        ),
        (
            "ports: []",
            "spec.ports: expected at least one item, found none",
        ),
        ("when: \"true\"", "spec.when: `when` is not supported yet"),
        ("mode: audit", "spec.mode: `mode` is not supported yet"),
        (
            "replaces: x",
            "spec.replaces: `replaces` is not supported yet",
        ),
        (
            "limits: [{name: a, rate: 1/s, cost: {POST: 5}}]",
            "spec.limits[0]: cost 5 of POST is more than the burst of 1: it could never pass",
        ),
        (
            "limits: [{name: a, rate: 1/s}, {name: a, rate: 2/s}]",
            "spec.limits: two limits have the name `a`",
        ),
        (
            "limits: [{name: a, rate: 1/s, fairness: identity}]",
            "spec.limits[0].fairness: `fairness` is not supported yet",
        ),
        (
            "limits: [{name: a, rate: 1/s, concurrency: 3}]",
            "spec.limits[0].concurrency: `concurrency` is not supported yet",
        ),
        (
            "limits: [{name: a, rate: 1/s, mode: shadow}]",
            "spec.limits[0].mode: `mode` is not supported yet",
        ),
        (
            "limits: [{name: a, rate: 1/s, scope: shared}]",
            "spec.limits[0].scope: `scope` is not supported yet",
        ),
        (
            "limits: [{name: a, rate: 1/s, onExceed: {status: 503}}]",
            "spec.limits[0].onExceed: `onExceed` is not supported yet",
        ),
    ] {
        let found = problems(&grant("g", spec));
        assert!(
            found.iter().any(|problem| problem == expected),
            "{expected}\nnot in {found:#?}"
        );
    }
}

#[test]
fn a_rule_about_connections_that_asks_for_parts_of_a_request_is_refused() {
    for key in [
        "path: /a",
        "methods: [GET]",
        "hosts: [a]",
        "headers: [{name: x, exact: a}]",
        "grpc: \"*\"",
    ] {
        let (name, _) = key.split_once(':').unwrap();
        let expected = format!(
            "0].{name}: `tcp: true` stands alone, as nobody looks into the connection; \
             use `ports` of the document to restrict it"
        );
        let clause = format!("[{{tcp: true, {key}}}]");
        for (list, text) in [
            ("allow", grant("g", &format!("allow: {clause}"))),
            ("deny", guard("g", &format!("deny: {clause}"))),
            (
                "match",
                document(
                    "Limit",
                    "l",
                    &format!("match: {clause}, limits: [{{name: l, rate: 1/s}}]"),
                ),
            ),
        ] {
            assert_eq!(problems(&text), [format!("spec.{list}[{expected}")]);
        }
    }
}

#[test]
fn a_limit_on_connections_that_counts_by_parts_of_a_request_is_refused() {
    let refused = |limit: &str| {
        let limits = format!("limits: [{{name: a, rate: 9/s, {limit}}}]");
        let granted = problems(&grant("g", &format!("allow: [{{tcp: true}}], {limits}")));
        let shared = document("Limit", "l", &format!("match: [{{tcp: true}}], {limits}"));
        assert_eq!(problems(&shared), granted, "{limit}");
        granted
    };
    for key in ["route", "method", "grpcMethod", "\"header:x-tenant\""] {
        assert_eq!(
            refused(&format!("key: [identity, {key}]")),
            [
                "spec.limits[0]: a limit on TCP connections counts by identity, namespace or clientIp; \
                 a connection has no route, method or header"
            ]
        );
    }
    assert_eq!(
        refused("cost: {POST: 2}"),
        ["spec.limits[0]: a limit on TCP connections has no `cost`: each costs 1"]
    );
    assert_eq!(
        refused("key: [identity, namespace, clientIp], burst: 3"),
        Vec::<String>::new()
    );
}

/// Without its literal the guard would speak of another path.
#[test]
fn a_guard_whose_literal_grows_too_long_when_folded_is_refused() {
    let refused = |times| {
        let path = "%EF%B7%BA".repeat(times);
        problems(&guard("g", &format!("deny: [{{path: \"/{path}/x\"}}]")))
    };
    assert_eq!(refused(7), Vec::<String>::new());
    assert_eq!(
        refused(8),
        ["spec.deny[0]: expected segments of at most 255 bytes in a guard"]
    );
}

#[test]
fn a_grant_without_purpose_or_end_is_refused() {
    let text = |purpose: &str, validity: &str| {
        format!(
            "apiVersion: tipstaff.dev/v1alpha1\nkind: Grant\nmetadata: {{name: g, namespace: shop}}\n\
             spec: {{from: [\"{FRONTEND}\"], to: [\"{ORDERS}\"], {ALLOW}, {purpose} {validity}}}\n"
        )
    };
    let (purpose, validity) = (
        "purpose: {id: p, owner: o},",
        "validity: {notAfter: 2100-01-01T00:00:00Z}",
    );
    assert_eq!(problems(&text(purpose, validity)), Vec::<String>::new());
    for (purpose, validity, expected) in [
        (
            "",
            validity,
            "spec: expected the key `purpose`, which is missing",
        ),
        (
            "purpose: {id: p},",
            validity,
            "spec.purpose: expected the key `owner`, which is missing",
        ),
        (
            purpose,
            "",
            "spec: expected the key `validity`, which is missing",
        ),
        (
            purpose,
            "validity: {}",
            "spec.validity: expected the key `notAfter`, which is missing",
        ),
        (
            purpose,
            "validity: {notAfter: never}",
            "spec.validity: `notAfter: never` needs a reason: expected the key `because`",
        ),
        (
            purpose,
            "validity: {notBefore: 2100-01-01T00:00:00Z, notAfter: 2099-01-01T00:00:00Z}",
            "spec.validity: expected notBefore to be earlier than notAfter",
        ),
        (
            purpose,
            "validity: {notAfter: tomorrow}",
            "spec.validity.notAfter: expected a time such as 2026-11-01T00:00:00Z, found \"tomorrow\"",
        ),
    ] {
        assert_eq!(problems(&text(purpose, validity)), [expected]);
    }
}
