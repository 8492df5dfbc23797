//! Join tokens and the enrolment keys they register.

use super::session::Transaction;
use super::sql::{self, DatabaseError, values};
use super::writer::Batch;
use super::{Store, StoreError, unix_seconds};
use crate::csr::{KeyHash, PublicKey};
use crate::ledger::{Event, fingerprint};
use crate::token::JoinToken;
use identity::SpiffeId;
use std::time::{Duration, SystemTime};

/// How many refusals of one genuine token are audited: the holder of a used token must not be able to fill the disk.
pub const MAX_REFUSALS_PER_TOKEN: u32 = 8;

/// What a join token gives to the first key that redeems it.
#[derive(Debug, Clone)]
pub struct TokenGrant {
    pub spiffe_id: SpiffeId,
    pub created_at: SystemTime,
    pub expires_at: SystemTime,
    /// The longest life of the certificates that this enrolment gets, and what it gets when it asks for none.
    pub ttl: Option<Duration>,
}

/// A key that may ask for certificates with one SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    pub key: KeyHash,
    pub spiffe_id: SpiffeId,
    /// The longest life, and what to use when the caller asks for none.
    pub ttl: Option<Duration>,
}

/// Why a token gives nothing. Safe to show to the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedeemError {
    #[error("expected a join token of this CA, found an unknown one")]
    Unknown,
    #[error("expected a join token that is still valid, found one that has expired")]
    Expired,
    #[error("expected an unused join token, found one that another enrolment key has used")]
    UsedByAnotherKey,
    #[error("the join token is for another SPIFFE ID than {asked}")]
    OtherId { asked: SpiffeId },
    #[error("the enrolment key is registered for another SPIFFE ID")]
    KeyOfAnotherId,
}

impl Store {
    /// Registers a token that lets one enrolment key be registered for `grant.spiffe_id`. Audited.
    ///
    /// Whether the ID may be given to a workload at all is checked by [`crate::Authority::issue`]; the command line
    /// checks it with [`crate::authority::check_workload_id`] to tell the operator early.
    ///
    /// # Errors
    /// When it could not be recorded; then the token is worth nothing.
    pub async fn create_token(
        &self,
        token: &JoinToken,
        grant: TokenGrant,
    ) -> Result<(), StoreError> {
        let hash = token.hash();
        self.writer
            .write(move |batch| insert_token(batch, &hash, &grant))
            .await
    }

    /// Binds `token` to `key`, in one transaction: of two keys that present a token, one gets it.
    ///
    /// The same key may redeem again (its reply may have been lost), even after the token's expiry: the key alone
    /// would be enough then. The inner refusal of a token that exists is audited, at most [`MAX_REFUSALS_PER_TOKEN`]
    /// times per token; that of an unknown token is not, as anyone can make those up.
    ///
    /// # Errors
    /// The outer error says that nothing could be recorded; then nothing is bound either, and the caller may retry.
    pub async fn redeem(
        &self,
        token: &JoinToken,
        asked: &SpiffeId,
        key: &PublicKey,
        now: SystemTime,
    ) -> Result<Result<Enrolment, RedeemError>, StoreError> {
        let attempt = Attempt {
            token: token.hash(),
            asked: asked.clone(),
            key: key.hash(),
            now,
        };
        self.write_unless_rolled_back(move |batch| attempt.settle(batch))
            .await
    }

    /// The enrolment of a key, if it has one. The caller must have seen a proof of possession. That it is the identity's is
    /// looked at again when a certificate is recorded.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn enrolment(&self, key: &KeyHash) -> Result<Option<Enrolment>, StoreError> {
        let key = *key;
        self.reader
            .read(move |transaction| find_enrolment(transaction, &key))
            .await
    }
}

fn insert_token(batch: &mut Batch<'_, '_>, hash: &[u8; 32], grant: &TokenGrant) -> sql::Result<()> {
    let expires_at = unix_seconds(grant.expires_at);
    batch.execute(
        "INSERT INTO join_token (hash, spiffe_id, ttl, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5)",
        values![
            hash,
            grant.spiffe_id.as_str(),
            grant.ttl,
            grant.created_at,
            expires_at
        ],
    )?;
    batch.audit(
        grant.created_at,
        &Event::TokenCreated {
            token: token_name(hash),
            spiffe_id: grant.spiffe_id.to_string(),
            expires_at,
        },
    )?;
    Ok(())
}

/// How lists and records name a token: a hash of the stored hash, so that not even that leaves the database.
pub(crate) fn token_name(hash: &[u8; 32]) -> String {
    fingerprint(hash)[..16].to_owned()
}

/// One presentation of a token.
struct Attempt {
    token: [u8; 32],
    asked: SpiffeId,
    key: KeyHash,
    now: SystemTime,
}

