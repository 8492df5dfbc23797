//! Making the next authority: its key, its certificate, and a trial of both before anybody hears of it.

use super::{By, Generation, Generations, KeyFile, Refused, Role, State};
use crate::authority::{ISSUING, Issuing, ROOT, Signed, read_certificate};
use crate::config::{
    DEFAULT_INTERMEDIATE_LIFE, DEFAULT_ROOT_LIFE, KeyProtection, MAX_CA_LIFE, MIN_CA_LIFE,
    OpenOptions,
};
use crate::csr::KeyHash;
use crate::directory::{INTERMEDIATE_CERTIFICATE, INTERMEDIATE_KEY, ROOT_CERTIFICATE, ROOT_KEY};
use crate::keys;
use crate::profile::{self, CaCertificate, Validity};
use crate::signer::CaKey;
use crate::store::{Database, New, Store, StoreError};
use identity::{TrustBundle, TrustDomain};
use rcgen::CertifiedIssuer;
use rustls_pki_types::CertificateDer;
use std::cell::RefCell;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use zeroize::Zeroizing;

mod error;
mod fresh;

#[cfg(test)]
mod tests;

pub use error::PrepareError;
use fresh::Fresh;

/// How long new authorities live.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    pub root: Duration,
    /// Cut to the root's.
    pub intermediate: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Self {
            root: DEFAULT_ROOT_LIFE,
            intermediate: DEFAULT_INTERMEDIATE_LIFE,
        }
    }
}

impl Lives {
    fn check(self) -> Result<(), PrepareError> {
        let is_fit = |life: &Duration| (MIN_CA_LIFE..=MAX_CA_LIFE).contains(life);
        match [self.root, self.intermediate]
            .into_iter()
            .find(|life| !is_fit(life))
        {
            Some(found) => Err(PrepareError::Life { found }),
            None => Ok(()),
        }
    }
}

/// What came of a preparation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    /// The name of the authority that can become active.
    Ready(String),
    /// The root's key is elsewhere: what it has to sign (PKCS#10, PEM). [`super::accept`] takes the chain back.
    Requested(String),
}

/// Makes the next authority of a role, and publishes it if it is a root. One that is prepared stays.
///
/// # Errors
/// Why there is none. Nothing has changed then, and what was made in a token is destroyed again; but for the case that nobody
/// knows whether the database has recorded it. Then the log names it, as it does when this is dropped or ends early.
pub async fn prepare(
    directory: &Path,
    options: &OpenOptions,
    store: &Store,
    role: Role,
    lives: Lives,
    by: By,
) -> Result<Prepared, PrepareError> {
    lives.check()?;
    let (present, bundle) = store.authorities().await?;
    if let Some(prepared) = prepared(&present, role) {
        return Ok(prepared);
    }
    if let Some(lost) = store.rolled_back().await? {
        return Err(StoreError::RolledBack(lost).into());
    }
    // A disk that is full is better found out before there is a key.
    store.touch().await?;
    let now = SystemTime::now();
    let maker = Maker {
        directory: directory.to_owned(),
        options: options.clone(),
        trust_domain: bundle.trust_domain().clone(),
        lives,
        now,
        fresh: RefCell::default(),
    };
    // Sealing a key takes as long as guessing a passphrase; a token takes its time, too.
    let making = tokio::task::spawn_blocking(move || {
        let made = maker.make(present, role);
        let fresh = maker.fresh.take();
        match made {
            Ok(new) => Ok((new, fresh)),
            Err(error) => {
                fresh.destroy(&maker.options);
                Err(error)
            }
        }
    });
    let (new, mut fresh) = making.await.map_err(|_| PrepareError::Interrupted)??;
    let recorded = store.prepare_authority(new, by, now).await;
    let present = match &recorded {
        Ok(Ok(present)) => present,
        // One writes at a time: what is read in the writer's turn is what came of that, even if its answer was lost.
        _ => &store.generations().await?,
    };
    // Another hand was quicker, or it was refused.
    fresh.recorded(present);
    let options = options.clone();
    let taking = tokio::task::spawn_blocking(move || fresh.destroy(&options));
    taking.await.map_err(|_| PrepareError::Interrupted)?;
    prepared(&recorded??, role).ok_or(PrepareError::Refused(Refused::Overtaken))
}

pub(super) fn prepared(present: &Generations, role: Role) -> Option<Prepared> {
    if let Some(next) = present.next(role) {
        return Some(Prepared::Ready(next.name.clone()));
    }
    let request = present.requested()?.request.clone()?;
    Some(Prepared::Requested(request))
}

