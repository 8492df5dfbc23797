//! Identities rotate under load, by themselves and when asked, and no request is lost.

use crate::harness::load::Load;
use crate::harness::{Mesh, Options, wait_for};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const READ_ORDER: &str = "GET /api/v1/orders/42 HTTP/1.1\r\nhost: orders\r\n\r\n";

/// Thirty seconds at a thousand a second.
const REQUESTS: usize = 30_000;

#[test]
fn a_thousand_requests_a_second_lose_nothing_while_both_identities_rotate_every_two_seconds() {
    let mesh = Mesh::start();
    let load = Load::start(mesh.storefront.outbound, READ_ORDER, 1100);
    let start = Instant::now();
    let (mut rotations, mut serials) = (0, BTreeSet::new());
    // On a machine that cannot keep the rate it takes longer for as many requests.
    let is_enough = || start.elapsed().as_secs() >= 30 && mesh.app.heads().len() >= REQUESTS;
    while !is_enough() && start.elapsed() < Duration::from_secs(110) {
        std::thread::sleep(Duration::from_secs(2));
        for sidecar in [&mesh.storefront, &mesh.orders] {
            let reply = sidecar.rotate();
            assert_eq!(reply.status, 200, "{reply:?}");
            serials.insert(sidecar.serial());
            rotations += 1;
        }
    }
    let tally = load.stop();
    assert!(
        tally.failures.is_empty(),
        "{} lost, such as {}",
        tally.failures.len(),
        tally.failures[0]
    );
    assert_eq!(
        serials.len(),
        rotations,
        "each rotation gives a new certificate"
    );
    assert!(
        tally.succeeded >= REQUESTS as u64,
        "too few requests to say anything: {}",
        tally.succeeded
    );
}

#[test]
fn certificates_renew_by_themselves_before_they_expire() {
    let mesh = Mesh::with(&Options {
        ttl: Duration::from_secs(8),
        ..Options::default()
    });
    let load = Load::start(mesh.storefront.outbound, READ_ORDER, 200);
    let mut serials = BTreeSet::new();
    wait_for("four certificates of each sidecar", || {
        serials.insert(mesh.storefront.serial());
        serials.insert(mesh.orders.serial());
        (serials.len() >= 8).then_some(())
    });
    let tally = load.stop();
    assert!(
        tally.failures.is_empty(),
        "{} lost, such as {}",
        tally.failures.len(),
        tally.failures[0]
    );
}

#[test]
fn without_the_ca_traffic_goes_on_until_expiry_then_stops_with_a_reason_and_recovers_when_it_returns()
 {
    let mut mesh = Mesh::with(&Options {
        ttl: Duration::from_secs(6),
        ..Options::default()
    });
    mesh.ca.kill();
    assert_eq!(mesh.storefront.call("GET", "/api/v1/orders/1").status, 200);

    let refused = wait_for("the caller's certificate to expire", || {
        let reply = mesh.storefront.call("GET", "/api/v1/orders/1");
        // The callee's may end a moment sooner; then its sidecar takes no more handshakes, until the circuit opens.
        let is_callee = ["handshake_failed", "circuit_open"]
            .iter()
            .any(|reason| reply.body.contains(reason));
        (reply.status != 200 && !is_callee).then_some(reply)
    });
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.body.contains("identity_expired"), "{refused:?}");
    assert!(!mesh.storefront.ready());
    let log = mesh.storefront.process.log_text();
    assert!(
        log.contains("identity_expired") || log.contains("expired"),
        "{log}"
    );

    mesh.ca.serve();
    wait_for("both sidecars to recover", || {
        (mesh.storefront.call("GET", "/api/v1/orders/1").status == 200 && mesh.storefront.ready())
            .then_some(())
    });
}
