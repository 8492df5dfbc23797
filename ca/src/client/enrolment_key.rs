//! The enrolment key: the one secret of a workload that rests on disk.

use crate::{attest, directory};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use identity::SpiffeId;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A P-256 PKCS#8 document has 138 bytes; whatever is much longer is some other file.
const LONGEST: u64 = 4096;

/// Proves at each start that this is the workload that enrolled.
#[derive(Debug)]
pub(crate) struct EnrolmentKey {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl EnrolmentKey {
    /// Reads the key at `path`, or makes it there with mode 0600 when nothing is there yet. Never overwrites.
    pub(crate) fn load_or_create(path: &Path) -> Result<Self, EnrolmentKeyError> {
        let fail = |source| EnrolmentKeyError::Io {
            path: path.to_owned(),
            source,
        };
        match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => create(path).map_err(fail)?,
            Err(error) => return Err(fail(error)),
            Ok(_) => {}
        }
        // Read back even when just made: what counts is what the next start will find, and another process may have
        // been first to put a key here.
        Self::load(path)
    }

    fn load(path: &Path) -> Result<Self, EnrolmentKeyError> {
        let fail = |source| EnrolmentKeyError::Io {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(EnrolmentKeyError::Mode {
                path: path.to_owned(),
                mode,
            });
        }
        let mut pkcs8 = Zeroizing::new(Vec::new());
        file.take(LONGEST).read_to_end(&mut pkcs8).map_err(fail)?;
        let malformed = || EnrolmentKeyError::Malformed {
            path: path.to_owned(),
        };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8)
            .map_err(|_| malformed())?;
        let spki = AsDer::as_der(pair.public_key()).map_err(|_| malformed())?;
        Ok(Self {
            spki: spki.as_ref().to_vec(),
            pair,
        })
    }

    /// SubjectPublicKeyInfo DER.
    pub(crate) fn public_key(&self) -> &[u8] {
        &self.spki
    }

    /// The proof for an Issue call that asks for `id` with `csr`.
    pub(crate) fn prove(&self, id: &SpiffeId, csr: &[u8]) -> Vec<u8> {
        let statement = attest::statement(id, csr);
        self.pair
            .sign(&SystemRandom::new(), &statement)
            .expect("signing with a P-256 key fails only without memory or randomness")
            .as_ref()
            .to_vec()
    }
}

/// Writes a whole key beside `path`, then links it into place: a reader never sees half of one, and `hard_link` refuses
/// to replace a key that appeared meanwhile (which is then the one to use).
fn create(path: &Path) -> io::Result<()> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
        .map_err(|_| io::Error::other("no key could be made"))?;
    let pkcs8 = pair
        .to_pkcs8v1()
        .map_err(|_| io::Error::other("the new key could not be encoded"))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    // A leftover of a crashed start with the same process id is no key of anybody's.
    let _ = fs::remove_file(&beside);
    let written =
        directory::write_new(&beside, pkcs8.as_ref()).and_then(|()| fs::hard_link(&beside, path));
    let removed = fs::remove_file(&beside);
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.exists() => Ok(()),
        Err(error) => Err(error),
        // The key is registered with the CA next; a crash must not leave a used token and no key.
        Ok(()) => removed.and_then(|()| directory::sync_parent(path)),
    }
}

/// Why the enrolment key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentKeyError {
    #[error("could not read or make the enrolment key {path}", path = path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("expected the enrolment key {path} to be readable by its owner alone (mode 0600), found mode {mode:04o}", path = path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("expected the enrolment key {path} to be a P-256 key in PKCS#8 DER", path = path.display())]
    Malformed { path: PathBuf },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csr::PublicKey;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_with_mode_0600_and_read_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("enrolment.key");
        let first = EnrolmentKey::load_or_create(&path).unwrap();
        let again = EnrolmentKey::load_or_create(&path).unwrap();
        assert_eq!(first.public_key(), again.public_key());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("enrolment.key");
        EnrolmentKey::load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = EnrolmentKey::load_or_create(&path).unwrap_err();
            assert!(matches!(error, EnrolmentKeyError::Mode { mode: found, .. } if found == mode));
        }
    }

    #[test]
    fn a_file_that_is_no_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("enrolment.key");
        directory::write_new(&path, b"not a key").unwrap();
        let error = EnrolmentKey::load_or_create(&path).unwrap_err();
        assert!(matches!(error, EnrolmentKeyError::Malformed { .. }));
        assert_eq!(fs::read(&path).unwrap(), b"not a key");
    }

    #[test]
    fn its_proof_satisfies_the_ca() {
        let dir = tempfile::tempdir().unwrap();
        let key = EnrolmentKey::load_or_create(&dir.path().join("key")).unwrap();
        let id = SpiffeId::parse("spiffe://demo.test/ns/shop/sa/cart").unwrap();
        let proof = key.prove(&id, b"csr");
        let public = PublicKey::from_spki(key.public_key()).unwrap();
        attest::check_proof(&public, &proof, &id, b"csr").unwrap();
    }
}
