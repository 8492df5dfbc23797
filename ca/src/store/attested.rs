//! Which certificates stand on somebody's word: their renewals may have to be vouched for again, by the same for the same.

use super::sql::{self, values};
use super::writer::Batch;
use super::{CertificateRecord, Store, StoreError};
use crate::attest::Evidence;
use crate::authority::Requester;
use crate::dns::DnsName;
use crate::lineage::LineageName;
use crate::profile;
use std::collections::BTreeSet;

/// On whose word a certificate stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    /// Who vouched for the holder at the lineage's first certificate.
    pub(crate) attestor: String,
    lineage: LineageName,
}

impl Word {
    /// Whether `evidence` is the same attestor's, and for the same holder if that can be told.
    pub(crate) fn is_given_again_by(&self, evidence: &Evidence) -> bool {
        let of = |holder: &String| LineageName::of_holder(&evidence.attestor, holder);
        let holder = evidence.holder.as_ref();
        evidence.attestor == self.attestor && holder.is_none_or(|holder| of(holder) == self.lineage)
    }
}

impl Store {
    /// The word on which the certificate with this serial stands; `None` if on nobody's.
    pub(crate) async fn word_for(&self, serial: &str) -> Result<Option<Word>, StoreError> {
        let serial = serial.to_owned();
        self.reader
            .read(move |transaction| {
                let row = transaction.first(
                    "SELECT attestor, lineage FROM attested JOIN descent ON descent.serial = attested.serial
                     WHERE attested.serial = $1",
                    values![&serial],
                )?;
                row.map(|row| {
                    Ok(Word {
                        attestor: row.get(0)?,
                        lineage: LineageName::new(row.get::<String>(1)?),
                    })
                })
                .transpose()
            })
            .await
    }

    /// The host names of a certificate; none of one that there is not.
    pub(crate) async fn dns_names_of(&self, serial: &str) -> Result<BTreeSet<DnsName>, StoreError> {
        let serial = serial.to_owned();
        self.reader
            .read(move |transaction| {
                let row = transaction.first(
                    "SELECT der FROM certificate WHERE serial = $1",
                    values![&serial],
                )?;
                let names =
                    row.map(|row| row.get::<Vec<u8>>(0).map(|der| profile::dns_names(&der)));
                Ok(names.transpose()?.flatten().unwrap_or_default())
            })
            .await
    }
}

impl Store {
    /// The name of the entry by which the certificate with this serial was issued; of what was recovered, that of the
    /// evidence which came since.
    pub(crate) async fn entry_behind(&self, serial: &str) -> Result<Option<String>, StoreError> {
        let serial = serial.to_owned();
        self.reader
            .read(move |transaction| {
                let row = transaction.first(
                    "SELECT entry FROM attested WHERE serial = $1",
                    values![&serial],
                )?;
                row.map_or(Ok(None), |row| row.get(0))
            })
            .await
    }
}

impl CertificateRecord {
    /// The entry is that of the evidence which came with the renewal, or else the predecessor's.
    fn inherit_word(
        &self,
        batch: &mut Batch<'_, '_>,
        predecessor: &str,
        entry: Option<&String>,
    ) -> sql::Result<()> {
        batch.write(
            "INSERT INTO attested (serial, attestor, entry)
             SELECT $1, attestor, coalesce($2, entry) FROM attested WHERE serial = $3",
            values![&self.leaf.serial, entry, predecessor],
        )
    }

    /// Follows the certificate's own row. A renewal stands on the word that its predecessor stood on.
    pub(super) fn insert_attested(&self, batch: &mut Batch<'_, '_>) -> sql::Result<()> {
        match &self.requester {
            Requester::Attested(attested) => batch.write(
                "INSERT INTO attested (serial, attestor, entry) VALUES ($1, $2, $3)",
                values![
                    &self.leaf.serial,
                    &attested.attestor,
                    attested.entry.as_ref()
                ],
            ),
            Requester::Svid { serial, attested } => {
                let entry = attested
                    .as_ref()
                    .and_then(|attested| attested.entry.as_ref());
                self.inherit_word(batch, serial, entry)
            }
            // Nobody has vouched for the holder this time: until somebody does, no entry lets it be recovered again.
            Requester::Expired { serial } => batch.write(
                "INSERT INTO attested (serial, attestor)
                 SELECT $1, attestor FROM attested WHERE serial = $2",
                values![&self.leaf.serial, serial],
            ),
            Requester::Enrolment(_) | Requester::Operator | Requester::Ca => Ok(()),
        }
    }
}
