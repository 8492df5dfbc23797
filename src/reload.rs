//! Configuration and policy follow their files: a change on disk or SIGHUP reads both again.
//!
//! A whole new value is built before anything is swapped. A bad file leaves the last good one serving, is logged and
//! counted, and shows in `/ready` until a good one arrives. Neither waits for the other: a grant is withdrawn whatever the
//! configuration says.

use crate::config::{Config, Identity, PolicyFiles};
use crate::policy_dir;
use anyhow::Context;
use policy::Policy;
use proxy::ReloadHandle;
use proxy::access_log::AccessLog;
use proxy::admin::PolicyStatus;
use proxy::drain::Drain;
use proxy::files::{LOOK_EVERY, Looks, RETRY_AFTER, Stamp};
use proxy::metrics::Metrics;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// What a reload replaces.
#[derive(Debug)]
pub(crate) struct Reload {
    pub(crate) files: Files,
    pub(crate) looks: Looks,
    pub(crate) hangup: Signal,
    pub(crate) proxy: ReloadHandle,
    pub(crate) policy: watch::Sender<Arc<Policy>>,
    pub(crate) status: watch::Sender<PolicyStatus>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) access_log: AccessLog,
    /// Once it has started, what is served may only end: the policy is followed, so that a grant that is withdrawn still ends
    /// its streams; the configuration may be one for the process that took over.
    pub(crate) drain: Drain,
}

/// What is followed, and what cannot change while it is.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) config: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) policy: PolicyFiles,
    pub(crate) policy_options: policy::Options,
    pub(crate) workload_api: Option<workload::Config>,
}

impl Files {
    fn stamp(&self) -> Stamp {
        let mut stamp = Stamp::default();
        stamp.add(&self.config);
        policy_dir::stamp(&self.policy.dir, &mut stamp);
        stamp
    }

    fn load_config(&self) -> anyhow::Result<proxy::Config> {
        let config = Config::load(&self.config)?;
        for (key, is_same) in [
            ("identity", config.identity == self.identity),
            ("policy", config.policy == self.policy),
            ("workloadApi", config.workload_api == self.workload_api),
        ] {
            anyhow::ensure!(
                is_same,
                "{}: {key}: cannot change while running; restart to change it",
                self.config.display()
            );
        }
        Ok(config.proxy)
    }

    fn load_policy(&self) -> anyhow::Result<Policy> {
        Ok(policy_dir::load(&self.policy.dir, &self.policy_options)?)
    }
}

impl Reload {
    /// Follows the files until the task is dropped.
    pub(crate) async fn run(mut self) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
            let has_changed = self.looks.take(stamp);
            let is_due = retry_at.is_some_and(|at| Instant::now() >= at);
            if is_asked || is_due || has_changed {
                self.looks.read();
                let outcome = self.once().await;
                retry_at = outcome.is_err().then(|| Instant::now() + RETRY_AFTER);
                self.tell(outcome);
            }
        }
    }

    async fn once(&self) -> anyhow::Result<()> {
        let (files, is_draining) = (self.files.clone(), self.drain.is_started());
        // Not on a thread that serves the admin port: thousands of grants take a while to compile.
        let loaded = tokio::task::spawn_blocking(move || {
            let config = (!is_draining).then(|| files.load_config());
            (config, files.load_policy())
        });
        let (config, policy) = loaded.await.context("reading the files")?;
        let policy = policy.map(|policy| self.follow(policy));
        let config = config.map_or(Ok(()), |config| Ok(self.proxy.apply(config?)?));
        match (config, policy) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(error), Ok(())) | (Ok(()), Err(error)) => Err(error),
            (Err(config), Err(policy)) => Err(anyhow::anyhow!("{config:#}; {policy:#}")),
        }
    }

    fn follow(&self, policy: Policy) {
        if policy.fingerprint() != self.policy.borrow().fingerprint() {
            tracing::info!(generation = policy.fingerprint(), "policy reloaded");
            self.status.send_replace(status_of(&policy));
            self.policy.send_replace(Arc::new(policy));
        }
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
