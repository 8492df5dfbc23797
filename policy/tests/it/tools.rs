use policy::{lint::lint, testing};

use super::*;

const READ: &str = "allow: [{methods: [GET, HEAD], path: \"/orders/{id}\"}]";

#[test]
fn explain_names_the_nearest_grant_and_the_clause_that_failed() {
    let policy = policy(
        &[
            grant("read", READ),
            grant(
                "tenant",
                "allow: [{methods: [GET], path: /tenant, headers: [{name: x-tenant, exact: a}]}]",
            ),
            grant("rpc", "allow: [{grpc: shop.Orders, methods: [Get]}]"),
        ]
        .concat(),
    );
    for (method, target, clause, expected, found) in [
        ("DELETE", "/orders/1", "methods", "GET, HEAD", "DELETE"),
        (
            "GET",
            "/orders/1/items",
            "path",
            "/orders/{id}",
            "/orders/1/items",
        ),
        (
            "GET",
            "/tenant",
            "headers",
            "x-tenant once, with a",
            "x-tenant as sent",
        ),
        (
            "GET",
            "/shop.Orders/Get",
            "grpc",
            "a gRPC call: POST with content-type application/grpc",
            "none",
        ),
    ] {
        let nearest = ask(&policy, method, target, &[]).nearest.unwrap();
        let [failed] = &nearest.failed[..] else {
            panic!("{method} {target}: {nearest:?}")
        };
        assert_eq!(
            (
                failed.clause,
                failed.expected.as_str(),
                failed.found.as_str()
            ),
            (clause, expected, found)
        );
    }
    let nearest = explain(
        &policy,
        &Question {
            caller: Caller::Identity(&id("spiffe://prod.example/ns/shop/sa/cart")),
            callee: &id(ORDERS),
            port: 80,
            call: Call::Request(Request {
                method: "GET",
                target: "/orders/1",
                host: None,
                headers: &Fields(&[]),
            }),
            at: now(),
        },
    );
    assert_eq!(nearest.nearest.unwrap().failed[0].clause, "from");
}

#[test]
fn an_explanation_is_text_for_people_and_json_for_programs() {
    let policy =
        policy(&(grant("read", READ) + &guard("no-admin", "deny: [{path: \"/admin/**\"}]")));
    let text = |method, target| ask(&policy, method, target, &[]).to_string();
    assert_eq!(
        text("GET", "/orders/%34"),
        "allow: allow by shop/read\n  path: /orders/4"
    );
    assert_eq!(
        text("GET", "/Admin"),
        "deny: explicit_deny by shop/no-admin\n  path: /Admin"
    );
    assert_eq!(text("GET", "/orders/../admin"), "reject: dot_segment");
    assert_eq!(text("TRACE", "/"), "reject: trace_not_enabled");
    assert_eq!(
        text("PUT", "/orders/4"),
        "deny: no_matching_allow\n  path: /orders/4\n  nearest: shop/read at p.yaml:5\n    \
         methods: expected GET, HEAD, found PUT"
    );
    let json = serde_json::to_value(ask(&policy, "PUT", "/orders/4", &[])).unwrap();
    let nearest = serde_json::json!({
        "grant": "shop/read",
        "at": "p.yaml:5",
        "failed": [{"clause": "methods", "expected": "GET, HEAD", "found": "PUT"}],
    });
    let expected = serde_json::json!({
        "decision": "deny",
        "rule": null,
        "reason": "no_matching_allow",
        "canonical_path": "/orders/4",
        "nearest": nearest,
    });
    assert_eq!(json, expected);
}

fn ask_tcp(policy: &Policy, caller: &str, port: u16) -> Explanation {
    explain(
        policy,
        &Question {
            caller: Caller::Identity(&id(caller)),
            callee: &id(ORDERS),
            port,
            call: Call::Tcp,
            at: now(),
        },
    )
}

#[test]
fn a_connection_is_explained_like_a_request() {
    let open = grant("db", "ports: [5432], allow: [{tcp: true}]") + &grant("read", READ);
    let unguarded = policy(&open);
    let text = |policy: &Policy, port| ask_tcp(policy, FRONTEND, port).to_string();
    assert_eq!(text(&unguarded, 5432), "allow: allow by shop/db");
    assert_eq!(
        text(&unguarded, 5433),
        "deny: no_matching_allow\n  nearest: shop/db at p.yaml:5\n    ports: expected 5432, found 5433"
    );
    let guarded = policy(&(open + &guard("no-admin", "deny: [{path: \"/admin/**\"}]")));
    assert_eq!(text(&guarded, 5432), "deny: explicit_deny by shop/no-admin");
    let stranger = "spiffe://prod.example/ns/shop/sa/cart";
    let failed = serde_json::json!([{"clause": "from", "expected": FRONTEND, "found": stranger}]);
    let expected = serde_json::json!({
        "decision": "deny",
        "rule": null,
        "reason": "no_matching_allow",
        "canonical_path": null,
        "nearest": {"grant": "shop/db", "at": "p.yaml:5", "failed": failed},
    });
    let found = serde_json::to_value(ask_tcp(&unguarded, stranger, 5432)).unwrap();
    assert_eq!(found, expected);
    // A grant of connections is not what a request is missing.
    let nearest = ask(&unguarded, "PUT", "/orders/4", &[]).nearest.unwrap();
    assert_eq!(nearest.grant, "shop/read");
}

