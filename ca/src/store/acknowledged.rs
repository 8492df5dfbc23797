//! Which trust bundle the sidecars have, by their own word: written down with the certificate that each has at present.

use super::session::Transaction;
use super::sql::{self, values};
use super::{Store, StoreError};
use crate::rotation::{Blocker, Laggard, NAMED, Role, Silent};
use std::time::SystemTime;

/// The present certificates of sidecars that are alive: valid, not revoked, the latest of its identity in its lineage, and
/// either the sidecar has said which bundle it has, or it had before it renewed. What was issued by hand never says so.
macro_rules! alive {
    ($acknowledged:literal) => {
        concat!("certificate JOIN descent ON descent.serial = certificate.serial
         WHERE certificate.not_after > $1 AND descent.acknowledged ", $acknowledged, "
             AND NOT EXISTS (SELECT 1 FROM revocation WHERE revocation.serial = certificate.serial)
             AND NOT EXISTS (SELECT 1 FROM descent AS other JOIN certificate AS later ON later.serial = other.serial
                 WHERE other.lineage = descent.lineage AND later.spiffe_id = certificate.spiffe_id
                     AND later.audit_seq > certificate.audit_seq)")
    };
}

impl Store {
    /// Notes that the holder of a certificate has a version of the trust bundle. One that was never published here, as the records
    /// were set back since, says nothing.
    ///
    /// # Errors
    /// When it could not be recorded.
    pub(crate) async fn acknowledge(
        &self,
        serial: String,
        bundle_sequence: u64,
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |batch| {
                batch.execute(
                    "UPDATE descent SET acknowledged = $1 WHERE serial = $2 AND acknowledged < $1
                         AND EXISTS (SELECT 1 FROM bundle WHERE sequence >= $1)",
                    values![bundle_sequence, &serial],
                )?;
                Ok(())
            })
            .await
    }
}

/// How many sidecars are alive, and how many of them have a trust bundle of at least `sequence`.
pub(crate) fn count(
    transaction: &mut Transaction<'_>,
    sequence: u64,
    now: SystemTime,
) -> sql::Result<(u64, u64)> {
    let row = transaction.only(
        concat!(
            "SELECT count(*), count(CASE WHEN descent.acknowledged >= $2 THEN 1 END) FROM ",
            alive!("> 0")
        ),
        values![now, sequence],
    )?;
    Ok((row.get(0)?, row.get(1)?))
}

/// Who enrolled and has never said which trust bundle it has: no sidecars, or sidecars whose stream does not work.
pub(crate) fn silent(transaction: &mut Transaction<'_>, now: SystemTime) -> sql::Result<Silent> {
    let sql = concat!("SELECT count(*) FROM ", alive!("= 0"));
    let count = transaction.only(sql, values![now])?.get(0)?;
    let rows = transaction.query(
        concat!(
            "SELECT DISTINCT certificate.spiffe_id FROM ",
            alive!("= 0"),
            " ORDER BY certificate.spiffe_id LIMIT $2"
        ),
        values![now, NAMED],
    )?;
    let first = rows.iter().map(|row| row.get(0));
    Ok(Silent {
        count,
        first: first.collect::<sql::Result<_>>()?,
    })
}

/// What is missing when `percent` of the sidecars have to have the bundle; the first laggards are named.
pub(crate) fn missing(
    transaction: &mut Transaction<'_>,
    role: Role,
    sequence: u64,
    percent: u8,
    now: SystemTime,
) -> sql::Result<Option<Blocker>> {
    let (alive, acknowledged) = count(transaction, sequence, now)?;
    if acknowledged * 100 >= alive * u64::from(percent) {
        return Ok(None);
    }
    let rows = transaction.query(
        concat!(
            "SELECT certificate.spiffe_id, certificate.serial, descent.acknowledged FROM ",
            alive!("> 0"),
            " AND descent.acknowledged < $2 ORDER BY certificate.spiffe_id, certificate.serial LIMIT $3"
        ),
        values![now, sequence, NAMED],
    )?;
    let laggards = rows.iter().map(|row| {
        Ok(Laggard {
            spiffe_id: row.get(0)?,
            serial: row.get(1)?,
            sequence: row.get(2)?,
        })
    });
    Ok(Some(Blocker::NotAcknowledged {
        role,
        sequence,
        alive,
        acknowledged,
        percent,
        laggards: laggards.collect::<sql::Result<_>>()?,
    }))
}
