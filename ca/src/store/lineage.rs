//! Who may have a successor: decided in the transaction that records it.

use super::enrolment;
use super::revocation;
use super::sql::{self, values};
use super::writer::Batch;
use super::{CertificateRecord, Store, StoreError};
use crate::authority::{Attested, Requester};
use crate::ledger::Event;
use crate::lineage::{LineageError, LineageName};
use std::time::SystemTime;

/// The place of a certificate among those of its lineage.
pub(super) struct Descent {
    lineage: LineageName,
    predecessor: Option<String>,
}

impl Store {
    /// Lets a frozen lineage have certificates again. Audited with `reason`. Gives whether it was frozen.
    ///
    /// # Errors
    /// When it could not be recorded; then the lineage stays frozen.
    pub async fn thaw(
        &self,
        lineage: LineageName,
        reason: String,
        now: SystemTime,
    ) -> Result<bool, StoreError> {
        self.writer
            .write(move |batch| {
                let thawed = batch.execute(
                    "DELETE FROM frozen_lineage WHERE lineage = $1",
                    values![lineage.as_str()],
                )?;
                if thawed == 0 {
                    return Ok(false);
                }
                batch.audit(
                    now,
                    &Event::LineageThawed {
                        lineage: lineage.to_string(),
                        reason,
                    },
                )?;
                Ok(true)
            })
            .await
    }
}

impl Store {
    /// How many lineages are frozen.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub(crate) async fn frozen_lineages(&self) -> Result<i64, StoreError> {
        self.writer
            .write(|batch| {
                batch
                    .only("SELECT count(*) FROM frozen_lineage", &[])?
                    .get(0)
            })
            .await
    }
}

impl CertificateRecord {
    /// Where the certificate belongs, if it may be there at all; `None` for the CA's own. A second successor freezes its
    /// lineage here.
    pub(super) fn descent(
        &self,
        batch: &mut Batch<'_, '_>,
        now: SystemTime,
    ) -> sql::Result<Result<Option<Descent>, LineageError>> {
        let (lineage, predecessor) = match &self.requester {
            Requester::Ca => return Ok(Ok(None)),
            Requester::Svid { serial, .. } | Requester::Expired { serial } => {
                match lineage_of(batch, serial)? {
                    Some(lineage) => (lineage, Some(serial)),
                    None => {
                        let serial = serial.clone();
                        return Ok(Err(LineageError::Unknown { serial }));
                    }
                }
            }
            Requester::Enrolment(key) => {
                let enrolled = enrolment::find_enrolment(batch, key)?;
                if enrolled.is_none_or(|enrolled| enrolled.spiffe_id != self.leaf.id) {
                    return Ok(Err(LineageError::NotEnrolled { key: *key }));
                }
                (LineageName::of_key(key), None)
            }
            Requester::Attested(attested) => (self.attested_lineage(attested), None),
            Requester::Operator => (LineageName::new(&*self.leaf.serial), None),
        };
        let asking = predecessor.map(String::as_str);
        if let Some(refused) = revocation::bar(batch, asking, &self.leaf.id, &lineage)? {
            return Ok(Err(refused));
        }
        if let Some(serial) = predecessor {
            if let Some((successor, key)) = successor_of(batch, serial)?
                && key != self.key.to_string()
            {
                self.freeze(batch, &lineage, serial, successor, now)?;
                let serial = serial.clone();
                return Ok(Err(LineageError::SecondSuccessor { serial, lineage }));
            }
            if self.is_superseded(batch, serial, &lineage)? {
                let serial = serial.clone();
                return Ok(Err(LineageError::Superseded { serial, lineage }));
            }
        }
        Ok(Ok(Some(Descent {
            lineage,
            predecessor: predecessor.cloned(),
        })))
    }

    /// That of what the attestor vouched for; of what it cannot tell from others, one of the certificate's own.
    fn attested_lineage(&self, attested: &Attested) -> LineageName {
        match &attested.holder {
            Some(holder) => LineageName::of_holder(&attested.attestor, holder),
            None => LineageName::new(&*self.leaf.serial),
        }
    }

    /// Whether the identity was proven anew in this lineage after the certificate that asks was issued. That the reply
    /// was lost and the same key now comes by the other way is no other holder.
    fn is_superseded(
        &self,
        batch: &mut Batch<'_, '_>,
        serial: &str,
        lineage: &LineageName,
    ) -> sql::Result<bool> {
        let anew = batch.first(
            "SELECT 1 FROM descent JOIN certificate ON certificate.serial = descent.serial
             WHERE descent.lineage = $1 AND descent.predecessor IS NULL AND descent.key_hash <> $2
                 AND certificate.spiffe_id = $3
                 AND certificate.audit_seq > (SELECT audit_seq FROM certificate WHERE serial = $4) LIMIT 1",
            values![
                lineage.as_str(),
                &self.key.to_string(),
                self.leaf.id.as_str(),
                serial
            ],
        )?;
        Ok(anew.is_some())
    }

    /// Follows the certificate's own row. Who renews has the trust bundle that it had before.
    pub(super) fn insert_descent(
        &self,
        batch: &mut Batch<'_, '_>,
        descent: &Descent,
    ) -> sql::Result<()> {
        batch.write(
            "INSERT INTO descent (serial, lineage, predecessor, key_hash, acknowledged) VALUES ($1, $2, $3, $4,
                 coalesce((SELECT acknowledged FROM descent AS before WHERE before.serial = $3), 0))",
            values![
                &self.leaf.serial,
                descent.lineage.as_str(),
                descent.predecessor.as_ref(),
                &self.key.to_string()
            ],
        )
    }

    fn freeze(
        &self,
        batch: &mut Batch<'_, '_>,
        lineage: &LineageName,
        serial: &str,
        successor: String,
        now: SystemTime,
    ) -> sql::Result<()> {
        batch.execute(
            "INSERT INTO frozen_lineage (lineage, spiffe_id, serial, successor, key_hash, frozen_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
            values![
                lineage.as_str(),
                self.leaf.id.as_str(),
                serial,
                &successor,
                &self.key.to_string(),
                now
            ],
        )?;
        batch.audit(
            now,
            &Event::LineageFrozen {
                lineage: lineage.to_string(),
                spiffe_id: self.leaf.id.to_string(),
                serial: serial.to_owned(),
                successor,
                key: self.key.to_string(),
            },
        )?;
        Ok(())
    }
}

pub(super) fn lineage_of(
    batch: &mut Batch<'_, '_>,
    serial: &str,
) -> sql::Result<Option<LineageName>> {
    let row = batch.first(
        "SELECT lineage FROM descent WHERE serial = $1",
        values![serial],
    )?;
    row.map(|row| row.get::<String>(0).map(LineageName::new))
        .transpose()
}

/// The serial and key of what was issued after `serial`. There may be several, all for the same key.
fn successor_of(batch: &mut Batch<'_, '_>, serial: &str) -> sql::Result<Option<(String, String)>> {
    let row = batch.first(
        "SELECT serial, key_hash FROM descent WHERE predecessor = $1 LIMIT 1",
        values![serial],
    )?;
    row.map(|row| Ok((row.get(0)?, row.get(1)?))).transpose()
}
