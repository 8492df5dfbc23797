//! The operator's log: one JSON object a line on standard error.

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Names the variable that sets the log's level: one for all, and others for what begins with a path, as in `info,proxy=debug`.
const LEVEL_VARIABLE: &str = "TIPSTAFF_LOG";

/// Installs the process-wide subscriber. The default level is `info`.
///
/// # Errors
/// When the filter in `TIPSTAFF_LOG` does not parse.
pub(crate) fn init() -> anyhow::Result<()> {
    let levels = match std::env::var_os(LEVEL_VARIABLE) {
        None => "info".to_owned(),
        Some(text) => text.to_string_lossy().into_owned(),
    };
    let levels: Targets = levels.parse().map_err(|error| {
        anyhow::anyhow!("{LEVEL_VARIABLE}: expected a level or a filter such as `info,proxy=debug`, found `{levels}`: {error}")
    })?;
    let lines = fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr)
        // Without this a line that cannot be written is complained about on standard error, and that panics when it is what
        // fails: a full disk under the log would end the sidecar.
        .log_internal_errors(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(levels)
        .init();
    Ok(())
}
