//! The operator's log: one JSON object a line on standard error.

use tracing_subscriber::EnvFilter;

/// Names the variable that sets the log's level, in `tracing` filter syntax.
const LEVEL_VARIABLE: &str = "TIPSTAFF_LOG";

/// Installs the process-wide subscriber. The default level is `info`.
///
/// # Errors
/// When the filter in `TIPSTAFF_LOG` does not parse.
pub(crate) fn init() -> anyhow::Result<()> {
    let filter = match std::env::var_os(LEVEL_VARIABLE) {
        None => EnvFilter::new("info"),
        Some(text) => {
            let text = text.to_string_lossy();
            EnvFilter::try_new(&*text).map_err(|error| {
                anyhow::anyhow!("{LEVEL_VARIABLE}: expected a level or a filter such as `info,proxy=debug`, found `{text}`: {error}")
            })?
        }
    };
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Without this a line that cannot be written is complained about on standard error, and that panics when it is what
        // fails: a full disk under the log would end the sidecar.
        .log_internal_errors(false)
        .init();
    Ok(())
}
