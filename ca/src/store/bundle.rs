//! The trust bundle of the CA, and the secret that its renewal times are drawn with.

use super::session::Transaction;
use super::sql::{self, values};
use super::{Database, Store, StoreError, Topic, jwt, read};
use crate::ledger::{Event, fingerprint};
use identity::jwt::JwtKeys;
use identity::{TrustBundle, TrustDomain};
use std::sync::Arc;
use std::time::SystemTime;

impl Store {
    /// The bundle as it is now, whoever published it.
    pub(crate) async fn bundle(&self) -> Result<TrustBundle, StoreError> {
        let stored = self.writer.write(|batch| StoredBundle::read(batch)).await?;
        stored.parse()
    }

    /// Replaces the authorities of the bundle and gives its new sequence.
    pub(crate) async fn publish_bundle(
        &self,
        bundle: TrustBundle,
        now: SystemTime,
    ) -> Result<u64, StoreError> {
        self.writer
            .write(move |batch| {
                let pem = bundle.to_pem();
                let updated = batch.only(
                    "UPDATE bundle SET sequence = sequence + 1, pem = $1 RETURNING sequence",
                    values![&pem],
                )?;
                let sequence = updated.get(0)?;
                let authorities = bundle
                    .authorities()
                    .iter()
                    .map(|der| fingerprint(der))
                    .collect();
                batch.audit(
                    now,
                    &Event::BundlePublished {
                        sequence,
                        authorities,
                    },
                )?;
                batch.announce(Topic::Bundle)?;
                Ok(sequence)
            })
            .await
    }
}

/// The bundle and the renewal secret, read when a CA is opened.
pub(crate) fn read_settings(database: &Database) -> Result<(TrustBundle, [u8; 32]), StoreError> {
    let (bundle, secret) = read(database, |transaction| {
        let secret = transaction
            .only("SELECT secret FROM renewal", &[])?
            .get(0)?;
        Ok((StoredBundle::read(transaction)?, secret))
    })?;
    Ok((bundle.parse()?, secret))
}

struct StoredBundle {
    trust_domain: String,
    sequence: u64,
    pem: String,
    jwt_keys: JwtKeys,
}

impl StoredBundle {
    fn read(transaction: &mut Transaction<'_>) -> sql::Result<Self> {
        let row = transaction.only("SELECT trust_domain, sequence, pem FROM bundle", &[])?;
        Ok(Self {
            trust_domain: row.get(0)?,
            sequence: row.get(1)?,
            pem: row.get(2)?,
            jwt_keys: jwt::keys(transaction)?,
        })
    }

    fn parse(self) -> Result<TrustBundle, StoreError> {
        let trust_domain = TrustDomain::parse(&self.trust_domain)
            .map_err(|_| StoreError::TrustDomain(self.trust_domain))?;
        let bundle = TrustBundle::from_pem(trust_domain, self.pem.as_bytes(), self.sequence)
            .map_err(|error| StoreError::Bundle(Arc::new(error)))?;
        Ok(bundle.with_jwt_keys(self.jwt_keys))
    }
}
