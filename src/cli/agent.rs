//! Arguments of `tipstaff agent`.

use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The agent's configuration (YAML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}
