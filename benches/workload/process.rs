//! Processes of the binary that is measured. Shared by the benches that start some.

use crate::{Failure, PATIENCE};
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Between one look at something that is waited for and the next.
pub(crate) const LOOK: Duration = Duration::from_millis(2);
/// Linux has 100 of them a second on every platform we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process of the binary; killed at the end.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn start(arguments: &[&str], log: &Path) -> Result<Self, Failure> {
        let mut command = command(arguments);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = child.stderr(File::create(log)?).spawn()?;
        Ok(Self { child })
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
pub(crate) async fn tipstaff(arguments: &[&str]) -> Result<String, Failure> {
    let mut command = tokio::process::Command::from(command(arguments));
    let output = command.stdin(Stdio::null()).output().await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("tipstaff {arguments:?}: {said}").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) async fn wait_for(mut condition: impl FnMut() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        if Instant::now() > deadline {
            return Err("waited too long for a process".into());
        }
        sleep(LOOK).await;
    }
    Ok(())
}

pub(crate) fn free_address() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
