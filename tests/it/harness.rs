//! A CA and sidecars as real processes in a temporary folder, on ports of their own; everything ends with the `Mesh`.

pub(crate) mod app;
pub(crate) mod clock;
pub(crate) mod grpc;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod sidecar;
pub(crate) mod workload;

use app::App;
use clock::Clock;
pub(crate) use sidecar::Sidecar;
use sidecar::{Role, start};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub(crate) const STOREFRONT: &str = "spiffe://test.example/ns/shop/sa/storefront";
pub(crate) const ORDERS: &str = "spiffe://test.example/ns/shop/sa/orders";
pub(crate) const STRANGER: &str = "spiffe://test.example/ns/other/sa/stranger";

/// The storefront may read orders, and place them at a limited rate.
pub(crate) const POLICY: &str = r#"apiVersion: tipstaff.dev/v1alpha1
kind: Grant
metadata: {name: storefront-reads-orders, namespace: shop}
spec:
  from: ["spiffe://test.example/ns/shop/sa/storefront"]
  to: ["spiffe://test.example/ns/shop/sa/orders"]
  allow: [{methods: [GET, HEAD], path: "/api/v1/orders/{id}"}]
  purpose: {id: order-history, owner: team-shop}
  validity: {notAfter: never, because: "a test"}
"#;

/// A grant document like [`POLICY`]'s with another name, rule and limits (a YAML flow list such as `[]`).
pub(crate) fn grant(name: &str, allow: &str, limits: &str) -> String {
    format!(
        r#"apiVersion: tipstaff.dev/v1alpha1
kind: Grant
metadata: {{name: {name}, namespace: shop}}
spec:
  from: ["{STOREFRONT}"]
  to: ["{ORDERS}"]
  allow: [{allow}]
  limits: {limits}
  purpose: {{id: {name}, owner: team-shop}}
  validity: {{notAfter: never, because: "a test"}}
"#
    )
}

/// Of the keys of every CA here.
pub(crate) const PASSPHRASE: &str = "correct horse battery staple";
/// How long anything may take that should be quick; generous, since the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs this build's binary to its end.
pub(crate) fn tipstaff(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tipstaff"))
        .args(arguments)
        .env("TIPSTAFF_CA_PASSPHRASE", PASSPHRASE)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// The same, which has to succeed; returns standard output.
pub(crate) fn tipstaff_ok(arguments: &[&str]) -> String {
    let output = tipstaff(arguments);
    assert!(
        output.status.success(),
        "tipstaff {arguments:?}: {output:?}"
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Waits until `condition` gives something, or fails the test naming `what`.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A loopback address that nobody has. Below the range from which the system takes the ports of outgoing connections, and
/// not the same twice in a run.
pub(crate) fn free_address() -> SocketAddr {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    loop {
        let place = std::process::id().wrapping_mul(101) + TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + u16::try_from(place % 20_000).expect("small");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// A child process; killed at the end, its log shown if the test fails.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Process {
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .expect("a log file");
        let child = command
            .env("TIPSTAFF_CA_PASSPHRASE", PASSPHRASE)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log }
    }

    pub(crate) fn tipstaff(arguments: &[&str], log: PathBuf) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tipstaff"));
        command.args(arguments);
        Self::start(command, log)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a pid");
        rustix::process::kill_process(pid, signal).expect("the process is ours");
    }

    /// kill -9, and waits for the end.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the process is ours");
        self.child.wait().expect("the process is ours");
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The soft and the hard one.
    pub(crate) fn limits_on_open_files(&self) -> [String; 2] {
        let limits = format!("/proc/{}/limits", self.child.id());
        let limits = std::fs::read_to_string(limits).expect("the process runs");
        let line = limits.lines().find(|line| line.contains("open files"));
        let words: Vec<_> = line.expect("a limit").split_ascii_whitespace().collect();
        let ["Max", "open", "files", soft, hard, ..] = words.as_slice() else {
            panic!("{limits}");
        };
        [*soft, *hard].map(str::to_owned)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("---- {}\n{}", self.log.display(), self.log_text());
        }
    }
}

/// A certificate authority.
#[derive(Debug)]
pub(crate) struct Ca {
    pub(crate) dir: PathBuf,
    pub(crate) listen: SocketAddr,
    process: Option<Process>,
    pub(crate) clock: Option<Clock>,
    /// Further arguments of `ca serve`.
    pub(crate) more: Vec<String>,
}

impl Ca {
    /// A CA that a test has made and started in its own way.
    #[cfg(feature = "real-programs")]
    pub(crate) fn of(dir: PathBuf, listen: SocketAddr, process: Process) -> Self {
        Self {
            dir,
            listen,
            process: Some(process),
            clock: None,
            more: Vec::new(),
        }
    }

