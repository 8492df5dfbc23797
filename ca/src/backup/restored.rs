//! What was revoked after a backup, from where it is still known: the CA's directory as it was, or a CRL that it has signed.

use super::BackupError;
use crate::authority::read_certificate;
use crate::directory::{DATABASE, INTERMEDIATE_CERTIFICATE};
use crate::profile::CaCertificate;
use crate::revoke::Reason;
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

/// Reads what `source` says of the CA in `restored`.
///
/// # Errors
/// When it cannot be read, or is another CA's.
pub(super) fn revoked(source: &Path, restored: &Path) -> Result<Revoked, BackupError> {
    if source.join(DATABASE).exists() {
        return of_directory(source, restored);
    }
    let io = |error| BackupError::Io {
        path: source.to_owned(),
        source: error,
    };
    let mut bytes = Vec::new();
    File::open(source)
        .and_then(|file| file.take(MAX_CRL_BYTES).read_to_end(&mut bytes))
        .map_err(io)?;
    let der = match CertificateRevocationListDer::from_pem_slice(&bytes) {
        Ok(list) => list.to_vec(),
        // No PEM in it: then it is DER, or refused as such.
        Err(_) => bytes,
    };
    let listed = listed(&der, &issuers(restored)?);
    Ok(Revoked::listed(listed.ok_or_else(|| {
        BackupError::Revocations(source.to_owned())
    })?))
}

/// Every authority that the CA in `restored` knows of: the list may be of one that was made ready to sign then, or has been
/// replaced before.
fn issuers(restored: &Path) -> Result<Vec<CaCertificate>, BackupError> {
    let (_, first) = read_certificate(restored, INTERMEDIATE_CERTIFICATE)
        .map_err(|_| BackupError::NotABackup)?;
    let generations =
        store::read_generations(&Database::from(restored)).map_err(BackupError::Store)?;
    let certificates = generations
        .0
        .iter()
        .filter_map(|one| one.certificate.as_ref());
    let parsed = certificates.filter_map(|der| CaCertificate::parse(der));
    Ok(parsed.chain([first]).collect())
}

/// The renewal secret is drawn when a CA is made, and nobody else's.
fn of_directory(directory: &Path, restored: &Path) -> Result<Revoked, BackupError> {
    let (theirs, ours) = (Database::from(directory), Database::from(restored));
    let secret = |database| store::read_settings(database).map(|(_, secret)| secret);
    if secret(&theirs).map_err(BackupError::Store)? != secret(&ours).map_err(BackupError::Store)? {
        return Err(BackupError::Revocations(directory.to_owned()));
    }
    Revoked::of(&theirs).map_err(BackupError::Store)
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
