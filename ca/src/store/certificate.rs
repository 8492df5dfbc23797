//! Certificates, each recorded together with its audit record.

use super::sql::{self, values};
use super::writer::Batch;
use super::{Store, StoreError, unix_seconds};
use crate::authority::Requester;
use crate::csr::KeyHash;
use crate::ledger::{Event, fingerprint};
use crate::lineage::LineageError;
use rustls_pki_types::CertificateDer;
use std::time::SystemTime;

impl Store {
    /// Records a certificate together with its audit record, unless its lineage forbids it: then the inner error, and no
    /// such certificate exists. In a ledger that was set back the CA's own alone are: it has to be able to say so.
    pub(crate) async fn record_issuance(
        &self,
        certificate: CertificateRecord,
        now: SystemTime,
    ) -> Result<Result<(), LineageError>, StoreError> {
        if let Requester::Ca = certificate.requester {
            let write = move |batch: &mut Batch<'_, '_>| certificate.insert(batch, now);
            return self.writer.write(write).await;
        }
        self.write_unless_rolled_back(move |batch| certificate.insert(batch, now))
            .await
    }
}

/// A signed and checked certificate, about to be recorded.
#[derive(Debug)]
pub(crate) struct CertificateRecord {
    pub(crate) leaf: identity::Leaf,
    pub(crate) renew_at: SystemTime,
    pub(crate) der: CertificateDer<'static>,
    pub(crate) requester: Requester,
    /// Of the certified key.
    pub(crate) key: KeyHash,
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
            },
        )?;
        batch.execute(
            "INSERT INTO certificate (serial, spiffe_id, not_before, not_after, renew_at, der, audit_seq)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
            values![
                &self.leaf.serial,
                spiffe_id,
                self.leaf.not_before,
                not_after,
                self.renew_at,
                &self.der[..],
                audit_seq
            ],
        )?;
        if let Some(descent) = descent {
            self.insert_descent(batch, &descent)?;
        }
        self.insert_attested(batch)?;
        Ok(Ok(()))
    }
}
