//! Transparent interception, by the kernel's nftables: three hosts, each a network namespace, on one bridge. The caller's and
//! the app's have a sidecar and its rules; the third has the CA, and nothing that speaks mutual TLS. Needs root.

mod external; // Out of the mesh, by name and by address.

use super::{run, run_ok};
use crate::harness::{ORDERS, POLICY, Process, STOREFRONT, grant, path, tipstaff_ok, wait_for};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;

/// The workload's user, in the namespaces whose sidecars run as root.
const NOBODY: &str = "65534";

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

/// Prints what the server says, and what it says to a line.
const TALK: &str = r#"
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as server:
    lines = server.makefile("rw")
    print(lines.readline(), end="")
    print("hello", file=lines, flush=True)
    print(lines.readline(), end="")
"#;

/// Ends well only if the kernel refuses to send.
const SEND_UDP: &str = r#"
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as sender:
    sender.settimeout(5)
    sender.connect((sys.argv[1], 9999))
    try:
        sender.send(b"x")
        sender.recv(1)
    except (PermissionError, ConnectionRefusedError):
        sys.exit(0)
sys.exit("it was sent")
"#;

/// A network namespace; removed with everything in it.
struct Host(String);

impl Host {
    fn start(name: &str) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let host = Self(format!("tipstaff-{}-{number}-{name}", std::process::id()));
        run_ok("ip", &["netns", "add", &host.0]);
        host.ip("link set lo up");
        host
    }

    fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.0];
        all.extend(arguments.split(' '));
        run_ok("ip", &all);
    }

    /// The host's one interface, on the bridge of `switch`.
    fn connect(&self, number: u8, switch: &Self) {
        let port = format!("port{number}");
        switch.ip(&format!(
            "link add {port} type veth peer name eth0 netns {}",
            self.0
        ));
        switch.ip(&format!("link set {port} master eth0 up"));
        self.address(number);
    }

    fn address(&self, number: u8) {
        self.ip(&format!("addr add 10.77.0.{number}/24 dev eth0"));
        self.ip(&format!("addr add fd77::{number}/64 dev eth0 nodad"));
        self.ip("link set eth0 up");
    }

    /// A program on this host, as root.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0, program]);
        command
    }

    fn tipstaff(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(env!("CARGO_BIN_EXE_tipstaff"));
        command.args(arguments).output().expect("ip runs")
    }

    fn redirect(&self, proxy_uid: &str) {
        let output = self.tipstaff(&["redirect", "install", "--proxy-uid", proxy_uid]);
        assert!(output.status.success(), "{output:?}");
    }

    /// Waits until a server on this host answers well.
    fn wait_for(&self, url: &str) {
        wait_for(url, || {
            let mut curl = self.command("curl");
            let output = curl.args(["-sf", url]).output().expect("ip runs");
            output.status.success().then_some(())
        });
    }

    /// Waits until the sidecar says that nothing is led to it.
    fn wait_until_unready(&self) {
        wait_for("a missing interception to show", || {
            let mut curl = self.command("curl");
            let output = curl.args(["-sS", "-w", "%{http_code}", "http://127.0.0.1:15000/ready"]);
            let said = text(&output.output().expect("ip runs"));
            (said.ends_with("503") && said.contains("run tipstaff redirect install")).then_some(())
        });
    }

    /// A program of the workload, which may take its time but not for ever.
    fn workload(&self, program: &str, arguments: &[&str]) -> Output {
        let user = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
        let mut command = self.command("setpriv");
        command.args(user).args(["timeout", "30", program]);
        command.args(arguments).output().expect("ip runs")
    }

    fn curl(&self, arguments: &[&str]) -> Output {
        let common = ["-sS", "-g", "--noproxy", "*", "-w", "%{http_code}"];
        self.workload("curl", &[&common[..], arguments].concat())
    }

    fn python(&self, script: &str, arguments: &[&str]) -> Output {
        let all = [&["-c", script][..], arguments].concat();
        self.workload("python3", &all)
    }

    /// The value of the series of this host's sidecar that begins like this; 0 if there is none.
    fn counted(&self, series: &str) -> u64 {
        let mut command = self.command("curl");
        let output = command
            .args(["-sS", "http://127.0.0.1:15000/metrics"])
            .output();
        let text = String::from_utf8(output.expect("ip runs").stdout).expect("text");
        let mut values = text.lines().filter_map(|line| line.strip_prefix(series));
        let value = values.next().map(|value| value.trim().parse());
        value.map_or(0, |value| value.expect("a number"))
    }

    fn refused(&self, direction: &str, reason: &str) -> u64 {
        self.counted(&format!(
            "tipstaff_refused_connections_total{{direction=\"{direction}\",reason=\"{reason}\"}}"
        ))
    }

    fn refused_destination(&self, destination: &str) -> u64 {
        self.counted(&format!(
            "tipstaff_refused_destinations_total{{destination=\"{destination}\"}}"
        ))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        run("ip", &["netns", "delete", &self.0]);
    }
}

struct Network {
    // Processes end before the hosts that they are on.
    _processes: Vec<Process>,
    caller: Host,
    orders: Host,
    third: Host,
    folder: TempDir,
}

impl Network {
    fn start() -> Self {
        Self::with(|_| String::new())
    }

