//! What is revoked beside a running CA is refused by every sidecar soon after, and nobody else notices.

use crate::harness::load::Load;
use crate::harness::workload::Workload;
use crate::harness::{
    Mesh, Options, POLICY, STOREFRONT, STRANGER, path, tipstaff, tipstaff_ok, wait_for,
};
use std::time::Instant;
use tonic::{Code, Request, Status, Streaming};
use workload::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use workload::proto::{X509svidRequest, X509svidResponse};

const READ_ORDER: &str = "GET /api/v1/orders/42 HTTP/1.1\r\nhost: orders\r\n\r\n";

/// The stranger may do what the storefront may.
fn open_policy() -> String {
    POLICY.replace(STOREFRONT, &format!("{STOREFRONT}\", \"{STRANGER}"))
}

fn revoke(mesh: &Mesh, what: [&str; 2]) {
    let [kind, name] = what;
    tipstaff_ok(&["ca", "revoke", "--dir", path(&mesh.ca.dir), kind, name]);
}

#[test]
fn a_revoked_identity_is_cut_off_under_load_and_nobody_else_loses_a_request() {
    let options = Options {
        policy: open_policy(),
        ..Options::default()
    };
    let mesh = Mesh::with(&options);
    let stranger = mesh.caller("stranger", STRANGER, &options);
    let innocent = Load::start(mesh.storefront.outbound, READ_ORDER, 400);
    let revoked = Load::start(stranger.outbound, READ_ORDER, 100);
    wait_for("the stranger to get answers", || {
        (stranger.call("GET", "/api/v1/orders/1").status == 200).then_some(())
    });

    revoke(&mesh, ["--id", STRANGER]);
    let revoked_at = Instant::now();
    wait_for("the stranger's connections to be closed", || {
        (stranger.call("GET", "/api/v1/orders/1").status != 200).then_some(())
    });
    println!("closed {:?} after the command ended", revoked_at.elapsed());
    wait_for("the orders to have refused the stranger", || {
        let metrics = crate::harness::http::get(mesh.orders.admin, "/metrics")?;
        metrics.body.contains("reason=\"revoked\"").then_some(())
    });
    assert!(!revoked.stop().failures.is_empty());
    let tally = innocent.stop();
    assert!(tally.failures.is_empty(), "such as {}", tally.failures[0]);
    assert!(tally.succeeded > 0);

    let again = tipstaff_ok(&["ca", "list", "--dir", path(&mesh.ca.dir), "--revoked"]);
    assert!(again.contains(STRANGER), "{again}");
    tipstaff_ok(&[
        "ca",
        "reinstate",
        "--dir",
        path(&mesh.ca.dir),
        "--id",
        STRANGER,
        "--reason",
        "a test",
    ]);
    wait_for("the stranger to have a certificate again", || {
        (stranger.call("GET", "/api/v1/orders/1").status == 200).then_some(())
    });
}

#[test]
fn a_revoked_certificate_is_replaced_by_its_own_sidecar() {
    let mesh = Mesh::start();
    let serial = mesh.storefront.serial();
    revoke(&mesh, ["--serial", &serial]);
    wait_for("another certificate", || {
        (mesh.storefront.serial() != serial).then_some(())
    });
    assert_eq!(mesh.storefront.call("GET", "/api/v1/orders/1").status, 200);
}

#[test]
fn what_was_never_issued_is_not_revoked() {
    let mesh = Mesh::start();
    let dir = path(&mesh.ca.dir);
    let output = tipstaff(&["ca", "revoke", "--dir", dir, "--serial", "0badcafe"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let intermediate = mesh.ca.dir.join("intermediate.pem");
    let output = tipstaff(&[
        "ca",
        "revoke",
        "--dir",
        dir,
        "--authority",
        path(&intermediate),
    ]);
    assert!(!output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_revoked_identity_is_handed_out_no_more_by_the_workload_api() {
    let mesh = Mesh::start();
    let folder = tempfile::tempdir().expect("a folder");
    let sidecar = Workload::sidecar(folder.path(), &mesh.ca, "api", STRANGER, 3600);
    let mut stream = loop {
        match fetch(&sidecar).await {
            Ok(stream) => break stream,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    };
    let first = stream.message().await.expect("an answer");
    assert_eq!(first.expect("certificates").svids[0].spiffe_id, STRANGER);

    revoke(&mesh, ["--id", STRANGER]);
    let end = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("expected a refusal, found the end"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::PermissionDenied, "{end}");
    let refused = fetch(&sidecar).await.expect_err("a refusal");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    drop(sidecar.process);
}

async fn fetch(api: &Workload) -> Result<Streaming<X509svidResponse>, Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(api.endpoint()).expect("an address");
    let channel = endpoint.connect().await.expect("a connection");
    let mut call = Request::new(X509svidRequest {});
    let header = "true".parse().expect("a value");
    call.metadata_mut().insert("workload.spiffe.io", header);
    let mut api = SpiffeWorkloadApiClient::new(channel);
    Ok(api.fetch_x509svid(call).await?.into_inner())
}
