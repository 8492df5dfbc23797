//! The CA's own certificates are replaced under load, and no request is lost; what the old root vouched for is worth nothing
//! afterwards.

use crate::harness::http::connect;
use crate::harness::load::Load;
use crate::harness::{
    Mesh, ORDERS, Options, STOREFRONT, STRANGER, path, tipstaff, tipstaff_ok, wait_for,
};
use identity::{SpiffeId, Svid, TrustBundle, TrustDomain};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

const READ_ORDER: &str = "GET /api/v1/orders/42 HTTP/1.1\r\nhost: orders\r\n\r\n";

/// Short, since an authority is retired once the last certificate that it signed has expired.
const TTL: Duration = Duration::from_secs(6);

fn step(mesh: &Mesh, step: &str, role: &str, more: &[&str]) -> Output {
    let dir = path(&mesh.ca.dir);
    // No other trust domain has to hear of it.
    let at_once: &[_] = match step {
        "activate" => &["--published-for", "0s"],
        _ => &[],
    };
    tipstaff(&[&["ca", "rotate", step, "--dir", dir, role], at_once, more].concat())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Waits until nothing is in the way of a step any more, and gives what was at first.
fn once_possible(mesh: &Mesh, name: &str, role: &str) -> Vec<String> {
    let mut refusals = Vec::new();
    wait_for(&format!("{role} to {name}"), || {
        let output = step(mesh, name, role, &[]);
        if output.status.code() == Some(1) {
            refusals.push(said(&output));
            return None;
        }
        assert!(output.status.success(), "{output:?}");
        Some(())
    });
    refusals
}

fn prepare(mesh: &Mesh, role: &str) {
    let output = step(mesh, "prepare", role, &[]);
    assert!(output.status.success(), "{output:?}");
}

/// The certificate of the root that counts, by the bundle that clients are given.
fn roots(mesh: &Mesh) -> Vec<CertificateDer<'static>> {
    let pem = std::fs::read(mesh.ca.bundle()).expect("a bundle");
    let roots = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>();
    roots.expect("certificates")
}

/// A certificate of the storefront that lives for ten minutes, issued by hand.
fn issued(mesh: &Mesh) -> Svid {
    let key = KeyPair::generate().expect("a key");
    let request = CertificateParams::default().serialize_request(&key);
    let csr = mesh.folder.path().join("by-hand.csr");
    std::fs::write(&csr, request.expect("a request").der()).expect("a file");
    let dir = path(&mesh.ca.dir);
    let issue = [
        "ca",
        "issue",
        "--dir",
        dir,
        "--id",
        STOREFRONT,
        "--ttl",
        "10m",
        "--csr",
        path(&csr),
    ];
    let pem = tipstaff_ok(&issue);
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    Svid::new(chain.expect("certificates"), key).expect("an identity")
}

/// Whether the orders service's sidecar answers the holder of `svid`.
fn is_let_in(mesh: &Mesh, svid: &Svid) -> bool {
    let domain = TrustDomain::parse("test.example").expect("a name");
    let pem = std::fs::read(mesh.ca.bundle()).expect("a bundle");
    let bundle = TrustBundle::from_pem(domain, &pem, 1).expect("a bundle");
    let orders = SpiffeId::parse(ORDERS).expect("an ID");
    let config = identity::tls::client_config(
        Some(svid),
        Arc::new(Arc::new(bundle)),
        orders,
        &[b"http/1.1"],
    );
    let mut session = rustls::ClientConnection::new(Arc::new(config), identity::tls::server_name())
        .expect("a session");
    let mut socket = connect(mesh.orders.inbound);
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    // With TLS 1.3 a client learns of a refusal when it reads.
    let written = stream.write_all(READ_ORDER.as_bytes());
    let mut head = [0; 12];
    let read = written.and_then(|()| stream.read_exact(&mut head));
    read.is_ok() && head == *b"HTTP/1.1 200"
}

