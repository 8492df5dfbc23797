//! Rotation by age: the CA replaces its own certificates in time, as far as it can by itself. What an operator has begun is
//! the operator's to finish; when it is not in time, that is an alarm.

use super::make::{Lives, PrepareError, Prepared, prepare};
use super::{
    Blocker, By, DEFAULT_ACKNOWLEDGED_PERCENT, DEFAULT_PUBLISHED_FOR, Generation, Generations,
    Refused, Role, State, Step,
};
use crate::authority::Authority;
use crate::causes::in_full;
use crate::config::MAX_TTL;
use crate::metrics::Metrics;
use crate::profile::Validity;
use crate::store::{self, StoreError, Terms, can_activate, can_retire, generations};
use std::time::{Duration, SystemTime};

#[cfg(test)]
mod tests;

/// Between one look and the next: what is planned in days need not be looked at more often.
const LOOK: Duration = Duration::from_secs(60);

/// An intermediate of a year is replaced with three and a half months left, in which somebody may find out why it was not.
pub const DEFAULT_PREPARE_AT_PERCENT: u8 = 70;
/// A sidecar that is cut off from the CA is dead after a day, the longest life; one that lives and does not hear is odd.
pub const DEFAULT_ACTIVATE_AFTER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// For whoever keeps copies of the old trust bundle, in which new sidecars start.
pub const DEFAULT_RETIRE_AFTER: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// When the CA replaces its own certificates.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether it does.
    pub automatic: bool,
    /// How much of an authority's life is over, of a hundred, when the next is prepared.
    pub prepare_at_percent: u8,
    /// How many of the live sidecars have to have a root before it signs, of a hundred.
    pub acknowledged_percent: u8,
    /// How long a root waits for that; then it signs all the same, with an alarm. Earlier, if the present one ends.
    pub activate_after: Duration,
    /// How long what was replaced stays at least. An intermediate needs no more than the longest certificate lives.
    pub retire_after: Duration,
    pub lives: Lives,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            automatic: true,
            prepare_at_percent: DEFAULT_PREPARE_AT_PERCENT,
            acknowledged_percent: DEFAULT_ACKNOWLEDGED_PERCENT,
            activate_after: DEFAULT_ACTIVATE_AFTER,
            retire_after: DEFAULT_RETIRE_AFTER,
            lives: Lives::default(),
        }
    }
}

/// The validity of the authorities that are active.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ages {
    pub(crate) root: Validity,
    /// `None` where the root signs.
    pub(crate) intermediate: Option<Validity>,
}

impl Ages {
    /// `None` before the first rotation.
    fn of(present: &Generations) -> Option<Self> {
        let (root, issuer) = (present.root()?, present.issuer()?);
        Some(Self {
            root: root.validity()?,
            intermediate: match issuer.name == root.name {
                true => None,
                false => Some(issuer.validity()?),
            },
        })
    }
}

/// A step whose time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Prepare(Role),
    Activate(Role, By),
    Retire(Role),
}

/// What is retired does not wait for the next, nor the next for it: either may be kept up for long.
fn due(present: &Generations, ages: Ages, options: &Options, now: SystemTime) -> Vec<Due> {
    let root = replacement(Role::Root, ages.root, present, options, now);
    let intermediate = ages.intermediate.and_then(|validity| {
        let due = replacement(Role::Intermediate, validity, present, options, now)?;
        let waits = matches!(due, Due::Prepare(_))
            && is_coming(present, root)
            && now + options.activate_after + MAX_TTL < validity.not_after;
        (!waits).then_some(due)
    });
    let retired = [Role::Root, Role::Intermediate]
        .into_iter()
        .filter(|role| may_retire(*role, present, options, now))
        .map(Due::Retire);
    [root, intermediate]
        .into_iter()
        .flatten()
        .chain(retired)
        .collect()
}

/// A root of the CA's own making, which brings its own intermediate, and soon. An operator's may never sign.
fn is_coming(present: &Generations, root: Option<Due>) -> bool {
    let ours = |next: &Generation| next.made_by == By::Age;
    present.next(Role::Root).is_some_and(ours) || root == Some(Due::Prepare(Role::Root))
}

fn replacement(
    role: Role,
    active: Validity,
    present: &Generations,
    options: &Options,
    now: SystemTime,
) -> Option<Due> {
    match present.next(role) {
        Some(next) if next.made_by != By::Age => None,
        Some(next) if role == Role::Root && now < next.since + DEFAULT_PUBLISHED_FOR => None,
        Some(next) => Some(Due::Activate(
            role,
            patience(role, next, active, options, now),
        )),
        None => is_old(active, options, now).then_some(Due::Prepare(role)),
    }
}

fn is_old(active: Validity, options: &Options, now: SystemTime) -> bool {
    let life = active
        .not_after
        .duration_since(active.not_before)
        .unwrap_or_default();
    active.not_before + life * u32::from(options.prepare_at_percent) / 100 <= now
}

fn may_retire(role: Role, present: &Generations, options: &Options, now: SystemTime) -> bool {
    // No certificate by an intermediate lives longer, and nobody keeps copies of one.
    let stays = match role {
        Role::Root => options.retire_after,
        Role::Intermediate => options.retire_after.min(MAX_TTL),
    };
    let mut retiring = present.retiring(role).peekable();
    retiring.peek().is_some()
        && present
            .of(role, State::Active)
            .all(|one| one.made_by == By::Age)
        && retiring.all(|one| one.since + stays <= now)
}

