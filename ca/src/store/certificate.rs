//! Certificates, each recorded together with its audit record.

use super::session::Transaction;
use super::sql::{self, values};
use super::writer::Batch;
use super::{Store, StoreError, unix_seconds};
use crate::authority::Requester;
use crate::csr::KeyHash;
use crate::dns::DnsName;
use crate::ledger::{Event, fingerprint};
use crate::lineage::LineageError;
use crate::rotation::{Blocker, Role};
use identity::SpiffeId;
use rustls_pki_types::CertificateDer;
use std::collections::BTreeSet;
use std::time::SystemTime;

impl Store {
    /// Records a certificate together with its audit record, unless its lineage forbids it: then the inner error, and no
    /// such certificate exists. Nor does one by an authority that was retired or revoked, as a replica that lags would sign it.
    /// In a ledger that was set back the CA's own alone are: it has to be able to say so.
    pub(crate) async fn record_issuance(
        &self,
        certificate: CertificateRecord,
        now: SystemTime,
    ) -> Result<Result<(), LineageError>, StoreError> {
        let is_own = matches!(certificate.requester, Requester::Ca);
        let write = move |batch: &mut Batch<'_, '_>| {
            let issuer = certificate.issuer.to_string();
            if batch.discarded()?.contains(&issuer) {
                return Ok(Err(StoreError::IssuerDiscarded(issuer)));
            }
            certificate.insert(batch, now).map(Ok)
        };
        match is_own {
            true => self.writer.write(write).await?,
            false => self.write_unless_rolled_back(write).await?,
        }
    }
}

/// A signed and checked certificate, about to be recorded.
#[derive(Debug)]
pub(crate) struct CertificateRecord {
    pub(crate) leaf: identity::Leaf,
    pub(crate) renew_at: SystemTime,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) dns_names: BTreeSet<DnsName>,
    pub(crate) requester: Requester,
    /// Of the certified key.
    pub(crate) key: KeyHash,
    /// The authority that signed it.
    pub(crate) issuer: KeyHash,
}

impl CertificateRecord {
    fn insert(
        &self,
        batch: &mut Batch<'_, '_>,
        now: SystemTime,
    ) -> sql::Result<Result<(), LineageError>> {
        let descent = match self.descent(batch, now)? {
            Ok(descent) => descent,
            Err(refused) => return Ok(Err(refused)),
        };
        let spiffe_id = self.leaf.id.as_str();
        let not_after = unix_seconds(self.leaf.not_after);
        let audit_seq = batch.audit(
            now,
            &Event::Issued {
                serial: self.leaf.serial.clone(),
                spiffe_id: spiffe_id.to_owned(),
                not_after,
                requester: self.requester.to_string(),
                certificate: fingerprint(&self.der),
                dns_names: self.dns_names.clone(),
            },
        )?;
        batch.write(
            "INSERT INTO certificate (serial, spiffe_id, not_before, not_after, renew_at, der, audit_seq, issuer)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            values![
                &self.leaf.serial,
                spiffe_id,
                self.leaf.not_before,
                not_after,
                self.renew_at,
                &self.der[..],
                audit_seq,
                &self.issuer.to_string()
            ],
        )?;
        if let Some(descent) = descent {
            self.insert_descent(batch, &descent)?;
        }
        self.insert_attested(batch)?;
        Ok(Ok(()))
    }
}

/// Certificates of workloads by one of `authorities`, or from before it was written down by whom.
pub(crate) fn still_valid(
    transaction: &mut Transaction<'_>,
    role: Role,
    authorities: &[String],
    own: &SpiffeId,
    now: SystemTime,
) -> sql::Result<Option<Blocker>> {
    let (mut certificates, mut until) = (0, 0);
    for name in authorities.iter().map(Some).chain([None]) {
        let row = transaction.only(
            "SELECT count(*), coalesce(max(not_after), 0) FROM certificate
             WHERE not_after > $1 AND spiffe_id <> $2 AND coalesce(issuer, '') = $3",
            values![now, own.as_str(), name.map_or("", String::as_str)],
        )?;
        certificates += row.get::<u64>(0)?;
        until = until.max(row.get::<i64>(1)?);
    }
    Ok((certificates > 0).then_some(Blocker::StillValid {
        role,
        certificates,
        until,
    }))
}
