//! Which certificates stand on somebody's word: their renewals may have to be vouched for again.

use super::sql::{self, values};
use super::writer::Batch;
use super::{CertificateRecord, Store, StoreError};
use crate::authority::Requester;

impl Store {
    /// Who vouched for the holder of the certificate with this serial, at its lineage's first certificate.
    pub(crate) async fn attestor_of(&self, serial: &str) -> Result<Option<String>, StoreError> {
        let serial = serial.to_owned();
        self.writer
            .write(move |batch| {
                let row = batch.first(
                    "SELECT attestor FROM attested WHERE serial = $1",
                    values![&serial],
                )?;
                row.map(|row| row.get(0)).transpose()
            })
            .await
    }
}

impl CertificateRecord {
    /// Follows the certificate's own row. A renewal stands on the word that its predecessor stood on.
    pub(super) fn insert_attested(&self, batch: &mut Batch<'_, '_>) -> sql::Result<()> {
        match &self.requester {
            Requester::Attested(attested) => batch.execute(
                "INSERT INTO attested (serial, attestor) VALUES ($1, $2)",
                values![&self.leaf.serial, &attested.attestor],
            )?,
            Requester::Svid { serial } => batch.execute(
                "INSERT INTO attested (serial, attestor) SELECT $1, attestor FROM attested WHERE serial = $2",
                values![&self.leaf.serial, serial],
            )?,
            Requester::Enrolment(_) | Requester::Operator | Requester::Ca => 0,
        };
        Ok(())
    }
}