/// Which roles are past their time, while what an operator has prepared in their place does not sign.
fn neglected(
    present: &Generations,
    ages: Ages,
    options: &Options,
    now: SystemTime,
) -> Vec<NotTaken> {
    let active = [
        (Role::Root, Some(ages.root)),
        (Role::Intermediate, ages.intermediate),
    ];
    let is_neglected = |(role, active): (Role, Option<Validity>)| {
        let is_old = active.is_some_and(|active| is_old(active, options, now));
        let waits = present
            .next(role)
            .is_some_and(|next| next.made_by != By::Age);
        (is_old && waits).then_some(NotTaken::Neglected(role))
    };
    active.into_iter().filter_map(is_neglected).collect()
}

/// Whether a root still waits. An intermediate comes with its certificates, and waits for nobody.
fn patience(
    role: Role,
    next: &Generation,
    active: Validity,
    options: &Options,
    now: SystemTime,
) -> By {
    // From then on certificates would get shorter.
    let at_last = active.not_after - MAX_TTL;
    let deadline = (next.since + options.activate_after).min(at_last);
    match role == Role::Root && deadline <= now {
        true => By::Deadline,
        false => By::Age,
    }
}

/// Takes every step in its time. Never returns.
pub(crate) async fn keep(authority: &Authority, options: &Options, metrics: &Metrics) {
    if !options.automatic {
        std::future::pending::<()>().await;
    }
    let mut known = Vec::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = SystemTime::now();
        // By such a clock everything is old, and is replaced at once. A database that cannot be read is overdue below.
        if let Ok(true) = authority.store().is_far_ahead(now).await {
            continue;
        }
        let overdue = take_due(authority, options, metrics, now).await;
        for problem in overdue.iter().filter(|problem| !known.contains(*problem)) {
            tracing::error!(
                problem,
                "the CA's own certificates are not replaced in time"
            );
        }
        metrics.rotation_is_overdue(!overdue.is_empty());
        known = overdue;
    }
}

/// Gives what is due and could not be done.
async fn take_due(
    authority: &Authority,
    options: &Options,
    metrics: &Metrics,
    now: SystemTime,
) -> Vec<String> {
    let present = match present(authority).await {
        Ok(present) => present,
        Err(error) => return vec![in_full(&error)],
    };
    let Some(ages) = Ages::of(&present).or_else(|| authority.ages()) else {
        return Vec::new();
    };
    let neglected = neglected(&present, ages, options, now);
    let mut overdue: Vec<_> = neglected.iter().map(|error| in_full(error)).collect();
    for step in due(&present, ages, options, now) {
        match take(authority, step, options, now).await {
            Ok(taken) => tell(step, &taken, metrics),
            // It waits for the sidecars, and has time.
            Err(NotTaken::Refused(Refused::Blocked(_)))
                if matches!(step, Due::Activate(_, By::Age)) => {}
            Err(error) => overdue.push(in_full(&error)),
        }
    }
    overdue
}

/// Beside whoever writes: most looks find nothing to do.
async fn present(authority: &Authority) -> Result<Generations, StoreError> {
    store::read_soon(&authority.database(), generations).await
}

async fn take(
    authority: &Authority,
    step: Due,
    options: &Options,
    now: SystemTime,
) -> Result<Step, NotTaken> {
    let store = authority.store();
    match step {
        Due::Prepare(role) => {
            let (directory, open) = authority.place();
            let prepared = prepare(directory, open, store, role, options.lives, By::Age).await?;
            match prepared {
                Prepared::Ready(name) => Ok(Step {
                    authorities: vec![name],
                    ..Step::default()
                }),
                Prepared::Requested(_) => Err(NotTaken::Elsewhere(role)),
            }
        }
        Due::Activate(role, by) => {
            let terms = Terms {
                percent: options.acknowledged_percent,
                published_for: DEFAULT_PUBLISHED_FOR,
                force: by == By::Deadline,
            };
            store::read_soon(&authority.database(), move |transaction| {
                can_activate(transaction, role, terms, now)
            })
            .await??;
            Ok(store.activate_authority(role, terms, by, now).await??)
        }
        Due::Retire(role) => {
            let terms = Terms {
                percent: 100,
                published_for: Duration::ZERO,
                force: false,
            };
            store::read_soon(&authority.database(), move |transaction| {
                can_retire(transaction, role, terms, now)
            })
            .await??;
            Ok(store.retire_authority(role, terms, By::Age, now).await??)
        }
    }
}

fn tell(step: Due, taken: &Step, metrics: &Metrics) {
    tracing::info!(?step, authorities = ?taken.authorities, "the CA has rotated by itself");
    if !taken.left_in_token.is_empty() {
        let objects = &taken.left_in_token;
        tracing::warn!(
            ?objects,
            "keys that are forgotten here are still in the token"
        );
    }
    if !taken.despite.is_empty() {
        metrics.count_unacknowledged_root();
        let consequences: Vec<_> = taken.despite.iter().map(Blocker::consequence).collect();
        tracing::error!(
            ?consequences,
            "a root signs that not every sidecar has, as its time had come"
        );
    }
}

#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("cannot use the CA's database")]
    Store(#[from] StoreError),
    #[error("the next authority is not prepared")]
    Prepare(#[from] PrepareError),
    #[error("a step that is due is not taken")]
    Refused(#[from] Refused),
    #[error(
        "the {0} is past its time, and the one that an operator has prepared does not sign: `tipstaff ca rotate activate --{0}` has it sign"
    )]
    Neglected(Role),
    #[error(
        "the {0} needs a signature of the root elsewhere: `tipstaff ca rotate prepare --{0}` prints the request"
    )]
    Elsewhere(Role),
}
