//! The subcommands beside the sidecar: what they print, and with which exit code.

pub(crate) mod agent;
pub(crate) mod ca;
pub(crate) mod check;
pub(crate) mod policy;
pub(crate) mod redirect;

use anyhow::Context;
use std::fmt;
use std::io::{self, Write};
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
    let text = serde_json::to_string_pretty(value).context("writing JSON")?;
    print(format_args!("{text}\n"))
}

/// Writes to standard output. A reader that has seen enough, such as `head`, changes no exit code.
fn print(text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}
