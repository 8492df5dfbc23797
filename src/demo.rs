//! `tipstaff demo`: the main job on loopback, step by step, each step with its evidence and its own check.

mod apps;
mod client;
mod documents;
mod load;
mod mesh;
mod processes;
mod steps;

use crate::cli::DemoArgs;
use crate::signal;
use anyhow::Context;
use mesh::Mesh;
use std::io::Write;
use std::process::ExitCode;

/// Set for the demo's children to the demo's process id: they end when the demo does, however it ends.
pub(crate) const PARENT_VARIABLE: &str = "TIPSTAFF_DEMO_PARENT";

/// In a child of the demo: asks the kernel for SIGTERM when the demo ends, even if it is killed.
///
/// # Errors
/// When the kernel refuses, or the demo has already ended.
pub(crate) fn end_with_parent() -> anyhow::Result<()> {
    let Some(parent) = std::env::var_os(PARENT_VARIABLE) else {
        return Ok(());
    };
    let term = Some(rustix::process::Signal::TERM);
    rustix::process::set_parent_process_death_signal(term)
        .context("tying this process to the demo")?;
    let present = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string().into());
    anyhow::ensure!(
        present == Some(parent),
        "the demo that started this process has ended"
    );
    Ok(())
}

/// Runs the demo. Exit code 1 when a step did not do what it says.
pub(crate) fn run(arguments: &DemoArgs) -> anyhow::Result<ExitCode> {
    tell(
        "Tipstaff demo: everything runs on loopback and in a temporary folder; Ctrl-C ends it all.",
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(async {
        // Every way to end it has to remove the folder with the CA's keys.
        let (interrupted, mut hangup) = (signal::terminate()?, signal::hangup()?);
        tokio::select! {
            () = interrupted => Ok(ExitCode::from(130)),
            Some(()) = hangup.recv() => Ok(ExitCode::from(129)),
            outcome = show(arguments) => outcome,
        }
    })
}

async fn show(arguments: &DemoArgs) -> anyhow::Result<ExitCode> {
    let mut mesh = Mesh::start().await?;
    let mut narrator = Narrator::default();
    steps::all(&mut mesh, &mut narrator, arguments.load_for).await;
    let failed = narrator.failed;
    tell(&format!(
        "\n{} of {} steps did what they say.",
        narrator.steps - failed,
        narrator.steps
    ));
    if arguments.check {
        return Ok(if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    tell(&format!(
        "\nIt stays up now. Try it by hand:\n{}\nCtrl-C ends it.",
        mesh.commands_to_try()
    ));
    std::future::pending().await
}

/// Goes on when nobody reads: the processes have to be ended and the folder removed all the same.
fn tell(line: &str) {
    writeln!(std::io::stdout(), "{line}").ok();
}

/// Prints the story and keeps the score.
#[derive(Debug, Default)]
struct Narrator {
    steps: u32,
    failed: u32,
}

impl Narrator {
    fn step(&mut self, title: &str) {
        self.steps += 1;
        tell(&format!("\n{}. {title}", self.steps));
    }

    fn command(&self, command: &str) {
        tell(&format!("   $ {command}"));
    }

    fn evidence(&self, line: &str) {
        for line in line.trim_end().lines() {
            tell(&format!("     {line}"));
        }
    }

    fn verdict(&mut self, outcome: anyhow::Result<String>) {
        match outcome {
            Ok(said) => tell(&format!("   ok: {said}")),
            Err(error) => {
                self.failed += 1;
                tell(&format!("   FAILED: {error:#}"));
            }
        }
    }
}