/// An authority of its certificate and its key file.
pub(super) fn of(
    role: Role,
    state: State,
    certificate: CertificateDer<'static>,
    key: KeyFile,
) -> Result<Generation, PrepareError> {
    let info = CaCertificate::parse(&certificate).ok_or(PrepareError::Certificate)?;
    Ok(Generation {
        name: KeyHash(info.key_hash()).to_string(),
        role,
        state,
        parent: None,
        certificate: Some(certificate),
        request: None,
        key,
        sequence: 0,
        since: SystemTime::UNIX_EPOCH,
        made_by: By::Operator,
        is_revoked: false,
    })
}

struct Maker {
    directory: PathBuf,
    options: OpenOptions,
    trust_domain: TrustDomain,
    lives: Lives,
    now: SystemTime,
    /// The keys that were made so far.
    fresh: RefCell<Fresh>,
}

impl Maker {
    fn make(&self, present: Generations, role: Role) -> Result<New, PrepareError> {
        let adopted = match present.0.is_empty() {
            true => self.adopt()?,
            false => Vec::new(),
        };
        let present = match adopted.is_empty() {
            true => present,
            false => Generations(adopted.clone()),
        };
        let (Some(root), Some(issuer)) = (present.root(), present.issuer()) else {
            return Err(PrepareError::Certificate);
        };
        let is_alone = root.name == issuer.name;
        let text = issuer.key.0.as_ref().ok_or(PrepareError::Certificate)?;
        let protection = keys::protection_of(text, &self.options).map_err(PrepareError::Key)?;
        // What opens this key has to open the next: a passphrase with a typing error would seal it for ever.
        let present_key =
            keys::open(ISSUING, text, 0o600, &self.options).map_err(PrepareError::Key)?;
        if present_key.hash().to_string() != issuer.name {
            return Err(PrepareError::Certificate);
        }
        let is_elsewhere = matches!(self.options.database, Some(Database::Postgres(_)));
        if is_elsewhere && matches!(protection, KeyProtection::InsecurePlaintext) {
            return Err(PrepareError::PlaintextElsewhere);
        }
        let made = match (role, is_alone) {
            (Role::Intermediate, true) => return Err(PrepareError::NoIntermediate),
            (Role::Root, true) => vec![self.root_alone(&protection)?],
            (Role::Root, false) => match self.root_key(root)? {
                Some(_) => self.root(&protection)?,
                None => vec![self.request(&protection)?],
            },
            (Role::Intermediate, false) => match self.root_key(root)? {
                Some(key) => vec![self.intermediate(root, key, &protection)?],
                None => vec![self.request(&protection)?],
            },
        };
        Ok(New {
            role,
            adopted,
            made,
        })
    }

    /// What `init` made. The key file is copied as it is.
    fn adopt(&self) -> Result<Vec<Generation>, PrepareError> {
        let (root, _) = read_certificate(&self.directory, ROOT_CERTIFICATE)?;
        let (intermediate, _) = read_certificate(&self.directory, INTERMEDIATE_CERTIFICATE)?;
        let key = KeyFile(Some(self.file(INTERMEDIATE_KEY)?.1));
        if root == intermediate {
            return Ok(vec![of(Role::Root, State::Active, root, key)?]);
        }
        let root = of(Role::Root, State::Active, root, KeyFile::default())?;
        let mut intermediate = of(Role::Intermediate, State::Active, intermediate, key)?;
        intermediate.parent = Some(root.name.clone());
        Ok(vec![root, intermediate])
    }

    fn file(&self, name: &str) -> Result<(u32, Zeroizing<String>), PrepareError> {
        let path = self.directory.join(name);
        let read = || {
            let mode = fs::metadata(&path)?.permissions().mode();
            Ok((mode, Zeroizing::new(fs::read_to_string(&path)?)))
        };
        read().map_err(|source| PrepareError::Io {
            path: path.clone(),
            source,
        })
    }

