//! What an operator does instead of the second step: what is prepared is given up, and can be prepared anew.

use super::retire::without;
use super::{change, generations, left_in_token};
use crate::ledger::Event;
use crate::rotation::{By, Refused, Role, State, Step};
use crate::store::bundle::{StoredBundle, publish};
use crate::store::changes::Topic;
use crate::store::sql;
use crate::store::writer::Batch;
use std::time::SystemTime;

pub(super) fn abandon(
    batch: &mut Batch<'_, '_>,
    role: Role,
    by: By,
    now: SystemTime,
) -> sql::Result<Result<Step, Refused>> {
    let present = generations(batch)?;
    let given_up = present.unused(role);
    if given_up.is_empty() {
        return Ok(Err(Refused::NothingPrepared(role)));
    }
    let published = StoredBundle::read(batch)?.authorities();
    let kept = without(published.clone(), &given_up);
    if kept != published {
        publish(batch, &kept, now)?;
    }
    for one in &given_up {
        change(batch, &one.name, State::Retired, now)?;
    }
    let authorities: Vec<_> = given_up.iter().map(|one| one.name.clone()).collect();
    let left_in_token = left_in_token(given_up.iter().copied());
    batch.audit(
        now,
        &Event::AuthorityAbandoned {
            role: role.as_str().to_owned(),
            authorities: authorities.clone(),
            by: by.as_str().to_owned(),
            left_in_token: left_in_token.clone(),
        },
    )?;
    batch.announce(Topic::Authorities)?;
    Ok(Ok(Step {
        authorities,
        left_in_token,
        ..Step::default()
    }))
}
