//! Where the CA's authorities stand, and each step of their rotation: one transaction, with its audit record.

use super::bundle::{StoredBundle, publish};
use super::certificate::still_valid;
use super::changes::Topic;
use super::session::Transaction;
use super::sql::{self, Row, values};
use super::writer::Batch;
use super::{Database, Store, StoreError, acknowledged, read};
use crate::config::MAX_TTL;
use crate::ledger::Event;
use crate::rotation::{Blocker, By, Generation, Generations, KeyFile, Refused, Role, State, Step};
use identity::TrustBundle;
use rustls_pki_types::CertificateDer;
use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

mod prepare;

#[cfg(test)]
mod tests;

pub(crate) use prepare::New;
use prepare::prepare;

impl Store {
    pub(crate) async fn generations(&self) -> Result<Generations, StoreError> {
        self.writer.write(|batch| generations(batch)).await
    }

    /// Authorities and trust bundle of one moment.
    pub(crate) async fn authorities(&self) -> Result<(Generations, TrustBundle), StoreError> {
        let read =
            |batch: &mut Batch<'_, '_>| Ok((generations(batch)?, StoredBundle::read(batch)?));
        let (generations, bundle) = self.writer.write(read).await?;
        Ok((generations, bundle.parse()?))
    }

    /// Adds what was made, unless the like is there already, by another hand or from an attempt whose end nobody saw: then
    /// that stays. Publishes a root. Gives the authorities as they are then.
    pub(crate) async fn prepare_authority(
        &self,
        new: New,
        by: By,
        now: SystemTime,
    ) -> Result<Result<Generations, Refused>, StoreError> {
        self.write_unless_rolled_back(move |batch| prepare(batch, &new, by, now))
            .await
    }

    /// Has what is prepared sign from now on. A root needs `percent` of the sidecars to have it, unless `force`.
    ///
    /// # Errors
    /// The outer error says that nothing could be recorded, the inner one why nothing was done.
    pub async fn activate_authority(
        &self,
        role: Role,
        terms: Terms,
        by: By,
        now: SystemTime,
    ) -> Result<Result<Step, Refused>, StoreError> {
        self.write_unless_rolled_back(move |batch| activate(batch, role, terms, by, now))
            .await
    }

    /// Forgets what was replaced, and takes a root from the trust bundle, once nothing depends on it, or if `force`.
    ///
    /// # Errors
    /// As [`Store::activate_authority`].
    pub async fn retire_authority(
        &self,
        role: Role,
        terms: Terms,
        by: By,
        now: SystemTime,
    ) -> Result<Result<Step, Refused>, StoreError> {
        self.write_unless_rolled_back(move |batch| retire(batch, role, terms, by, now))
            .await
    }
}

/// When a step may be taken.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Of the sidecars that are alive, how many have to have the trust bundle.
    pub percent: u8,
    /// Whatever is in the way.
    pub force: bool,
}

/// The authorities as they are, read when a CA is opened.
pub(crate) fn read_generations(database: &Database) -> Result<Generations, StoreError> {
    read(database, generations)
}

pub(crate) fn generations(transaction: &mut Transaction<'_>) -> sql::Result<Generations> {
    let rows = transaction.query(
        "SELECT name, role, state, parent, certificate, request, key_file, sequence, since, made_by,
             (SELECT count(*) FROM barred WHERE barred.kind = 'authority' AND barred.name = authority.name)
         FROM authority ORDER BY since, name",
        &[],
    )?;
    let generations = rows
        .iter()
        .map(generation)
        .collect::<sql::Result<Vec<_>>>()?;
    Ok(Generations(generations.into_iter().flatten().collect()))
}

/// `None` of a role or state that only a later release knows.
fn generation(row: &Row) -> sql::Result<Option<Generation>> {
    let (role, state): (String, String) = (row.get(1)?, row.get(2)?);
    let (Some(role), Some(state)) = (Role::parse(&role), State::parse(&state)) else {
        return Ok(None);
    };
    Ok(Some(Generation {
        name: row.get(0)?,
        role,
        state,
        parent: row.get(3)?,
        certificate: row.get::<Option<Vec<u8>>>(4)?.map(CertificateDer::from),
        request: row.get(5)?,
        key: KeyFile(row.get::<Option<String>>(6)?.map(Zeroizing::new)),
        sequence: row.get(7)?,
        since: UNIX_EPOCH + row.get::<Duration>(8)?,
        made_by: By::parse(&row.get::<String>(9)?).unwrap_or(By::Operator),
        is_revoked: row.get::<u64>(10)? > 0,
    }))
}

/// The authorities that sign nothing any more: retired or revoked, or below one that is.
pub(super) fn discarded(transaction: &mut Transaction<'_>) -> sql::Result<HashSet<String>> {
    let rows = transaction.query(
        "SELECT name FROM barred WHERE kind = 'authority'
         UNION SELECT name FROM authority WHERE state = 'retired'
         UNION SELECT authority.name FROM authority JOIN barred ON barred.name = authority.parent
             WHERE barred.kind = 'authority'
         UNION SELECT authority.name FROM authority JOIN authority AS root ON root.name = authority.parent
             WHERE root.state = 'retired'",
        &[],
    )?;
    rows.iter().map(|row| row.get(0)).collect()
}

