//! `tipstaff ca thaw`.

use super::CaDirArgs;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct CaThawArgs {
    #[command(flatten)]
    pub(crate) dir: CaDirArgs,
    /// The lineage, as `tipstaff ca list --frozen` names it.
    #[arg(long, value_name = "HEX")]
    pub(crate) lineage: String,
    /// What was found out; goes into the audit record.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
}
