//! What is revoked, and to whom nothing is issued.

use super::changes::{self, Topic};
use super::session::Transaction;
use super::sql::{self, Row, values};
use super::writer::Batch;
use super::{Store, StoreError};
use crate::csr::KeyHash;
use crate::ledger::Event;
use crate::lineage::{LineageError, LineageName};
use crate::profile::BACKDATE;
use crate::revoke::{Entry, MAX_NAMES_BYTES, MAX_SERIALS, Reason, RevokeError, Target};
use identity::{Revocations, SpiffeId};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a name takes beside its own bytes: its length, and the time since when it may be had again.
const NAME_OVERHEAD: u64 = 24;

impl Store {
    /// Revokes `target`, durably and audited. Gives how many certificates that concerns. What is revoked already stays so.
    ///
    /// # Errors
    /// The outer error says that nothing could be recorded, the inner one why there is nothing to revoke.
    pub async fn revoke(
        &self,
        target: Target,
        reason: Reason,
        now: SystemTime,
    ) -> Result<Result<u64, RevokeError>, StoreError> {
        self.writer
            .write(move |batch| revoke(batch, &target, reason, now))
            .await
    }

    /// Lets an identity or a lineage have certificates again, audited with `reason`. Those it had stay revoked.
    ///
    /// # Errors
    /// As [`Store::revoke`].
    pub async fn lift(
        &self,
        target: Target,
        reason: String,
        now: SystemTime,
    ) -> Result<Result<(), RevokeError>, StoreError> {
        self.writer
            .write(move |batch| lift(batch, &target, reason, now))
            .await
    }

    /// The present list.
    pub(crate) async fn revocations(&self) -> Result<Revocations, StoreError> {
        self.writer.write(|batch| list(batch)).await
    }

    /// Every revoked certificate that has not expired long ago, and the version of the list.
    pub(crate) async fn revoked_certificates(&self) -> Result<(u64, Vec<Entry>), StoreError> {
        self.writer
            .write(|batch| {
                let rows = batch.query("SELECT serial, revoked_at, reason FROM revocation", &[])?;
                let entries = rows.iter().map(entry).collect::<sql::Result<_>>()?;
                Ok((changes::version(batch, Topic::Revocations)?, entries))
            })
            .await
    }
}

/// Revoked certificates that have to be told one by one, which leaves out those that the identity's own entry refuses: all of
/// them, or, of one that may be had again, those from before ($1 is how much earlier than issued a certificate begins).
macro_rules! told {
    () => {
        "revocation WHERE NOT EXISTS
             (SELECT 1 FROM barred WHERE kind = 'identity' AND name = revocation.spiffe_id
              AND (lifted_at IS NULL OR lifted_at - CAST($1 AS BIGINT) >
                  (SELECT not_before FROM certificate WHERE certificate.serial = revocation.serial)))"
    };
}

/// For the certificates that a name picks out, which stands between the two texts: a statement that counts those that are valid
/// after $1, and how many of them are revoked already; and one that revokes them.
macro_rules! named {
    ($before:literal, $after:literal) => {
        (
            concat!(
                "SELECT count(*), count(revocation.serial) FROM certificate
                 LEFT JOIN revocation ON revocation.serial = certificate.serial
                 WHERE certificate.not_after > $1 AND certificate.",
                $before,
                "$2",
                $after
            ),
            concat!(
                "INSERT INTO revocation (serial, spiffe_id, not_after, revoked_at, reason)
                 SELECT serial, spiffe_id, not_after, CAST($1 AS BIGINT), CAST($2 AS TEXT) FROM certificate
                 WHERE not_after > $1 AND certificate.",
                $before,
                "$3",
                $after,
                " ON CONFLICT (serial) DO NOTHING"
            ),
        )
    };
}

/// What a revocation names, and the statements for it.
struct Named {
    name: String,
    count: &'static str,
    revoke: &'static str,
}

