//! Reading a CA directory.

use super::signers::Issuing;
use crate::config::OpenOptions;
use crate::directory::{
    INTERMEDIATE_CERTIFICATE, INTERMEDIATE_KEY, INTERMEDIATE_REQUEST, ROOT_CERTIFICATE,
};
use crate::keys::{self, KeyError};
use crate::profile::CaCertificate;
use crate::rotation::Generations;
use crate::signer::{CaKey, SignError};
use crate::store::{self, StoreError};
use aws_lc_rs::digest::{Context, SHA256};
use identity::{Revocations, TrustBundle};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Labels of the key files: a key that signs intermediates alone, and one that signs leaves.
pub(crate) const ROOT: &str = "root";
pub(crate) const ISSUING: &str = "intermediate";

/// What [`super::Authority::open`] finds, already held against each other.
pub(super) struct Parts {
    pub(super) issuing: Issuing,
    pub(super) bundle: TrustBundle,
    pub(super) renewal_secret: [u8; 32],
    pub(super) revocations: Revocations,
    pub(super) generations: Generations,
}

/// How a key file becomes a key: [`keys::open`], or [`keys::recognise`] for a look that must not open it.
pub(super) type ReadKey = fn(&'static str, &str, u32, &OpenOptions) -> Result<CaKey, KeyError>;

pub(super) fn read(directory: &Path, options: &OpenOptions) -> Result<Parts, OpenError> {
    read_with(directory, options, keys::open)
}

/// What the next start would find, as far as that shows without a look into a token. What is in one does not sign.
pub(super) fn look(directory: &Path, options: &OpenOptions) -> Result<Parts, OpenError> {
    read_with(directory, options, keys::recognise)
}

fn read_with(directory: &Path, options: &OpenOptions, key: ReadKey) -> Result<Parts, OpenError> {
    check_finished(directory)?;
    let database = options.database_in(directory);
    let (bundle, renewal_secret) = store::read_settings(&database)?;
    let generations = store::read_generations(&database)?;
    let issuing = match generations.issuer() {
        Some(issuer) => Issuing::of(&generations, issuer, options, key)?,
        None => from_files(directory, options, key, &bundle)?,
    };
    check_published(&bundle, &issuing.root)?;
    Ok(Parts {
        issuing,
        bundle,
        renewal_secret,
        revocations: store::read_revocations(&database)?,
        generations,
    })
}

/// Whether the CA has its certificate.
pub(super) fn check_finished(directory: &Path) -> Result<(), OpenError> {
    match directory.join(INTERMEDIATE_REQUEST).exists() {
        true => Err(OpenError::Unfinished),
        false => Ok(()),
    }
}

fn check_published(bundle: &TrustBundle, root: &CertificateDer<'_>) -> Result<(), OpenError> {
    match bundle.authorities().contains(root) {
        true => Ok(()),
        false => Err(OpenError::RootNotInBundle),
    }
}

/// The authority that `init` made: it counts until the first rotation.
fn from_files(
    directory: &Path,
    options: &OpenOptions,
    key: ReadKey,
    bundle: &TrustBundle,
) -> Result<Issuing, OpenError> {
    let (root, root_info) = read_certificate(directory, ROOT_CERTIFICATE)?;
    check_published(bundle, &root)?;
    let (certificate, info) = read_certificate(directory, INTERMEDIATE_CERTIFICATE)?;
    let key = read_key_with(directory, options, key)?;
    Ok(Issuing {
        // That the intermediate was signed by the root is checked with each certificate that is issued.
        issuer: info.issuer(key).ok_or(OpenError::KeyMismatch)?,
        validity: info.validity.within(root_info.validity),
        certificate,
        root,
    })
}

/// SHA-256 over the files that [`read`] reads.
pub(super) fn fingerprint(directory: &Path) -> Result<[u8; 32], OpenError> {
    let mut context = Context::new(&SHA256);
    for name in [ROOT_CERTIFICATE, INTERMEDIATE_CERTIFICATE, INTERMEDIATE_KEY] {
        let path = directory.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(source) => return Err(OpenError::Io { path, source }),
        };
        // Lengths, so that no byte can pass from one file to the next.
        context.update(&bytes.len().to_be_bytes());
        context.update(&bytes);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    Ok(hash)
}

pub(super) fn read_key(directory: &Path, options: &OpenOptions) -> Result<CaKey, OpenError> {
    read_key_with(directory, options, keys::open)
}

fn read_key_with(
    directory: &Path,
    options: &OpenOptions,
    read: ReadKey,
) -> Result<CaKey, OpenError> {
    let path = directory.join(INTERMEDIATE_KEY);
    let io = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    let mode = fs::metadata(&path).map_err(io)?.permissions().mode();
    let text = fs::read_to_string(&path).map(Zeroizing::new).map_err(io)?;
    read(ISSUING, &text, mode, options).map_err(|source| OpenError::Key { path, source })
}

pub(crate) fn read_certificate(
    directory: &Path,
    name: &str,
) -> Result<(CertificateDer<'static>, CaCertificate), OpenError> {
    let path = directory.join(name);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    CertificateDer::from_pem_slice(&text)
        .ok()
        .and_then(|der| {
            let info = CaCertificate::parse(&der)?;
            Some((der, info))
        })
        .ok_or(OpenError::Certificate { path })
}

/// Why a CA directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot use the CA's database")]
    Store(#[from] StoreError),
    #[error("cannot read {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the key in {path}")]
    Key {
        path: PathBuf,
        #[source]
        source: KeyError,
    },
    #[error("expected a certificate of this CA in {path}")]
    Certificate { path: PathBuf },
    #[error("expected the private key of intermediate.pem in intermediate.key, found another key")]
    KeyMismatch,
    #[error(
        "this CA waits for the certificate that intermediate.csr asks for: `tipstaff ca init --finish` takes it"
    )]
    Unfinished,
    #[error("expected the CA's root to be in the trust bundle of the database")]
    RootNotInBundle,
    #[error("cannot use the key of the authority {name}, which the database names as this CA's")]
    Generation {
        name: String,
        #[source]
        source: KeyError,
    },
    #[error("the task that opens keys ended early")]
    Interrupted,
    #[error("expected a certificate and a key of the authority {0} in the database")]
    Incomplete(String),
    /// Whoever can write to that server would be the CA.
    #[error(
        "expected a sealed key of the authority {0} in a database on another server, found a plain one"
    )]
    PlaintextElsewhere(String),
}

impl OpenError {
    /// Whether trying again by itself does harm.
    pub(super) fn is_final(&self) -> bool {
        let Self::Generation { source, .. } = self else {
            return false;
        };
        matches!(source, KeyError::Sign(SignError::Pin { .. }))
    }
}
