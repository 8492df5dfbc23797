//! The first step: what was made is added, and a root published.

use super::retire::without;
use super::{change, generations};
use crate::ledger::{Event, fingerprint};
use crate::rotation::{By, Generation, Generations, Refused, Role, State};
use crate::store::bundle::{StoredBundle, publish};
use crate::store::changes::Topic;
use crate::store::sql::{self, values};
use crate::store::writer::Batch;
use std::time::SystemTime;

/// What a preparation brings.
#[derive(Debug)]
pub(crate) struct New {
    pub(crate) role: Role,
    /// What is in the CA's directory; taken when the database has no authorities yet.
    pub(crate) adopted: Vec<Generation>,
    /// A new root and its intermediate, or an intermediate alone, or one that is requested.
    pub(crate) made: Vec<Generation>,
}

pub(super) fn prepare(
    batch: &mut Batch<'_, '_>,
    new: &New,
    by: By,
    now: SystemTime,
) -> sql::Result<Result<Generations, Refused>> {
    let mut present = generations(batch)?;
    if present.0.is_empty() {
        for one in &new.adopted {
            insert(batch, one, 0, By::Operator, now)?;
        }
        present = generations(batch)?;
    }
    let is_request = new.made.iter().any(|one| one.state == State::Requested);
    let is_there = present.next(new.role).is_some() || is_request && present.requested().is_some();
    if is_there {
        return Ok(Ok(present));
    }
    let active = present.root().map(|root| root.name.clone());
    if new.role == Role::Intermediate && !is_request {
        let parent = new.made.first().and_then(|one| one.parent.clone());
        if parent != active {
            return Ok(Err(Refused::Overtaken));
        }
    }
    if let Some(known) = new.made.iter().find_map(|one| {
        let is_free = |known: &Generation| matches!(known.state, State::Requested | State::Retired);
        let taken = |known: &&Generation| known.is_revoked || !is_free(known);
        present.named(&one.name).filter(taken)
    }) {
        return Ok(Err(Refused::KeyInUse {
            name: known.name.clone(),
            state: known.state,
        }));
    }
    let sequence = publish_prepared(batch, &present, new, now)?;
    for one in &new.made {
        // It may have been requested until now; a root elsewhere may come back.
        batch.execute(
            "DELETE FROM authority WHERE name = $1 AND state IN ('requested', 'retired')",
            values![&one.name],
        )?;
        insert(batch, one, sequence, by, now)?;
        batch.audit(
            now,
            &Event::AuthorityPrepared {
                authority: one.name.clone(),
                role: one.role.as_str().to_owned(),
                state: one.state.as_str().to_owned(),
                certificate: one.certificate.as_ref().map(|der| fingerprint(der)),
                by: by.as_str().to_owned(),
            },
        )?;
    }
    batch.announce(Topic::Authorities)?;
    generations(batch).map(Ok)
}

/// Takes back what was prepared and then revoked, and publishes the new root, if there is one. Gives the first trust bundle
/// that has it.
fn publish_prepared(
    batch: &mut Batch<'_, '_>,
    present: &Generations,
    new: &New,
    now: SystemTime,
) -> sql::Result<u64> {
    let given_up = present.given_up(new.role);
    for one in &given_up {
        change(batch, &one.name, State::Retired, now)?;
    }
    let before = StoredBundle::read(batch)?.authorities();
    let mut authorities = without(before.clone(), &given_up);
    let roots = new.made.iter().filter(|one| one.role == Role::Root);
    authorities.extend(roots.filter_map(|root| root.certificate.clone()));
    match authorities == before {
        true => Ok(0),
        false => publish(batch, &authorities, now),
    }
}

fn insert(
    batch: &mut Batch<'_, '_>,
    one: &Generation,
    sequence: u64,
    by: By,
    now: SystemTime,
) -> sql::Result<()> {
    let certificate = one.certificate.as_ref().map(|der| der.as_ref());
    let key = one.key.0.as_ref().map(|text| text.as_str());
    batch.execute(
        "INSERT INTO authority (name, role, state, parent, certificate, request, key_file, sequence, since, made_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        values![
            &one.name,
            one.role.as_str(),
            one.state.as_str(),
            one.parent.as_ref(),
            certificate,
            one.request.as_ref(),
            key,
            sequence,
            now,
            by.as_str()
        ],
    )?;
    Ok(())
}