    /// The key of a root: beside it in the database, or where `init` put it. `None` when it is elsewhere.
    fn root_key(&self, root: &Generation) -> Result<Option<CaKey>, PrepareError> {
        let found = match &root.key.0 {
            Some(text) => (0o600, text.clone()),
            None => match self.file(ROOT_KEY) {
                Ok(found) => found,
                Err(PrepareError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            },
        };
        let (mode, text) = found;
        let key = keys::open(ROOT, &text, mode, &self.options).map_err(PrepareError::Key)?;
        // That of a root before this one.
        Ok((key.hash().to_string() == root.name).then_some(key))
    }

    fn generate(
        &self,
        label: &str,
        protection: &KeyProtection,
    ) -> Result<(CaKey, Zeroizing<String>), PrepareError> {
        let made = keys::generate(label, &self.trust_domain, protection);
        let (key, text) = made.map_err(PrepareError::Key)?;
        self.fresh.borrow_mut().add(text.clone());
        Ok((key, text))
    }

    fn root(&self, protection: &KeyProtection) -> Result<Vec<Generation>, PrepareError> {
        let (key, text) = self.generate(ROOT, protection)?;
        let validity = Validity::of_ca(self.now, self.lives.root);
        let certificate = profile::root(&self.trust_domain, &key, validity)
            .and_then(|params| params.self_signed(&key))
            .map_err(PrepareError::Sign)?;
        let certificate = certificate.der().clone();
        let root = of(
            Role::Root,
            State::Prepared,
            certificate,
            KeyFile(Some(text)),
        )?;
        let intermediate = self.intermediate(&root, key, protection)?;
        Ok(vec![root, intermediate])
    }

    fn root_alone(&self, protection: &KeyProtection) -> Result<Generation, PrepareError> {
        let (key, text) = self.generate(ISSUING, protection)?;
        let validity = Validity::of_ca(self.now, self.lives.root);
        let root = profile::root(&self.trust_domain, &key, validity)
            .and_then(|params| CertifiedIssuer::self_signed(params, key))
            .map_err(PrepareError::Sign)?;
        let certificate = root.der().clone();
        of(
            Role::Root,
            State::Prepared,
            certificate,
            KeyFile(Some(text)),
        )
    }

    fn intermediate(
        &self,
        root: &Generation,
        root_key: CaKey,
        protection: &KeyProtection,
    ) -> Result<Generation, PrepareError> {
        let root_der = root.certificate.clone().ok_or(PrepareError::Certificate)?;
        let root_info = CaCertificate::parse(&root_der).ok_or(PrepareError::Certificate)?;
        let root_issuer = root_info
            .issuer(root_key)
            .ok_or(PrepareError::Certificate)?;
        let (key, text) = self.generate(ISSUING, protection)?;
        let validity =
            Validity::of_ca(self.now, self.lives.intermediate).within(root_info.validity);
        let certificate = profile::intermediate(&self.trust_domain, &key, validity)
            .and_then(|params| params.signed_by(&key, &root_issuer))
            .map_err(PrepareError::Sign)?;
        let certificate = certificate.der().clone();
        self.try_out(root_der, certificate.clone(), key)?;
        let mut intermediate = of(
            Role::Intermediate,
            State::Prepared,
            certificate,
            KeyFile(Some(text)),
        )?;
        intermediate.parent = Some(root.name.clone());
        Ok(intermediate)
    }

    /// Before it is the one that signs.
    fn try_out(
        &self,
        root: CertificateDer<'static>,
        intermediate: CertificateDer<'static>,
        key: CaKey,
    ) -> Result<(), PrepareError> {
        let parse = |der: &CertificateDer<'static>| {
            CaCertificate::parse(der).ok_or(PrepareError::Certificate)
        };
        let (info, root_info) = (parse(&intermediate)?, parse(&root)?);
        let bundle = TrustBundle::new(self.trust_domain.clone(), vec![root.clone()], 1)
            .map_err(PrepareError::Bundle)?;
        let issuing = Issuing {
            issuer: info.issuer(key).ok_or(PrepareError::Certificate)?,
            validity: info.validity.within(root_info.validity),
            certificate: intermediate,
            root,
        };
        let signed = Signed {
            root: issuing.root,
            intermediate: issuing.certificate,
            bundle,
        };
        signed
            .try_issuing(&issuing.issuer, issuing.validity, self.now)
            .map_err(PrepareError::Chain)
    }

    fn request(&self, protection: &KeyProtection) -> Result<Generation, PrepareError> {
        let (key, text) = self.generate(ISSUING, protection)?;
        let request = profile::intermediate_request(&self.trust_domain, &key)
            .and_then(|request| request.pem())
            .map_err(PrepareError::Sign)?;
        Ok(Generation {
            name: key.hash().to_string(),
            role: Role::Intermediate,
            state: State::Requested,
            parent: None,
            certificate: None,
            request: Some(request),
            key: KeyFile(Some(text)),
            sequence: 0,
            since: SystemTime::UNIX_EPOCH,
            made_by: By::Operator,
            is_revoked: false,
        })
    }
}
