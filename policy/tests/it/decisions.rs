use policy::{Attributes, Decision, Latest};

use super::*;

/// The grant and limits of an allowed GET.
fn allowed(policy: &Policy, path: &str) -> Option<(String, String, Vec<String>)> {
    let view = policy.view(Caller::Identity(&id(FRONTEND)), &id(ORDERS), 8080);
    let request = Attributes {
        method: "GET",
        path,
        host: "",
        headers: &Fields(&[]),
    };
    match view.decide(&request, now()) {
        Decision::Allow(allow) => {
            let limits = allow.limits.iter();
            let limits = limits.map(|limit| limit.id().to_owned()).collect();
            Some((allow.grant().to_owned(), allow.route().to_owned(), limits))
        }
        _ => None,
    }
}

#[test]
fn no_policy_and_a_policy_without_grants_deny() {
    assert_eq!(verdict(&Policy::deny_all(), "GET", "/"), "deny");
    assert_eq!(verdict(&policy(""), "GET", "/"), "deny");
    assert_eq!(
        verdict(&policy(&guard("g", "deny: [{path: \"/a\"}]")), "GET", "/b"),
        "deny"
    );
}

#[test]
fn the_most_specific_path_names_the_decision_and_every_matching_grant_its_limits() {
    let limits = |name: &str| format!("limits: [{{name: {name}, rate: 1/s}}]");
    let policy = policy(&[
        grant("a-wide", &format!("allow: [{{methods: [GET], path: \"/**\"}}], {}", limits("w"))),
        grant("b-one", &format!("allow: [{{methods: [GET], path: \"/orders/{{id}}\"}}], {}", limits("o"))),
        grant("c-exact", "allow: [{methods: [GET], path: /orders/1}, {methods: [GET], path: \"/orders/**\"}], \
            limits: [{name: e, rate: 1/s}, {name: f, rate: 1/s}]"),
        document("Limit", "total", &limits("t")),
        document("Limit", "search", &format!("match: [{{path: \"/search/**\"}}], {}", limits("s"))),
    ].concat());
    let own = [
        "shop/c-exact/e",
        "shop/c-exact/f",
        "shop/b-one/o",
        "shop/a-wide/w",
        "shop/total/t",
    ];
    assert_eq!(
        allowed(&policy, "/orders/1"),
        Some((
            "shop/c-exact".to_owned(),
            "/orders/1".to_owned(),
            own.map(str::to_owned).to_vec()
        ))
    );
    let (grant, route, limits) = allowed(&policy, "/search/").unwrap();
    assert_eq!((grant.as_str(), route.as_str()), ("shop/a-wide", "/**"));
    assert_eq!(
        limits,
        ["shop/a-wide/w", "shop/search/s", "shop/total/t"].map(str::to_owned)
    );
    assert_eq!(allowed(&policy, "/orders/2").unwrap().0, "shop/b-one");
}

#[test]
fn guards_read_a_path_as_widely_as_any_server_might() {
    let profile = document(
        "HttpProfile",
        "p",
        "pathParams: literal, emptySegments: literal, encodedSlash: opaque",
    );
    let policy = policy(
        &[
            grant("all", "allow: [{methods: [\"*\"], path: \"/**\"}]"),
            guard(
                "admin",
                "deny: [{path: \"/admin/**\"}, {path: \"/files/{name}\"}]",
            ),
            profile,
        ]
        .concat(),
    );
    for (path, expected) in [
        ("/admin", "deny"),
        ("/admin/", "deny"),
        ("/admin/x", "deny"),
        ("/ADMIN/x", "deny"),
        ("/admin./x", "deny"),
        ("/admin;v=1/x", "deny"),
        ("/admin/;x", "deny"),
        ("/;x/admin", "deny"),
        ("//admin", "deny"),
        ("/admin%2Fx", "deny"),
        ("/%EF%BD%81dmin", "deny"),
        ("/files/;a", "deny"),
        ("/files/a/", "deny"),
        ("/files/a/b", "allow"),
        ("/files", "allow"),
        ("/administrator", "allow"),
        ("/x/admin", "allow"),
        ("/x%2Fadmin", "allow"),
    ] {
        assert_eq!(verdict(&policy, "GET", path), expected, "{path}");
    }
}

