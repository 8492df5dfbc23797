//! Servers outside the mesh that offer HTTP/2: nginx, and stock grpcio at both ends. The workload speaks plain text to its
//! sidecar, which speaks TLS to them.

use super::grpc::{OUTCOMES, STREAMS};
use super::{python, run_ok};
use crate::harness::{Mesh, Process, free_address, http, path, wait_for};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

/// An authority (`root.pem`), and its certificate for these names (`api.pem`, `api.key`).
pub(super) fn certificate(folder: &Path, names: &[&str]) {
    let file = |name: &str| folder.join(name);
    let (root, key, leaf) = (file("root.pem"), file("root.key"), file("api.pem"));
    let new = |key: &Path, out: &Path, name: &str, more: &[&str]| {
        let subject = format!("/CN={name}");
        let common = [
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ];
        let files = ["-keyout", path(key), "-out", path(out), "-subj", &subject];
        run_ok("openssl", &[&common[..], &files, more].concat());
    };
    new(&key, &root, "outside", &[]);
    let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
    let names = format!("subjectAltName={}", names.join(","));
    let more = [
        "-CA",
        path(&root),
        "-CAkey",
        path(&key),
        "-addext",
        &names,
        "-addext",
        "basicConstraints=critical,CA:false",
    ];
    new(&file("api.key"), &leaf, "api", &more);
}

/// Says in which protocol it was asked for what, and by whom.
fn nginx(folder: &Path, address: SocketAddr) -> Process {
    let folder_text = folder.display();
    let config = folder.join("nginx.conf");
    let text = format!(
        "daemon off; pid {folder_text}/nginx.pid; error_log stderr;\nevents {{}}\nhttp {{ access_log off; client_body_temp_path {folder_text}; proxy_temp_path {folder_text}; fastcgi_temp_path {folder_text}; uwsgi_temp_path {folder_text}; scgi_temp_path {folder_text};\n\
         server {{ listen {address} ssl http2; ssl_certificate {folder_text}/api.pem; ssl_certificate_key {folder_text}/api.key;\n\
         location / {{ return 200 \"$request $host connection=$connection peer=$http_tipstaff_peer\\n\"; }} }} }}\n"
    );
    std::fs::write(&config, text).expect("an nginx configuration");
    let mut command = Command::new("nginx");
    command.args(["-c", path(&config), "-p", path(folder)]);
    Process::start(command, folder.join("nginx.log"))
}

#[test]
fn http2_and_grpc_leave_the_mesh_for_servers_that_offer_them() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let folder = folder.path();
    certificate(folder, &["api.test", "web.test"]);
    let (api, web) = (free_address(), free_address());
    let mut command = python();
    let (chain, key) = (folder.join("api.pem"), folder.join("api.key"));
    command.args([STREAMS, "serve", &api.to_string(), path(&chain), path(&key)]);
    let _api = Process::start(command, folder.join("api.log"));
    let _web = nginx(folder, web);
    for address in [api, web] {
        wait_for("a server outside", || TcpStream::connect(address).ok());
    }

    let mesh = Mesh::start();
    let storefront = &mesh.storefront;
    let config = std::fs::read_to_string(&storefront.config).expect("a configuration");
    let roots = folder.join("root.pem");
    let entry = |host: &str, at: SocketAddr| {
        let roots = roots.display();
        format!(
            "    - {{hosts: [{host}], ports: [443], tls: originate, roots: \"{roots}\", endpoints: [\"{at}\"]}}\n"
        )
    };
    let external = [entry("api.test", api), entry("web.test", web)].concat();
    let config = config.replace(
        "outbound:\n",
        &format!("outbound:\n  external:\n{external}"),
    );
    std::fs::write(storefront.config.with_extension("new"), config).expect("writing");
    std::fs::rename(storefront.config.with_extension("new"), &storefront.config).expect("renaming");

    let get = || {
        let request = "GET /files/1 HTTP/1.1\r\nhost: web.test\r\nconnection: close\r\n\r\n";
        http::call(storefront.outbound, request)
    };
    let first = wait_for("the way out", || {
        let reply = get();
        (reply.status == 200).then_some(reply)
    });
    let said = "GET /files/1 HTTP/2.0 web.test connection=";
    assert!(first.body.starts_with(said), "{first:?}");
    assert!(first.body.ends_with("peer=\n"), "{first:?}");
    // One connection serves them all.
    for _ in 0..10 {
        assert_eq!(get().body, first.body);
    }

    let mut call = python();
    let output = call.args([
        STREAMS,
        "call",
        &storefront.outbound.to_string(),
        "api.test",
    ]);
    let output = output.output().expect("the client runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.lines().collect::<Vec<_>>(), OUTCOMES, "{output:?}");
}
