//! Making a CA directory, and reading it back.

use super::signers::Issuing;
use crate::config::{Hierarchy, InitOptions, KeyProtection, MAX_CA_LIFE, OpenOptions};
use crate::directory::{
    self, BUNDLE, INTERMEDIATE_CERTIFICATE, INTERMEDIATE_KEY, INTERMEDIATE_REQUEST,
    ROOT_CERTIFICATE, ROOT_KEY,
};
use crate::keys::{self, KeyError};
use crate::profile::{self, CaCertificate, Validity};
use crate::rotation::Generations;
use crate::signer::CaKey;
use crate::store::{self, Database, NewCa, Store, StoreError};
use aws_lc_rs::digest::{Context, SHA256};
use identity::{BundleError, Revocations, TrustBundle};
use rcgen::CertifiedIssuer;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

/// Labels of the key files: a key that signs intermediates alone, and one that signs leaves.
pub(crate) const ROOT: &str = "root";
pub(crate) const ISSUING: &str = "intermediate";

/// What follows the name of a directory that is being made, with the number of the process after it.
const TEMPORARY: &str = ".new-";

/// Makes a new CA in `directory`, which must not exist: a root, an issuing intermediate, a database, and
/// `ca-bundle.pem` for the clients. All of it or nothing appears.
///
/// # Errors
/// When the directory exists, a file cannot be written, or a key cannot be made.
pub fn init(directory: &Path, options: &InitOptions) -> Result<(), InitError> {
    let life = options.root_life.max(options.intermediate_life);
    if life > MAX_CA_LIFE {
        return Err(InitError::Life { found: life });
    }
    in_new_directory(directory, |directory| fill(directory, options))
        .map_err(|error| said_of_cut_off(error, directory, options))
}

/// A database on a server is there before the directory is: whoever was cut off in between has a directory that lacks nothing
/// but its name, and a database that is taken.
fn said_of_cut_off(error: InitError, directory: &Path, options: &InitOptions) -> InitError {
    let InitError::Store(StoreError::Occupied) = &error else {
        return error;
    };
    let bundle = options
        .database
        .as_ref()
        .and_then(|database| Some(store::read_settings(database).ok()?.0));
    let (Some(bundle), Some(parent), Some(name)) =
        (bundle, directory.parent(), directory.file_name())
    else {
        return error;
    };
    let prefix = format!("{}{TEMPORARY}", name.to_string_lossy());
    let is_of_database = |found: &PathBuf| {
        let name = found.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&prefix)
            && read_certificate(found, ROOT_CERTIFICATE)
                .is_ok_and(|(root, _)| bundle.authorities().contains(&root))
    };
    let beside = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let mut left = fs::read_dir(beside)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    match left.find(is_of_database) {
        Some(found) => InitError::CutOff {
            found,
            directory: directory.to_owned(),
        },
        None => error,
    }
}

/// Has `fill` make the files of `directory`, which must not exist. All of them or nothing appears.
pub(crate) fn in_new_directory(
    directory: &Path,
    fill: impl FnOnce(&Path) -> Result<(), InitError>,
) -> Result<(), InitError> {
    if directory.symlink_metadata().is_ok() {
        return Err(InitError::Exists(directory.to_owned()));
    }
    let name = directory
        .file_name()
        .ok_or_else(|| InitError::NoName(directory.to_owned()))?;
    // Made beside its place and moved there when complete. A directory that has appeared meanwhile is not empty, if
    // it is another CA, and then the move fails.
    let mut temporary_name = name.to_owned();
    temporary_name.push(format!("{TEMPORARY}{}", std::process::id()));
    let temporary = directory.with_file_name(temporary_name);
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Io { path, source }
    };
    directory::create(&temporary).map_err(io(&temporary))?;
    let result = fill(&temporary).and_then(|()| {
        directory::sync_parent(&temporary.join(BUNDLE)).map_err(io(&temporary))?;
        fs::rename(&temporary, directory).map_err(io(directory))?;
        directory::sync_parent(directory).map_err(io(directory))
    });
    if result.is_err() {
        // What is left of an attempt that failed is of no use; why it failed is worth more than why this might.
        let _ = fs::remove_dir_all(&temporary);
    }
    result
}

/// A root that signs leaves itself, with the issuing key.
fn fill_alone(directory: &Path, options: &InitOptions) -> Result<(), InitError> {
    let (key, key_file) = new_intermediate_key(options)?;
    let validity = Validity::of_ca(SystemTime::now(), options.root_life);
    let trust_domain = &options.trust_domain;
    let root = profile::root(trust_domain, &key, validity)
        .and_then(|params| CertifiedIssuer::self_signed(params, key))
        .map_err(InitError::Sign)?;
    let bundle = TrustBundle::new(trust_domain.clone(), vec![root.der().clone()], 1)
        .map_err(InitError::Bundle)?;
    let files = [
        (ROOT_CERTIFICATE, Zeroizing::new(root.pem())),
        (INTERMEDIATE_CERTIFICATE, Zeroizing::new(root.pem())),
        (INTERMEDIATE_KEY, key_file),
        (BUNDLE, Zeroizing::new(bundle.to_pem())),
    ];
    write_files(directory, files)?;
    let database = new_database(options.database.as_ref(), directory);
    establish(&database, &bundle, root.der())
}

