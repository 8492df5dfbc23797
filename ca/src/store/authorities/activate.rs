//! The second step: what is prepared signs from now on.

use super::{Terms, change, generations, left_in_token};
use crate::config::MAX_TTL;
use crate::ledger::Event;
use crate::rotation::{Blocker, By, Generation, Generations, Refused, Role, State, Step};
use crate::store::acknowledged;
use crate::store::changes::Topic;
use crate::store::session::Transaction;
use crate::store::sql;
use crate::store::writer::Batch;
use std::time::SystemTime;

pub(super) fn activate(
    batch: &mut Batch<'_, '_>,
    role: Role,
    terms: Terms,
    by: By,
    now: SystemTime,
) -> sql::Result<Result<Step, Refused>> {
    let present = generations(batch)?;
    let (next, despite) = match plan(batch, &present, role, terms, now)? {
        Ok((next, _)) if next.is_empty() => return Ok(Ok(Step::default())),
        Ok(plan) => plan,
        Err(refused) => return Ok(Err(refused)),
    };
    let replaced = present.replaced(role);
    // Made for a root that is on its way out.
    let (retiring, retired): (Vec<&Generation>, Vec<_>) =
        replaced.iter().partition(|old| old.state == State::Active);
    for old in &retiring {
        change(batch, &old.name, State::Retiring, now)?;
    }
    for old in &retired {
        change(batch, &old.name, State::Retired, now)?;
    }
    let left_in_token = left_in_token(retired);
    let authorities: Vec<_> = next.iter().map(|one| one.name.clone()).collect();
    for name in &authorities {
        change(batch, name, State::Active, now)?;
    }
    batch.audit(
        now,
        &Event::AuthorityActivated {
            role: role.as_str().to_owned(),
            authorities: authorities.clone(),
            replaces: replaced.iter().map(|old| old.name.clone()).collect(),
            by: by.as_str().to_owned(),
            despite: despite.iter().map(Blocker::to_string).collect(),
            left_in_token: left_in_token.clone(),
        },
    )?;
    batch.announce(Topic::Authorities)?;
    let silent = match role {
        Role::Root => acknowledged::silent(batch, now)?,
        Role::Intermediate => Default::default(),
    };
    Ok(Ok(Step {
        authorities,
        despite,
        silent,
        left_in_token,
    }))
}

/// Why what is prepared would not be activated, for whoever looks often: nobody's record waits for the answer.
pub(crate) fn can_activate(
    transaction: &mut Transaction<'_>,
    role: Role,
    terms: Terms,
    now: SystemTime,
) -> sql::Result<Result<(), Refused>> {
    let present = generations(transaction)?;
    Ok(plan(transaction, &present, role, terms, now)?.map(drop))
}

type Plan<'g> = Result<(Vec<&'g Generation>, Vec<Blocker>), Refused>;

/// What signs once the next of a role is active, and what is overridden by that.
fn plan<'g>(
    transaction: &mut Transaction<'_>,
    present: &'g Generations,
    role: Role,
    terms: Terms,
    now: SystemTime,
) -> sql::Result<Plan<'g>> {
    let authorities = match to_activate(present, role, now) {
        Ok(authorities) => authorities,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut blockers = Vec::new();
    if role == Role::Root
        && let Some(next) = authorities.first()
    {
        let (sequence, percent) = (next.sequence, terms.percent);
        let missing = acknowledged::missing(transaction, role, sequence, percent, now)?;
        blockers.extend(missing);
        let until = next.since + terms.published_for;
        blockers.extend((now < until).then(|| Blocker::not_followed(until)));
    }
    Ok(match blockers.is_empty() || terms.force {
        true => Ok((authorities, blockers)),
        false => Err(Refused::Blocked(blockers)),
    })
}

/// What signs once the next of a role is active. Nothing when it does already, perhaps by an attempt whose end nobody saw.
fn to_activate(
    present: &Generations,
    role: Role,
    now: SystemTime,
) -> Result<Vec<&Generation>, Refused> {
    let Some(next) = present.next(role) else {
        if let Some(revoked) = present.given_up(role).first() {
            let name = revoked.name.clone();
            return Err(Refused::Revoked { role, name });
        }
        return match present.retiring(role).next() {
            Some(_) => Ok(Vec::new()),
            None => Err(Refused::NothingPrepared(role)),
        };
    };
    let mut authorities = vec![next];
    if role == Role::Root {
        authorities.extend(present.below(&next.name));
    }
    let is_fit = |one: &Generation| {
        one.validity()
            .is_some_and(|life| life.not_before <= now && now + MAX_TTL <= life.not_after)
    };
    match authorities.iter().find(|one| !is_fit(one)) {
        Some(unfit) => Err(Refused::NotValid(unfit.name.clone())),
        None => Ok(authorities),
    }
}