impl Attempt {
    fn settle(&self, batch: &mut Batch<'_, '_>) -> sql::Result<Result<Enrolment, RedeemError>> {
        let Some(token) = self.find_token(batch)? else {
            return Ok(Err(RedeemError::Unknown));
        };
        let enrolled = find_enrolment(batch, &self.key)?;
        match self.check(&token, enrolled) {
            Ok(Some(enrolment)) => Ok(Ok(enrolment)),
            Ok(None) => self.enrol(batch, &token).map(Ok),
            Err(refusal) => {
                self.audit_refusal(batch, &token, &refusal)?;
                Ok(Err(refusal))
            }
        }
    }

    fn find_token(&self, batch: &mut Batch<'_, '_>) -> sql::Result<Option<TokenRow>> {
        let row = batch.first(
            "SELECT spiffe_id, ttl, expires_at, enrolled_key, refusals FROM join_token WHERE hash = $1",
            values![&self.token],
        )?;
        row.map(|row| {
            Ok(TokenRow {
                spiffe_id: row.get(0)?,
                ttl: row.get(1)?,
                expires_at: row.get(2)?,
                enrolled_key: row.get::<Option<_>>(3)?.map(KeyHash),
                refusals: row.get(4)?,
            })
        })
        .transpose()
    }

    /// The key's enrolment if the token has made it before; `None` if the token is to make one now.
    fn check(
        &self,
        token: &TokenRow,
        enrolled: Option<Enrolment>,
    ) -> Result<Option<Enrolment>, RedeemError> {
        if token.spiffe_id != self.asked.as_str() {
            let asked = self.asked.clone();
            return Err(RedeemError::OtherId { asked });
        }
        match token.enrolled_key {
            Some(key) if key != self.key => return Err(RedeemError::UsedByAnotherKey),
            Some(_) => return Ok(enrolled),
            None => {}
        }
        if token.expires_at <= unix_seconds(self.now) {
            return Err(RedeemError::Expired);
        }
        match enrolled {
            Some(enrolment) if enrolment.spiffe_id != self.asked => {
                Err(RedeemError::KeyOfAnotherId)
            }
            _ => Ok(None),
        }
    }

    fn enrol(&self, batch: &mut Batch<'_, '_>, token: &TokenRow) -> sql::Result<Enrolment> {
        // The key may be registered already, by an earlier token for the same ID; the newer token's life then holds.
        batch.execute(
            "INSERT INTO enrolment (key_hash, spiffe_id, ttl, created_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (key_hash) DO UPDATE SET ttl = excluded.ttl",
            values![&self.key.0, &token.spiffe_id, token.ttl, self.now],
        )?;
        batch.execute(
            "UPDATE join_token SET enrolled_key = $1 WHERE hash = $2",
            values![&self.key.0, &self.token],
        )?;
        batch.audit(
            self.now,
            &Event::Enrolled {
                token: token_name(&self.token),
                spiffe_id: token.spiffe_id.clone(),
                key: self.key.to_string(),
            },
        )?;
        Ok(Enrolment {
            key: self.key,
            spiffe_id: self.asked.clone(),
            ttl: token.ttl,
        })
    }

    fn audit_refusal(
        &self,
        batch: &mut Batch<'_, '_>,
        token: &TokenRow,
        refusal: &RedeemError,
    ) -> sql::Result<()> {
        if token.refusals >= MAX_REFUSALS_PER_TOKEN {
            return Ok(());
        }
        batch.execute(
            "UPDATE join_token SET refusals = refusals + 1 WHERE hash = $1",
            values![&self.token],
        )?;
        batch.audit_refusal(
            self.now,
            &Event::Refused {
                caller: format!("token {}, key {}", token_name(&self.token), self.key),
                operation: "redeem".to_owned(),
                reason: refusal.to_string(),
            },
        )
    }
}

struct TokenRow {
    spiffe_id: String,
    ttl: Option<Duration>,
    expires_at: i64,
    enrolled_key: Option<KeyHash>,
    refusals: u32,
}

pub(super) fn find_enrolment(
    transaction: &mut Transaction<'_>,
    key: &KeyHash,
) -> sql::Result<Option<Enrolment>> {
    let row = transaction.first(
        "SELECT spiffe_id, ttl FROM enrolment WHERE key_hash = $1",
        values![&key.0],
    )?;
    row.map(|row| {
        let id: String = row.get(0)?;
        Ok(Enrolment {
            key: *key,
            spiffe_id: SpiffeId::parse(&id).map_err(|_| DatabaseError::Column {
                column: 0,
                expected: "a SPIFFE ID",
            })?,
            ttl: row.get(1)?,
        })
    })
    .transpose()
}

#[cfg(test)]
mod tests;