#[test]
fn a_path_of_empty_segments_is_judged_in_linear_time() {
    let deep = format!("/{}x", "{a}/".repeat(60));
    let policy = policy(
        &[
            grant("all", "allow: [{methods: [GET], path: \"/**\"}]"),
            guard("deep", &format!("deny: [{{path: \"{deep}\"}}]")),
            document(
                "HttpProfile",
                "p",
                "pathParams: literal, emptySegments: literal",
            ),
        ]
        .concat(),
    );
    // Would not end if every mixture of readings were tried.
    assert_eq!(verdict(&policy, "GET", &"/;".repeat(4000)), "allow");
    assert_eq!(verdict(&policy, "GET", &"/a;".repeat(2500)), "allow");
    assert_eq!(
        verdict(&policy, "GET", &format!("{}/y", "/".repeat(4000))),
        "allow"
    );
}

#[test]
fn guards_look_at_overriding_methods_and_every_header_value() {
    let policy = policy(
        &[
            grant("all", "allow: [{methods: [GET, POST], path: \"/**\"}]"),
            guard(
                "delete",
                "deny: [{methods: [DELETE], path: \"/orders/**\"}]",
            ),
            guard("role", "deny: [{headers: [{name: X-Role, exact: admin}]}]"),
        ]
        .concat(),
    );
    for (name, value, expected) in [
        ("X-HTTP-Method-Override", "DELETE", "deny"),
        ("X-HTTP-Method", "delete", "deny"),
        ("X-Method-Override", "GET, DELETE", "deny"),
        ("X-Method-Override", "PUT", "allow"),
        ("X-Role", "user, Admin", "deny"),
        ("X-Role", "administrator", "allow"),
    ] {
        let found = ask(&policy, "POST", "/orders/1", &[(name, value)]);
        assert_eq!(found.decision.as_str(), expected, "{name}: {value}");
    }
}

/// An app behind CGI reads `X_Tenant` and `X-Tenant` as one.
#[test]
fn a_field_with_other_punctuation_is_the_same_field() {
    let spec = |on: &str| {
        format!("{{methods: [GET], path: /a, headers: [{{name: x-tenant, exact: {on}}}]}}")
    };
    let granted = policy(&grant("g", &format!("allow: [{}]", spec("a"))));
    let decided = |policy: &Policy, fields: &[(&str, &str)]| {
        ask(policy, "GET", "/a", fields).decision.as_str()
    };
    assert_eq!(decided(&granted, &[("x-tenant", "a")]), "allow");
    assert_eq!(
        decided(&granted, &[("x-tenant", "a"), ("x_tenant", "b")]),
        "deny"
    );
    assert_eq!(
        decided(&granted, &[("x-tenant", "a"), ("x-tenants", "b")]),
        "allow"
    );
    let all = grant("g", "allow: [{methods: [GET], path: /a}]");
    let guarded = policy(&(all + &guard("d", &format!("deny: [{}]", spec("evil")))));
    assert_eq!(decided(&guarded, &[("x.tenant", "evil")]), "deny");
    assert_eq!(decided(&guarded, &[("x-tenant", "good")]), "allow");
}

#[test]
fn an_exception_from_a_guard_is_only_for_those_named() {
    let text = grant("all", "allow: [{methods: [GET], path: \"/**\"}]");
    let guarded = |except: &str| {
        policy(&(text.clone() + &guard("g", &format!("deny: [{{path: /debug}}], {except}"))))
    };
    assert_eq!(
        verdict(
            &guarded(&format!("except: [\"{FRONTEND}\"]")),
            "GET",
            "/debug"
        ),
        "allow"
    );
    assert_eq!(
        verdict(
            &guarded(&format!("except: [\"{ORDERS}\"]")),
            "GET",
            "/debug"
        ),
        "deny"
    );
}

