//! What `tipstaff ca list` and `inspect` show: rows of the database and the CA's own certificates, for people
//! (`Display`) and programs (`Serialize`). Read beside a running server; no key is touched.

use crate::authority::{OpenError, read_certificate};
use crate::directory::{INTERMEDIATE_CERTIFICATE, ROOT_CERTIFICATE};
use crate::ledger::fingerprint;
use crate::profile::CaCertificate;
use crate::rotation::Generation;
use crate::store::sql::{self, Row, values};
use crate::store::{self, Database, StoreError, token_name, unix_seconds};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::time::SystemTime;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

mod lineages;
mod revocations;

#[cfg(test)]
mod tests;

pub use lineages::{FrozenLineage, frozen_lineages};
pub use revocations::{Revocation, is_signing, revocations};

/// A CA at one glance.
#[derive(Debug, Serialize)]
pub struct Overview {
    pub trust_domain: String,
    pub bundle_sequence: u64,
    pub root: Issuer,
    pub intermediate: Issuer,
    pub unexpired_certificates: u64,
    /// Rows that are to be swept away: at the latest some hours after their certificates expired.
    pub expired_certificates: u64,
    pub enrolments: u64,
    pub open_tokens: u64,
    pub frozen_lineages: u64,
    pub audit_records: u64,
}

/// A CA certificate. Times are RFC 3339.
#[derive(Debug, Serialize)]
pub struct Issuer {
    pub subject: String,
    pub serial: String,
    pub not_before: String,
    pub not_after: String,
    pub sha256: String,
}

/// An issued certificate. Times are RFC 3339.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Certificate {
    pub serial: String,
    pub spiffe_id: String,
    pub not_before: String,
    pub not_after: String,
    pub renew_at: String,
    /// Its record in the audit chain.
    pub audit_seq: i64,
    pub sha256: String,
    /// None of the CA's own.
    pub lineage: Option<String>,
    /// Nothing more is issued to its lineage.
    pub frozen: bool,
}

/// A join token, without what it takes to use it. Times are RFC 3339.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// As in audit records.
    pub name: String,
    pub spiffe_id: String,
    pub expires_at: String,
    pub state: TokenState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    Open,
    Used,
    Expired,
}

/// # Errors
/// When a file of the CA cannot be read.
pub fn overview(
    directory: &Path,
    database: impl Into<Database>,
    now: SystemTime,
) -> Result<Overview, OpenError> {
    let database = database.into();
    let (bundle, _) = store::read_settings(&database)?;
    let generations = store::read_generations(&database)?;
    let counts = store::read(&database, |transaction| {
        let row = transaction.only(
            "SELECT (SELECT count(*) FROM certificate WHERE not_after > $1),
                    (SELECT count(*) FROM certificate WHERE not_after <= $1),
                    (SELECT count(*) FROM enrolment),
                    (SELECT count(*) FROM join_token WHERE enrolled_key IS NULL AND expires_at > $1),
                    (SELECT count(*) FROM frozen_lineage),
                    (SELECT count(*) FROM audit)",
            values![now],
        )?;
        Ok([
            row.get(0)?,
            row.get(1)?,
            row.get(2)?,
            row.get(3)?,
            row.get(4)?,
            row.get(5)?,
        ])
    })?;
    let [
        unexpired_certificates,
        expired_certificates,
        enrolments,
        open_tokens,
        frozen_lineages,
        audit_records,
    ] = counts;
    Ok(Overview {
        trust_domain: bundle.trust_domain().to_string(),
        bundle_sequence: bundle.sequence(),
        root: issuer(directory, generations.root(), ROOT_CERTIFICATE)?,
        intermediate: issuer(directory, generations.issuer(), INTERMEDIATE_CERTIFICATE)?,
        unexpired_certificates,
        expired_certificates,
        enrolments,
        open_tokens,
        frozen_lineages,
        audit_records,
    })
}

/// That of the database; before the first rotation, of the directory.
fn issuer(directory: &Path, one: Option<&Generation>, file: &str) -> Result<Issuer, OpenError> {
    let Some(one) = one else {
        return Ok(read_certificate(directory, file)?.into());
    };
    let incomplete = || OpenError::Incomplete(one.name.clone());
    let der = one.certificate.clone().ok_or_else(incomplete)?;
    let info = CaCertificate::parse(&der).ok_or_else(incomplete)?;
    Ok((der, info).into())
}

/// The certificates that are valid after `now`, those that end last first, at most `limit`.
///
/// # Errors
/// When the database cannot be read.
pub fn certificates(
    database: impl Into<Database>,
    now: SystemTime,
    limit: u32,
) -> Result<Vec<Certificate>, StoreError> {
    store::read(&database.into(), |transaction| {
        let rows = transaction.query(
            "SELECT c.serial, c.spiffe_id, c.not_before, c.not_after, c.renew_at, c.audit_seq, c.der,
                    d.lineage, f.frozen_at
             FROM certificate c
             LEFT JOIN descent d ON d.serial = c.serial
             LEFT JOIN frozen_lineage f ON f.lineage = d.lineage
             WHERE c.not_after > $1 ORDER BY c.not_after DESC, c.serial LIMIT $2",
            values![now, limit],
        )?;
        rows.iter().map(certificate_of).collect()
    })
}

