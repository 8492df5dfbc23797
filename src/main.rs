//! The `tipstaff` binary: arguments -> logging -> command -> exit code.
//!
//! Exit codes: 0 done, 1 the answer is no, 2 usage or configuration error.

mod app;
mod cli;
mod commands;
mod config;
mod demo;
mod files;
mod logging;
mod policy_dir;
mod reload;
mod signal;

use clap::Parser;
use cli::{Cli, Command};
use std::io::Write;
use std::process::ExitCode;

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
        Command::Proxy(arguments) => app::run(&arguments.config).map(|()| ExitCode::SUCCESS),
        Command::Policy(command) => commands::policy::run(command),
        Command::Check(arguments) => commands::check::run(arguments),
    }
}
