//! Configuration and policy follow their files: a change on disk or SIGHUP reads both again.
//!
//! A whole new value is built before anything is swapped. A bad file leaves the last good one serving, is logged and
//! counted, and shows in `/ready` until a good one arrives.
//!
//! The files are looked at, not watched: a look also sees a folder that was removed and made anew, a symbolic link that
//! points elsewhere now (how Kubernetes updates a ConfigMap) and a file on a network share, and it needs no kernel
//! watches, of which a crowded machine runs out.

use crate::config::{Config, Identity, PolicyFiles};
use crate::files::Stamp;
use crate::policy_dir;
use anyhow::Context;
use policy::Policy;
use proxy::ReloadHandle;
use proxy::access_log::AccessLog;
use proxy::admin::PolicyStatus;
use proxy::metrics::Metrics;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// Files are read once two looks in a row find them the same, so that those that belong together, or are still being
/// written, are read as one change: within a second. A hundred files cost a tenth of a millisecond a look.
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// A refused reload is tried again after this long without any change: the reason may have been the machine's.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// What a reload replaces.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) files: Files,
    /// How the files looked just before they were read.
    pub(crate) read: Stamp,
    pub(crate) hangup: Signal,
    pub(crate) proxy: ReloadHandle,
    pub(crate) policy: watch::Sender<Arc<Policy>>,
    pub(crate) status: watch::Sender<PolicyStatus>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: AccessLog,
}

/// What is followed, and what cannot change while it is.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) config: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) policy: PolicyFiles,
    pub(crate) policy_options: policy::Options,
}

impl Files {
    fn stamp(&self) -> Stamp {
        let mut stamp = Stamp::default();
        stamp.add(&self.config);
        policy_dir::stamp(&self.policy.dir, &mut stamp);
        stamp
    }

    fn load(&self) -> anyhow::Result<(proxy::Config, Policy)> {
        let config = Config::load(&self.config)?;
        for (key, is_same) in [
            ("identity", config.identity == self.identity),
            ("policy", config.policy == self.policy),
        ] {
            anyhow::ensure!(
                is_same,
                "{}: {key}: cannot change while running; restart to change it",
                self.config.display()
            );
        }
        let policy = policy_dir::load(&self.policy.dir, &self.policy_options)?;
        Ok((config.proxy, policy))
    }
}

impl Reload {
    /// Follows the files until the task is dropped.
    pub(crate) async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut previous = self.read.clone();
        let mut retry_at = None;
        loop {
            let is_asked = tokio::select! {
                _ = looks.tick() => false,
                Some(()) = self.hangup.recv() => true,
            };
            if is_asked {
                tracing::info!("reload asked for by SIGHUP");
                self.access_log.reopen();
            }
            let files = self.files.clone();
            let Ok(stamp) = tokio::task::spawn_blocking(move || files.stamp()).await else {
                continue;
            };
            let has_settled = stamp == previous;
            previous = stamp.clone();
            let is_due = retry_at.is_some_and(|at| Instant::now() >= at);
            if is_asked || is_due || (has_settled && stamp != self.read) {
                self.read = stamp;
                let outcome = self.once().await;
                retry_at = outcome.is_err().then(|| Instant::now() + RETRY_AFTER);
                self.tell(outcome);
            }
        }
    }

    async fn once(&self) -> anyhow::Result<()> {
        let files = self.files.clone();
        // Not on a thread that serves the admin port: thousands of grants take a while to compile.
        let loaded = tokio::task::spawn_blocking(move || files.load()).await;
        let (config, policy) = loaded.context("reading the files")??;
        self.proxy.apply(config)?;
        if policy.fingerprint() != self.policy.borrow().fingerprint() {
            tracing::info!(generation = policy.fingerprint(), "policy reloaded");
            self.status.send_replace(status_of(&policy));
            self.policy.send_replace(Arc::new(policy));
        }
        Ok(())
    }

    fn tell(&self, outcome: anyhow::Result<()>) {
        let error = outcome.err().map(|error| format!("{error:#}"));
        match &error {
            None => self.metrics.reloaded(),
            Some(error) => {
                self.metrics.reload_refused();
                // Once, not at each further attempt.
                if self.status.borrow().last_error.as_ref() != Some(error) {
                    tracing::warn!(error, "reload refused; the last good state keeps serving");
                }
            }
        }
        self.status.send_modify(|status| status.last_error = error);
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
