use policy::{Attributes, Decision, HttpProfile};

use super::*;

fn profile(spec: &str) -> String {
    document("HttpProfile", "p", spec)
}

#[test]
fn a_profile_holds_for_its_callee_and_port_only() {
    let spec = "ports: [8080], encodedSlash: opaque, upgrade: [WebSocket, tcp, TCP], http10: true";
    let policy = policy(&profile(spec));
    let of = |callee: &str, port| {
        let view = policy.view(Caller::Identity(&id(FRONTEND)), &id(callee), port);
        view.profile().clone()
    };
    let taken = of(ORDERS, 8080);
    assert_ne!(taken.target, policy::target::Profile::default());
    assert!(taken.http10);
    let upgrades: Vec<&str> = taken.upgrades().iter().map(AsRef::as_ref).collect();
    assert_eq!(upgrades, ["tcp", "websocket"]);
    assert_eq!(of(ORDERS, 80), HttpProfile::default());
    assert_eq!(of(FRONTEND, 8080), HttpProfile::default());
}

#[test]
fn without_a_profile_nothing_beyond_the_strict_one_is_taken() {
    let strict = HttpProfile::default();
    assert!(strict.upgrades().is_empty() && !strict.http10);
    assert_eq!(strict.target, policy::target::Profile::default());
    let policy = Policy::deny_all();
    let view = policy.view(Caller::Unauthenticated, &id(ORDERS), 80);
    assert_eq!(*view.profile(), strict);
}

/// The profile says what a port takes, a grant who may ask for it.
#[test]
fn an_upgrade_needs_the_profile_and_a_grant_of_the_request_that_asks() {
    let granted = grant(
        "chat",
        "allow: [{methods: [GET], path: /chat}, {methods: [POST], path: /attach}]",
    );
    let guarded = guard("d", "deny: [{path: /debug}]");
    let open = policy(&(granted.clone() + &guarded + &profile("upgrade: [websocket, tcp]")));
    let strict = policy(&(granted + &guarded));
    for (method, target, upgrades, expected, without_profile) in [
        ("GET", "/chat", &["websocket"][..], "allow", "reject"),
        ("GET", "/chat", &["WebSocket"], "allow", "reject"),
        ("POST", "/attach", &["tcp"], "allow", "reject"),
        ("GET", "/chat", &["h2c"], "allow", "allow"),
        ("GET", "/other", &["websocket"], "deny", "reject"),
        ("POST", "/chat", &["websocket"], "deny", "reject"),
        ("GET", "/debug", &["websocket"], "deny", "reject"),
        ("GET", "/chat", &["smtp"], "reject", "reject"),
        ("GET", "/chat", &["websocket, tcp"], "reject", "reject"),
        ("GET", "/chat", &["websocket", "tcp"], "reject", "reject"),
        ("GET", "/chat", &["h2c", "websocket"], "reject", "reject"),
        ("GET", "/chat", &[""], "reject", "reject"),
    ] {
        let fields: Vec<(&str, &str)> = upgrades.iter().map(|value| ("Upgrade", *value)).collect();
        let ask = |policy: &Policy| ask(policy, method, target, &fields).decision.as_str();
        assert_eq!(ask(&open), expected, "{method} {target} {upgrades:?}");
        assert_eq!(
            ask(&strict),
            without_profile,
            "{method} {target} {upgrades:?}"
        );
    }
}

const ORIGIN: (&str, &str) = ("Origin", "https://shop.example");
const GET: (&str, &str) = ("Access-Control-Request-Method", "GET");
const PUT: (&str, &str) = ("Access-Control-Request-Method", "PUT");

/// Grants with which a page reads and writes what is its own, and a guard.
fn shop(profile_spec: &str) -> Policy {
    let old = format!(
        "from: [\"{FRONTEND}\"], allow: [{{methods: [GET], path: /old}}], validity: {{notAfter: 2026-01-01T00:00:00Z}}"
    );
    let other = "from: [\"spiffe://prod.example/ns/shop/sa/cart\"], allow: [{methods: [GET], path: /cart}], \
         validity: {notAfter: never, because: x}";
    let mut documents = vec![
        grant(
            "own",
            "allow: [{methods: [GET], path: \"/orders/{id}\"}, {methods: [GET, PUT], path: \"/any/**\"}, \
             {methods: [PUT], path: /tenant, headers: [{name: x-tenant, exact: a}]}, \
             {methods: [GET], path: /host, hosts: [shop.example]}], limits: [{name: l, rate: 1/s}]",
        ),
        grant("rpc", "allow: [{grpc: a.B, methods: [C]}]"),
        document("Grant", "old", &old),
        document("Grant", "other", other),
        guard(
            "d",
            "deny: [{methods: [PUT], path: \"/any/guarded/**\"}, {path: \"/any/debug/**\"}]",
        ),
        document("Limit", "total", "limits: [{name: t, rate: 1/s}]"),
    ];
    if !profile_spec.is_empty() {
        documents.push(profile(profile_spec));
    }
    policy(&documents.concat())
}