impl Named {
    /// `None` for an authority, whose certificates are not told one by one.
    fn by(target: &Target) -> Option<Self> {
        let (count, revoke) = match target {
            Target::Serial(_) => named!("serial = ", ""),
            Target::Identity(_) => named!("spiffe_id = ", ""),
            Target::Lineage(_) => {
                named!(
                    "serial IN (SELECT serial FROM descent WHERE lineage = ",
                    ")"
                )
            }
            Target::Authority(_) => return None,
        };
        Some(Self {
            name: target.name(),
            count,
            revoke,
        })
    }
}

fn revoke(
    batch: &mut Batch<'_, '_>,
    target: &Target,
    reason: Reason,
    now: SystemTime,
) -> sql::Result<Result<u64, RevokeError>> {
    let named = Named::by(target);
    let (mut certificates, mut known) = (0, 0);
    if let Some(Named { name, count, .. }) = &named {
        let row = batch.only(count, values![now, name])?;
        (certificates, known) = (row.get(0)?, row.get(1)?);
    }
    if let Target::Serial(serial) = target
        && certificates == 0
    {
        return Ok(Err(RevokeError::UnknownSerial(serial.clone())));
    }
    if let Err(refused) = has_room(batch, target, certificates - known)? {
        return Ok(Err(refused));
    }
    if let Some(Named { name, revoke, .. }) = &named {
        batch.execute(revoke, values![now, reason.as_str(), name])?;
    }
    if !matches!(target, Target::Serial(_)) {
        batch.execute(
            "INSERT INTO barred (kind, name, since, lifted_at, reason) VALUES ($1, $2, $3, NULL, $4)
             ON CONFLICT (kind, name) DO UPDATE
             SET since = excluded.since, lifted_at = NULL, reason = excluded.reason",
            values![target.kind(), &target.name(), now, reason.as_str()],
        )?;
    }
    batch.audit(
        now,
        &Event::Revoked {
            what: target.kind().to_owned(),
            name: target.name(),
            reason: reason.as_str().to_owned(),
            certificates,
        },
    )?;
    batch.announce_by_clock(Topic::Revocations, now)?;
    Ok(Ok(certificates))
}

/// Whether the list has room for the target: by name, or for so many more serials.
fn has_room(
    batch: &mut Batch<'_, '_>,
    target: &Target,
    certificates: u64,
) -> sql::Result<Result<(), RevokeError>> {
    if let Target::Identity(_) | Target::Authority(_) = target {
        let name = target.name();
        let others = batch.only(
            "SELECT CAST(coalesce(sum(length(name) + CAST($1 AS BIGINT)), 0) AS BIGINT) FROM barred
             WHERE kind <> 'lineage' AND name <> $2",
            values![NAME_OVERHEAD, &name],
        )?;
        let found = others.get::<u64>(0)? + name.len() as u64 + NAME_OVERHEAD;
        return Ok(if found > MAX_NAMES_BYTES {
            Err(RevokeError::TooManyNames { found })
        } else {
            Ok(())
        });
    }
    let listed = batch.only(
        concat!("SELECT count(*) FROM ", told!()),
        values![BACKDATE.as_secs()],
    )?;
    let found = listed.get::<u64>(0)? + certificates;
    Ok(if found > MAX_SERIALS {
        Err(RevokeError::TooMany { found })
    } else {
        Ok(())
    })
}

/// Whether the list is one that sidecars take, however it has come to be what it is.
pub(super) fn fits(transaction: &mut Transaction<'_>) -> sql::Result<Result<(), RevokeError>> {
    let listed = transaction.only(
        concat!("SELECT count(*) FROM ", told!()),
        values![BACKDATE.as_secs()],
    )?;
    let names = transaction.only(
        "SELECT CAST(coalesce(sum(length(name) + CAST($1 AS BIGINT)), 0) AS BIGINT) FROM barred
         WHERE kind <> 'lineage'",
        values![NAME_OVERHEAD],
    )?;
    Ok(match (listed.get(0)?, names.get(0)?) {
        (found, _) if found > MAX_SERIALS => Err(RevokeError::TooMany { found }),
        (_, found) if found > MAX_NAMES_BYTES => Err(RevokeError::TooManyNames { found }),
        _ => Ok(()),
    })
}

