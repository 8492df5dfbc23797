//! PyPI's `spiffe` and `spiffe-tls` as the workloads: what they fetch, across rotations, and mutual TLS between two.

use super::{Session, python};
use crate::harness::workload::Workload;
use crate::harness::{Ca, ORDERS, STOREFRONT, STRANGER, free_address};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn program(name: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/real/workload_api");
    Path::new(folder).join(name)
}

/// One of the programs beside this file, with the socket it is to use.
fn start(name: &str, workload: &Workload, arguments: &[&str]) -> Session {
    let mut command = python();
    command
        .arg("-u")
        .arg(program(name))
        .args(arguments)
        .env("SPIFFE_ENDPOINT_SOCKET", workload.endpoint());
    Session::start(command)
}

#[test]
fn a_python_workload_follows_its_identity_across_rotations() {
    let folder = TempDir::new().expect("a folder");
    let ca = Ca::start(folder.path());
    let workload = Workload::sidecar(folder.path(), &ca, "orders", ORDERS, 6);
    let watching = start("watch.py", &workload, &[]);
    let mut serials = BTreeSet::new();
    while serials.len() < 4 {
        let line = watching.hear("svid");
        let words: Vec<_> = line.split(' ').collect();
        let [_, id, serial, "roots", "1"] = words.as_slice() else {
            panic!("{line}");
        };
        assert_eq!(*id, ORDERS);
        serials.insert((*serial).to_owned());
    }
}

#[test]
fn two_python_workloads_speak_mutual_tls_and_refuse_a_third() {
    let folder = TempDir::new().expect("a folder");
    let ca = Ca::start(folder.path());
    let of = |name, id| Workload::sidecar(folder.path(), &ca, name, id, 3600);
    let orders = of("orders", ORDERS);
    let storefront = of("storefront", STOREFRONT);
    let stranger = of("stranger", STRANGER);
    let address = free_address().to_string();
    let server = start("serve.py", &orders, &[&address, STOREFRONT]);
    server.hear("listening");

    let client = start("call.py", &storefront, &[&address, ORDERS]);
    client.hear("answered hello storefront");
    server.hear(STOREFRONT);
    let client = start("call.py", &stranger, &[&address, ORDERS]);
    client.hear("refused");
    let client = start("call.py", &storefront, &[&address, STRANGER]);
    client.hear("refused");
}

#[test]
fn a_grpc_client_asks_sds_once_for_a_secret() {
    let folder = TempDir::new().expect("a folder");
    let ca = Ca::start(folder.path());
    let workload = Workload::sidecar(folder.path(), &ca, "orders", ORDERS, 3600);
    let watching = start("watch.py", &workload, &[]);
    watching.hear("svid");
    let asking = start(
        "fetch_secrets.py",
        &workload,
        &["default", ORDERS, "ROOTCA", "nothing"],
    );
    for line in [
        "secret default CERTIFICATE, PRIVATE KEY".to_owned(),
        format!("secret {ORDERS} CERTIFICATE, PRIVATE KEY"),
        "refused nothing NOT_FOUND".to_owned(),
    ] {
        assert_eq!(asking.hear(line.split(' ').nth(1).expect("a name")), line);
    }
}

#[test]
fn an_agent_tells_processes_apart_by_user_and_program() {
    let folder = TempDir::new().expect("a folder");
    let ca = Ca::start(folder.path());
    let uid = rustix::process::geteuid().as_raw();
    let program = std::fs::canonicalize(python().get_program()).expect("a Python");
    let program = program.display();
    let entries = [
        (
            ORDERS,
            format!("selectors: [\"unix:uid:{uid}\", \"unix:path:{program}\"]"),
        ),
        (STOREFRONT, format!("selectors: [\"unix:uid:{uid}\"]")),
        (
            STRANGER,
            format!("selectors: [\"unix:uid:{uid}\", \"unix:path:{program}.other\"]"),
        ),
    ];
    let entries: Vec<_> = entries
        .iter()
        .map(|(id, rest)| (*id, rest.as_str()))
        .collect();
    let agent = Workload::agent(folder.path(), &ca, "agent", &entries);
    let listing = start("list.py", &agent, &["2"]);
    listing.hear(ORDERS);
    listing.hear(STOREFRONT);
    listing.hear("total 2");
    let log = agent.process.log_text();
    assert!(!log.contains("PRIVATE"), "{log}");
}
