//! curl as the client, nginx and Python's http.server as the app.

use super::{Credentials, http_server, nginx, run, run_ok};
use crate::harness::{Mesh, ORDERS, Options, STOREFRONT, STRANGER, grant, path};
use tempfile::TempDir;

#[test]
fn curl_reaches_nginx_through_both_sidecars_and_is_held_to_the_policy() {
    let folder = TempDir::new().expect("a folder");
    let (_nginx, app) = nginx(folder.path());
    let mesh = Mesh::with(&Options {
        app: Some(app.to_string()),
        ..Options::default()
    });
    let url = |target: &str| format!("http://{}{target}", mesh.storefront.outbound);

    for protocol in ["--http1.1", "--http2-prior-knowledge"] {
        let curl = |more: &[&str], target: &str| {
            let url = url(target);
            let mut arguments = vec![
                "-sS",
                protocol,
                "-H",
                "Host: orders",
                "-w",
                "%{http_code}",
                "--path-as-is",
            ];
            arguments.extend(more);
            arguments.push(&url);
            run_ok("curl", &arguments)
        };
        assert_eq!(
            curl(&[], "/api/v1/orders/42"),
            "nginx got GET /api/v1/orders/42 HTTP/1.1\n200",
            "{protocol}"
        );
        assert!(
            curl(&["-X", "DELETE"], "/api/v1/orders/42").ends_with("403"),
            "{protocol}"
        );
        assert!(curl(&[], "/admin").ends_with("403"), "{protocol}");
        assert!(
            curl(&[], "/api/v1/orders/../admin").ends_with("400"),
            "{protocol}"
        );
    }
}

#[test]
fn curl_downloads_a_file_from_pythons_http_server() {
    let folder = TempDir::new().expect("a folder");
    let (_server, app) = http_server(folder.path());
    let policy = grant(
        "reads-files",
        r#"{methods: [GET], path: "/files/**"}"#,
        "[]",
    );
    let mesh = Mesh::with(&Options {
        app: Some(app.to_string()),
        policy,
        ..Options::default()
    });
    let url = format!("http://{}/files/a.txt", mesh.storefront.outbound);
    assert_eq!(
        run_ok("curl", &["-sS", "-H", "Host: orders", &url]),
        "hello from a file\n"
    );
}

#[test]
fn curl_with_a_certificate_of_its_own_is_let_in_by_the_inbound_listener_and_without_is_not() {
    let mesh = Mesh::start();
    let url = format!("https://{}/api/v1/orders/7", mesh.orders.inbound);
    let common = [
        "-sS",
        "-k",
        "-H",
        "Host: orders",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &url,
    ];

    let allowed = Credentials::issue(&mesh.ca, mesh.folder.path(), "allowed", STOREFRONT);
    let with = |credentials: &Credentials| {
        let mut arguments = vec![
            "--cert",
            path(&credentials.chain),
            "--key",
            path(&credentials.key),
        ];
        arguments.extend(common);
        run_ok("curl", &arguments)
    };
    assert_eq!(with(&allowed), "200");
    let stranger = Credentials::issue(&mesh.ca, mesh.folder.path(), "stranger", STRANGER);
    assert_eq!(with(&stranger), "403");
    // The callee's own identity has no grant either.
    let same = Credentials::issue(&mesh.ca, mesh.folder.path(), "same", ORDERS);
    assert_eq!(with(&same), "403");

    let without = run("curl", &common);
    assert!(!without.status.success(), "{without:?}");
}
