//! `tipstaff agent`: identities for the processes of a node, by what the kernel says of them.

mod admin;

use super::http::local::Listener;
use crate::cli::agent::AgentArgs;
use crate::config::agent::{AgentConfig, Entry};
use crate::signal;
use crate::workload_api::standing::Standings;
use crate::workload_api::{self, Terms};
use anyhow::Context;
use std::net::SocketAddr;
use std::time::SystemTime;
use tokio::task::JoinSet;
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
    // A connection takes two: itself, and a handle on the process at its other end.
    proxy::raise_open_files();
    let config = AgentConfig::load(&arguments.config)?;
    tracing::info!(config = ?config, "starting");
    let entries = config.entries.iter();
    let identities = entries.map(|entry| (&entry.identity, terms(entry)));
    let (server, standings) = workload_api::bind(
        config.workload_api.clone(),
        identities.collect(),
        Predecessor::None,
    )?;
    // Ends with this function.
    let mut tasks = JoinSet::new();
    if let Some(listen) = config.admin_listen {
        serve_admin(listen, &mut tasks, standings).await?;
    }
    tracing::info!(socket = %config.workload_api.socket.display(), "serving");
    server.run(terminate).await.context("serving")
}

async fn serve_admin(
    listen: SocketAddr,
    tasks: &mut JoinSet<()>,
    standings: Standings,
) -> anyhow::Result<()> {
    let listener = Listener::bind(listen).await?;
    tasks.spawn(listener.serve(move |asker, request| {
        let present = standings.at(SystemTime::now());
        std::future::ready(admin::answer(asker, &request, &present))
    }));
    Ok(())
}

fn terms(entry: &Entry) -> Terms {
    Terms {
        entitled: Entitled::Selected(entry.selectors.clone()),
        hint: entry.hint.clone(),
        federates_with: entry.federates_with.clone(),
    }
}
