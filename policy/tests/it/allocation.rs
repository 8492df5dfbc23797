use policy::{Attributes, Decision};

use super::*;

const GRANTS: usize = 10_000;

/// Guards and limits are there too: looking at them must not allocate either.
fn with_guards_and_limits(grants: &[String]) -> Policy {
    let guards = guard(
        "no-debug",
        "deny: [{path: \"/debug/**\"}, {path: \"/{x}/internal\"}]",
    );
    let total = document(
        "Limit",
        "total",
        "limits: [{name: total, rate: 10/s}], match: [{path: \"/**\"}]",
    );
    let mut sources: Vec<Source> = grants
        .chunks(1000)
        .map(|grants| source(&grants.concat()))
        .collect();
    sources.extend([source(&guards), source(&total)]);
    policy::compile(&sources, &Options::default()).unwrap()
}

fn allocations(policy: &Policy, path: &str) -> u64 {
    let view = policy.view(Caller::Identity(&id(FRONTEND)), &id(ORDERS), 8080);
    let headers = [("accept".to_owned(), "*/*".to_owned())];
    let request = Attributes {
        method: "GET",
        path,
        host: "orders",
        headers: &Fields(&headers),
    };
    let measured = allocation_counter::measure(|| {
        let decision = view.decide(&request, now());
        assert!(
            matches!(decision, Decision::Allow(allow) if allow.limits.len() == 2),
            "{path}"
        );
    });
    measured.count_total
}

#[test]
fn admitting_a_connection_costs_no_allocation() {
    let limits = "limits: [{name: mine, key: [identity], rate: 5/s}]";
    let grants: Vec<String> = (0..4)
        .map(|i| {
            grant(
                &format!("g{i}"),
                &format!("allow: [{{tcp: true}}], {limits}"),
            )
        })
        .collect();
    let policy = policy(&grants.concat());
    let view = policy.view(Caller::Identity(&id(FRONTEND)), &id(ORDERS), 5432);
    let measured = allocation_counter::measure(|| {
        let decision = view.admit(now());
        assert!(
            matches!(&decision, Decision::Allow(allow) if allow.limits.len() == 4),
            "{decision:?}"
        );
    });
    assert_eq!(measured.count_total, 0);
}

#[test]
fn ten_thousand_grants_for_one_caller_cost_no_allocation() {
    let clause =
        |i: usize| format!("allow: [{{methods: [GET], path: \"/service-{i}/items/{{id}}\"}}]");
    let limits = "limits: [{name: mine, key: [identity], rate: 5/s}]";
    let grants: Vec<String> = (0..GRANTS)
        .map(|i| grant(&format!("g{i}"), &format!("{}, {limits}", clause(i))))
        .collect();
    let policy = with_guards_and_limits(&grants);
    for path in [
        "/service-0/items/7",
        "/service-9999/items/Caf%C3%A9",
        "/service-5000/items/A.B",
    ] {
        assert_eq!(allocations(&policy, path), 0, "{path}");
    }
}

#[test]
fn ten_thousand_grants_for_different_callers_cost_no_allocation() {
    let limits = "limits: [{name: mine, key: [identity], rate: 5/s}]";
    let grants: Vec<String> = (0..GRANTS)
        .map(|i| {
            let from = if i == 7777 { FRONTEND.to_owned() } else { format!("spiffe://prod.example/ns/shop/sa/c{i}") };
            let rest = "validity: {notAfter: 2100-01-01T00:00:00Z}, allow: [{methods: [GET], path: \"/items/**\"}]";
            document("Grant", &format!("g{i}"), &format!("from: [\"{from}\"], {rest}, {limits}"))
        })
        .collect();
    assert_eq!(
        allocations(&with_guards_and_limits(&grants), "/items/a/b/c/"),
        0
    );
}
