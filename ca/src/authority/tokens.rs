//! Keys for tokens in the trust bundle.

use super::Authority;
use crate::store::StoreError;
use std::time::SystemTime;

impl Authority {
    /// Puts a key into the trust bundle until `expires`; durable and audited before it is published.
    pub(crate) async fn publish_jwt_key(
        &self,
        kid: String,
        point: Vec<u8>,
        expires: SystemTime,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        self.store.publish_jwt_key(kid, point, expires, now).await?;
        // With what other replicas have published meanwhile.
        self.take_over(self.store.bundle().await?);
        Ok(())
    }
}