fn fill(directory: &Path, options: &InitOptions) -> Result<(), InitError> {
    if options.hierarchy == Hierarchy::RootAlone {
        return fill_alone(directory, options);
    }
    let now = SystemTime::now();
    let trust_domain = &options.trust_domain;
    let (root_key, root_key_file) =
        keys::generate(ROOT, trust_domain, &options.key_protection).map_err(InitError::Key)?;
    let root_validity = Validity::of_ca(now, options.root_life);
    let root = profile::root(trust_domain, &root_key, root_validity)
        .and_then(|params| CertifiedIssuer::self_signed(params, root_key))
        .map_err(InitError::Sign)?;
    let (intermediate_key, intermediate_key_file) = new_intermediate_key(options)?;
    let intermediate_validity =
        Validity::of_ca(now, options.intermediate_life).within(root_validity);
    let intermediate =
        profile::intermediate(trust_domain, &intermediate_key, intermediate_validity)
            .and_then(|params| params.signed_by(&intermediate_key, &root))
            .map_err(InitError::Sign)?;

    let bundle = TrustBundle::new(trust_domain.clone(), vec![root.der().clone()], 1)
        .map_err(InitError::Bundle)?;
    let files = [
        (ROOT_CERTIFICATE, Zeroizing::new(root.pem())),
        (ROOT_KEY, root_key_file),
        (INTERMEDIATE_CERTIFICATE, Zeroizing::new(intermediate.pem())),
        (INTERMEDIATE_KEY, intermediate_key_file),
        (BUNDLE, Zeroizing::new(bundle.to_pem())),
    ];
    write_files(directory, files)?;
    let database = new_database(options.database.as_ref(), directory);
    establish(&database, &bundle, intermediate.der())
}

/// Writes new files of a CA.
pub(super) fn write_files<const N: usize>(
    directory: &Path,
    files: [(&str, Zeroizing<String>); N],
) -> Result<(), InitError> {
    for (name, text) in files {
        let path = directory.join(name);
        directory::write_new(&path, text.as_bytes())
            .map_err(|source| InitError::Io { path, source })?;
    }
    Ok(())
}

/// Where the records of a CA that is made in `directory` go: a file is made there, with the others.
pub(super) fn new_database(given: Option<&Database>, directory: &Path) -> Database {
    match given {
        Some(server @ Database::Postgres(_)) => server.clone(),
        Some(Database::Sqlite { .. }) | None => directory.into(),
    }
}

/// Makes the database of a new CA.
pub(super) fn establish(
    database: &Database,
    bundle: &TrustBundle,
    intermediate: &CertificateDer<'static>,
) -> Result<(), InitError> {
    let mut renewal_secret = [0; 32];
    aws_lc_rs::rand::fill(&mut renewal_secret).expect("AWS-LC's generator aborts rather than fail");
    let new = NewCa {
        bundle,
        intermediate,
        renewal_secret,
        now: SystemTime::now(),
    };
    match Store::create(database, &new) {
        // By an attempt with the same certificates that was cut off before they were in place.
        Err(StoreError::Occupied)
            if store::is_begun_as(database, &new).map_err(InitError::Store)? =>
        {
            Ok(())
        }
        made => made.map_err(InitError::Store),
    }
}

/// The issuing key of a new CA, and its file.
pub(super) fn new_intermediate_key(
    options: &InitOptions,
) -> Result<(CaKey, Zeroizing<String>), InitError> {
    match &options.existing_key {
        Some(name) => adopt(name, &options.key_protection),
        None => keys::generate(ISSUING, &options.trust_domain, &options.key_protection)
            .map_err(InitError::Key),
    }
}

/// The key that is called `name` in the token.
fn adopt(name: &str, protection: &KeyProtection) -> Result<(CaKey, Zeroizing<String>), InitError> {
    let KeyProtection::Token(token) = protection else {
        return Err(InitError::NoToken(name.to_owned()));
    };
    keys::adopt(ISSUING, token, name).map_err(InitError::Key)
}

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

/// Why no CA was made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error("expected {0} not to exist yet")]
    Exists(PathBuf),
    #[error("expected a directory to make, found {0}")]
    NoName(PathBuf),
    #[error("expected CA certificates to live at most {MAX_CA_LIFE:?}, found {found:?}")]
    Life { found: Duration },
    #[error("cannot write {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The caller knows why.
    #[error("the directory was not filled")]
    Abandoned,
    #[error("expected a PKCS#11 token to take the key {0:?} from, found none")]
    NoToken(String),
    #[error("cannot make the CA's keys")]
    Key(#[source] KeyError),
    #[error("cannot make the CA's certificates")]
    Sign(#[source] rcgen::Error),
    #[error("cannot make the trust bundle")]
    Bundle(#[source] BundleError),
    #[error("cannot make the CA's database")]
    Store(#[source] StoreError),
    #[error(
        "the database has the CA of an earlier attempt, which was cut off: rename {found} to {directory}, and the CA is complete"
    )]
    CutOff { found: PathBuf, directory: PathBuf },
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
