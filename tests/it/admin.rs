//! The administration port and socket.

use crate::harness::http::{call, connect, exchange, get};
use crate::harness::{Mesh, Options, PATIENCE};
use std::time::Duration;

#[test]
fn the_read_only_endpoints_answer_and_no_key_leaves() {
    let mesh = Mesh::start();
    for target in [
        "/live",
        "/ready",
        "/metrics",
        "/config",
        "/endpoints",
        "/identity",
    ] {
        let reply = get(mesh.orders.admin, target).expect("an answer");
        assert_eq!(reply.status, 200, "{target}: {reply:?}");
        assert!(!reply.body.contains("PRIVATE KEY"), "{target}");
    }
    let metrics = get(mesh.orders.admin, "/metrics").expect("an answer").body;
    assert!(
        metrics.lines().any(|line| line.starts_with("tipstaff_")),
        "{metrics}"
    );
}

#[test]
fn state_changes_only_by_post_on_the_socket() {
    let mesh = Mesh::start();
    let before = mesh.orders.serial();
    for request in [
        "POST /rotate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "GET /rotate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    ] {
        let reply = call(mesh.orders.admin, request);
        assert!((400..500).contains(&reply.status), "{reply:?}");
    }
    assert_eq!(mesh.orders.serial(), before);
    assert_eq!(mesh.orders.rotate().status, 200);
    assert_ne!(mesh.orders.serial(), before);
}

#[test]
fn a_foreign_host_header_is_refused_against_dns_rebinding() {
    let mesh = Mesh::start();
    let reply = call(
        mesh.orders.admin,
        "GET /identity HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n",
    );
    assert!((400..500).contains(&reply.status), "{reply:?}");
}

#[test]
fn the_admin_port_is_out_of_reach_through_the_outbound_listener() {
    let mesh = Mesh::start();
    let admin = mesh.storefront.admin;
    for request in [
        format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n"),
        format!(
            "GET http://{admin}/metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n"
        ),
        format!("CONNECT {admin} HTTP/1.1\r\nhost: {admin}\r\n\r\n"),
    ] {
        let stream = connect(mesh.storefront.outbound);
        stream
            .set_read_timeout(Some(PATIENCE.min(Duration::from_secs(10))))
            .expect("a timeout");
        let reply = exchange(stream, request.as_bytes()).expect("an answer");
        assert!((400..500).contains(&reply.status), "{request}: {reply:?}");
        assert!(!reply.body.contains("tipstaff_"), "{reply:?}");
    }
}

#[test]
fn every_request_leaves_one_json_line_in_the_access_log() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let log = folder.path().join("access.log");
    let mesh = Mesh::with(&Options {
        extra: format!("accessLog: \"{}\"\n", log.display()),
        ..Options::default()
    });
    mesh.storefront.call("GET", "/api/v1/orders/1");
    mesh.storefront.call("DELETE", "/api/v1/orders/1");
    mesh.storefront.call("GET", "/api/v1/orders/%0d%0a%22evil");
    // Both sidecars write here: two lines for each request that reached the second.
    let lines = crate::harness::wait_for("the lines", || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        (text.lines().count() >= 5).then_some(text)
    });
    let parsed: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let statuses: Vec<u64> = parsed
        .iter()
        .filter_map(|line| line["status"].as_u64())
        .collect();
    assert_eq!(statuses.len(), parsed.len(), "{lines}");
    assert!(
        statuses.contains(&200) && statuses.contains(&403) && statuses.contains(&400),
        "{lines}"
    );
    let denied = parsed
        .iter()
        .find(|line| line["status"] == 403 && line["direction"] == "inbound");
    assert!(
        denied.is_some_and(|line| line["peer"]["id"].is_string() || line["peer.id"].is_string()),
        "{lines}"
    );
}