#[test]
fn tests_may_ask_about_connections() {
    let tests = "tests: [{from: ns/shop/sa/frontend, tcp: true, expect: allow}, \
         {from: ns/shop/sa/frontend, port: 80, tcp: true, expect: deny}, \
         {from: unauthenticated, tcp: true, expect: deny}, \
         {from: ns/shop/sa/frontend, get: /, expect: deny}]";
    let text = grant(
        "db",
        &format!("ports: [5432], allow: [{{tcp: true}}], {tests}"),
    );
    let report = testing::run(&policy(&text), now()).unwrap();
    assert_eq!((report.passed, report.failures.len()), (4, 0), "{report:?}");
    assert_eq!(report.unreached, Vec::<String>::new());
    for (test, expected) in [
        (
            "tcp: false",
            "expected `true`; leave `tcp` out for a request",
        ),
        (
            "tcp: true, headers: {a: b}",
            "a TCP connection is decided on without it",
        ),
        (
            "tcp: true, host: a",
            "a TCP connection is decided on without it",
        ),
        (
            "tcp: true, get: /a",
            "expected exactly one call, such as `get: /path`, `grpc: service/method` or `tcp: true`",
        ),
    ] {
        let text = text.replace(
            "tcp: true, expect: allow",
            &format!("{test}, expect: allow"),
        );
        let refused = policy::compile(&[source(&text)], &Options::default()).unwrap_err();
        assert_eq!(refused[0].message, expected, "{test}");
    }
}

#[test]
fn inline_tests_and_test_documents_run_on_the_evaluator() {
    let inline = format!(
        "from: [\"{FRONTEND}\"], {READ}, validity: {{notBefore: 2020-01-01T00:00:00Z, notAfter: 2021-01-01T00:00:00Z}}, \
         tests: [{{from: ns/shop/sa/frontend, at: 2021-01-01T00:00:01Z, get: /orders/42, expect: allow}}, \
         {{from: ns/shop/sa/frontend, get: /orders/42, expect: allow}}, \
         {{from: ns/shop/sa/frontend, get: /orders/42/../43, expect: reject}}, \
         {{from: ns/shop/sa/frontend, delete: /orders/42, expect: deny}}, \
         {{from: unauthenticated, get: /orders/42, expect: deny}}]"
    );
    let file = format!(
        "---\napiVersion: tipstaff.dev/v1alpha1\nkind: Test\nmetadata: {{name: t, namespace: shop}}\n\
         spec: {{to: \"{ORDERS}\", tests: [{{from: ns/shop/sa/frontend, grpc: a.B/C, expect: allow}}]}}\n"
    );
    let rpc = grant("rpc", "allow: [{grpc: a.B, methods: [C]}]");
    let text = document("Grant", "old", &inline)
        + &rpc
        + &grant("untested", "allow: [{methods: [GET], path: /u}]")
        + &file;
    // A test that asks about a later instant does not end the grants of those after it.
    let report = testing::run(&policy(&text), now()).unwrap();
    assert_eq!(report.passed, 5);
    assert_eq!(report.unreached, ["shop/untested"]);
    let [failure] = &report.failures[..] else {
        panic!("{report:?}")
    };
    assert_eq!(
        (failure.at.as_str(), failure.expected, failure.found.reason),
        ("p.yaml:5", "allow", "outside_validity")
    );
}

#[test]
fn a_test_that_cannot_be_asked_is_a_problem() {
    let case = |case: &str| {
        policy(&grant(
            "g",
            &format!("{READ}, tests: [{{{case}, expect: allow}}]"),
        ))
    };
    let asked = |text: &str| {
        testing::run(&case(text), now()).unwrap_err()[0]
            .message
            .clone()
    };
    assert_eq!(
        asked("from: \"spiffe://x y\", get: /a"),
        "expected a SPIFFE ID or its path, found \"spiffe://x y\""
    );
    let two = grant(
        "g",
        &format!("{READ}, tests: [{{from: a, get: /a, post: /b, expect: allow}}]"),
    );
    let refused = policy::compile(&[source(&two)], &Options::default()).unwrap_err();
    assert_eq!(
        refused[0].message,
        "expected exactly one call, such as `get: /path`, `grpc: service/method` or `tcp: true`"
    );
}

