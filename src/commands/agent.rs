//! `tipstaff agent`: identities for the processes of a node, by what the kernel says of them.

use crate::cli::agent::AgentArgs;
use crate::config::agent::{AgentConfig, Entry};
use crate::signal;
use crate::workload_api::{self, Terms};
use anyhow::Context;
use workload::{Entitled, Predecessor};

/// Runs an agent until SIGTERM or SIGINT.
pub(crate) fn run(arguments: &AgentArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: &AgentArgs) -> anyhow::Result<()> {
    let terminate = signal::terminate()?;
    let config = AgentConfig::load(&arguments.config)?;
    tracing::info!(config = ?config, "starting");
    let entries = config.entries.iter();
    let identities = entries.map(|entry| (&entry.identity, terms(entry)));
    let server = workload_api::bind(
        config.workload_api.clone(),
        identities.collect(),
        Predecessor::None,
    )?;
    tracing::info!(socket = %config.workload_api.socket.display(), "serving");
    server.run(terminate).await.context("serving")
}

fn terms(entry: &Entry) -> Terms {
    Terms {
        entitled: Entitled::Selected(entry.selectors.clone()),
        hint: entry.hint.clone(),
        federates_with: entry.federates_with.clone(),
    }
}