#[test]
fn a_preflight_passes_where_the_request_passes_that_it_asks_about() {
    let open = shop("cors: preflight");
    let strict = shop("");
    for (target, fields, expected) in [
        ("/orders/1", &[ORIGIN, GET][..], "allow"),
        ("/orders/1", &[ORIGIN, PUT], "deny"),
        ("/orders/1/items", &[ORIGIN, GET], "deny"),
        ("/nothing", &[ORIGIN, GET], "deny"),
        ("/old", &[ORIGIN, GET], "deny"),
        ("/cart", &[ORIGIN, GET], "deny"),
        // Its condition is for the request itself.
        ("/tenant", &[ORIGIN, PUT], "allow"),
        ("/tenant", &[ORIGIN, GET], "deny"),
        ("/host", &[ORIGIN, GET], "deny"),
        ("/host", &[ORIGIN, GET, ("Host", "shop.example")], "allow"),
        (
            "/a.B/C",
            &[ORIGIN, ("Access-Control-Request-Method", "POST")],
            "deny",
        ),
        ("/any/guarded/x", &[ORIGIN, GET], "allow"),
        ("/any/guarded/x", &[ORIGIN, PUT], "deny"),
        ("/any/debug", &[ORIGIN, GET], "deny"),
        ("/orders/1/../2", &[ORIGIN, GET], "reject"),
        // No preflight:
        ("/orders/1", &[], "deny"),
        ("/orders/1", &[ORIGIN], "deny"),
        ("/orders/1", &[GET], "deny"),
        ("/orders/1", &[ORIGIN, ORIGIN, GET], "deny"),
        ("/orders/1", &[ORIGIN, GET, GET], "deny"),
        ("/orders/1", &[("Origin", ""), GET], "deny"),
        (
            "/orders/1",
            &[ORIGIN, ("Access-Control-Request-Method", "")],
            "deny",
        ),
        (
            "/orders/1",
            &[ORIGIN, ("Access-Control-Request-Method", "GET, PUT")],
            "deny",
        ),
        (
            "/orders/1",
            &[ORIGIN, ("Access-Control-Request-Method", "get")],
            "deny",
        ),
        ("/orders/1", &[ORIGIN, GET, ("Content-Length", "1")], "deny"),
        (
            "/orders/1",
            &[ORIGIN, GET, ("Transfer-Encoding", "chunked")],
            "deny",
        ),
    ] {
        let found = |policy: &Policy| ask(policy, "OPTIONS", target, fields).decision.as_str();
        assert_eq!(found(&open), expected, "{target} {fields:?}");
        if expected == "allow" {
            assert_eq!(found(&strict), "deny", "{target} {fields:?}");
        }
    }
    for method in ["GET", "HEAD", "POST", "PUT"] {
        let found = ask(&open, method, "/tenant", &[ORIGIN, PUT]);
        assert_eq!(found.decision.as_str(), "deny", "{method}");
    }
}

#[test]
fn a_grant_of_options_needs_no_preflight_and_a_guard_of_options_holds_for_it() {
    let all = grant("all", "allow: [{methods: [GET, OPTIONS], path: /a}]");
    let preflight = profile("cors: preflight");
    let asked = |text: &str, fields: &[(&str, &str)]| {
        ask(&policy(text), "OPTIONS", "/a", fields)
            .decision
            .as_str()
    };
    assert_eq!(asked(&all, &[]), "allow");
    let guarded = all + &preflight + &guard("d", "deny: [{methods: [OPTIONS], path: /a}]");
    assert_eq!(asked(&guarded, &[ORIGIN, GET]), "deny");
}

#[test]
fn a_preflight_is_charged_to_the_limits_of_the_grants_that_open_its_path() {
    let policy = shop("cors: preflight");
    let view = policy.view(Caller::Identity(&id(FRONTEND)), &id(ORDERS), 80);
    let headers = [ORIGIN, GET].map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let request = Attributes {
        method: "OPTIONS",
        path: "/orders/1",
        host: "",
        headers: &Fields(&headers),
    };
    assert!(matches!(view.decide(&request, now()), Decision::Deny(_)));
    let Decision::Allow(allow) = view.decide_or_preflight(&request, now()) else {
        panic!("it is a preflight");
    };
    let limits: Vec<&str> = allow.limits.iter().map(|limit| limit.id()).collect();
    assert_eq!((allow.grant(), allow.route()), ("shop/own", "/orders/{id}"));
    assert_eq!(limits, ["shop/own/l", "shop/total/t"]);
}
