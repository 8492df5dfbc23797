//! Configuration and policy follow their files: a change on disk or SIGHUP reads both again.
//!
//! A whole new value is built before anything is swapped. A bad file leaves the last good one serving, is logged and
//! counted, and shows in `/ready` until a good one arrives.

use crate::config::{Config, PolicyFiles};
use crate::{policy_dir, signal};
use anyhow::Context;
use notify::{RecursiveMode, Watcher};
use policy::Policy;
use proxy::ReloadHandle;
use proxy::admin::PolicyStatus;
use proxy::metrics::Metrics;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};

/// Files that belong together arrive one by one; waiting this long for quiet reads them as one change.
const SETTLE: Duration = Duration::from_millis(100);

/// What a reload replaces.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) config_file: PathBuf,
    pub(crate) policy_files: PolicyFiles,
    pub(crate) policy_options: policy::Options,
    pub(crate) proxy: ReloadHandle,
    pub(crate) policy: watch::Sender<Arc<Policy>>,
    pub(crate) status: watch::Sender<PolicyStatus>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Reload {
    /// Follows the files until the task is dropped.
    ///
    /// # Errors
    /// When the files or SIGHUP cannot be watched.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let (changed, mut changes) = mpsc::channel(1);
        // A full channel already says that something changed.
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                if !matches!(event, Ok(ref event) if event.kind.is_access()) {
                    changed.try_send(()).ok();
                }
            })
            .context("starting the file watcher")?;
        // The folder, not the file: editors and Kubernetes replace files by renaming.
        for folder in [parent(&self.config_file), &self.policy_files.dir] {
            watcher
                .watch(folder, RecursiveMode::NonRecursive)
                .with_context(|| format!("watching {}", folder.display()))?;
        }
        let mut hangup = signal::hangup()?;
        loop {
            tokio::select! {
                Some(()) = changes.recv() => {}
                Some(()) = hangup.recv() => tracing::info!("reload asked for by SIGHUP"),
                else => return Ok(()),
            }
            tokio::time::sleep(SETTLE).await;
            changes.try_recv().ok();
            match tokio::task::block_in_place(|| self.once()) {
                Ok(()) => self.metrics.reloaded(),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, "reload refused; the last good state keeps serving");
                    self.metrics.reload_refused();
                    self.status
                        .send_modify(|status| status.last_error = Some(error));
                }
            }
        }
    }

    fn once(&mut self) -> anyhow::Result<()> {
        let config = Config::load(&self.config_file)?;
        anyhow::ensure!(
            config.policy == self.policy_files,
            "policy: cannot change while running: expected {:?}, found {:?}; restart to change it",
            self.policy_files,
            config.policy
        );
        let policy = policy_dir::load(&self.policy_files.dir, self.policy_options.clone())?;
        self.proxy.apply(config.proxy)?;
        let present = self.policy.borrow().fingerprint().to_owned();
        if policy.fingerprint() != present {
            tracing::info!(generation = policy.fingerprint(), "policy reloaded");
            self.status.send_replace(status_of(&policy));
            self.policy.send_replace(Arc::new(policy));
        } else {
            self.status.send_modify(|status| status.last_error = None);
        }
        Ok(())
    }
}

/// What `/ready` says of a policy that has just been loaded.
pub(crate) fn status_of(policy: &Policy) -> PolicyStatus {
    PolicyStatus {
        generation: policy.fingerprint().to_owned(),
        loaded_at: SystemTime::now(),
        last_error: None,
    }
}

fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    }
}