fn activate(
    batch: &mut Batch<'_, '_>,
    role: Role,
    terms: Terms,
    by: By,
    now: SystemTime,
) -> sql::Result<Result<Step, Refused>> {
    let present = generations(batch)?;
    let authorities = match to_activate(&present, role, now) {
        Ok(authorities) => authorities,
        Err(refused) => return Ok(Err(refused)),
    };
    let Some(next) = authorities.first() else {
        return Ok(Ok(Step::default()));
    };
    let mut blockers = Vec::new();
    if role == Role::Root {
        let percent = terms.percent;
        blockers.extend(acknowledged::missing(
            batch,
            role,
            next.sequence,
            percent,
            now,
        )?);
    }
    if !blockers.is_empty() && !terms.force {
        return Ok(Err(Refused::Blocked(blockers)));
    }
    let replaced = present.replaced(role);
    for old in &replaced {
        let state = match old.state {
            State::Active => State::Retiring,
            // Made for a root that is on its way out.
            _ => State::Retired,
        };
        change(batch, &old.name, state, now)?;
    }
    let authorities: Vec<_> = authorities.iter().map(|one| one.name.clone()).collect();
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
            despite: blockers.iter().map(Blocker::to_string).collect(),
        },
    )?;
    batch.announce(Topic::Authorities)?;
    Ok(Ok(Step {
        authorities,
        despite: blockers,
    }))
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

fn retire(
    batch: &mut Batch<'_, '_>,
    role: Role,
    terms: Terms,
    by: By,
    now: SystemTime,
) -> sql::Result<Result<Step, Refused>> {
    let present = generations(batch)?;
    let mut old: Vec<_> = present.retiring(role).collect();
    if old.is_empty() {
        let is_done = present
            .0
            .iter()
            .any(|one| one.role == role && one.state == State::Retired);
        return Ok(match is_done {
            true => Ok(Step::default()),
            false => Err(Refused::NothingRetiring(role)),
        });
    }
    let roots: Vec<_> = old.clone();
    if role == Role::Root {
        for root in &roots {
            old.extend(present.below(&root.name));
        }
    }
    let bundle = StoredBundle::read(batch)?;
    let mut blockers = Vec::new();
    let mut kept = Vec::new();
    if role == Role::Root {
        let Some(active) = present.root() else {
            return Ok(Err(Refused::RootMissing));
        };
        kept = bundle.authorities();
        kept.retain(|der| {
            !roots
                .iter()
                .any(|root| root.certificate.as_ref() == Some(der))
        });
        if !active
            .certificate
            .as_ref()
            .is_some_and(|der| kept.contains(der))
        {
            return Ok(Err(Refused::RootMissing));
        }
        // All of them: whoever does not know the new root is alone from now on.
        blockers.extend(acknowledged::missing(
            batch,
            role,
            active.sequence,
            100,
            now,
        )?);
    }
    let names: Vec<_> = old.iter().map(|one| one.name.clone()).collect();
    if let Some(own) = bundle.server_id() {
        blockers.extend(still_valid(batch, role, &names, &own, now)?);
    }
    if !blockers.is_empty() && !terms.force {
        return Ok(Err(Refused::Blocked(blockers)));
    }
    if role == Role::Root {
        publish(batch, &kept, now)?;
        if !blockers.is_empty() {
            // Connections that were made with its certificates are closed.
            roots
                .iter()
                .try_for_each(|root| bar(batch, &root.name, now))?;
        }
    }
    for name in &names {
        change(batch, name, State::Retired, now)?;
    }
    batch.audit(
        now,
        &Event::AuthorityRetired {
            role: role.as_str().to_owned(),
            authorities: names.clone(),
            by: by.as_str().to_owned(),
            despite: blockers.iter().map(Blocker::to_string).collect(),
        },
    )?;
    batch.announce(Topic::Authorities)?;
    Ok(Ok(Step {
        authorities: names,
        despite: blockers,
    }))
}

/// Nothing that its key signed counts any more.
fn bar(batch: &mut Batch<'_, '_>, authority: &str, now: SystemTime) -> sql::Result<()> {
    batch.execute(
        "INSERT INTO barred (kind, name, since, lifted_at, reason) VALUES ('authority', $1, $2, NULL, 'superseded')
         ON CONFLICT (kind, name) DO NOTHING",
        values![authority, now],
    )?;
    batch.announce_by_clock(Topic::Revocations, now)
}

/// A key that is of no more use is forgotten.
fn change(batch: &mut Batch<'_, '_>, name: &str, state: State, now: SystemTime) -> sql::Result<()> {
    batch.execute(
        "UPDATE authority SET state = $1, since = $2 WHERE name = $3",
        values![state.as_str(), now, name],
    )?;
    if state == State::Retired {
        batch.execute(
            "UPDATE authority SET key_file = NULL WHERE name = $1",
            values![name],
        )?;
    }
    Ok(())
}
