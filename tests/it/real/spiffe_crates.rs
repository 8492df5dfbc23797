//! The tests of the Workload API that the crates `spiffe` and `spiffe-rustls` ship: two trust domains that federate, an agent
//! in each, and identities by the names that those tests expect.

use crate::harness::workload::Workload;
use crate::harness::{Ca, Process, free_address, path, tipstaff_ok, wait_for};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A trust domain to be.
struct Domain<'d> {
    name: &'d str,
    dir: PathBuf,
    listen: SocketAddr,
}

impl<'d> Domain<'d> {
    /// Without an intermediate: those tests expect chains of one certificate.
    fn init(folder: &Path, name: &'d str) -> Self {
        let dir = folder.join(name);
        let arguments = ["ca", "init", "--dir", path(&dir), "--trust-domain", name];
        tipstaff_ok(&[&arguments[..], &["--no-intermediate"]].concat());
        Self {
            name,
            dir,
            listen: free_address(),
        }
    }

    /// Serves, issues tokens, and fetches the bundle of `other`.
    fn serve(&self, other: &Self) -> Ca {
        let Self { name, dir, listen } = self;
        let text = format!(
            "dir: {}\nlisten: {listen}\njwt: {{}}\nfederation:\n  - {{trustDomain: {}, url: \"https://{}/bundle\", spiffeId: \"spiffe://{}/tipstaff/ca\", bundleFile: \"{}\"}}\n",
            dir.display(),
            other.name,
            other.listen,
            other.name,
            other.dir.join("ca-bundle.pem").display(),
        );
        let config = dir.with_extension("yaml");
        std::fs::write(&config, text).expect("a configuration");
        let arguments = ["ca", "serve", "--config", path(&config)];
        let process = Process::tipstaff(&arguments, dir.with_extension(format!("{name}.log")));
        wait_for("the CA to listen", || TcpStream::connect(listen).ok());
        Ca::of(dir.clone(), *listen, process)
    }
}

#[test]
fn the_tests_of_the_spiffe_crates_pass() {
    let folder = TempDir::new().expect("a folder");
    let own = Domain::init(folder.path(), "example.org");
    let foreign = Domain::init(folder.path(), "example-federated.org");
    let (own_ca, foreign_ca) = (own.serve(&foreign), foreign.serve(&own));
    let selectors = format!(
        "selectors: [\"unix:uid:{}\"]",
        rustix::process::geteuid().as_raw()
    );
    let hinted = ["myservice", "myservice2"].map(|hint| format!("hint: {hint}, {selectors}"));
    let entries = [
        ("spiffe://example.org/myservice", hinted[0].as_str()),
        ("spiffe://example.org/myservice2", hinted[1].as_str()),
    ];
    let agent = Workload::agent(folder.path(), &own_ca, "agent", &entries);
    let entries = [("spiffe://example-federated.org/service", selectors.as_str())];
    let federated = Workload::agent(folder.path(), &foreign_ca, "federated", &entries);

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/spiffe-crates/run");
    let output = Command::new(script)
        .env("SPIFFE_ENDPOINT_SOCKET", agent.endpoint())
        .env("SPIFFE_ENDPOINT_SOCKET_FEDERATED", federated.endpoint())
        .output()
        .expect("the script runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    for line in ["spiffe: 60 passed", "spiffe-rustls: 2 passed"] {
        assert!(said.contains(line), "{said}");
    }
}
