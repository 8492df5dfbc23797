//! Clocks that are wrong, and are set right again, one process at a time (libfaketime). Certificates have an hour.

use crate::harness::clock::Clock;
use crate::harness::http::get;
use crate::harness::{Mesh, Options, Sidecar, wait_for};
use std::time::{Duration, Instant};

const SKEW: &str = "tipstaff_clock_skew_seconds ";
const HOUR: i64 = 3600;

fn mesh() -> Mesh {
    Mesh::with(&Options {
        own_clocks: true,
        ..Options::default()
    })
}

fn clock(sidecar: &Sidecar) -> &Clock {
    sidecar.clock.as_ref().expect("its own")
}

fn status(mesh: &Mesh) -> u16 {
    mesh.storefront.call("GET", "/api/v1/orders/1").status
}

fn passes(mesh: &Mesh) {
    wait_for("requests to pass", || (status(mesh) == 200).then_some(()));
}

/// Nothing passes any more, and nobody is busy with that.
fn stays_closed(mesh: &Mesh) {
    wait_for("requests to be refused", || {
        (status(mesh) != 200).then_some(())
    });
    let before = [&mesh.storefront, &mesh.orders].map(cpu_ticks);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        assert_ne!(status(mesh), 200);
        std::thread::sleep(Duration::from_millis(200));
    }
    // A hundredth of a second each: a timer that spins would take some 600.
    for (sidecar, before) in [&mesh.storefront, &mesh.orders].into_iter().zip(before) {
        let spent = cpu_ticks(sidecar) - before;
        assert!(spent < 200, "{spent} ticks");
    }
}

/// User and system time of a process (proc(5), fields 14 and 15 of stat).
fn cpu_ticks(sidecar: &Sidecar) -> u64 {
    let stat = format!("/proc/{}/stat", sidecar.process.child.id());
    let stat = std::fs::read_to_string(stat).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    let mut fields = fields.split(' ').skip(11);
    let mut next = || fields.next().and_then(|field| field.parse::<u64>().ok());
    next()
        .zip(next())
        .map(|(user, system)| user + system)
        .expect("numbers")
}

#[test]
fn a_clock_that_is_off_by_less_than_what_certificates_have_left_does_no_harm() {
    let mesh = mesh();
    for seconds in [300, -25, 0] {
        for sidecar in [&mesh.storefront, &mesh.orders] {
            clock(sidecar).set(seconds);
            // Longer than a clock is looked at.
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(3) {
                assert_eq!(status(&mesh), 200, "{seconds}");
                std::thread::sleep(Duration::from_millis(50));
            }
            assert_eq!(sidecar.rotate().status, 200, "{seconds}");
        }
    }
}

#[test]
fn a_clock_beyond_the_end_of_the_certificates_closes_either_side_until_it_is_right_again() {
    let mesh = mesh();
    for sidecar in [&mesh.storefront, &mesh.orders] {
        passes(&mesh);
        clock(sidecar).set(2 * HOUR);
        stays_closed(&mesh);
        wait_for("it to say so", || (!sidecar.ready()).then_some(()));
        clock(sidecar).set(0);
        passes(&mesh);
        wait_for("it to be ready", || sidecar.ready().then_some(()));
    }
}

/// For such a clock the certificates are of the future.
#[test]
fn a_clock_of_the_past_lets_nobody_in_who_comes_anew_until_it_is_right_again() {
    let mut mesh = mesh();
    for seconds in [-300, -HOUR] {
        clock(&mesh.storefront).set(seconds);
        // What is open was verified when it was made.
        mesh.orders.restart();
        stays_closed(&mesh);
        clock(&mesh.storefront).set(0);
        passes(&mesh);
        wait_for("both to be ready", || {
            (mesh.storefront.ready() && mesh.orders.ready()).then_some(())
        });
    }
    // One that starts with it gets no identity to begin with.
    clock(&mesh.orders).set(-HOUR);
    mesh.orders.restart();
    stays_closed(&mesh);
    assert!(!mesh.orders.ready());
    clock(&mesh.orders).set(0);
    passes(&mesh);
}

#[test]
fn certificates_of_a_ca_whose_clock_is_ahead_are_not_taken_and_what_was_there_goes_on() {
    let mesh = mesh();
    let ca = mesh.ca.clock.as_ref().expect("its own");
    let serial = mesh.storefront.serial();
    ca.set(HOUR / 2);
    wait_for("the CA to go by another clock", || {
        (mesh.storefront.rotate().status != 200).then_some(())
    });
    assert_eq!(status(&mesh), 200);
    ca.set(0);
    wait_for("a new certificate", || {
        (mesh.storefront.rotate().status == 200 && mesh.storefront.serial() != serial).then_some(())
    });
    assert_eq!(status(&mesh), 200);
}

/// What the sidecar says of its clock, once that is near `expected`.
fn shows_skew(sidecar: &Sidecar, expected: i64) {
    wait_for("the clock's difference to show", || {
        let metrics = get(sidecar.admin, "/metrics")?.body;
        let skew = metrics.lines().find_map(|line| line.strip_prefix(SKEW))?;
        let skew: f64 = skew.parse().ok()?;
        ((skew - expected as f64).abs() < 2.0).then_some(())
    });
}

#[test]
fn how_far_a_clock_is_off_shows_at_once_and_is_named_in_what_is_refused_for_it() {
    let mesh = mesh();
    for seconds in [300, -300, HOUR, -HOUR, 0] {
        clock(&mesh.storefront).set(seconds);
        shows_skew(&mesh.storefront, seconds);
    }
    // The CA's own clock is the other side of the same difference.
    let ca = mesh.ca.clock.as_ref().expect("its own");
    ca.set(HOUR / 2);
    let refused = wait_for("a certificate of the future", || {
        let reply = mesh.storefront.rotate();
        (reply.status != 200).then_some(reply.body)
    });
    assert!(refused.contains("s behind the CA's"), "{refused}");
    shows_skew(&mesh.storefront, -HOUR / 2);
    ca.set(0);
    clock(&mesh.storefront).set(2 * HOUR);
    wait_for("the peer's certificate to be refused", || {
        (status(&mesh) != 200).then_some(())
    });
    wait_for("it to say why", || {
        let log = mesh.storefront.process.log_text();
        log.contains("s ahead of the CA's").then_some(())
    });
}
