use std::sync::Arc;
use std::time::{Duration, Instant};

use identity::{CaTime, SpiffeId, TrustBundle, TrustDomain};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, SanType};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::access_log::{AccessLog, Path, Peer, Record};
use crate::{IdentityState, config};

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
    encode_with(metrics, IdentityState::default())
}

fn encode_with(metrics: &Metrics, state: IdentityState) -> String {
    let (renew, _) = mpsc::channel(1);
    let feed = IdentityFeed {
        svid: watch::channel(None).1,
        bundle: watch::channel(Arc::new(bundle())).1,
        revocations: watch::channel(Arc::default()).1,
        state: watch::channel(state).1,
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
fn a_clock_that_differs_from_the_cas_shows() {
    let heard = Instant::now();
    let unix_ms = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    for (shift_ms, ahead) in [(3_600_000, -3600.0), (-300_000, 300.0)] {
        let unix_ms = i64::try_from(unix_ms).unwrap() + shift_ms;
        let state = IdentityState {
            ca_time: Some(CaTime::new(unix_ms, heard, heard)),
            ..IdentityState::default()
        };
        let text = encode_with(&Metrics::new(), state);
        let gauge = |line: &str| {
            line.strip_prefix("tipstaff_clock_skew_seconds ")?
                .parse()
                .ok()
        };
        let found: f64 = text.lines().find_map(gauge).unwrap();
        assert!((found - ahead).abs() < 1.0, "{found}");
    }
    let text = encode(&Metrics::new());
    assert!(text.contains("tipstaff_clock_skew_seconds 0.0"), "{text}");
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

/// R21. What is held is counted in the allocator, since other tests share the process.
#[test]
fn a_million_made_up_names_leave_few_series_and_little_memory() {
    const REQUESTS: u32 = 1_000_000;
    let metrics = Metrics::new();
    let (log, _writer) = AccessLog::open(&config::AccessLog::Off, metrics.clone()).unwrap();
    let padding = "x".repeat(1900);
    let held = allocation_counter::measure(|| {
        for n in 0..REQUESTS {
            // Long ones first, since they are the ones that are kept.
            let padding = if n < 1000 { padding.as_str() } else { "" };
            let name = format!("{n}{padding}");
            let id = SpiffeId::parse(&format!("spiffe://demo.test/{name}")).unwrap();
            metrics.limit_refusal(&format!("limit-{name}\"\n"));
            record(&name, &metrics.caller(&id)).finish(&metrics, &log);
        }
    });
    assert!(held.bytes_max <= 32 << 20, "{} bytes", held.bytes_max);
    let text = encode(&metrics);
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series <= 10_000, "{series} series");
    assert!(text.len() <= 4 << 20, "{} bytes", text.len());
    let other = u64::from(REQUESTS) - MAX_CALLERS as u64;
    let total: u64 = Decision::ALL
        .iter()
        .map(|decision| {
            let decision = decision.as_str();
            let line = format!(
                r#"tipstaff_caller_requests_total{{caller="other",decision="{decision}"}} "#
            );
            let count = text
                .lines()
                .find_map(|found| found.strip_prefix(line.as_str()));
            count.unwrap().parse::<u64>().unwrap()
        })
        .sum();
    assert_eq!(total, other);
}

/// A request of which everything that a peer chooses is `name`.
fn record<'a>(name: &'a str, counters: &'a Caller) -> Record<'a> {
    let decision = Decision::ALL[name.len() % Decision::ALL.len()];
    Record {
        time: SystemTime::UNIX_EPOCH,
        direction: Direction::Inbound,
        peer: Some(Peer {
            id: name,
            serial: name,
            counters,
        }),
        address: None,
        method: name,
        host: Some(name.as_bytes()),
        path: Path::Raw(name.as_bytes()),
        status: u16::try_from(name.len() % 600).unwrap(),
        decision,
        reason: (decision != Decision::Allow).then_some("refused"),
        rule: Some(name),
        generation: name,
        decision_id: Some(name),
        bytes_in: 1,
        bytes_out: 1,
        duration: Duration::from_micros(name.len() as u64),
        upstream: Some(name),
    }
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
