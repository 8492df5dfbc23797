//! Rate limits as a caller meets them.

use crate::harness::{Mesh, Options, grant, wait_for};

fn limited(rate: &str) -> String {
    let limits = format!("[{{name: reads, key: [identity], rate: {rate}, burst: 3}}]");
    grant(
        "reads",
        r#"{methods: [GET], path: "/api/v1/orders/{id}"}"#,
        &limits,
    )
}

#[test]
fn beyond_the_limit_the_answer_is_429_with_every_field_and_nothing_reaches_the_app() {
    let mesh = Mesh::with(&Options {
        policy: limited("1/h"),
        ..Options::default()
    });
    for _ in 0..3 {
        assert_eq!(mesh.storefront.call("GET", "/api/v1/orders/1").status, 200);
    }
    let reply = mesh.storefront.call("GET", "/api/v1/orders/1");
    assert_eq!(reply.status, 429, "{reply:?}");
    let retry: u64 = reply
        .header("retry-after")
        .and_then(|value| value.parse().ok())
        .expect("whole seconds");
    assert!((1..=3600).contains(&retry), "{retry}");
    assert_eq!(
        reply.header("ratelimit-policy"),
        Some(r#""reads";q=3;w=10800"#),
        "{reply:?}"
    );
    assert!(
        reply
            .header("ratelimit")
            .is_some_and(|value| value.starts_with(r#""reads";r=0;t="#)),
        "{reply:?}"
    );
    assert_eq!(
        reply.header("content-type"),
        Some("application/problem+json"),
        "{reply:?}"
    );
    assert_eq!(mesh.app.heads().len(), 3);
}

#[test]
fn a_refused_caller_spends_no_quota() {
    let mesh = Mesh::with(&Options {
        policy: limited("1/h"),
        ..Options::default()
    });
    for _ in 0..20 {
        assert_eq!(
            mesh.storefront.call("DELETE", "/api/v1/orders/1").status,
            403
        );
    }
    assert_eq!(mesh.storefront.call("GET", "/api/v1/orders/1").status, 200);
}

#[test]
fn the_spent_quota_survives_a_policy_reload() {
    let mesh = Mesh::with(&Options {
        policy: limited("1/h"),
        ..Options::default()
    });
    let status = || mesh.storefront.call("GET", "/api/v1/orders/1").status;
    while status() == 200 {}
    let more = format!(
        "{}---\n{}",
        limited("1/h"),
        grant("lists", r#"{methods: [GET], path: "/api/v1/orders"}"#, "[]")
    );
    mesh.set_policy(&more);
    wait_for("the new policy", || {
        (mesh.storefront.call("GET", "/api/v1/orders").status == 200).then_some(())
    });
    assert_eq!(status(), 429);
}
