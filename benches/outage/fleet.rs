//! Sidecars without their proxies: the client of the CA that every sidecar has, a task each.

use crate::authority::Authority;
use crate::{DOMAIN, Failure, PATIENCE};
use ca::client::{self, ClientConfig, ClientState, Handles, Keys, Proof};
use identity::SpiffeId;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

/// Between the first call of one and that of the next. What is measured comes later.
const APART: Duration = Duration::from_millis(8);

pub(crate) struct Member(Handles);

/// What became of one after the CA was back.
#[derive(Default)]
pub(crate) struct Return {
    /// When attempts ended in vain.
    pub(crate) failed: Vec<Instant>,
    pub(crate) renewed: Option<Instant>,
}

/// `count` that have a certificate of `life` each.
pub(crate) async fn enrol(
    ca: &Authority,
    name: &str,
    count: usize,
    life: Duration,
) -> Result<Vec<Member>, Failure> {
    let mut members = Vec::new();
    for number in 0..count {
        let id = SpiffeId::parse(&format!("spiffe://{DOMAIN}/{name}/{number}"))?;
        let handles = client::start(ClientConfig {
            endpoint: format!("https://{}", ca.listen),
            bundle: ca.bundle.clone(),
            proof: Proof::Enrolment {
                key_path: ca.folder.path().join(format!("{name}-{number}.key")),
                join_token: Some(ca.token(&id).await?),
            },
            spiffe_id: id,
            ttl: Some(life),
            keys: Keys::Kept,
        })?;
        members.push(Member(handles));
        sleep(APART).await;
    }
    let until = (Instant::now() + PATIENCE).into();
    for member in &mut members {
        let svid = member.0.svid.wait_for(Option::is_some);
        timeout_at(until, svid).await??;
    }
    Ok(members)
}

impl Member {
    /// Brings its renewal time forward to now. Gives how long it took until a certificate came of it.
    pub(crate) async fn renew(&self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let (answer, answered) = oneshot::channel();
        self.0.renew.send(answer).await?;
        answered.await??;
        Ok(begun.elapsed())
    }

    /// Notes the end of each attempt until one succeeds, or until then.
    async fn watch(self, until: Instant) -> (Self, Return) {
        let (mut svid, mut state) = (self.0.svid.clone(), self.0.state.clone());
        svid.mark_unchanged();
        state.mark_unchanged();
        let mut seen = Return::default();
        let noted = timeout_at(until.into(), async {
            loop {
                tokio::select! {
                    biased;
                    _ = svid.changed() => return Instant::now(),
                    _ = state.changed() => {
                        if !matches!(*state.borrow_and_update(), ClientState::Valid { .. }) {
                            seen.failed.push(Instant::now());
                        }
                    }
                }
            }
        });
        let renewed = noted.await.ok();
        (self, Return { renewed, ..seen })
    }
}

/// Brings the renewal times of all forward into the time `within` from now, which the CA is away.
pub(crate) async fn all_due(members: &[Member], within: Duration) -> Result<(), Failure> {
    let apart = within / u32::try_from(members.len())?.max(1);
    for member in members {
        // The answer is that it did not work.
        let (answer, _) = oneshot::channel();
        member.0.renew.send(answer).await?;
        sleep(apart).await;
    }
    Ok(())
}

/// What becomes of each until then.
pub(crate) async fn watch(members: Vec<Member>, until: Instant) -> Result<Vec<Return>, Failure> {
    let mut watching = JoinSet::new();
    for member in members {
        watching.spawn(member.watch(until));
    }
    let mut all = Vec::new();
    let mut kept = Vec::new();
    while let Some(done) = watching.join_next().await {
        // Whoever is done keeps its stream to the CA, as sidecars do.
        let (member, seen) = done?;
        kept.push(member);
        all.push(seen);
    }
    Ok(all)
}