#[test]
fn three_rotations_of_root_and_intermediate_under_load_lose_no_request_and_the_old_root_is_worth_nothing()
 {
    let mesh = Mesh::with(&Options {
        ttl: TTL,
        ..Options::default()
    });
    let mut seen: HashSet<_> = roots(&mesh).into_iter().collect();
    for round in 1..=3 {
        let load = Load::start(mesh.storefront.outbound, READ_ORDER, 300);
        prepare(&mesh, "--intermediate");
        once_possible(&mesh, "activate", "--intermediate");
        let waited = once_possible(&mesh, "retire", "--intermediate");
        assert!(
            waited[0].contains("under the old intermediate are valid"),
            "{waited:?}"
        );

        let old = (round == 3).then(|| issued(&mesh));
        prepare(&mesh, "--root");
        once_possible(&mesh, "activate", "--root");
        if let Some(old) = old {
            assert!(is_let_in(&mesh, &old), "the old root is not retired");
            // Until all but the one that was issued by hand have gone.
            wait_for(
                "the certificates of sidecars under the old root to expire",
                || {
                    let refused = said(&step(&mesh, "retire", "--root", &[]));
                    refused
                        .starts_with("1 certificates under the old root")
                        .then_some(())
                },
            );
            let forced = step(&mesh, "retire", "--root", &["--force"]);
            assert!(
                forced.status.success() && said(&forced).contains("have to enrol again"),
                "{forced:?}"
            );
            let new = issued(&mesh);
            wait_for("the old root to be worth nothing", || {
                (!is_let_in(&mesh, &old)).then_some(())
            });
            assert!(is_let_in(&mesh, &new));
        } else {
            let waited = once_possible(&mesh, "retire", "--root");
            assert!(
                waited[0].contains("under the old root are valid"),
                "{waited:?}"
            );
        }
        wait_for("one root to be left", || {
            (roots(&mesh).len() == 1).then_some(())
        });
        assert!(seen.insert(roots(&mesh).remove(0)), "a root of its own");
        let tally = load.stop();
        assert!(
            tally.failures.is_empty(),
            "round {round}: {} lost, such as {}",
            tally.failures.len(),
            tally.failures[0]
        );
        assert!(
            tally.succeeded > 1000,
            "too few to say anything: {}",
            tally.succeeded
        );
    }
    let audit = tipstaff_ok(&["ca", "audit", "verify", "--dir", path(&mesh.ca.dir)]);
    assert!(!audit.is_empty());
}

#[test]
fn a_sidecar_that_is_stopped_is_waited_for_by_name_and_learns_the_new_root_when_it_goes_on() {
    let options = Options::default();
    let mesh = Mesh::with(&options);
    let stranger = mesh.caller("stranger", STRANGER, &options);
    let old_roots = std::fs::read(mesh.ca.bundle()).expect("a bundle");
    let status = || tipstaff_ok(&["ca", "rotate", "status", "--dir", path(&mesh.ca.dir)]);
    wait_for("three sidecars to be known", || {
        status().contains("3 of 3").then_some(())
    });
    stranger.process.signal(rustix::process::Signal::STOP);

    prepare(&mesh, "--root");
    wait_for("two to have the new root", || {
        status().contains("2 of 3").then_some(())
    });
    let refused = step(&mesh, "activate", "--root", &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains(STRANGER) && !said(&refused).contains(ORDERS),
        "{refused:?}"
    );
    let forced = step(&mesh, "activate", "--root", &["--force"]);
    assert!(
        said(&forced).contains("these refuse whoever") && said(&forced).contains(STRANGER),
        "{forced:?}"
    );
    let refused = step(&mesh, "retire", "--root", &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains(STRANGER), "{refused:?}");

    stranger.process.signal(rustix::process::Signal::CONT);
    wait_for("all to have the new root", || {
        status().contains("3 of 3").then_some(())
    });
    for sidecar in [&mesh.storefront, &mesh.orders, &stranger] {
        assert_eq!(sidecar.rotate().status, 200);
    }
    assert_eq!(mesh.storefront.call("GET", "/api/v1/orders/1").status, 200);

    // With the old root alone it starts for as long as that is published, and says why it does not afterwards.
    let mut stranger = stranger;
    std::fs::write(mesh.folder.path().join("old.pem"), old_roots).expect("a file");
    let config = std::fs::read_to_string(&stranger.config).expect("a configuration");
    let config = config.replace(
        path(&mesh.ca.bundle()),
        path(&mesh.folder.path().join("old.pem")),
    );
    std::fs::write(&stranger.config, config).expect("a configuration");
    stranger.restart();
    wait_for("it to start", || stranger.ready().then_some(()));
    let forced = step(&mesh, "retire", "--root", &["--force"]);
    assert!(forced.status.success(), "{forced:?}");
    wait_for("one root to be left", || {
        (roots(&mesh).len() == 1).then_some(())
    });
    stranger.restart();
    wait_for("it to say that its bundle is old", || {
        stranger
            .process
            .log_text()
            .contains("identity.ca.bundle")
            .then_some(())
    });
    assert!(!stranger.ready());
}

#[test]
fn a_root_is_given_up_by_command_and_does_not_sign_before_other_trust_domains_had_time_for_it() {
    let mesh = Mesh::start();
    prepare(&mesh, "--root");
    let dir = path(&mesh.ca.dir);
    let activate = ["ca", "rotate", "activate", "--dir", dir, "--root"];
    let refused = tipstaff(&activate);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("other trust domains may not have the new root before"),
        "{refused:?}"
    );
    wait_for("two roots", || (roots(&mesh).len() == 2).then_some(()));
    let given_up = step(&mesh, "abandon", "--root", &[]);
    assert!(
        given_up.status.success() && said(&given_up).contains("given up: "),
        "{given_up:?}"
    );
    wait_for("one root", || (roots(&mesh).len() == 1).then_some(()));
    let refused = step(&mesh, "activate", "--root", &[]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let audit = tipstaff_ok(&["ca", "audit", "list", "--dir", dir]);
    assert!(audit.contains("authority_abandoned"), "{audit}");
    for sidecar in [&mesh.storefront, &mesh.orders] {
        assert_eq!(sidecar.rotate().status, 200);
    }
    assert_eq!(mesh.storefront.call("GET", "/api/v1/orders/1").status, 200);
}
