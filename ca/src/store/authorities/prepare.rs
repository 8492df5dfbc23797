//! The first step: what was made is added, and a root published.

use super::retire::without;
use super::{change, generations, left_in_token};
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

/// Gives the authorities as they are then, and the keys that are forgotten here and still in a token.
pub(super) fn prepare(
    batch: &mut Batch<'_, '_>,
    new: &New,
    by: By,
    now: SystemTime,
) -> sql::Result<Result<(Generations, Vec<String>), Refused>> {
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
        return Ok(Ok((present, Vec::new())));
    }
    let active = present.root().map(|root| root.name.clone());
    if new.role == Role::Intermediate && !is_request {
        let parent = new.made.first().and_then(|one| one.parent.clone());
        if parent != active {
            return Ok(Err(Refused::Overtaken));
        }
    }
    if let Some(known) = new.made.iter().find_map(|one| {
        // A root elsewhere may come back. What was requested may have been given up since, and then counts for nothing.
        let is_free = |known: &Generation| match known.role {
            Role::Root => known.state == State::Retired,
            Role::Intermediate => known.state == State::Requested,
        };
        let taken = |known: &&Generation| known.is_revoked || !is_free(known);
        present.named(&one.name).filter(taken)
    }) {
        return Ok(Err(Refused::KeyInUse {
            name: known.name.clone(),
            state: known.state,
        }));
    }
    let given_up = present.given_up(new.role);
    let left_in_token = left_in_token(given_up.iter().copied());
    let sequence = publish_prepared(batch, &given_up, new, now)?;
    for one in &new.made {
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
                left_in_token: left_in_token.clone(),
            },
        )?;
    }
    batch.announce(Topic::Authorities)?;
    Ok(Ok((generations(batch)?, left_in_token)))
}

/// Takes back what was prepared and then revoked, and publishes the new root, if there is one. Gives the first trust bundle
/// that has it.
fn publish_prepared(
    batch: &mut Batch<'_, '_>,
    given_up: &[&Generation],
    new: &New,
    now: SystemTime,
) -> sql::Result<u64> {
    for one in given_up {
        change(batch, &one.name, State::Retired, now)?;
    }
    let before = StoredBundle::read(batch)?.authorities();
    let mut authorities = without(before.clone(), given_up);
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
