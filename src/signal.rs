//! Process signals as futures.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Completes at the first SIGTERM or SIGINT.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn terminate() -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("installing the SIGTERM handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("installing the SIGINT handler")?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// SIGUSR2, which asks for an upgrade.
///
/// # Errors
/// When the handler cannot be installed.
pub(crate) fn upgrade() -> anyhow::Result<Signal> {
    signal(SignalKind::user_defined2()).context("installing the SIGUSR2 handler")
}

/// SIGHUP, which asks for a reload.
///
/// # Errors
/// When the handler cannot be installed.
pub(crate) fn hangup() -> anyhow::Result<Signal> {
    signal(SignalKind::hangup()).context("installing the SIGHUP handler")
}
