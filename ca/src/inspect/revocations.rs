//! What `tipstaff ca list --revoked` shows.

use super::rfc3339;
use crate::authority::{OpenError, read_certificate};
use crate::directory::{INTERMEDIATE_CERTIFICATE, ROOT_CERTIFICATE};
use crate::revoke::Target;
use crate::store::sql::{self, Row, values};
use crate::store::{self, Database, StoreError};
use serde::Serialize;
use std::fmt;
use std::path::Path;

/// Something that is revoked. Times are RFC 3339.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// `certificate`, `identity`, `lineage` or `authority`.
    pub what: String,
    pub name: String,
    /// Of a certificate.
    pub spiffe_id: Option<String>,
    pub revoked_at: String,
    pub reason: String,
    /// An identity or a lineage that may have certificates again; those it had stay revoked.
    pub reinstated_at: Option<String>,
}

/// What is revoked: identities, lineages and authorities first, then certificates that have not expired long ago, of
/// whatever cause; at most `limit` of each of the two.
///
/// # Errors
/// When the database cannot be read.
pub fn revocations(database: &Database, limit: u32) -> Result<Vec<Revocation>, StoreError> {
    store::read(database, |transaction| {
        let barred = transaction.query(
            "SELECT kind, name, since, reason, lifted_at FROM barred
             ORDER BY since DESC, name LIMIT $1",
            values![limit],
        )?;
        let certificates = transaction.query(
            "SELECT serial, spiffe_id, revoked_at, reason FROM revocation
             ORDER BY revoked_at DESC, serial LIMIT $1",
            values![limit],
        )?;
        let barred = barred.iter().map(barred_of);
        barred
            .chain(certificates.iter().map(certificate_of))
            .collect()
    })
}

/// Whether this CA signs with the key of an authority, or with one below it: certificates of workloads, or its own, without
/// which no sidecar reaches it.
///
/// # Errors
/// When the database or, before the first rotation, a certificate of the CA cannot be read.
pub fn is_signing(
    directory: &Path,
    database: &Database,
    authority: &Target,
) -> Result<bool, OpenError> {
    let generations = store::read_generations(database)?;
    if let (Some(root), Some(issuer)) = (generations.root(), generations.issuer()) {
        let server = generations.server_issuer();
        let above = server
            .and_then(|one| one.parent.as_ref())
            .and_then(|name| generations.named(name));
        return Ok([Some(root), Some(issuer), server, above]
            .into_iter()
            .flatten()
            .any(|one| one.name == authority.name()));
    }
    for name in [INTERMEDIATE_CERTIFICATE, ROOT_CERTIFICATE] {
        let (_, info) = read_certificate(directory, name)?;
        if Target::Authority(info.key_hash()) == *authority {
            return Ok(true);
        }
    }
    Ok(false)
}

fn barred_of(row: &Row) -> sql::Result<Revocation> {
    Ok(Revocation {
        what: row.get(0)?,
        name: row.get(1)?,
        spiffe_id: None,
        revoked_at: rfc3339(row.get(2)?),
        reason: row.get(3)?,
        reinstated_at: row.get::<Option<i64>>(4)?.map(rfc3339),
    })
}

fn certificate_of(row: &Row) -> sql::Result<Revocation> {
    Ok(Revocation {
        what: "certificate".to_owned(),
        name: row.get(0)?,
        // One that is known from a CRL alone is of nobody.
        spiffe_id: Some(row.get(1)?).filter(|id: &String| !id.is_empty()),
        revoked_at: rfc3339(row.get(2)?),
        reason: row.get(3)?,
        reinstated_at: None,
    })
}

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            name,
            revoked_at,
            reason,
            ..
        } = self;
        write!(f, "{what:<11}  {revoked_at}  {reason}  {name}")?;
        if let Some(id) = &self.spiffe_id {
            write!(f, "  {id}")?;
        }
        match &self.reinstated_at {
            Some(at) => write!(f, "  reinstated {at}"),
            None => Ok(()),
        }
    }
}
