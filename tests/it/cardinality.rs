//! What clients make up costs the sidecars nothing that lasts.

use crate::harness::http::{connect, get};
use crate::harness::{Mesh, Sidecar};
use std::io::{Read, Write};

const CONNECTIONS: u64 = 200;
const REQUESTS: u64 = 100;

/// R21.
#[test]
fn twenty_thousand_made_up_paths_hosts_and_methods_leave_few_series_and_little_memory() {
    let mesh = Mesh::start();
    let sidecars = [&mesh.storefront, &mesh.orders];
    made_up(&mesh.storefront, 0);
    let before = sidecars.map(resident_bytes);
    let answers: u64 = (1..=CONNECTIONS)
        .map(|seed| made_up(&mesh.storefront, seed))
        .sum();
    assert_eq!(answers, CONNECTIONS * REQUESTS);
    for (sidecar, before) in sidecars.into_iter().zip(before) {
        let metrics = get(sidecar.admin, "/metrics").expect("an answer").body;
        let series = metrics
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count();
        assert!(series <= 10_000, "{series} series");
        assert!(metrics.len() <= 4 << 20, "{} bytes", metrics.len());
        // Refused destinations are named for the operator, up to a cap; nothing else that clients say is.
        let made_up = metrics.lines().filter(|line| line.contains("made-up"));
        let named = made_up.inspect(|line| {
            assert!(
                line.starts_with("tipstaff_refused_destinations_total{"),
                "{line}"
            );
        });
        assert!(named.count() <= 256, "{metrics}");
        let grown = resident_bytes(sidecar).saturating_sub(before);
        assert!(grown <= 32 << 20, "{grown} bytes more");
    }
}

/// Sends one connection's requests, no two alike in anything that a client may choose. Answers how many were answered.
fn made_up(sidecar: &Sidecar, seed: u64) -> u64 {
    let mut stream = connect(sidecar.outbound);
    let mut messages = String::new();
    for n in 0..REQUESTS {
        let name = format!("made-up-{seed}-{n}");
        let (method, target, host) = match n % 4 {
            0 => (
                "GET".to_owned(),
                format!("/api/v1/orders/{name}"),
                "orders".to_owned(),
            ),
            1 => (
                "GET".to_owned(),
                format!("/{name}?{name}"),
                "orders".to_owned(),
            ),
            2 => (
                name.to_ascii_uppercase(),
                format!("/{name}"),
                "orders".to_owned(),
            ),
            _ => (
                "GET".to_owned(),
                format!("/{name}"),
                format!("{name}.example"),
            ),
        };
        let last = if n + 1 == REQUESTS {
            "close"
        } else {
            "keep-alive"
        };
        messages += &format!(
            "{method} {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {name}\r\nX-{name}: {name}\r\nConnection: {last}\r\n\r\n"
        );
    }
    stream.write_all(messages.as_bytes()).expect("a write");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).expect("the answers");
    // The app's answers repeat the requests, which end a line with the version.
    answers.matches("HTTP/1.1 ").count() as u64
}

fn resident_bytes(sidecar: &Sidecar) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.process.child.id()))
        .expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .expect("a size");
    kib.parse::<u64>().expect("a number") * 1024
}
