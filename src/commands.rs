//! The subcommands beside the sidecar: what they print, and with which exit code.

pub(crate) mod agent;
pub(crate) mod ca;
pub(crate) mod check;
pub(crate) mod policy;
pub(crate) mod redirect;

mod http;

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

/// One `key  value` line a field, nested fields indented.
fn print_fields(value: &serde_json::Value, indent: &str) -> anyhow::Result<()> {
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Object(_) => {
                print(format_args!("{indent}{key}\n"))?;
                print_fields(value, &format!("{indent}  "))?;
            }
            serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
                print(format_args!("{indent}{key}\n"))?;
                for item in items {
                    print_fields(item, &format!("{indent}  "))?;
                }
            }
            serde_json::Value::String(text) if text.contains('\n') => {
                print(format_args!("{text}"))?
            }
            serde_json::Value::String(text) => print(format_args!("{indent}{key:<24} {text}\n"))?,
            other => print(format_args!("{indent}{key:<24} {other}\n"))?,
        }
    }
    Ok(())
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