    /// Makes a CA for `test.example` in `folder` and serves it.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_by(folder, None)
    }

    fn start_by(folder: &Path, clock: Option<Clock>) -> Self {
        let dir = folder.join("ca");
        tipstaff_ok(&[
            "ca",
            "init",
            "--dir",
            path(&dir),
            "--trust-domain",
            "test.example",
        ]);
        let mut ca = Self {
            dir,
            listen: free_address(),
            process: None,
            clock,
            more: Vec::new(),
        };
        ca.serve();
        ca
    }

    pub(crate) fn serve(&mut self) {
        let listen = self.listen.to_string();
        let arguments = [
            "ca",
            "serve",
            "--dir",
            path(&self.dir),
            "--listen",
            &listen,
            "--allow-short-ttl-for-tests",
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_tipstaff"));
        command.args(arguments).args(&self.more);
        if let Some(clock) = &self.clock {
            clock.give(&mut command);
        }
        self.process = Some(Process::start(command, self.dir.with_extension("log")));
        let listen = self.listen;
        wait_for("the CA to listen", || {
            std::net::TcpStream::connect(listen).ok()
        });
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("the CA runs").kill();
    }

    pub(crate) fn log_text(&self) -> String {
        let log = self.dir.with_extension("log");
        std::fs::read_to_string(log).unwrap_or_default()
    }

    pub(crate) fn token(&self, id: &str) -> String {
        tipstaff_ok(&[
            "ca",
            "token",
            "create",
            "--dir",
            path(&self.dir),
            "--id",
            id,
        ])
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.join("ca-bundle.pem")
    }
}

/// One CA and the sidecars of a storefront (calls) and of an orders service (serves [`App`]).
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) storefront: Sidecar,
    pub(crate) orders: Sidecar,
    pub(crate) ca: Ca,
    pub(crate) app: App,
    pub(crate) folder: TempDir,
}

/// What a test may want different.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) policy: String,
    /// Life of the certificates.
    pub(crate) ttl: Duration,
    /// In place of the built-in app: `host:port`, or `unix:` and a path.
    pub(crate) app: Option<String>,
    /// Opaque TCP between the sidecars in place of HTTP, and the name of the callers' Unix sockets for it.
    pub(crate) tcp: Option<&'static str>,
    /// Further apps of the orders service, as protocol (`http` or `tcp`) and address. Callers reach the first HTTP one as
    /// `orders-0`, and so on; opaque TCP by [`Sidecar::tcp`].
    pub(crate) beside: Vec<(&'static str, String)>,
    /// Further top-level sections of both sidecars' configuration.
    pub(crate) extra: String,
    /// Each process has a clock of its own, which the test sets; needs Debian's libfaketime.
    pub(crate) own_clocks: bool,
    /// Of the sidecars' own log.
    pub(crate) log_level: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: POLICY.to_owned(),
            ttl: Duration::from_secs(3600),
            app: None,
            tcp: None,
            beside: Vec::new(),
            extra: String::new(),
            own_clocks: false,
            log_level: "info",
        }
    }
}

impl Mesh {
    pub(crate) fn start() -> Self {
        Self::with(&Options::default())
    }

    pub(crate) fn with(options: &Options) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let clock = |name| Clock::new(folder.path().join(name));
        let ca = Ca::start_by(folder.path(), options.own_clocks.then(|| clock("ca.clock")));
        Self::under(ca, folder, options)
    }

    /// The sidecars of a CA that runs, in its folder.
    pub(crate) fn under(ca: Ca, folder: TempDir, options: &Options) -> Self {
        std::fs::create_dir(folder.path().join("policy")).expect("a policy folder");
        std::fs::write(folder.path().join("policy/policy.yaml"), &options.policy)
            .expect("a policy");
        let app = App::start();
        let own_app = app.address.to_string();
        let served = Role::Serves {
            app: options.app.as_deref().unwrap_or(&own_app),
        };
        let orders = start(folder.path(), &ca, ("orders", ORDERS), served, options);
        let calls = Role::Calls { orders: &orders };
        let caller = ("storefront", STOREFRONT);
        let storefront = start(folder.path(), &ca, caller, calls, options);
        Self {
            storefront,
            orders,
            ca,
            app,
            folder,
        }
    }

    /// One more sidecar that calls the orders service, with the identity `id`.
    pub(crate) fn caller(&self, name: &str, id: &str, options: &Options) -> Sidecar {
        let calls = Role::Calls {
            orders: &self.orders,
        };
        start(self.folder.path(), &self.ca, (name, id), calls, options)
    }

    /// Replaces the policy file as a careful operator does: written beside, then renamed.
    pub(crate) fn set_policy(&self, text: &str) {
        let path = self.folder.path().join("policy/policy.yaml");
        std::fs::write(path.with_extension("new"), text).expect("writing");
        std::fs::rename(path.with_extension("new"), path).expect("renaming");
    }
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}