/// The certificate with `serial` (lower-case hexadecimal) and its DER, expired or not.
///
/// # Errors
/// When the database cannot be read.
pub fn certificate(
    database: impl Into<Database>,
    serial: &str,
) -> Result<Option<(Certificate, CertificateDer<'static>)>, StoreError> {
    store::read(&database.into(), |transaction| {
        let row = transaction.first(
            "SELECT c.serial, c.spiffe_id, c.not_before, c.not_after, c.renew_at, c.audit_seq, c.der,
                    d.lineage, f.frozen_at
             FROM certificate c
             LEFT JOIN descent d ON d.serial = c.serial
             LEFT JOIN frozen_lineage f ON f.lineage = d.lineage
             WHERE c.serial = $1",
            values![serial],
        )?;
        row.map(|row| {
            Ok((
                certificate_of(&row)?,
                CertificateDer::from(row.get::<Vec<u8>>(6)?),
            ))
        })
        .transpose()
    })
}

/// The join tokens, newest first, at most `limit`.
///
/// # Errors
/// When the database cannot be read.
pub fn tokens(
    database: impl Into<Database>,
    now: SystemTime,
    limit: u32,
) -> Result<Vec<Token>, StoreError> {
    store::read(&database.into(), |transaction| {
        let rows = transaction.query(
            "SELECT hash, spiffe_id, expires_at, enrolled_key FROM join_token
             ORDER BY created_at DESC, hash LIMIT $1",
            values![limit],
        )?;
        rows.iter().map(|row| token_of(row, now)).collect()
    })
}

fn token_of(row: &Row, now: SystemTime) -> sql::Result<Token> {
    let expires_at: i64 = row.get(2)?;
    let used = row.get::<Option<Vec<u8>>>(3)?.is_some();
    Ok(Token {
        name: token_name(&row.get(0)?),
        spiffe_id: row.get(1)?,
        expires_at: rfc3339(expires_at),
        state: match used {
            true => TokenState::Used,
            false if expires_at <= unix_seconds(now) => TokenState::Expired,
            false => TokenState::Open,
        },
    })
}

fn certificate_of(row: &Row) -> sql::Result<Certificate> {
    Ok(Certificate {
        serial: row.get(0)?,
        spiffe_id: row.get(1)?,
        not_before: rfc3339(row.get(2)?),
        not_after: rfc3339(row.get(3)?),
        renew_at: rfc3339(row.get(4)?),
        audit_seq: row.get(5)?,
        sha256: fingerprint(&row.get::<Vec<u8>>(6)?),
        lineage: row.get(7)?,
        frozen: row.get::<Option<i64>>(8)?.is_some(),
    })
}

/// A time outside the years that RFC 3339 can write, which only tampering can cause, shows as its number.
pub(crate) fn rfc3339(unix_seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_seconds)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| unix_seconds.to_string())
}

/// The same for milliseconds, of which it keeps three digits.
pub(crate) fn rfc3339_ms(unix_ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| unix_ms.to_string())
}

impl From<(CertificateDer<'static>, CaCertificate)> for Issuer {
    fn from((der, info): (CertificateDer<'static>, CaCertificate)) -> Self {
        Self {
            subject: info.common_name,
            serial: info.serial,
            not_before: rfc3339(unix_seconds(info.validity.not_before)),
            not_after: rfc3339(unix_seconds(info.validity.not_after)),
            sha256: fingerprint(&der),
        }
    }
}

impl fmt::Display for Overview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "trust domain   {}", self.trust_domain)?;
        writeln!(f, "trust bundle   sequence {}", self.bundle_sequence)?;
        writeln!(f, "root           {}", self.root)?;
        writeln!(f, "intermediate   {}", self.intermediate)?;
        writeln!(
            f,
            "certificates   {} valid, {} expired",
            self.unexpired_certificates, self.expired_certificates
        )?;
        writeln!(f, "enrolled keys  {}", self.enrolments)?;
        writeln!(f, "open tokens    {}", self.open_tokens)?;
        writeln!(f, "frozen         {} lineages", self.frozen_lineages)?;
        write!(f, "audit records  {}", self.audit_records)
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, until {}, SHA-256 {}",
            self.subject, self.not_after, self.sha256
        )
    }
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}  {}", self.serial, self.not_after, self.spiffe_id)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            TokenState::Open => "open",
            TokenState::Used => "used",
            TokenState::Expired => "expired",
        };
        write!(
            f,
            "{}  {:7}  {}  {}",
            self.name, state, self.expires_at, self.spiffe_id
        )
    }
}
