//! What `tipstaff ca list --frozen` shows.

use super::rfc3339;
use crate::store::sql::{Row, values};
use crate::store::{self, Database, StoreError};
use serde::Serialize;
use std::fmt;

/// A lineage to which nothing more is issued. Times are RFC 3339.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FrozenLineage {
    pub lineage: String,
    pub spiffe_id: String,
    pub frozen_at: String,
    /// The certificate whose key two have: it was renewed by one of them,
    pub serial: String,
    /// who got this one,
    pub successor: String,
    /// and then with this key (SHA-256 of its SubjectPublicKeyInfo) by the other, who got none.
    pub refused_key: String,
}

/// The frozen lineages, the last first, at most `limit`.
///
/// # Errors
/// When the database cannot be read.
pub fn frozen_lineages(
    database: impl Into<Database>,
    limit: u32,
) -> Result<Vec<FrozenLineage>, StoreError> {
    store::read(&database.into(), |transaction| {
        let rows = transaction.query(
            "SELECT lineage, spiffe_id, frozen_at, serial, successor, key_hash FROM frozen_lineage
             ORDER BY frozen_at DESC, lineage LIMIT $1",
            values![limit],
        )?;
        let lineage = |row: &Row| {
            Ok(FrozenLineage {
                lineage: row.get(0)?,
                spiffe_id: row.get(1)?,
                frozen_at: rfc3339(row.get(2)?),
                serial: row.get(3)?,
                successor: row.get(4)?,
                refused_key: row.get(5)?,
            })
        };
        rows.iter().map(lineage).collect()
    })
}

impl fmt::Display for FrozenLineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lineage,
            spiffe_id,
            frozen_at,
            serial,
            successor,
            refused_key,
        } = self;
        write!(
            f,
            "{lineage}  {frozen_at}  {spiffe_id}  certificate {serial}, renewed as {successor}, then asked for with key {refused_key}"
        )
    }
}
