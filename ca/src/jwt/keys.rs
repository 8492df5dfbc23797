//! The keys of one process, and when each has its turn.

use super::{MAX_TTL, TokenError};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long a key signs.
const TURN: Duration = Duration::from_secs(24 * 60 * 60);
/// How long it is published before. Readers of the bundle endpoint are told to ask again every five minutes.
const AHEAD: Duration = Duration::from_secs(60 * 60);
/// For a new key to be made after its time, and for clocks that differ.
const SLACK: Duration = Duration::from_secs(60 * 60);

/// A key that signs tokens. Never leaves the process.
#[derive(Debug)]
pub(super) struct SigningKey {
    pair: EcdsaKeyPair,
    pub(super) kid: String,
}

impl SigningKey {
    pub(super) fn generate() -> Result<Self, TokenError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| TokenError::Key)?;
        Ok(Self {
            pair,
            kid: random_name()?,
        })
    }

    /// The public half, uncompressed.
    pub(super) fn point(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    pub(super) fn sign(&self, text: &[u8]) -> Result<Vec<u8>, TokenError> {
        let signature = self.pair.sign(&SystemRandom::new(), text);
        Ok(signature.map_err(|_| TokenError::Key)?.as_ref().to_vec())
    }
}

/// 128 random bits in hexadecimal.
pub(super) fn random_name() -> Result<String, TokenError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| TokenError::Key)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Keys in the order of their turns: the present one, and perhaps the next.
#[derive(Debug, Default)]
pub(super) struct Keys(Vec<Turn>);

#[derive(Debug)]
struct Turn {
    key: Arc<SigningKey>,
    begins: SystemTime,
    ends: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// A key has to be made and published now.
    Make,
}

impl Keys {
    pub(super) fn due(&self, now: SystemTime) -> Due {
        match self.0.last() {
            Some(last) if now + AHEAD < last.ends => Due::Nothing,
            _ => Due::Make,
        }
    }

    /// Until when a key that is made now has to be published: its last token has ended.
    pub(super) fn expiry(&self, now: SystemTime) -> SystemTime {
        now + AHEAD + TURN + AHEAD + MAX_TTL + SLACK
    }

    /// Takes a key that was published at `now`.
    pub(super) fn add(&mut self, key: SigningKey, now: SystemTime) {
        let is_first = self.0.is_empty();
        let begins = if is_first { now } else { now + AHEAD };
        self.0.push(Turn {
            key: Arc::new(key),
            begins,
            ends: begins + TURN,
        });
        // What has had its turn is zeroed with its last user.
        let present = self.0.iter().rposition(|turn| turn.begins <= now);
        self.0.drain(..present.unwrap_or(0));
    }

    /// The key that signs: the latest whose turn has begun, even if it should have ended, as tokens are good for as long
    /// as it is published.
    pub(super) fn present(&self, now: SystemTime) -> Option<Arc<SigningKey>> {
        let begun = self.0.iter().rev().find(|turn| turn.begins <= now);
        let turn = begun.or(self.0.first())?;
        // By then it is not published any more.
        (now < turn.ends + AHEAD + SLACK).then(|| Arc::clone(&turn.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn kid(keys: &Keys, now: SystemTime) -> Option<String> {
        keys.present(now).map(|key| key.kid.clone())
    }

    #[test]
    fn the_next_key_is_published_before_it_signs_and_each_for_as_long_as_its_tokens_last() {
        let start = SystemTime::now();
        let mut keys = Keys::default();
        assert_eq!((keys.due(start), kid(&keys, start)), (Due::Make, None));
        keys.add(SigningKey::generate().unwrap(), start);
        let first = kid(&keys, start).unwrap();

        let mut published = vec![(first.clone(), start, keys.expiry(start))];
        let mut now = start;
        let mut signed = Vec::new();
        while now < start + 80 * HOUR {
            now += Duration::from_secs(60);
            if keys.due(now) == Due::Make {
                let key = SigningKey::generate().unwrap();
                published.push((key.kid.clone(), now, keys.expiry(now)));
                keys.add(key, now);
            }
            let by = kid(&keys, now).unwrap();
            let (_, from, until) = published.iter().find(|one| one.0 == by).unwrap();
            assert!(
                by == first || *from + AHEAD <= now,
                "it was published ahead"
            );
            assert!(now + MAX_TTL <= *until, "it outlives its tokens");
            if signed.last() != Some(&by) {
                signed.push(by);
            }
        }
        assert_eq!(signed.len(), 4, "a day each");
    }

    #[test]
    fn a_key_that_is_published_no_more_does_not_sign() {
        let start = SystemTime::now();
        let mut keys = Keys::default();
        keys.add(SigningKey::generate().unwrap(), start);
        assert!(
            keys.present(start + 24 * HOUR).is_some(),
            "the next is late"
        );
        assert!(keys.present(start + 26 * HOUR).is_none());
        assert!(keys.expiry(start) >= start + 26 * HOUR + MAX_TTL);
    }
}