#[test]
fn the_linter_points_at_what_is_probably_not_meant() {
    let found = |text: String| -> Vec<String> {
        lint(&policy(&text), now())
            .into_iter()
            .map(|problem| problem.message)
            .collect()
    };
    let broad = grant("g", "allow: [{methods: [GET], path: \"/**\"}]");
    assert_eq!(found(broad.clone()), Vec::<String>::new());
    assert_eq!(
        found(broad + &guard("d", "deny: [{path: \"/admin/**\"}]")),
        ["broad allow `/**` under guard shop/d (`/admin/**`): better to list what is allowed"]
    );
    assert_eq!(
        found(
            grant("g", "allow: [{methods: [GET], path: \"/a/{x}\"}]")
                + &guard("d", "deny: [{path: \"/a/**\"}]")
        ),
        ["never matches: guard shop/d denies all of `/a/{x}`"]
    );
    assert_eq!(
        found(grant(
            "g",
            "allow: [{methods: [GET], path: \"/a/{x}\"}, {methods: [GET], path: /a/b}]"
        )),
        ["shadowed by `/a/{x}` on line 5: this rule adds nothing"]
    );
    assert_eq!(
        found(grant(
            "g",
            "allow: [{methods: [GET], path: \"/public/**\"}]"
        )),
        ["`/public/**` does not match `/public` itself"]
    );
    let ending = |end: &str| {
        let spec = format!("from: [\"{FRONTEND}\"], {READ}, validity: {{notAfter: {end}}}");
        found(document("Grant", "g", &spec))
    };
    assert_eq!(
        ending("2026-12-01T00:00:00Z"),
        ["this grant ends soon, at 2026-12-01T00:00:00Z"]
    );
    assert_eq!(
        ending("2026-11-01T00:00:00Z"),
        ["this grant ended at 2026-11-01T00:00:00Z and allows nothing"]
    );
    assert_eq!(ending("2027-11-01T00:00:00Z"), Vec::<String>::new());
}

#[test]
fn the_linter_points_at_connections_that_are_cut_off_or_reach_every_port() {
    let found = |text: String| -> Vec<String> {
        let warnings = lint(&policy(&text), now()).into_iter();
        warnings.map(|problem| problem.message).collect()
    };
    let open = |ports: &str| grant("db", &format!("{ports} allow: [{{tcp: true}}]"));
    let under = |spec: &str| {
        let spec = format!("deny: [{{path: \"/debug/**\"}}], {spec}");
        found(open("ports: [5432],") + &guard("d", &spec))
    };
    let never =
        ["never matches: guard shop/d reaches these connections, which may carry what it denies"];
    let some = ["guard shop/d cuts off some of these connections, which may carry what it denies"];
    assert_eq!(found(open("ports: [5432],")), Vec::<String>::new());
    assert_eq!(
        found(open("")),
        ["opens connections to every port of its callees: better to list `ports`"]
    );
    assert_eq!(under(""), never);
    assert_eq!(under("ports: [80, 5432]"), never);
    assert_eq!(under("ports: [80]"), Vec::<String>::new());
    assert_eq!(under(&format!("except: [\"{ORDERS}\"]")), some);
    assert_eq!(
        under(&format!("except: [\"{FRONTEND}\"]")),
        Vec::<String>::new()
    );
    let two = found(open("ports: [80, 5432],") + &guard("d", "deny: [{tcp: true}], ports: [80]"));
    assert_eq!(two, some);
}

/// On the other ports it does match.
#[test]
fn a_rule_never_matches_only_if_the_guard_has_all_of_its_ports() {
    let found = |ports: &str| -> Vec<String> {
        let text = grant("g", "allow: [{methods: [GET], path: /a}]")
            + &guard("d", &format!("deny: [{{path: /a}}] {ports}"));
        let warnings = lint(&policy(&text), now()).into_iter();
        warnings.map(|problem| problem.message).collect()
    };
    assert_eq!(found(", ports: [80]"), Vec::<String>::new());
    assert_eq!(
        found(""),
        ["never matches: guard shop/d denies all of `/a`"]
    );
}

#[test]
fn the_linter_points_at_a_path_that_hundreds_of_rules_share() {
    let crowd = |size: usize| -> Vec<String> {
        let one = |i| {
            let spec = "allow: [{methods: [GET], path: /a, hosts: [h]}]"
                .replace("[h]", &format!("[h{i}]"));
            grant(&format!("g{i}"), &spec)
        };
        let text: String = (0..size).map(one).collect();
        lint(&policy(&text), now())
            .into_iter()
            .map(|problem| problem.to_string())
            .collect()
    };
    assert_eq!(crowd(100), Vec::<String>::new());
    assert_eq!(
        crowd(101),
        [
            "p.yaml:5:190: spec.allow[0]: 101 rules of the same callers have the path `/a`: each request there tries them all"
        ]
    );
}
