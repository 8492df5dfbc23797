//! Where the CA's authorities stand, and each step of their rotation: one transaction, with its audit record.

use super::bundle::StoredBundle;
use super::session::Transaction;
use super::sql::{self, Row, values};
use super::writer::Batch;
use super::{Database, Store, StoreError, read};
use crate::keys;
use crate::rotation::{By, Generation, Generations, KeyFile, Refused, Role, State, Step};
use identity::TrustBundle;
use rustls_pki_types::CertificateDer;
use std::collections::HashSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

mod abandon;
mod activate;
mod prepare;
mod retire;

#[cfg(test)]
mod tests;

use abandon::abandon;
use activate::activate;
pub(crate) use activate::can_activate;
pub(crate) use prepare::New;
use prepare::prepare;
pub(crate) use retire::can_retire;
use retire::retire;

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
        let prepared = self
            .write_unless_rolled_back(move |batch| prepare(batch, &new, by, now))
            .await?;
        Ok(prepared.map(|(present, left_in_token)| {
            if !left_in_token.is_empty() {
                tracing::warn!(
                    ?left_in_token,
                    "what was prepared before is forgotten, and its keys are still in the token"
                );
            }
            present
        }))
    }

    /// Has what is prepared sign from now on. A root needs `percent` of the sidecars to have it, and to have been published for a
    /// while, unless `force`.
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

    /// Gives up what is prepared or requested: it never signs, its key is forgotten, and a root leaves the trust bundle.
    ///
    /// # Errors
    /// As [`Store::activate_authority`].
    pub async fn abandon_authority(
        &self,
        role: Role,
        by: By,
        now: SystemTime,
    ) -> Result<Result<Step, Refused>, StoreError> {
        self.write_unless_rolled_back(move |batch| abandon(batch, role, by, now))
            .await
    }
}

/// When a step may be taken.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Of the sidecars that are alive, how many have to have the trust bundle.
    pub percent: u8,
    /// How long a root has been published before it signs: other trust domains, which say nothing, ask for the bundle meanwhile.
    pub published_for: Duration,
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

/// A key that is of no more use is forgotten.
fn change(batch: &mut Batch<'_, '_>, name: &str, state: State, now: SystemTime) -> sql::Result<()> {
    let sql = match state {
        State::Retired => {
            "UPDATE authority SET state = $1, since = $2, key_file = NULL WHERE name = $3"
        }
        _ => "UPDATE authority SET state = $1, since = $2 WHERE name = $3",
    };
    batch.execute(sql, values![state.as_str(), now, name])?;
    Ok(())
}

/// The keys of `authorities` that are in a token, where they stay when they are forgotten here: the `CKA_ID` of each.
fn left_in_token<'g>(authorities: impl IntoIterator<Item = &'g Generation>) -> Vec<String> {
    let object = |one: &Generation| keys::object_in_token(one.key.0.as_deref()?);
    authorities.into_iter().filter_map(object).collect()
}
