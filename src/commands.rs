//! The subcommands that run and end: what they print, and with which exit code.

pub(crate) mod ca;
pub(crate) mod check;
pub(crate) mod policy;

use anyhow::Context;
use std::process::ExitCode;

/// "The answer is no": a request denied, a test failed, a chain broken.
fn answer(yes: bool) -> ExitCode {
    if yes {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!(
        "{}",
        serde_json::to_string_pretty(value).context("writing JSON")?
    );
    Ok(())
}