fn lift(
    batch: &mut Batch<'_, '_>,
    target: &Target,
    reason: String,
    now: SystemTime,
) -> sql::Result<Result<(), RevokeError>> {
    let lifted = match target {
        Target::Identity(_) | Target::Lineage(_) => batch.execute(
            "UPDATE barred SET lifted_at = $1 WHERE kind = $2 AND name = $3 AND lifted_at IS NULL",
            values![now, target.kind(), &target.name()],
        )?,
        // Another certificate is to be had all the same; and what an authority's key signed stays signed by it.
        Target::Serial(_) | Target::Authority(_) => 0,
    };
    if lifted == 0 {
        return Ok(Err(RevokeError::NotBarred(target.to_string())));
    }
    batch.audit(
        now,
        &Event::RevocationLifted {
            what: target.kind().to_owned(),
            name: target.name(),
            reason,
        },
    )?;
    batch.announce_by_clock(Topic::Revocations, now)?;
    Ok(Ok(()))
}

/// The list as the database has it. At most [`MAX_SERIALS`] serials, as more cannot be written.
pub(super) fn list(transaction: &mut Transaction<'_>) -> sql::Result<Revocations> {
    let mut list = Revocations {
        sequence: changes::version(transaction, Topic::Revocations)?,
        ..Revocations::default()
    };
    for row in transaction.query("SELECT kind, name, lifted_at FROM barred", &[])? {
        add_barred(&mut list, &row)?;
    }
    let serials = transaction.query(
        concat!("SELECT serial FROM ", told!()),
        values![BACKDATE.as_secs()],
    )?;
    for row in serials {
        list.serials.insert(row.get(0)?);
    }
    Ok(list)
}

fn entry(row: &Row) -> sql::Result<Entry> {
    Ok(Entry {
        serial: row.get(0)?,
        revoked_at: UNIX_EPOCH + row.get::<Duration>(1)?,
        reason: Reason::parse(&row.get::<String>(2)?).unwrap_or_default(),
    })
}

fn add_barred(list: &mut Revocations, row: &Row) -> sql::Result<()> {
    let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
    let lifted_at: Option<Duration> = row.get(2)?;
    match kind.as_str() {
        "identity" => {
            if let Ok(id) = SpiffeId::parse(&name) {
                // What was issued since then begins so much earlier.
                let again = lifted_at.map(|lifted_at| UNIX_EPOCH + lifted_at - BACKDATE);
                list.identities.insert(id, again);
            }
        }
        "authority" => {
            if let Some(KeyHash(key)) = KeyHash::parse(&name) {
                list.signers.insert(key);
            }
        }
        // A lineage is known to others by its certificates.
        _ => {}
    }
    Ok(())
}

/// Why nothing is issued to an identity, to a lineage, or for the certificate that asks. One statement, as each certificate
/// asks it.
pub(super) fn bar(
    batch: &mut Batch<'_, '_>,
    serial: Option<&str>,
    id: &SpiffeId,
    lineage: &LineageName,
) -> sql::Result<Option<LineageError>> {
    let found = batch.first(
        "SELECT 1 FROM revocation WHERE serial = $1
         UNION ALL
         SELECT 2 FROM barred WHERE kind = 'identity' AND name = $2 AND lifted_at IS NULL
         UNION ALL
         SELECT 3 FROM barred WHERE kind = 'lineage' AND name = $3 AND lifted_at IS NULL
         UNION ALL
         SELECT 4 FROM frozen_lineage WHERE lineage = $3
         ORDER BY 1 LIMIT 1",
        values![serial, id.as_str(), lineage.as_str()],
    )?;
    let Some(found) = found else {
        return Ok(None);
    };
    let target = match found.get::<i64>(0)? {
        1 => Target::Serial(serial.unwrap_or_default().to_owned()),
        2 => Target::Identity(id.clone()),
        3 => Target::Lineage(lineage.clone()),
        _ => {
            let lineage = lineage.clone();
            return Ok(Some(LineageError::Frozen { lineage }));
        }
    };
    Ok(Some(LineageError::Revoked { target }))
}
