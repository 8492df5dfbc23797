//! A CA, and an agent or a sidecar, as processes of the binary that is measured.

use crate::{Failure, PATIENCE};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::sleep;

const ID: &str = "spiffe://bench.test/web";
/// Renewed after 6 to 8 seconds.
const TTL_S: u32 = 12;
/// A sidecar does not start without one.
const POLICY: &str = r#"apiVersion: tipstaff.dev/v1alpha1
kind: Grant
metadata: {name: nobody-calls, namespace: shop}
spec:
  from: ["spiffe://bench.test/ns/shop/sa/nobody"]
  to: ["spiffe://bench.test/ns/shop/sa/web"]
  allow: [{methods: [GET], path: "/"}]
  purpose: {id: bench, owner: bench}
  validity: {notAfter: never, because: "a bench"}
"#;
/// What the CA logs of each certificate.
const ISSUED: &str = "certificate issued";
const LOOK: Duration = Duration::from_millis(2);
const STEP_AGAIN: Duration = Duration::from_millis(500);
/// Linux has 100 of them a second on every platform we run on.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Agent,
    Sidecar,
}

/// What runs.
pub(crate) struct Mesh {
    pub(crate) server: Process,
    pub(crate) socket: PathBuf,
    ca: Process,
    dir: PathBuf,
    _folder: TempDir,
}

impl Mesh {
    pub(crate) async fn start(role: Role, connections: usize) -> Result<Self, Failure> {
        let folder = TempDir::new()?;
        let at = |name: &str| folder.path().join(name);
        let dir = at("ca");
        let dir_text = dir.display().to_string();
        tipstaff(&[
            "ca",
            "init",
            "--dir",
            &dir_text,
            "--trust-domain",
            "bench.test",
        ])
        .await?;
        let listen = free_address()?;
        let (address, own) = (listen.to_string(), ["--allow-short-ttl-for-tests"]);
        let serve = ["ca", "serve", "--dir", &dir_text, "--listen", &address];
        let ca = Process::start(&[&serve[..], &own].concat(), at("ca.log"))?;
        wait_for(|| std::net::TcpStream::connect(listen).is_ok()).await?;
        let create = ["ca", "token", "create", "--dir", &dir_text, "--id", ID];
        std::fs::write(at("token"), tipstaff(&create).await?)?;

        let socket = at("api.sock");
        let text = configuration(role, folder.path(), listen, connections)?;
        std::fs::write(at("config.yaml"), text)?;
        let config = at("config.yaml").display().to_string();
        let command = match role {
            Role::Agent => "agent",
            Role::Sidecar => "proxy",
        };
        let server = Process::start(&[command, "--config", &config], at("server.log"))?;
        wait_for(|| socket.exists()).await?;
        Ok(Self {
            server,
            socket,
            ca,
            dir,
            _folder: folder,
        })
    }

    /// One step of the rotation of the root, once nothing is in its way.
    pub(crate) async fn rotate(&self, step: &str) -> Result<(), Failure> {
        let dir = self.dir.display().to_string();
        // No other trust domain has to hear of it.
        let at_once: &[_] = match step {
            "activate" => &["--published-for", "0s"],
            _ => &[],
        };
        let command = [&["ca", "rotate", step, "--dir", &dir, "--root"], at_once].concat();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match tipstaff(&command).await {
                // Those with certificates of the old root get others meanwhile.
                Err(_) if Instant::now() < deadline => sleep(STEP_AGAIN).await,
                outcome => return outcome.map(drop),
            }
        }
    }

    /// Notes when the CA issues certificates, a sidecar's own among them, until `waiting` is ready.
    pub(crate) async fn issued_while<T>(
        &self,
        waiting: impl Future<Output = T>,
    ) -> Result<(T, Vec<Instant>), Failure> {
        let mut waiting = std::pin::pin!(waiting);
        let (mut count, mut times) = (self.ca.lines(ISSUED)?, Vec::new());
        loop {
            tokio::select! {
                outcome = &mut waiting => return Ok((outcome, times)),
                () = sleep(LOOK) => {}
            }
            let now = self.ca.lines(ISSUED)?;
            times.extend((count..now).map(|_| Instant::now()));
            count = now;
        }
    }
}

fn configuration(
    role: Role,
    folder: &Path,
    ca: SocketAddr,
    connections: usize,
) -> Result<String, Failure> {
    let folder = folder.display();
    let place = format!("endpoint: \"https://{ca}\", bundle: \"{folder}/ca/ca-bundle.pem\"");
    let proof = format!(
        "attest: {{joinTokenFile: \"{folder}/token\"}}, enrolmentKey: \"{folder}/key\", id: \"{ID}\", ttl: {TTL_S}s"
    );
    let api =
        format!("workloadApi: {{socket: \"{folder}/api.sock\", maxConnections: {connections}}}\n");
    let uid = rustix::process::geteuid().as_raw();
    Ok(match role {
        Role::Agent => format!(
            "ca: {{{place}}}\n{api}entries:\n  - {{{proof}, selectors: [\"unix:uid:{uid}\"]}}\n"
        ),
        Role::Sidecar => {
            std::fs::create_dir(format!("{folder}/policy"))?;
            std::fs::write(format!("{folder}/policy/policy.yaml"), POLICY)?;
            format!(
                "identity: {{ca: {{{place}}}, {proof}}}\n{api}policy: {{dir: \"{folder}/policy\"}}\nadmin: {{listen: \"{}\"}}\n",
                free_address()?
            )
        }
    })
}

/// A process of the binary; killed at the end.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(arguments: &[&str], log: PathBuf) -> Result<Self, Failure> {
        let mut command = command(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = child.stderr(File::create(&log)?).spawn()?;
        Ok(Self { child, log })
    }

    fn lines(&self, part: &str) -> Result<usize, Failure> {
        let text = std::fs::read_to_string(&self.log)?;
        Ok(text.lines().filter(|line| line.contains(part)).count())
    }

    /// User and system time so far.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("expected fields")?;
        let fields: Vec<_> = fields.split_ascii_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u32>().ok());
        let (user, system) = (ticks(11).ok_or("no time")?, ticks(12).ok_or("no time")?);
        Ok(Duration::from_secs_f64(
            f64::from(user + system) / TICKS_PER_SECOND,
        ))
    }

    /// Resident.
    pub(crate) fn memory_kib(&self) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_ascii_whitespace().next());
        Ok(number.ok_or("no memory")?.parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tipstaff"));
    command.args(arguments);
    command.env("TIPSTAFF_CA_PASSPHRASE", "correct horse battery staple");
    command
}

/// Runs the binary to its end, which has to be a good one, and gives what it printed.
async fn tipstaff(arguments: &[&str]) -> Result<String, Failure> {
    let mut command = tokio::process::Command::from(command(arguments));
    let output = command.stdin(Stdio::null()).output().await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("tipstaff {arguments:?}: {said}").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

async fn wait_for(mut condition: impl FnMut() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return Err("waited too long for a process".into());
        }
        sleep(LOOK).await;
    }
    Ok(())
}

fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
