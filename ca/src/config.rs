//! What an operator decides about a CA: at `init`, and each time it is opened.

use crate::dns::DnsName;
use crate::keys::Passphrase;
use crate::signer::pkcs11;
use crate::store::Database;
use identity::TrustDomain;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// The life of a leaf when the caller asks for none.
pub const DEFAULT_TTL: Duration = Duration::from_secs(60 * 60);
/// Shorter requests are raised to this: a fleet renewing more often than every half minute is a mistake.
pub const MIN_TTL: Duration = Duration::from_secs(60);
/// Longer requests are cut to this: revocation by expiry is only as good as the longest life.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The floor that [`TtlFloor::AllowShortTtlForTests`] puts in the place of [`MIN_TTL`].
pub const MIN_TTL_FOR_TESTS: Duration = Duration::from_secs(5);
/// Ten years: a root is replaced by an overlapping one long before.
pub const DEFAULT_ROOT_LIFE: Duration = Duration::from_secs(3650 * 24 * 60 * 60);
/// One year, after which the issuing intermediate has to be rotated.
pub const DEFAULT_INTERMEDIATE_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The next authority lives for no less: what ends within [`MAX_TTL`] is never activated.
pub const MIN_CA_LIFE: Duration = Duration::from_secs(2 * MAX_TTL.as_secs());

/// Longer lives are refused: nobody plans that far, and no date may leave the range that X.509 can write.
pub const MAX_CA_LIFE: Duration = Duration::from_secs(50 * 365 * 24 * 60 * 60);

/// What `init` makes. Only the trust domain and the protection of the keys have no default.
#[derive(Debug)]
pub struct InitOptions {
    pub trust_domain: TrustDomain,
    pub root_life: Duration,
    /// Cut to the root's: no certificate outlives an issuer.
    pub intermediate_life: Duration,
    pub key_protection: KeyProtection,
    /// Whether the root signs leaves itself.
    pub hierarchy: Hierarchy,
    /// The label of a key that is in the token already, to be the intermediate's. A new one is made otherwise.
    pub existing_key: Option<String>,
    /// The file in the CA's directory unless given.
    pub database: Option<Database>,
}

impl InitOptions {
    pub fn new(trust_domain: TrustDomain, key_protection: KeyProtection) -> Self {
        Self {
            trust_domain,
            root_life: DEFAULT_ROOT_LIFE,
            intermediate_life: DEFAULT_INTERMEDIATE_LIFE,
            key_protection,
            hierarchy: Hierarchy::Intermediate,
            existing_key: None,
            database: None,
        }
    }
}

/// Who signs leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hierarchy {
    /// An intermediate, so that the root's key is not needed while the CA serves.
    #[default]
    Intermediate,
    /// The root itself: for verifiers that take chains of one certificate alone. Its key is in use all the time.
    RootAlone,
}

/// How the CA's keys rest on disk. There is no default, so that plaintext has to be asked for.
#[derive(Debug)]
pub enum KeyProtection {
    /// argon2id and AES-256-GCM-SIV; see [`crate::keys`].
    Encrypted(Passphrase),
    /// PKCS#8 PEM, readable by whoever can read the file.
    InsecurePlaintext,
    /// In a PKCS#11 token, from which they cannot be taken.
    Token(pkcs11::Token),
}

/// How [`crate::Authority::open`] opens a CA directory. The default is what production runs with.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Needed when the keys were encrypted at `init`.
    pub passphrase: Option<Passphrase>,
    /// Needed when the keys are in a token.
    pub token: Option<pkcs11::Token>,
    pub ttl_floor: TtlFloor,
    /// As at `init`.
    pub database: Option<Database>,
    /// Host names of the CA's own certificate, for clients that go by those. No workload gets them.
    pub server_names: BTreeSet<DnsName>,
}

impl OpenOptions {
    /// The database that was given, or that of the CA in `directory`.
    pub(crate) fn database_in(&self, directory: &Path) -> Database {
        let given = self.database.clone();
        given.unwrap_or_else(|| directory.into())
    }
}

/// The shortest life of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TtlFloor {
    /// [`MIN_TTL`].
    #[default]
    Standard,
    /// [`MIN_TTL_FOR_TESTS`], so that demos and tests see several rotations in seconds.
    AllowShortTtlForTests,
}

impl TtlFloor {
    /// The shortest life that is given out.
    pub fn duration(self) -> Duration {
        match self {
            Self::Standard => MIN_TTL,
            Self::AllowShortTtlForTests => MIN_TTL_FOR_TESTS,
        }
    }
}
