//! The demo's processes: this same binary, started as CA and as sidecars, in a temporary folder.

use super::client::Call;
use anyhow::{Context, bail};
use hyper::{Method, StatusCode};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// How long a process may take to become ready; generous for a busy two-core machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(50);

/// A temporary folder that is removed when the demo ends.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn create() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("tipstaff-demo-{}", std::process::id()));
        // The CA's passphrase is in it: for this user alone.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.join(name);
        let parent = path.parent().unwrap_or(&self.0);
        std::fs::create_dir_all(parent)
            .with_context(|| format!("creating {}", parent.display()))?;
        // Written beside and renamed, so that a watching sidecar never reads half a file.
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, text).with_context(|| format!("writing {}", fresh.display()))?;
        std::fs::rename(&fresh, &path)
            .with_context(|| format!("renaming to {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Best effort: the folder is temporary by name and place.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A running child; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts this binary with `arguments`; its output goes to `<name>.log` in the folder.
    pub(super) fn start(folder: &Folder, name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let log = folder.join(&format!("{name}.log"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let child = this_binary()?
            .args(arguments)
            .env(super::PARENT_VARIABLE, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("sharing the log file")?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Waits until `GET <path>` on the process's administration port answers 200.
    pub(super) async fn until_ok(&mut self, admin: SocketAddr, path: &str) -> anyhow::Result<()> {
        let call = Call {
            to: admin,
            host: "localhost",
            method: Method::GET,
            path,
        };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if matches!(call.send().await, Ok(reply) if reply.status == StatusCode::OK) {
                return Ok(());
            }
            if let Some(status) = self
                .child
                .try_wait()
                .context("asking after a child process")?
            {
                bail!(
                    "{} ended with {status}; the end of its log:\n{}",
                    self.name,
                    self.last_words()
                );
            }
            if Instant::now() > deadline {
                bail!(
                    "{} was not ready within {START_LIMIT:?}; the end of its log:\n{}",
                    self.name,
                    self.last_words()
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("ending {}", self.name))
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

/// Runs this binary to its end and returns what it printed.
pub(super) async fn run_to_end(arguments: &[&str]) -> anyhow::Result<String> {
    let output = this_binary()?
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .context("running this binary")?;
    if !output.status.success() {
        bail!(
            "`tipstaff {}` ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    String::from_utf8(output.stdout).context("expected text from this binary")
}

/// Waits until `condition` holds, for `limit` at most, and says how long it took.
pub(super) async fn until<F>(limit: Duration, mut condition: impl FnMut() -> F) -> Option<Duration>
where
    F: Future<Output = bool>,
{
    let start = Instant::now();
    while start.elapsed() < limit {
        if condition().await {
            return Some(start.elapsed());
        }
        tokio::time::sleep(POLL).await;
    }
    None
}

/// Different loopback addresses with ports that were free a moment ago.
pub(super) fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    // Held until all are known, so that none comes up twice.
    let mut listeners = Vec::new();
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("looking for a free port")?;
        *address = listener.local_addr().context("reading a free port")?;
        listeners.push(listener);
    }
    Ok(addresses)
}

fn this_binary() -> anyhow::Result<Command> {
    Ok(Command::new(
        std::env::current_exe().context("finding this binary")?,
    ))
}
