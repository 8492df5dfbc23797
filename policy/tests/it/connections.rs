use policy::{Decision, Reason, View};

use super::*;

const TCP: &str = "allow: [{tcp: true}]";
const NEVER: &str = "validity: {notAfter: never, because: test}";

fn view(policy: &Policy, caller: &str, port: u16) -> std::sync::Arc<View> {
    policy.view(Caller::Identity(&id(caller)), &id(ORDERS), port)
}

/// What the front end is told that opens a connection to port 5432: the grant and the limits, or why not.
fn admitted(text: &str) -> Result<(String, Vec<String>), (Reason, Option<String>)> {
    match view(&policy(text), FRONTEND, 5432).admit(now()) {
        Decision::Allow(allow) => {
            assert_eq!(allow.route(), "tcp");
            let limits = allow.limits.iter();
            let limits = limits.map(|limit| limit.id().to_owned()).collect();
            Ok((allow.grant().to_owned(), limits))
        }
        Decision::Deny(deny) => Err((deny.reason, deny.rule.map(str::to_owned))),
        Decision::Reject(reason) => panic!("{reason:?}: a connection has nothing to reject"),
    }
}

fn refused(text: &str) -> (Reason, Option<String>) {
    admitted(text).expect_err("it was admitted")
}

#[test]
fn a_connection_needs_a_grant_that_says_tcp() {
    assert_eq!(refused(""), (Reason::NoMatchingAllow, None));
    assert!(matches!(
        view(&Policy::deny_all(), FRONTEND, 5432).admit(now()),
        Decision::Deny(_)
    ));
    for requests in [
        "allow: [{methods: [\"*\"], path: \"/**\"}]",
        "allow: [{grpc: \"*\", methods: [\"*\"]}]",
    ] {
        assert_eq!(
            refused(&grant("g", requests)),
            (Reason::NoMatchingAllow, None)
        );
    }
    assert_eq!(
        admitted(&grant("g", TCP)).unwrap(),
        ("shop/g".to_owned(), vec![])
    );
}

/// A connection says nothing about what a request in it may be.
#[test]
fn a_grant_of_connections_opens_no_request() {
    let policy = policy(&grant("g", TCP));
    for (method, target) in [("GET", "/"), ("POST", "/a.B/C"), ("OPTIONS", "/")] {
        assert_eq!(verdict(&policy, method, target), "deny");
    }
}

#[test]
fn callers_callees_and_ports_are_those_of_the_grant() {
    let policy = policy(&grant("g", &format!("ports: [5432, 5433], {TCP}")));
    let (frontend, orders) = (id(FRONTEND), id(ORDERS));
    for (caller, callee, port, expected) in [
        (Caller::Identity(&frontend), &orders, 5432, true),
        (Caller::Identity(&frontend), &orders, 5433, true),
        (Caller::Identity(&frontend), &orders, 5434, false),
        (Caller::Identity(&frontend), &frontend, 5432, false),
        (Caller::Identity(&orders), &orders, 5432, false),
        (Caller::Unauthenticated, &orders, 5432, false),
    ] {
        let view = policy.view(caller, callee, port);
        let admitted = matches!(view.admit(now()), Decision::Allow(_));
        assert_eq!(admitted, expected, "{caller} to {callee}:{port}");
    }
}

/// Whatever a guard denies, bytes that nobody looks into may be just that.
#[test]
fn every_guard_that_reaches_the_callee_and_port_cuts_connections_off() {
    let open = grant("g", TCP);
    let cut = |guard_spec: &str| admitted(&(open.clone() + &guard("d", guard_spec)));
    let denied = Err((Reason::ExplicitDeny, Some("shop/d".to_owned())));
    for deny in [
        "deny: [{path: \"/**\"}]",
        "deny: [{path: /debug}]",
        "deny: [{methods: [DELETE]}]",
        "deny: [{grpc: pay.v1.Payments}]",
        "deny: [{headers: [{name: x-role, exact: admin}]}]",
        "deny: [{tcp: true}]",
        "deny: [{tcp: true}], ports: [80, 5432]",
    ] {
        assert_eq!(cut(deny), denied, "{deny}");
        let excepted = |whom: &str| cut(&format!("{deny}, except: [\"{whom}\"]"));
        assert!(excepted(FRONTEND).is_ok(), "{deny}");
        assert_eq!(excepted(ORDERS), denied, "{deny}");
    }
    assert!(cut("deny: [{path: \"/**\"}], ports: [80]").is_ok());
}

#[test]
fn a_guard_of_connections_denies_no_request() {
    let all = grant("all", "allow: [{methods: [GET], path: \"/**\"}]");
    let policy = policy(&(all + &guard("d", "deny: [{tcp: true}]")));
    assert_eq!(verdict(&policy, "GET", "/a"), "allow");
}

