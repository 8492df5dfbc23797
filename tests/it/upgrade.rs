//! A new process takes over while traffic flows, or does not, and nobody notices.

use crate::harness::load::Load;
use crate::harness::{Mesh, Options, wait_for};

const REQUEST: &str = "GET /api/v1/orders/1 HTTP/1.1\r\nhost: orders\r\n\r\n";

#[test]
fn upgrades_of_both_sidecars_under_load_lose_no_request() {
    let mut mesh = Mesh::with(&Options::default());
    let load = Load::start(mesh.storefront.outbound, REQUEST, 400);
    let mut replaced = Vec::new();
    for turn in 0..3 {
        replaced.push(mesh.orders.upgrade(&turn.to_string()));
        replaced.push(mesh.storefront.upgrade(&turn.to_string()));
    }
    let tally = load.stop();
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.succeeded > 100, "{tally:?}");
    for mut old in replaced {
        let status = wait_for("the old process to end", || {
            old.child.try_wait().expect("our child")
        });
        assert!(status.success(), "{status}: {}", old.log_text());
    }
}
