//! The `tipstaff` binary: arguments -> logging -> command -> exit code.
//!
//! Exit codes: 0 done, 1 the answer is no, 2 usage or configuration error.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the one crate that reads the environment: log level, passphrase, the demo's parent"
)]

// In reading order: arguments, then a sidecar from its files to its end, then the commands that end by themselves.
mod cli;

mod logging;

mod config;

mod policy_dir;

mod enrolment;

mod app;

mod workload_api;

mod reload;

mod upgrade;

mod signal;

mod commands;

mod demo;

use clap::Parser;
use cli::{Cli, Command};
use std::io::Write;
use std::process::ExitCode;

/// Gives memory back when connections end. The system's allocator keeps what lies below its last block in use: after a
/// flood of slow connections a sidecar stayed as large as it had been at its worst, and shed requests for good.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(code) => code,
        Err(error) => {
            // `eprintln!` would panic where standard error is closed or full.
            writeln!(std::io::stderr(), "tipstaff: {error:#}").ok();
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    logging::init()?;
    demo::end_with_parent()?;
    match &cli.command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Ca(command) => commands::ca::run(command),
        Command::Proxy(arguments) => app::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Agent(arguments) => commands::agent::run(arguments).map(|()| ExitCode::SUCCESS),
        Command::Policy(command) => commands::policy::run(command),
        Command::Check(arguments) => commands::check::run(arguments),
        Command::Redirect(command) => commands::redirect::run(command),
    }
}
