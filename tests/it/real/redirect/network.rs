//! Three hosts on one bridge, with a CA, two sidecars and an app.

use super::host::{Host, NOBODY};
use crate::harness::{ORDERS, POLICY, Process, STOREFRONT, grant, path, tipstaff_ok, wait_for};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Answers with the head that it got; on port 9000 it speaks first, then echoes.
const APP: &str = r#"
import http.server, socketserver, threading
class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{self.requestline}\n{self.headers}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"220 at your service\n")
        self.wfile.write(self.rfile.readline())
tcp = socketserver.ThreadingTCPServer(("127.0.0.1", 9000), Tcp)
threading.Thread(target=tcp.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Http).serve_forever()
"#;

/// The three hosts, and what runs on them.
pub(super) struct Network {
    // Processes end before the hosts that they are on.
    _processes: Vec<Process>,
    pub(super) caller: Host,
    pub(super) orders: Host,
    pub(super) third: Host,
    pub(super) folder: TempDir,
}

impl Network {
    pub(super) fn start() -> Self {
        Self::with(|_| String::new())
    }

    /// `external` writes what it needs into the folder, and says what the caller may reach outside.
    pub(super) fn with(external: impl FnOnce(&Path) -> String) -> Self {
        let folder = TempDir::new().expect("a folder");
        let [caller, orders, third] = ["caller", "orders", "third"].map(Host::start);
        third.ip("link add eth0 type bridge");
        third.address(3);
        caller.connect(1, &third);
        orders.connect(2, &third);

        let tcp =
            grant("talks", "{tcp: true}", "[]").replace("  allow:", "  ports: [9000]\n  allow:");
        std::fs::create_dir(folder.path().join("policy")).expect("a policy folder");
        let policy = folder.path().join("policy/policy.yaml");
        std::fs::write(policy, format!("{POLICY}---\n{tcp}")).expect("a policy");

        let mut processes = vec![start_ca(&third, folder.path())];
        let mut app = orders.command("python3");
        app.args(["-c", APP]);
        processes.push(Process::start(app, folder.path().join("app.log")));
        let outbound = format!(
            "outbound:\n  listen: 127.0.0.1:15001\n  redirected: true\n  uids: [{NOBODY}]\n  services:\n\
             \x20   - {{hosts: [\"orders:8080\"], endpoints: [\"10.77.0.2:8080\"], identity: \"{ORDERS}\"}}\n\
             \x20   - {{hosts: [\"orders6:8080\"], endpoints: [\"[fd77::2]:8080\"], identity: \"{ORDERS}\"}}\n\
             \x20   - {{hosts: [\"later:8081\"], endpoints: [\"10.77.0.2:8081\"], identity: \"{ORDERS}\"}}\n\
             \x20 tcp:\n\
             \x20   - {{destinations: [\"10.77.0.2:9000\"], endpoints: [\"10.77.0.2:9000\"], identity: \"{ORDERS}\"}}\n\
             \x20   - {{destinations: [\"[fd77::2]:9000\"], endpoints: [\"[fd77::2]:9000\"], identity: \"{ORDERS}\"}}\n{}",
            external(folder.path())
        );
        let inbound = "inbound:\n  - {listen: \"[::]:15006\", app: original, tcpPorts: [9000]}\n";
        processes.push(start_sidecar(
            &caller,
            folder.path(),
            "caller",
            STOREFRONT,
            &outbound,
        ));
        processes.push(start_sidecar(
            &orders,
            folder.path(),
            "orders",
            ORDERS,
            inbound,
        ));
        orders.wait_for("http://127.0.0.1:8080/");
        for host in [&caller, &orders] {
            host.wait_for("http://127.0.0.1:15000/live");
            host.wait_until_unready();
            host.redirect("0");
            host.wait_for("http://127.0.0.1:15000/ready");
        }
        Self {
            _processes: processes,
            caller,
            orders,
            third,
            folder,
        }
    }
}

fn start_ca(host: &Host, folder: &Path) -> Process {
    let dir = folder.join("ca");
    let dir = path(&dir);
    tipstaff_ok(&["ca", "init", "--dir", dir, "--trust-domain", "test.example"]);
    let mut command = host.command(env!("CARGO_BIN_EXE_tipstaff"));
    command.args(["ca", "serve", "--dir", dir, "--listen", "10.77.0.3:8443"]);
    let process = Process::start(command, folder.join("ca.log"));
    wait_for("the CA to listen", || {
        let said = std::fs::read_to_string(&process.log).ok()?;
        said.contains("8443").then_some(())
    });
    process
}

fn start_sidecar(host: &Host, folder: &Path, name: &str, id: &str, way: &str) -> Process {
    let dir = folder.join("ca");
    let token = tipstaff_ok(&["ca", "token", "create", "--dir", path(&dir), "--id", id]);
    std::fs::write(folder.join(format!("{name}.token")), token).expect("a token file");
    let folder_text = folder.display();
    let text = format!(
        "identity:\n  ca: {{endpoint: \"https://10.77.0.3:8443\", bundle: \"{folder_text}/ca/ca-bundle.pem\"}}\n  attest: {{joinTokenFile: \"{folder_text}/{name}.token\"}}\n  enrolmentKey: \"{folder_text}/{name}.key\"\n  id: {id}\n\
         policy: {{dir: \"{folder_text}/policy\"}}\nadmin: {{socket: \"{folder_text}/{name}.sock\"}}\n{way}"
    );
    let config = folder.join(format!("{name}.yaml"));
    std::fs::write(&config, text).expect("a configuration");
    Process::start(proxy(host, &config), folder.join(format!("{name}.log")))
}

pub(super) fn proxy(host: &Host, config: &Path) -> Command {
    let mut command = host.command(env!("CARGO_BIN_EXE_tipstaff"));
    command.args(["proxy", "--config", path(config)]);
    command
}
