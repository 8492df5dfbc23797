//! What was revoked after a backup, from where it is still known: the CA's records as they were, or a CRL that it has signed.

use super::restore::Source;
use super::{BackupError, in_scratch};
use crate::authority::read_certificate;
use crate::directory::{DATABASE, INTERMEDIATE_CERTIFICATE};
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

/// Reads what `source` says of the CA in `directory`, whose records are in `database`.
///
/// # Errors
/// When it cannot be read, or is another CA's.
pub(super) fn revoked(
    source: &Source,
    directory: &Path,
    database: &Database,
) -> Result<Revoked, BackupError> {
    let target = Target {
        directory,
        database,
    };
    match source {
        Source::Path(directory) if directory.join(DATABASE).exists() => {
            of_records(&Database::from(directory), target)
        }
        Source::Path(list) => of_list(list, target),
        Source::Records(records) => of_records(records, target),
    }
}

fn of_list(file: &Path, target: Target<'_>) -> Result<Revoked, BackupError> {
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
    let listed = listed(&der, &issuers(target)?);
    Ok(Revoked::listed(listed.ok_or_else(|| {
        BackupError::Revocations(file.to_owned())
    })?))
}

/// Every authority that the CA knows of, whatever has become of it: the list may be of one that was made ready to sign then, or
/// has been replaced before. But none that is revoked, or below one that is: whoever has its key may have written the list.
fn issuers(target: Target<'_>) -> Result<Vec<CaCertificate>, BackupError> {
    let generations = store::read_generations(target.database).map_err(BackupError::Store)?;
    let revoked = store::read_revocations(target.database).map_err(BackupError::Store)?;
    if generations.0.is_empty() {
        let (_, only) = read_certificate(target.directory, INTERMEDIATE_CERTIFICATE)
            .map_err(BackupError::Issuer)?;
        let counts = !revoked.signers.contains(&only.key_hash());
        return Ok(counts.then_some(only).into_iter().collect());
    }
    let counts = |one: &&Generation| {
        let above = one.parent.as_ref().and_then(|name| generations.named(name));
        !one.is_revoked && !above.is_some_and(|above| above.is_revoked)
    };
    let counting = generations.0.iter().filter(counts);
    let certificates = counting.filter_map(|one| one.certificate.as_ref());
    Ok(certificates
        .filter_map(|der| CaCertificate::parse(der))
        .collect())
}

/// The renewal secret is drawn when a CA is made, and nobody else's.
fn of_records(records: &Database, target: Target<'_>) -> Result<Revoked, BackupError> {
    let older = store::is_older(records).map_err(BackupError::Store)?;
    if let (true, Database::Sqlite { directory }) = (older, records) {
        // The machine that had it never ran this release. It is read as it would be, and left as it is.
        return in_scratch(directory, "revocations", |scratch| {
            let copy = Database::from(scratch);
            store::snapshot(records, &scratch.join(DATABASE))
                .and_then(|()| store::bring_up_to_date(&copy))
                .map_err(BackupError::Store)?;
            of_records(&copy, target)
        });
    }
    let secret = |database| store::read_settings(database).map(|(_, secret)| secret);
    let theirs = secret(records).map_err(BackupError::Store)?;
    if theirs != secret(target.database).map_err(BackupError::Store)? {
        return Err(BackupError::AnotherCa);
    }
    Revoked::of(records).map_err(BackupError::Store)
}

/// `None` when it is no list that one of `issuers` has signed.
fn listed(der: &[u8], issuers: &[CaCertificate]) -> Option<Vec<Listed>> {
    let (rest, list) = CertificateRevocationList::from_der(der).ok()?;
    let signature = &list.signature_value.data;
    let signed = list.tbs_cert_list.as_ref();
    if !rest.is_empty() || !issuers.iter().any(|one| one.has_signed(signed, signature)) {
        return None;
    }
    Some(list.iter_revoked_certificates().map(entry).collect())
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
