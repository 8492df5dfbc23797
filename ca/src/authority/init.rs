//! Making a CA directory.

use super::directory::{ISSUING, ROOT, read_certificate};
use crate::config::{Hierarchy, InitOptions, KeyProtection, MAX_CA_LIFE};
use crate::directory::{
    self, BUNDLE, INTERMEDIATE_CERTIFICATE, INTERMEDIATE_KEY, ROOT_CERTIFICATE, ROOT_KEY,
};
use crate::keys::{self, KeyError};
use crate::profile::{self, Validity};
use crate::signer::CaKey;
use crate::store::{self, Database, NewCa, Store, StoreError};
use identity::{BundleError, TrustBundle};
use rcgen::CertifiedIssuer;
use rustls_pki_types::CertificateDer;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

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
    let made = make_beside(directory, |directory| fill(directory, options))
        .map_err(|error| said_of_cut_off(error, directory, options))?;
    match options.database {
        // It has the CA now, whose keys are in these files alone.
        Some(Database::Postgres(_)) => {
            fs::rename(&made, directory).map_err(|source| InitError::NotInPlace {
                found: made.clone(),
                directory: directory.to_owned(),
                source,
            })?;
        }
        Some(Database::Sqlite { .. }) | None => put_in_place(&made, directory)?,
    }
    directory::sync_parent(directory).map_err(io(directory))
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
    let made = make_beside(directory, fill)?;
    put_in_place(&made, directory)?;
    directory::sync_parent(directory).map_err(io(directory))
}

/// Has `fill` make the files of `directory` beside its place. Nothing is left of what it could not complete.
fn make_beside(
    directory: &Path,
    fill: impl FnOnce(&Path) -> Result<(), InitError>,
) -> Result<PathBuf, InitError> {
    if directory.symlink_metadata().is_ok() {
        return Err(InitError::Exists(directory.to_owned()));
    }
    let name = directory
        .file_name()
        .ok_or_else(|| InitError::NoName(directory.to_owned()))?;
    let mut temporary_name = name.to_owned();
    temporary_name.push(format!("{TEMPORARY}{}", std::process::id()));
    let temporary = directory.with_file_name(temporary_name);
    directory::create(&temporary).map_err(io(&temporary))?;
    let made = directory::sync_parent(&temporary)
        .map_err(io(&temporary))
        .and_then(|()| fill(&temporary))
        .and_then(|()| directory::sync_parent(&temporary.join(BUNDLE)).map_err(io(&temporary)));
    if let Err(error) = made {
        remove(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

/// All of it, or nothing is left. A directory that has appeared there meanwhile is not empty, if it is another CA, and then this
/// fails.
fn put_in_place(made: &Path, directory: &Path) -> Result<(), InitError> {
    fs::rename(made, directory).map_err(|source| {
        remove(made);
        io(directory)(source)
    })
}

/// What is left of an attempt that failed is of no use; why it failed is worth more than why this might.
fn remove(temporary: &Path) {
    let _ = fs::remove_dir_all(temporary);
}

fn io(path: &Path) -> impl FnOnce(io::Error) -> InitError {
    let path = path.to_owned();
    move |source| InitError::Io { path, source }
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
        directory::write_new(&path, text.as_bytes()).map_err(io(&path))?;
    }
    // Before a database elsewhere knows of these keys.
    directory::sync_parent(&directory.join(BUNDLE)).map_err(io(directory))
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
        Ok(()) => Ok(()),
        // By an attempt with the same certificates that was cut off before they were in place, or by this one, to whose commit no
        // answer came.
        Err(_) if store::is_begun_as(database, &new).unwrap_or(false) => Ok(()),
        Err(error) => Err(InitError::Store(error)),
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
    #[error(
        "the database has the new CA, whose keys did not come to their place: rename {found} to {directory}, and the CA is complete"
    )]
    NotInPlace {
        found: PathBuf,
        directory: PathBuf,
        #[source]
        source: io::Error,
    },
}
