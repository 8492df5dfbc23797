//! What was revoked after a backup, from where it is still known: the CA's records as they were, or a CRL that it has signed.

use super::BackupError;
use super::restore::{CrlRead, Source};
use crate::authority::read_certificate;
use crate::csr::KeyHash;
use crate::directory::{DATABASE, INTERMEDIATE_CERTIFICATE, ROOT_CERTIFICATE};
use crate::inspect::rfc3339;
use crate::profile::CaCertificate;
use crate::revoke::Reason;
use crate::rotation::Generation;
use crate::store::{self, Database, Listed, Revoked};
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use x509_parser::prelude::{FromDer, ReasonCode};
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};

#[cfg(test)]
mod tests;

/// One with as many certificates as a CA may revoke one by one has some 3 MiB.
const MAX_CRL_BYTES: u64 = 16 * 1024 * 1024;

/// The CA that goes on.
#[derive(Clone, Copy)]
struct Target<'a> {
    directory: &'a Path,
    database: &'a Database,
}

/// What the sources say.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) revoked: Vec<Revoked>,
    pub(super) crls: Vec<CrlRead>,
}

/// Reads what `sources` say of the CA in `directory`, whose records are in `database`.
///
/// # Errors
/// When one of them cannot be read, is another CA's, or is the CA that is to go on.
pub(super) fn known(
    sources: &[Source],
    directory: &Path,
    database: &Database,
) -> Result<Known, BackupError> {
    let target = Target {
        directory,
        database,
    };
    let (mut known, mut lists) = (Known::default(), Vec::new());
    for source in sources {
        match source {
            Source::Path(directory) if directory.join(DATABASE).exists() => {
                let records = Database::from(directory);
                known.revoked.push(of_records(&records, target)?);
            }
            Source::Path(list) => lists.push(list),
            Source::Records(records) => known.revoked.push(of_records(records, target)?),
        }
    }
    if lists.is_empty() {
        return Ok(known);
    }
    // Last: an authority that any of the records has revoked has no say.
    let issuers = issuers(target, &known.revoked)?;
    for list in lists {
        let (revoked, read) = of_list(list, &issuers)?;
        known.revoked.push(revoked);
        known.crls.push(read);
    }
    Ok(known)
}

fn of_list(file: &Path, issuers: &[CaCertificate]) -> Result<(Revoked, CrlRead), BackupError> {
    let io = |error| BackupError::Io {
        path: file.to_owned(),
        source: error,
    };
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|file| file.take(MAX_CRL_BYTES).read_to_end(&mut bytes))
        .map_err(io)?;
    let der = match CertificateRevocationListDer::from_pem_slice(&bytes) {
        Ok(list) => list.to_vec(),
        // No PEM in it: then it is DER, or refused as such.
        Err(_) => bytes,
    };
    let found = listed(&der, issuers);
    let (listed, made_at) = found.ok_or_else(|| BackupError::Revocations(file.to_owned()))?;
    let read = CrlRead {
        path: file.to_owned(),
        made_at: rfc3339(made_at),
    };
    Ok((Revoked::listed(listed), read))
}

/// Every authority that the CA knows of, whatever has become of it: the list may be of one that was made ready to sign then, or
/// has been replaced before. But none that is revoked, here or in `known`, or below one that is: whoever has its key may have
/// written the list.
fn issuers(target: Target<'_>, known: &[Revoked]) -> Result<Vec<CaCertificate>, BackupError> {
    let generations = store::read_generations(target.database).map_err(BackupError::Store)?;
    let is_revoked = |name: &str| known.iter().any(|revoked| revoked.bars_authority(name));
    if generations.0.is_empty() {
        let revoked = store::read_revocations(target.database).map_err(BackupError::Store)?;
        let read = |name| {
            let (_, read) =
                read_certificate(target.directory, name).map_err(BackupError::Issuer)?;
            let key = read.key_hash();
            let counts = !revoked.signers.contains(&key) && !is_revoked(&KeyHash(key).to_string());
            Ok(counts.then_some(read))
        };
        let root = read(ROOT_CERTIFICATE)?;
        let only = read(INTERMEDIATE_CERTIFICATE)?;
        return Ok(root.and(only).into_iter().collect());
    }
    let is_revoked = |one: &Generation| one.is_revoked || is_revoked(&one.name);
    let counts = |one: &&Generation| {
        let above = one.parent.as_ref().and_then(|name| generations.named(name));
        !is_revoked(one) && !above.is_some_and(is_revoked)
    };
    let counting = generations.0.iter().filter(counts);
    let certificates = counting.filter_map(|one| one.certificate.as_ref());
    Ok(certificates
        .filter_map(|der| CaCertificate::parse(der))
        .collect())
}

fn of_records(records: &Database, target: Target<'_>) -> Result<Revoked, BackupError> {
    if store::is_same(records, target.database).map_err(BackupError::Store)? {
        return Err(BackupError::SameRecords);
    }
    let (_, secret) = store::read_settings(target.database).map_err(BackupError::Store)?;
    let revoked = Revoked::of(records, &secret).map_err(BackupError::Store)?;
    revoked.ok_or(BackupError::AnotherCa)
}

/// What a list says, and when it was made (seconds since the Unix epoch). `None` when it is no list that one of `issuers` has
/// signed.
fn listed(der: &[u8], issuers: &[CaCertificate]) -> Option<(Vec<Listed>, i64)> {
    let (rest, list) = CertificateRevocationList::from_der(der).ok()?;
    let signature = &list.signature_value.data;
    let signed = list.tbs_cert_list.as_ref();
    if !rest.is_empty() || !issuers.iter().any(|one| one.has_signed(signed, signature)) {
        return None;
    }
    let entries = list.iter_revoked_certificates().map(entry).collect();
    Some((entries, list.last_update().timestamp()))
}

fn entry(revoked: &RevokedCertificate<'_>) -> Listed {
    let octets = revoked.raw_serial().iter().skip_while(|octet| **octet == 0);
    let reason = match revoked.reason_code() {
        Some((_, ReasonCode::KeyCompromise)) => Reason::KeyCompromise,
        Some((_, ReasonCode::CACompromise)) => Reason::CaCompromise,
        Some((_, ReasonCode::AffiliationChanged)) => Reason::AffiliationChanged,
        Some((_, ReasonCode::Superseded)) => Reason::Superseded,
        Some((_, ReasonCode::CessationOfOperation)) => Reason::CessationOfOperation,
        Some((_, ReasonCode::PrivilegeWithdrawn)) => Reason::PrivilegeWithdrawn,
        _ => Reason::Unspecified,
    };
    (
        octets.map(|octet| format!("{octet:02x}")).collect(),
        revoked.revocation_date.timestamp(),
        reason.as_str(),
    )
}
