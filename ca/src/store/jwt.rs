//! Tokens: their records, and the keys that vouch for them.

use super::changes::Topic;
use super::lineage::lineage_of;
use super::revocation;
use super::session::Transaction;
use super::sql::{self, values};
use super::{Store, StoreError, unix_seconds};
use crate::ledger::Event;
use crate::lineage::LineageError;
use identity::SpiffeId;
use identity::jwt::{JwtKey, JwtKeys};
use std::time::SystemTime;

#[cfg(test)]
mod tests;

/// A signed token, about to be recorded.
#[derive(Debug)]
pub(crate) struct TokenRecord {
    /// The certificate that it was asked for with.
    pub(crate) serial: String,
    pub(crate) spiffe_id: SpiffeId,
    pub(crate) audience: Vec<String>,
    /// `jti`.
    pub(crate) name: String,
    pub(crate) kid: String,
    pub(crate) expires: SystemTime,
}

impl Store {
    /// Records a token, unless its holder is revoked or the lineage forbids it: then the inner error, and no such token exists.
    pub(crate) async fn record_token(
        &self,
        token: TokenRecord,
        now: SystemTime,
    ) -> Result<Result<(), LineageError>, StoreError> {
        self.write_unless_rolled_back(move |batch| {
            let Some(lineage) = lineage_of(batch, &token.serial)? else {
                let serial = token.serial.clone();
                return Ok(Err(LineageError::Unknown { serial }));
            };
            let (serial, id) = (Some(token.serial.as_str()), &token.spiffe_id);
            if let Some(refused) = revocation::bar(batch, serial, id, &lineage)? {
                return Ok(Err(refused));
            }
            batch.audit(
                now,
                &Event::TokenIssued {
                    name: token.name.clone(),
                    spiffe_id: token.spiffe_id.to_string(),
                    audience: token.audience.clone(),
                    not_after: unix_seconds(token.expires),
                    key: token.kid.clone(),
                },
            )?;
            Ok(Ok(()))
        })
        .await
    }

    /// Adds a key to the bundle until `expires`, and takes out those that have expired by `now`.
    pub(crate) async fn publish_jwt_key(
        &self,
        kid: String,
        point: Vec<u8>,
        expires: SystemTime,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        self.writer
            .write(move |batch| {
                let by = unix_seconds(now);
                batch.execute("DELETE FROM jwt_key WHERE expires_at <= $1", values![by])?;
                batch.execute(
                    "INSERT INTO jwt_key (kid, point, expires_at) VALUES ($1, $2, $3)",
                    values![&kid, &point[..], expires],
                )?;
                batch.execute("UPDATE bundle SET sequence = sequence + 1", &[])?;
                batch.audit(
                    now,
                    &Event::TokenKeyPublished {
                        key: kid.clone(),
                        not_after: unix_seconds(expires),
                    },
                )?;
                batch.announce(Topic::Bundle)
            })
            .await
    }
}

/// The keys that are published, the latest if they are too many: each start of a CA brings one. One that has expired stays until the next is published, as every change of the bundle has
/// a sequence of its own.
pub(super) fn keys(transaction: &mut Transaction<'_>) -> sql::Result<JwtKeys> {
    let mut keys = JwtKeys::default();
    let latest = transaction.query(
        "SELECT kid, point FROM jwt_key ORDER BY expires_at DESC, kid LIMIT 256",
        &[],
    )?;
    for row in latest {
        let (kid, point): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        // What was written here is a key; whatever else it became vouches for nothing.
        if let Ok(key) = JwtKey::p256(&kid, &point) {
            keys.insert(key);
        }
    }
    Ok(keys)
}
