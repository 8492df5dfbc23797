//! `tipstaff ca list --frozen` and `thaw`.

use super::{Output, answer, configured, database, print, print_json};
use crate::cli::ca::CaListArgs;
use crate::cli::ca::lineage::CaThawArgs;
use ca::lineage::LineageName;
use ca::store::Store;
use std::process::ExitCode;
use std::time::SystemTime;

pub(super) fn list_frozen(arguments: &CaListArgs) -> anyhow::Result<ExitCode> {
    let database = database::of(&configured(&arguments.dir)?)?;
    let frozen = ca::inspect::frozen_lineages(&database, arguments.limit)?;
    match arguments.output.output {
        Output::Json => print_json(&frozen)?,
        Output::Text => {
            for lineage in &frozen {
                print(format_args!("{lineage}\n"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn thaw(arguments: &CaThawArgs) -> anyhow::Result<ExitCode> {
    let store = Store::open(database::of(&configured(&arguments.dir)?)?)?;
    let lineage = LineageName::new(&*arguments.lineage);
    let reason = arguments.reason.clone();
    let thawed = store.thaw(lineage, reason, SystemTime::now()).await?;
    if thawed {
        eprintln!("thawed {}", arguments.lineage);
    } else {
        eprintln!("no lineage {} is frozen", arguments.lineage);
    }
    Ok(answer(thawed))
}
