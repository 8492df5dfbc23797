//! The trust bundle of the CA, and the secret that its renewal times are drawn with.

use super::session::Transaction;
use super::sql::{self, values};
use super::writer::Batch;
use super::{Database, Store, StoreError, Topic, jwt, read};
use crate::ledger::{Event, fingerprint};
use identity::jwt::JwtKeys;
use identity::{SpiffeId, TrustBundle, TrustDomain};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
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
            .write(move |batch| publish(batch, bundle.authorities(), now))
            .await
    }
}

/// Replaces the authorities of the bundle and gives its new sequence.
pub(super) fn publish(
    batch: &mut Batch<'_, '_>,
    authorities: &[CertificateDer<'static>],
    now: SystemTime,
) -> sql::Result<u64> {
    let pem = identity::pem::encode(authorities);
    let updated = batch.only(
        "UPDATE bundle SET sequence = sequence + 1, pem = $1 RETURNING sequence",
        values![&pem],
    )?;
    let sequence = updated.get(0)?;
    let event = Event::BundlePublished {
        sequence,
        authorities: authorities.iter().map(|der| fingerprint(der)).collect(),
    };
    batch.audit(now, &event)?;
    batch.announce(Topic::Bundle)?;
    Ok(sequence)
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

pub(super) struct StoredBundle {
    trust_domain: String,
    sequence: u64,
    pem: String,
    jwt_keys: JwtKeys,
}

impl StoredBundle {
    pub(super) fn read(transaction: &mut Transaction<'_>) -> sql::Result<Self> {
        let row = transaction.only("SELECT trust_domain, sequence, pem FROM bundle", &[])?;
        Ok(Self {
            trust_domain: row.get(0)?,
            sequence: row.get(1)?,
            pem: row.get(2)?,
            jwt_keys: jwt::keys(transaction)?,
        })
    }

    /// In the order of the bundle. What was written here is a bundle, and none of it is lost.
    pub(super) fn authorities(&self) -> Vec<CertificateDer<'static>> {
        let found = CertificateDer::pem_slice_iter(self.pem.as_bytes());
        found.filter_map(Result::ok).collect()
    }

    /// The CA's own ID.
    pub(super) fn server_id(&self) -> Option<SpiffeId> {
        let trust_domain = TrustDomain::parse(&self.trust_domain).ok()?;
        Some(SpiffeId::ca_server(&trust_domain))
    }

    pub(super) fn parse(self) -> Result<TrustBundle, StoreError> {
        let trust_domain = TrustDomain::parse(&self.trust_domain)
            .map_err(|_| StoreError::TrustDomain(self.trust_domain))?;
        let bundle = TrustBundle::from_pem(trust_domain, self.pem.as_bytes(), self.sequence)
            .map_err(|error| StoreError::Bundle(Arc::new(error)))?;
        Ok(bundle.with_jwt_keys(self.jwt_keys))
    }
}
