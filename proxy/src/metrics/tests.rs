use std::sync::Arc;

use identity::{TrustBundle, TrustDomain};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::IdentityState;

fn bundle() -> TrustBundle {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![SanType::URI("spiffe://demo.test".try_into().unwrap())];
    let root = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    TrustBundle::new(
        TrustDomain::parse("demo.test").unwrap(),
        vec![root.der().clone()],
        7,
    )
    .unwrap()
}

fn encode(metrics: &Metrics) -> String {
    let (renew, _) = mpsc::channel(1);
    let feed = IdentityFeed {
        svid: watch::channel(None).1,
        bundle: watch::channel(Arc::new(bundle())).1,
        state: watch::channel(IdentityState::default()).1,
        renew,
    };
    let policy = PolicyStatus {
        generation: "abc".to_owned(),
        loaded_at: SystemTime::UNIX_EPOCH,
        last_error: None,
    };
    metrics.encode(&feed, &policy, SystemTime::now())
}

#[test]
fn requests_are_counted_by_direction_decision_and_status_class() {
    let metrics = Metrics::new();
    for status in [200, 204, 403, 0] {
        metrics.request(
            Direction::Inbound,
            Decision::Allow,
            status,
            Duration::from_millis(2),
        );
    }
    let text = encode(&metrics);
    for line in [
        r#"tipstaff_requests_total{direction="inbound",decision="allow",status="2xx"} 2"#,
        r#"tipstaff_requests_total{direction="inbound",decision="allow",status="4xx"} 2"#,
        r#"tipstaff_requests_total{direction="outbound",decision="deny",status="5xx"} 0"#,
        r#"tipstaff_request_duration_seconds_count{direction="inbound"} 4"#,
        r#"tipstaff_bundle_sequence 7"#,
        r#"tipstaff_policy_generation{generation="abc"} 1"#,
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} not in\n{text}"
        );
    }
}

#[test]
fn open_connections_fall_when_guards_are_dropped() {
    let metrics = Metrics::new();
    let open = [
        metrics.connection(Direction::Inbound),
        metrics.connection(Direction::Inbound),
    ];
    assert!(encode(&metrics).contains("tipstaff_open_connections{direction=\"inbound\"} 2\n"));
    drop(open);
    assert!(encode(&metrics).contains("tipstaff_open_connections{direction=\"inbound\"} 0\n"));
}

/// R21.
#[test]
fn series_stay_bounded_whatever_callers_and_limits_are_named() {
    let metrics = Metrics::new();
    let padding = "x".repeat(1900);
    for n in 0..100_000 {
        // Long ones first, since they are the ones that are kept.
        let padding = if n < 1000 { padding.as_str() } else { "" };
        let id = SpiffeId::parse(&format!("spiffe://demo.test/{n}{padding}")).unwrap();
        metrics.caller(&id).request(Decision::Allow);
        metrics.limit_refusal(&format!("limit-{n}\"\n{padding}"));
    }
    let text = encode(&metrics);
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series <= 10_000, "{series} series");
    assert!(text.len() <= 4 << 20, "{} bytes", text.len());
    let other = 100_000 - MAX_CALLERS;
    let line =
        format!(r#"tipstaff_caller_requests_total{{caller="other",decision="allow"}} {other}"#);
    assert!(text.lines().any(|found| found == line), "{line} missing");
}

#[test]
fn every_metric_has_a_help_text_and_a_name_of_ours() {
    let text = encode(&Metrics::new());
    let named: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP "))
        .collect();
    assert!(!named.is_empty());
    for line in named {
        let (name, help) = line.split_once(' ').unwrap();
        assert!(name.starts_with("tipstaff_"), "{name}");
        assert!(help.len() > 10, "{name}: {help}");
    }
}
