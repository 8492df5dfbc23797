//! The wiring: the only place that sees ca, policy and proxy together.

use crate::cli::ProxyArgs;
use crate::config::Config;
use crate::reload::{self, Files, Reload};
use crate::workload_api::Sidecars;
use crate::{enrolment, policy_dir, signal, upgrade, workload_api};
use anyhow::Context;
use ca::client::{self, ClientState, Keys};
use policy::{Options, Policy};
use proxy::drain::{Drain, Readiness};
use proxy::files::{Looks, Stamp};
use proxy::handover::Predecessor;
use proxy::{Bound, Failing, IdentityFeed, IdentityState, PolicyFeed, Proxy};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// Runs a sidecar until SIGTERM or SIGINT, or until another takes its place; then drains it.
pub(crate) fn run(arguments: &ProxyArgs) -> anyhow::Result<()> {
    // One thread, since each has memory of its own: all that is done here waits for the CA, for other sidecars or for files.
    // Requests and the admin port have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(&arguments.config.config, arguments.upgrade))
}

async fn serve(config_file: &Path, takes_over: bool) -> anyhow::Result<()> {
    // First of all: until then these signals would end the process as it stands.
    let (terminate, hangup) = (signal::terminate()?, signal::hangup()?);
    let upgrades = signal::upgrade()?;
    let Loaded {
        config,
        policy,
        policy_options,
        read,
    } = load(config_file)?;

    let (predecessor, inherited) = if takes_over {
        let (predecessor, inherited) = upgrade::ask(config.proxy.admin.socket.clone()).await?;
        (Some(predecessor), Some(inherited))
    } else {
        (None, None)
    };
    let handles = client::start(enrolment::of(&config.identity, Keys::Kept)?)?;
    let workload_api = config.workload_api.clone();
    let workload_api = workload_api
        .map(|served| workload_api::of_sidecar(served, &config.identity))
        .transpose()?;
    let (status_sender, status) = watch::channel(reload::status_of(&policy));
    let (policy_sender, policy) = watch::channel(Arc::new(policy));
    let policies = PolicyFeed { policy, status };
    let readiness = Readiness::new();
    let identity = feed(&handles);
    let bound = Proxy::build_on(
        inherited,
        config.proxy,
        identity,
        policies,
        readiness.clone(),
    )?;
    tracing::info!(addresses = ?bound.addresses(), "listening");
    let drain = Drain::new();
    let reload = Reload {
        files: Files {
            config: config_file.to_owned(),
            identity: config.identity,
            policy: config.policy,
            policy_options,
            workload_api: config.workload_api,
        },
        looks: Looks::since(read),
        hangup,
        proxy: bound.reload_handle(),
        policy: policy_sender,
        status: status_sender,
        metrics: bound.metrics(),
        access_log: bound.access_log(),
        drain: drain.clone(),
    };
    // Both end with the runtime.
    tokio::spawn(reload.run());
    tokio::spawn(upgrade::on_signal(upgrades));
    let serving = serve_until(&drain, readiness, (bound, predecessor), workload_api);
    let ended = ended(serving, terminate, &drain).await;
    drop(handles);
    ended
}

/// What is read before anything is done.
struct Loaded {
    config: Config,
    policy: Policy,
    policy_options: Options,
    /// The state of the files by then.
    read: Stamp,
}

fn load(config_file: &Path) -> anyhow::Result<Loaded> {
    let mut read = Stamp::default();
    read.add(config_file);
    let config = Config::load(config_file)?;
    policy_dir::stamp(&config.policy.dir, &mut read);
    let policy_options = config.policy.options();
    let policy = policy_dir::load(&config.policy.dir, &policy_options)?;
    tracing::info!(config = ?config, generation = policy.fingerprint(), "starting");
    Ok(Loaded {
        config,
        policy,
        policy_options,
        read,
    })
}

/// Serves until the drain has ended, if there is a predecessor in its place: that keeps what it has until all of it can be served.
async fn serve_until(
    drain: &Drain,
    readiness: Readiness,
    (bound, predecessor): (Bound, Option<Predecessor>),
    workload_api: Option<Sidecars>,
) -> anyhow::Result<()> {
    if let Some(workload_api) = workload_api {
        // Ends with the runtime.
        tokio::spawn(workload_api.standings().hold_back(readiness.clone()));
        let server = match predecessor {
            Some(_) => workload_api.replace(drain).await?,
            None => workload_api.bind()?,
        };
        // To its end: streams are told to go elsewhere, and whoever takes over has the socket by then. Ends with the runtime.
        tokio::spawn(workload_api.run(server, drain.clone(), readiness));
    }
    match predecessor {
        Some(predecessor) => bound.run_after(predecessor, drain.clone()).await?,
        None => bound.run(drain.clone()).await?,
    }
    Ok(())
}

/// How `serving` ended, by itself or because it was told to.
async fn ended(
    serving: impl Future<Output = anyhow::Result<()>>,
    terminate: impl Future<Output = ()>,
    drain: &Drain,
) -> anyhow::Result<()> {
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => ended.context("serving"),
        () = terminate => {
            tracing::info!("draining");
            drain.start();
            serving.await.context("draining")
        }
    }
}

/// The CA client's channels as the proxy, which does not know the CA, wants them.
fn feed(handles: &client::Handles) -> IdentityFeed {
    let (sender, state) = watch::channel(IdentityState::default());
    let mut source = handles.state.clone();
    let mut ca_time = handles.ca_time.clone();
    // Ends when the client or the proxy is gone.
    tokio::spawn(async move {
        loop {
            let present = IdentityState {
                ca_time: *ca_time.borrow_and_update(),
                ..state_of(&source.borrow_and_update())
            };
            if sender.send(present).is_err() {
                return;
            }
            let changed = tokio::select! {
                changed = source.changed() => changed,
                changed = ca_time.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    });
    IdentityFeed {
        svid: handles.svid.clone(),
        bundle: handles.bundle.clone(),
        revocations: handles.revocations.clone(),
        state,
        renew: handles.renew.clone(),
    }
}

fn state_of(state: &ClientState) -> IdentityState {
    match state {
        ClientState::Enrolling => IdentityState::default(),
        ClientState::Valid { renew_at } => IdentityState {
            renew_at: Some(*renew_at),
            ..IdentityState::default()
        },
        ClientState::Retrying { error, since } | ClientState::Expired { error, since } => {
            IdentityState {
                failing: Some(Failing {
                    since: *since,
                    error: error.clone(),
                }),
                ..IdentityState::default()
            }
        }
    }
}
