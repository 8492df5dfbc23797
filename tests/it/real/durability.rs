//! Power fails at every moment of a CA's work: a trace of its system calls says what it had written by then, and what of that
//! was synced. `durability.py` rebuilds the directory as it would be found, each time, and looks for what was lost.

use super::python;
use crate::harness::{PATIENCE, Process, free_address, path, tipstaff, tipstaff_ok, wait_for};
use ca::client::{self, ClientConfig, Handles, Keys, Proof};
use identity::{SpiffeId, TrustBundle, TrustDomain};
use rustix::process::Signal;
use serde_json::Value;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const CLIENTS: usize = 6;
const RENEWALS: usize = 20;
/// Every call that can change a file, its name, or what is durable of both. One that the script does not know fails it.
const CALLS: &str = "trace=openat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,sync_file_range,rename,renameat,renameat2,unlink,unlinkat,link,linkat";

#[test]
fn after_a_power_failure_at_any_moment_every_reported_certificate_is_on_record() {
    let folder = TempDir::new().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (dir, before, trace) = (at("ca"), at("before"), at("trace"));
    let init = ["ca", "init", "--dir", path(&dir)];
    tipstaff_ok(&[&init[..], &["--trust-domain", "test.example"]].concat());
    let listen = free_address();
    let tokens: Vec<_> = (0..CLIENTS).map(|number| token(&dir, number)).collect();
    super::run_ok("cp", &["-a", path(&dir), path(&before)]);

    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-xx", "-s", "1048576", "-e", CALLS]);
    command.args(["-e", "signal=none", "-o", path(&trace)]);
    command.args([env!("CARGO_BIN_EXE_tipstaff"), "ca", "serve", "--dir"]);
    command.args([path(&dir), "--listen", &listen.to_string()]);
    let mut process = Process::start(command, at("ca.log"));
    wait_for("the CA", || TcpStream::connect(listen).ok());
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(renew(folder.path(), listen, tokens));
    end(&mut process);

    let report = rebuild(&[&trace, &before, &dir, &at("states")], &[]);
    let of = |report: &Value, name: &str| report[name].as_u64().expect("a number");
    assert_eq!(of(&report, "wrong"), 0, "{report}");
    assert!(
        of(&report, "reported") > (CLIENTS * RENEWALS) as u64,
        "{report}"
    );
    assert!(of(&report, "syncs") > 20, "{report}");
    let states = std::fs::read_dir(at("states")).expect("a folder");
    let states: Vec<_> = states.map(|state| state.expect("a name").path()).collect();
    assert!(states.len() > 4, "{report}");
    for state in &states {
        goes_on(&dir, state);
    }
    // The same with syncs that do nothing: what is looked for can be found.
    let deaf = rebuild(&[&trace, &before, &dir, &at("deaf")], &["--deaf"]);
    assert!(of(&deaf, "wrong") > 20, "{deaf}");
    println!("{report}");
}

fn token(dir: &Path, number: usize) -> String {
    let create = ["ca", "token", "create", "--dir", path(dir), "--id"];
    tipstaff_ok(&[&create[..], &[id(number).as_str()]].concat())
}

fn id(number: usize) -> SpiffeId {
    let id = format!("spiffe://test.example/ns/load/sa/w{number}");
    SpiffeId::parse(&id).expect("an ID")
}

/// Workloads that enrol together and renew as fast as they can.
async fn renew(folder: &Path, listen: SocketAddr, tokens: Vec<String>) {
    let pem = std::fs::read(folder.join("ca/ca-bundle.pem")).expect("a file");
    let domain = TrustDomain::parse("test.example").expect("a name");
    let bundle = TrustBundle::from_pem(domain, &pem, 1).expect("a bundle");
    let mut workloads = tokio::task::JoinSet::new();
    for (number, token) in tokens.into_iter().enumerate() {
        let workload = client::start(ClientConfig {
            endpoint: format!("https://{listen}"),
            bundle: bundle.clone(),
            spiffe_id: id(number),
            proof: Proof::Enrolment {
                key_path: folder.join(format!("{number}.key")),
                join_token: Some(token.into()),
            },
            ttl: None,
            keys: Keys::Kept,
        });
        workloads.spawn(renew_often(workload.expect("a client")));
    }
    workloads.join_all().await;
}

async fn renew_often(workload: Handles) {
    for _ in 0..RENEWALS {
        let (answer, answered) = oneshot::channel();
        let asked = workload.renew.send(answer).await;
        asked.expect("the client runs");
        let renewed = tokio::time::timeout(PATIENCE, answered).await;
        assert_eq!(renewed.expect("in time").expect("an answer"), Ok(()));
    }
}

/// The CA, which strace waits for, closes its database.
fn end(strace: &mut Process) {
    let pid = strace.child.id();
    let children = format!("/proc/{pid}/task/{pid}/children");
    let children = std::fs::read_to_string(children).expect("strace runs");
    let ca = children.split_whitespace().next().expect("a child");
    let ca = ca.parse().ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(ca.expect("a pid"), Signal::TERM).expect("it is ours");
    let deadline = Instant::now() + PATIENCE;
    while strace.child.try_wait().expect("it is ours").is_none() {
        assert!(Instant::now() < deadline, "the CA does not end");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn rebuild(paths: &[&Path; 4], options: &[&str]) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/real/durability.py");
    let mut command = python();
    let output: Output = command
        .arg(script)
        .args(paths)
        .args(options)
        .output()
        .expect("Python runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

/// The CA itself opens what was left: its records hold, and it issues.
fn goes_on(dir: &Path, state: &Path) {
    for name in ["root.pem", "intermediate.pem", "intermediate.key"] {
        let (key, place) = (dir.join(name), state.join(name));
        std::fs::copy(key, place).expect("a file");
    }
    let verified = tipstaff(&["ca", "audit", "verify", "--dir", path(state)]);
    assert!(verified.status.success(), "{state:?}: {verified:?}");
    let csr = state.with_file_name("request.pem");
    if !csr.exists() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let request = rcgen::CertificateParams::default().serialize_request(&key);
        let pem = request
            .and_then(|request| request.pem())
            .expect("a request");
        std::fs::write(&csr, pem).expect("a file");
    }
    let issue = ["ca", "issue", "--dir", path(state), "--csr", path(&csr)];
    tipstaff_ok(&[&issue[..], &["--id", id(0).as_str()]].concat());
}