#[test]
fn each_matching_grant_and_shared_limit_is_charged_for_a_connection() {
    let limits = |name: &str| format!("limits: [{{name: {name}, rate: 1/s}}]");
    let shared = |name: &str, matching: &str| {
        document("Limit", name, &format!("{matching} {}", limits("l")))
    };
    let text = [
        grant("b", &format!("{TCP}, {}", limits("own"))),
        grant("a", &format!("ports: [5432], {TCP}, {}", limits("own"))),
        grant("c", &format!("ports: [80], {TCP}, {}", limits("own"))),
        shared("all", ""),
        shared("some", "match: [{path: /a}],"),
        shared("tcp", "match: [{path: /a}, {tcp: true}],"),
    ];
    let charged = ["shop/a/own", "shop/b/own", "shop/all/l", "shop/tcp/l"];
    assert_eq!(
        admitted(&text.concat()).unwrap(),
        ("shop/a".to_owned(), charged.map(str::to_owned).to_vec())
    );
}

#[test]
fn a_limit_of_connections_alone_is_not_charged_for_a_request() {
    let all = grant("all", "allow: [{methods: [GET], path: \"/**\"}]");
    let limit = document(
        "Limit",
        "tcp",
        "match: [{tcp: true}], limits: [{name: l, rate: 1/s}]",
    );
    let policy = policy(&(all + &limit));
    let view = view(&policy, FRONTEND, 80);
    let request = policy::Attributes {
        method: "GET",
        path: "/a",
        host: "",
        headers: &Fields(&[]),
    };
    let Decision::Allow(allow) = view.decide(&request, now()) else {
        panic!("it is granted");
    };
    assert!(allow.limits.is_empty(), "{allow:?}");
}

/// A grant of the front end's that ends when `end` says.
fn ending(name: &str, allow: &str, validity: &str) -> String {
    document(
        "Grant",
        name,
        &format!("from: [\"{FRONTEND}\"], allow: {allow}, {validity}"),
    )
}

/// Connections and requests alike, since both may last.
#[test]
fn what_a_grant_carries_may_last_until_the_last_matching_grant_ends() {
    const NANOSECOND: std::time::Duration = std::time::Duration::from_nanos(1);
    const SHORT: &str = "validity: {notAfter: 2026-12-01T00:00:00Z}";
    const LONG: &str = "validity: {notAfter: 2027-02-01T00:00:00Z}";
    const OVER: &str = "validity: {notAfter: 2026-11-01T00:00:00Z}";
    const TO_COME: &str =
        "validity: {notBefore: 2026-11-25T00:00:00Z, notAfter: 2028-01-01T00:00:00Z}";
    let both_of = |validities: &[&str]| {
        let grants = validities.iter().zip(0..).map(|(validity, index)| {
            ending(&format!("t{index}"), "[{tcp: true}]", validity)
                + &ending(
                    &format!("h{index}"),
                    "[{methods: [GET], path: \"/**\"}]",
                    validity,
                )
        });
        policy(&grants.collect::<String>())
    };
    for (validities, end) in [
        (&[SHORT][..], Some("2026-12-01T00:00:00Z")),
        (&[SHORT, LONG], Some("2027-02-01T00:00:00Z")),
        (&[LONG, SHORT, OVER], Some("2027-02-01T00:00:00Z")),
        (&[SHORT, TO_COME], Some("2026-12-01T00:00:00Z")),
        (&[SHORT, NEVER, LONG], None),
        (&[NEVER, LONG], None),
    ] {
        let policy = both_of(validities);
        let view = view(&policy, FRONTEND, 5432);
        let request = policy::Attributes {
            method: "GET",
            path: "/a",
            host: "",
            headers: &Fields(&[]),
        };
        let decisions = |now| [view.admit(now), view.decide(&request, now)];
        for decision in decisions(now()) {
            let Decision::Allow(allow) = decision else {
                panic!("{validities:?}: {decision:?}");
            };
            let end = end.map(|end| at(end) + NANOSECOND);
            assert_eq!(allow.until(), end, "{validities:?}");
        }
        let Some(end) = end else { continue };
        let goes_on = validities.contains(&TO_COME);
        for (instant, allowed) in [(at(end), true), (at(end) + NANOSECOND, goes_on)] {
            for decision in decisions(instant) {
                let is_allowed = matches!(decision, Decision::Allow(_));
                assert_eq!(is_allowed, allowed, "{validities:?} at {instant:?}");
            }
        }
    }
}

#[test]
fn an_expired_grant_admits_no_connection_when_the_clock_is_set_back() {
    let text = ending(
        "g",
        "[{tcp: true}]",
        "validity: {notBefore: 2026-11-01T00:00:00Z, notAfter: 2026-12-01T00:00:00Z}",
    );
    let view = view(&policy(&text), FRONTEND, 80);
    let outside = |when: &str| match view.admit(at(when)) {
        Decision::Deny(deny) => deny.reason == Reason::OutsideValidity,
        _ => false,
    };
    assert!(outside("2026-10-31T23:59:59Z"));
    assert!(!outside("2026-11-22T00:00:00Z"));
    assert!(outside("2026-12-01T00:00:01Z"));
    assert!(outside("2026-11-22T00:00:00Z"), "the clock was set back");
}