#[test]
fn validity_ends_and_does_not_come_back_with_the_clock() {
    let text = document(
        "Grant",
        "g",
        &format!(
            "from: [\"{FRONTEND}\"], allow: [{{methods: [GET], path: /a}}], \
             validity: {{notBefore: 2026-11-01T00:00:00Z, notAfter: 2027-02-01T00:00:00Z}}"
        ),
    );
    let options = Options {
        latest: Latest::default(),
        ..Options::default()
    };
    let compile = || policy::compile(&[source(&text)], &options).unwrap();
    let policy = compile();
    let request = Attributes {
        method: "GET",
        path: "/a",
        host: "",
        headers: &Fields(&[]),
    };
    let reason = |policy: &Policy, when: &str| {
        let view = policy.view(Caller::Identity(&id(FRONTEND)), &id(ORDERS), 80);
        match view.decide(&request, at(when)) {
            Decision::Allow(_) => "allow",
            Decision::Deny(deny) => deny.reason.as_str(),
            Decision::Reject(reason) => reason.as_str(),
        }
    };
    assert_eq!(reason(&policy, "2026-10-31T23:59:59Z"), "outside_validity");
    assert_eq!(reason(&policy, "2026-11-01T00:00:00Z"), "allow");
    assert_eq!(reason(&policy, "2027-02-01T00:00:00Z"), "allow");
    assert_eq!(reason(&policy, "2027-02-01T00:00:01Z"), "outside_validity");
    assert_eq!(
        reason(&policy, "2026-12-01T00:00:00Z"),
        "outside_validity",
        "the clock was set back"
    );
    assert_eq!(
        reason(&compile(), "2026-12-01T00:00:00Z"),
        "outside_validity",
        "and the policy reloaded"
    );
}

#[test]
fn callers_callees_and_ports_are_those_of_the_grant() {
    let policy = policy(&grant(
        "g",
        "ports: [8080], allow: [{methods: [GET], path: /a}]",
    ));
    let request = Attributes {
        method: "GET",
        path: "/a",
        host: "",
        headers: &Fields(&[]),
    };
    let (frontend, orders) = (id(FRONTEND), id(ORDERS));
    for (caller, callee, port, expected) in [
        (Caller::Identity(&frontend), &orders, 8080, true),
        (Caller::Identity(&frontend), &orders, 8081, false),
        (Caller::Identity(&frontend), &frontend, 8080, false),
        (Caller::Identity(&orders), &orders, 8080, false),
        (Caller::Unauthenticated, &orders, 8080, false),
    ] {
        let view = policy.view(caller, callee, port);
        let allowed = matches!(view.decide(&request, now()), Decision::Allow(_));
        assert_eq!(allowed, expected, "{caller} to {callee}:{port}");
    }
}

#[test]
fn callers_without_certificate_need_a_grant_that_says_so() {
    let spec = "from: [unauthenticated], allow: [{methods: [GET], path: /a}], validity: {notAfter: never, because: x}";
    let policy = policy(&document("Grant", "g", spec));
    let request = Attributes {
        method: "GET",
        path: "/a",
        host: "",
        headers: &Fields(&[]),
    };
    let view = policy.view(Caller::Unauthenticated, &id(ORDERS), 80);
    assert!(matches!(view.decide(&request, now()), Decision::Allow(_)));
    assert_eq!(verdict(&policy, "GET", "/a"), "deny");
}

#[test]
fn callers_for_whom_the_same_holds_share_a_view() {
    let policy = policy(&grant("g", "allow: [{methods: [GET], path: /a}]"));
    let view = |caller: &str| policy.view(Caller::Identity(&id(caller)), &id(ORDERS), 80);
    let (stranger, other) = (
        "spiffe://prod.example/ns/x/sa/y",
        "spiffe://prod.example/ns/x/sa/z",
    );
    assert!(std::sync::Arc::ptr_eq(&view(stranger), &view(other)));
    assert!(!std::sync::Arc::ptr_eq(&view(stranger), &view(FRONTEND)));
    assert!(std::sync::Arc::ptr_eq(&view(FRONTEND), &view(FRONTEND)));
}

#[test]
fn a_generation_is_a_matter_of_content() {
    let a = source(&guard("a", "deny: [{path: /a}]"));
    let b = Source {
        name: "q.yaml".to_owned(),
        text: guard("b", "deny: [{path: /b}]"),
    };
    let fingerprint = |sources: &[Source]| {
        policy::compile(sources, &Options::default())
            .unwrap()
            .fingerprint()
            .to_owned()
    };
    assert_eq!(
        fingerprint(&[a.clone(), b.clone()]),
        fingerprint(&[b.clone(), a.clone()])
    );
    assert_ne!(fingerprint(&[a]), fingerprint(&[b]));
}
