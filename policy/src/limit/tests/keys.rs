//! What is counted apart.

use super::*;

#[test]
fn each_key_has_a_budget_of_its_own() {
    let ip = |ip: &str| Some(ip.parse().unwrap());
    let a = caller("a");
    let same = a;
    for (key, other, own_budget) in [
        ("identity", same, false),
        ("identity", caller("b"), true),
        (
            "identity",
            Subject {
                identity: None,
                ..a
            },
            true,
        ),
        ("identity", Subject { method: "PUT", ..a }, false),
        (
            "namespace",
            Subject {
                namespace: Some("pay"),
                ..a
            },
            true,
        ),
        ("namespace", caller("b"), false),
        ("route", Subject { route: "/b", ..a }, true),
        ("method", Subject { method: "PUT", ..a }, true),
        (
            "grpcMethod",
            Subject {
                grpc_method: Some("s/m"),
                ..a
            },
            true,
        ),
        (
            "clientIp",
            Subject {
                client_ip: ip("10.0.0.2"),
                ..a
            },
            true,
        ),
        (
            "header:X-Tenant",
            Subject {
                headers: &Field("x-tenant", b"t"),
                ..a
            },
            true,
        ),
        (
            "header:X-Tenant",
            Subject {
                headers: &Field("x-tenant", b""),
                ..a
            },
            true,
        ),
        (
            "header:X-Tenant",
            Subject {
                headers: &Field("x-other", b"t"),
                ..a
            },
            false,
        ),
    ] {
        let (limits, spec) = (Limits::default(), limit("l", &[key], "1/h", 1));
        assert_eq!(passed(&limits, &[&spec], &a, SECOND, 1), 1);
        assert_eq!(
            passed(&limits, &[&spec], &other, SECOND, 1),
            u32::from(own_budget),
            "{key} {other:?}"
        );
    }
}

#[test]
fn parts_of_a_key_do_not_run_into_each_other() {
    let (limits, spec) = (
        Limits::default(),
        limit("l", &["route", "method"], "1/h", 1),
    );
    let first = Subject {
        route: "/ab",
        method: "C",
        ..caller("a")
    };
    let second = Subject {
        route: "/a",
        method: "bC",
        ..caller("a")
    };
    assert_eq!(passed(&limits, &[&spec], &first, SECOND, 1), 1);
    assert_eq!(passed(&limits, &[&spec], &second, SECOND, 1), 1);
}

#[test]
fn ipv6_clients_are_told_apart_by_prefix() {
    for (prefix, first, second, same) in [
        (64, "2001:db8::1", "2001:db8::ffff:1", true),
        (64, "2001:db8::1", "2001:db8:0:1::1", false),
        (128, "2001:db8::1", "2001:db8::2", false),
        (1, "2001:db8::1", "7001::", true),
        (64, "10.0.0.1", "10.0.0.2", false),
        (64, "10.0.0.1", "::ffff:10.0.0.1", true),
    ] {
        let definition = Definition {
            ipv6_prefix: prefix,
            ..definition("l", &["clientIp"], "1/h", 1)
        };
        let (limits, spec) = (Limits::default(), LimitSpec::new(definition).unwrap());
        let from = |ip: &str| Subject {
            client_ip: Some(ip.parse().unwrap()),
            ..caller("a")
        };
        assert_eq!(passed(&limits, &[&spec], &from(first), SECOND, 1), 1);
        assert_eq!(
            passed(&limits, &[&spec], &from(second), SECOND, 1),
            u32::from(!same),
            "{first} {second}"
        );
    }
}

/// All of them used to share one budget, so that any of them could use up what the others had.
#[test]
fn callers_without_an_identity_are_told_apart_by_address() {
    let at = |ip: &str| Subject {
        identity: None,
        client_ip: Some(ip.parse().unwrap()),
        ..caller("a")
    };
    let (limits, spec) = (Limits::default(), limit("l", &["identity"], "1/h", 1));
    for (subject, passes) in [
        (at("10.0.0.1"), 1),
        (at("10.0.0.1"), 0),
        (at("::ffff:10.0.0.1"), 0),
        (at("10.0.0.2"), 1),
        (at("2001:db8::1"), 1),
        // One client holds the network.
        (at("2001:db8::2"), 0),
        (at("2001:db8:0:1::1"), 1),
    ] {
        assert_eq!(
            passed(&limits, &[&spec], &subject, SECOND, 1),
            passes,
            "{:?}",
            subject.client_ip
        );
    }
}
