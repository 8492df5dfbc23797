//! A CA, and an agent or a sidecar, as processes of the binary that is measured.

use crate::process::{LOOK, Process, free_address, tipstaff, wait_for};
use crate::{Failure, PATIENCE};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
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
const STEP_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Agent,
    Sidecar,
}

/// What runs.
pub(crate) struct Mesh {
    pub(crate) server: Process,
    pub(crate) socket: PathBuf,
    _ca: Process,
    ca_log: PathBuf,
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
        let (listen, ca_log) = (free_address()?, at("ca.log"));
        let (address, own) = (listen.to_string(), ["--allow-short-ttl-for-tests"]);
        let serve = ["ca", "serve", "--dir", &dir_text, "--listen", &address];
        let ca = Process::start(&[&serve[..], &own].concat(), &ca_log)?;
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
        let server = Process::start(&[command, "--config", &config], &at("server.log"))?;
        wait_for(|| socket.exists()).await?;
        Ok(Self {
            server,
            socket,
            _ca: ca,
            ca_log,
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

    /// How many certificates there were so far.
    fn issued(&self) -> Result<usize, Failure> {
        let text = std::fs::read_to_string(&self.ca_log)?;
        Ok(text.lines().filter(|line| line.contains(ISSUED)).count())
    }

    /// Notes when the CA issues certificates, a sidecar's own among them, until `waiting` is ready.
    pub(crate) async fn issued_while<T>(
        &self,
        waiting: impl Future<Output = T>,
    ) -> Result<(T, Vec<Instant>), Failure> {
        let mut waiting = std::pin::pin!(waiting);
        let (mut count, mut times) = (self.issued()?, Vec::new());
        loop {
            tokio::select! {
                outcome = &mut waiting => return Ok((outcome, times)),
                () = sleep(LOOK) => {}
            }
            let now = self.issued()?;
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
