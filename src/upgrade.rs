//! A new process in the place of this one, and this one in the place of another. How sockets change hands is
//! `proxy::handover`.

use anyhow::Context;
use proxy::handover::{Inherited, Predecessor};
use std::path::PathBuf;
use std::process::Stdio;
use tokio::process::Command;
use tokio::signal::unix::Signal;

/// The flag with which a new process is started.
const FLAG: &str = "--upgrade";

/// Asks the process at the admin socket for its listening sockets.
///
/// # Errors
/// When there is no such process or it refuses.
pub(crate) async fn ask(socket: Option<PathBuf>) -> anyhow::Result<(Predecessor, Inherited)> {
    let socket = socket.context(
        "expected admin.socket in the configuration: the running process is asked for its listeners there",
    )?;
    tokio::task::spawn_blocking(move || Predecessor::ask(&socket))
        .await
        .context("asking the running process")?
        .context("taking over")
}

/// At each signal starts what is now at the path of this program, with the arguments of this process and `--upgrade`. It takes
/// over by itself or ends; either way nothing here changes before it asks. Runs until dropped.
pub(crate) async fn on_signal(mut signals: Signal) {
    while let Some(()) = signals.recv().await {
        match start() {
            Ok(mut child) => {
                tracing::info!(pid = child.id(), "a new process was started by SIGUSR2");
                // Ends with the child, whose own log says what went wrong.
                tokio::spawn(async move {
                    if let Ok(status) = child.wait().await {
                        tracing::warn!(%status, "the process started by SIGUSR2 has ended");
                    }
                });
            }
            Err(error) => tracing::error!(%error, "cannot start a new process"),
        }
    }
}

fn start() -> std::io::Result<tokio::process::Child> {
    // As this process was started, and not /proc/self/exe: that goes on naming a file that was replaced.
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let arguments: Vec<_> = arguments.filter(|argument| argument != FLAG).collect();
    Command::new(program)
        .args(arguments)
        .arg(FLAG)
        .stdin(Stdio::null())
        .spawn()
}