    /// `external` writes what it needs into the folder, and says what the caller may reach outside.
    fn with(external: impl FnOnce(&Path) -> String) -> Self {
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

fn proxy(host: &Host, config: &Path) -> Command {
    let mut command = host.command(env!("CARGO_BIN_EXE_tipstaff"));
    command.args(["proxy", "--config", path(config)]);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Nobody in it knows of a sidecar.
#[test]
fn unchanged_programs_reach_each_other_through_both_sidecars_and_nothing_else() {
    let network = Network::start();
    let Network {
        caller,
        orders,
        third,
        ..
    } = &network;

    // HTTP and a server that speaks first, over both families.
    for (name, address) in [("orders", "10.77.0.2"), ("orders6", "[fd77::2]")] {
        let resolve = format!("{name}:8080:{address}");
        let url = format!("http://{name}:8080/api/v1/orders/42");
        let answer = caller.curl(&["--resolve", &resolve, &url]);
        let said = text(&answer);
        assert!(
            said.contains("GET /api/v1/orders/42 HTTP/1.1") && said.ends_with("200"),
            "{answer:?}"
        );
        assert!(
            said.to_lowercase()
                .contains(&format!("tipstaff-peer: {STOREFRONT}")),
            "{said}"
        );
        let denied = caller.curl(&["--resolve", &resolve, "-X", "DELETE", &url]);
        assert!(text(&denied).ends_with("403"), "{denied:?}");

        let bare = address.trim_matches(['[', ']']);
        let talk = caller.python(TALK, &[bare, "9000"]);
        assert_eq!(text(&talk), "220 at your service\nhello\n", "{talk:?}");
    }

    // No plain text from who has no sidecar, by the app's port or by the sidecar's own.
    for url in [
        "http://10.77.0.2:8080/api/v1/orders/42",
        "http://[fd77::2]:8080/api/v1/orders/42",
        "https://10.77.0.2:15006/",
    ] {
        let answer = third.curl(&["-k", "--max-time", "20", url]);
        assert!(
            !answer.status.success() && text(&answer).ends_with("000"),
            "{url}: {answer:?}"
        );
    }
    assert_eq!(orders.refused("inbound", "not_redirected"), 1);

    // Where nobody listed, nothing goes: by host for HTTP, by address for the rest.
    let unlisted = caller.curl(&["http://10.77.0.3:8443/"]);
    assert!(!text(&unlisted).ends_with("200"), "{unlisted:?}");
    let tls = caller.curl(&["-k", "https://[fd77::3]:8443/"]);
    assert!(!tls.status.success(), "{tls:?}");
    assert_eq!(caller.refused_destination("10.77.0.3:8443"), 1);
    assert_eq!(caller.refused_destination("[fd77::3]:8443"), 1);
    for address in ["10.77.0.3", "fd77::3"] {
        let sent = caller.python(SEND_UDP, &[address]);
        assert!(sent.status.success(), "{address}: {sent:?}");
    }

    // The sidecar's own ports, in every spelling, lead nowhere.
    let own = ["127.0.0.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"];
    for address in own {
        let answer = caller.curl(&[&format!("http://{address}:15001/")]);
        assert!(!answer.status.success(), "{address}: {answer:?}");
    }
    assert_eq!(
        caller.refused("outbound", "not_redirected"),
        own.len() as u64
    );
    for address in ["10.77.0.2", "[fd77::2]", "127.0.0.1"] {
        let answer = orders.curl(&[&format!("http://{address}:15006/")]);
        assert!(!answer.status.success(), "{address}: {answer:?}");
    }
    assert_eq!(orders.refused("inbound", "not_redirected"), 4);

    // Rules that name another user send the sidecar's own connections back to it, once.
    caller.redirect("12345");
    let looped = caller.curl(&["--resolve", "later:8081:10.77.0.2", "http://later:8081/"]);
    assert!(text(&looped).ends_with("502"), "{looped:?}");
    assert!(
        caller.refused("outbound", "not_the_workload") <= 3,
        "it goes round"
    );
    assert_ne!(caller.refused("outbound", "not_the_workload"), 0);

    // Removed, nothing is led anywhere; removed again, there is nothing to do.
    for host in [caller, orders] {
        for _ in 0..2 {
            assert!(host.tipstaff(&["redirect", "remove"]).status.success());
        }
    }
    for host in [caller, orders] {
        host.wait_until_unready();
    }
    // And back: nothing has to be started again.
    orders.redirect("0");
    orders.wait_for("http://127.0.0.1:15000/ready");
    assert!(orders.tipstaff(&["redirect", "remove"]).status.success());
    let rules = caller.command("nft").args(["list", "ruleset"]).output();
    assert_eq!(text(&rules.expect("ip runs")), "");
}

/// What leads to the process before it proves nothing of the new one, and does not keep it waiting either.
#[test]
fn a_process_that_takes_over_under_redirection_is_ready_and_led_to() {
    let network = Network::start();
    let (caller, folder) = (&network.caller, network.folder.path());
    let resolve = "orders:8080:10.77.0.2";
    let calls = || {
        let url = "http://orders:8080/api/v1/orders/42";
        let answer = caller.curl(&["--resolve", resolve, url]);
        assert!(text(&answer).ends_with("200"), "{answer:?}");
    };
    calls();
    let mut command = proxy(caller, &folder.join("caller.yaml"));
    command.arg("--upgrade");
    let heir = Process::start(command, folder.join("heir.log"));
    wait_for("the new process to have taken over", || {
        heir.log_text().contains("taken over from").then_some(())
    });
    let ready = "http://127.0.0.1:15000/ready";
    let mut asked = caller.command("curl");
    let answer = asked.args(["-sS", "-w", "%{http_code}", ready]).output();
    let answer = text(&answer.expect("ip runs"));
    assert!(answer.ends_with("200"), "{answer}");
    calls();
    // It sees for itself when the rules are gone, and when they are back.
    assert!(caller.tipstaff(&["redirect", "remove"]).status.success());
    caller.wait_until_unready();
    caller.redirect("0");
    caller.wait_for(ready);
    calls();
}
