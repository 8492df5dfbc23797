//! Which of the CA's authorities sign: by the files in its directory until the first rotation, and by its database from then
//! on. See [`crate::rotation`].

use super::Authority;
use super::directory::{self, OpenError, ReadKey};
use super::sign::Signer;
use super::slots::Slots;
use crate::causes::in_full;
use crate::config::{DEFAULT_TTL, OpenOptions};
use crate::csr::KeyHash;
use crate::directory as files;
use crate::keys;
use crate::profile::{CaCertificate, Validity};
use crate::rotation::{Ages, Generation, Generations};
use crate::signer::CaKey;
use crate::store::Database;
use identity::TrustBundle;
use rcgen::Issuer;
use rustls_pki_types::CertificateDer;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::watch;

/// A key that signs leaves, and the certificates above it.
pub(crate) struct Issuing {
    pub(crate) issuer: Issuer<'static, CaKey>,
    /// The root's, where that signs leaves itself.
    pub(crate) certificate: CertificateDer<'static>,
    /// Where the validity of all issuers overlaps.
    pub(crate) validity: Validity,
    pub(crate) root: CertificateDer<'static>,
}

impl Issuing {
    /// That of an authority in the database.
    pub(super) fn of(
        generations: &Generations,
        one: &Generation,
        options: &OpenOptions,
        read: ReadKey,
    ) -> Result<Self, OpenError> {
        let name = || one.name.clone();
        let incomplete = || OpenError::Incomplete(name());
        let text = one.key.0.as_ref().ok_or_else(incomplete)?;
        let is_elsewhere = matches!(options.database, Some(Database::Postgres(_)));
        if is_elsewhere && keys::is_plaintext(text) {
            return Err(OpenError::PlaintextElsewhere(name()));
        }
        let root = one
            .parent
            .as_ref()
            .map_or(Some(one), |root| generations.named(root));
        let root = root
            .and_then(|root| root.certificate.clone())
            .ok_or_else(incomplete)?;
        let certificate = one.certificate.clone().ok_or_else(incomplete)?;
        let info = CaCertificate::parse(&certificate).ok_or_else(incomplete)?;
        let root_info = CaCertificate::parse(&root).ok_or_else(incomplete)?;
        // In the database nobody's mode bits protect a key; the database's own do.
        let key = read(directory::ISSUING, text, 0o600, options);
        let key = key.map_err(|source| OpenError::Generation {
            name: name(),
            source,
        })?;
        Ok(Self {
            issuer: info.issuer(key).ok_or(OpenError::KeyMismatch)?,
            validity: info.validity.within(root_info.validity),
            certificate,
            root,
        })
    }
}

/// What signs now.
pub(super) struct Signers {
    /// For workloads.
    pub(super) workloads: Arc<Signer>,
    /// Under the oldest root that is still published, which everybody knows.
    oldest: Arc<Signer>,
    /// What would sign next: open before it does, and known here if it cannot be.
    prepared: Vec<Arc<Signer>>,
    /// Until the first rotation.
    pub(super) are_from_files: bool,
}

impl Signers {
    pub(super) fn open(
        issuing: Issuing,
        generations: &Generations,
        options: &OpenOptions,
        slots: Slots,
    ) -> Result<Self, OpenError> {
        let workloads = Arc::new(Signer::new(issuing, options.ttl_floor, slots));
        Ok(Self {
            oldest: oldest(&workloads, generations, options, &[])?,
            workloads,
            prepared: Vec::new(),
            are_from_files: generations.issuer().is_none(),
        })
    }

    /// For the CA's own server certificate. Asked at each: a root that stays for long may have an intermediate that ends.
    pub(super) fn server(&self, now: SystemTime) -> &Arc<Signer> {
        // One that ends would end the server's certificate early, and with it every connection.
        let lasts = self.oldest.issuer_validity.not_after > now + DEFAULT_TTL;
        if lasts { &self.oldest } else { &self.workloads }
    }

    /// The same after a rotation, and why what is prepared could not sign here. Keys that are open stay so; `None` when there
    /// was none.
    fn next(
        &self,
        generations: &Generations,
        options: &OpenOptions,
    ) -> Result<Option<(Self, Option<OpenError>)>, OpenError> {
        let Some(issuer) = generations.issuer() else {
            return Ok(None);
        };
        let open: Vec<_> = [&self.workloads, &self.oldest]
            .into_iter()
            .chain(&self.prepared)
            .collect();
        let workloads = signer(issuer, generations, options, &self.workloads, &open)?;
        let (mut prepared, mut fault) = (Vec::new(), None);
        for one in generations.next_issuers() {
            match signer(one, generations, options, &workloads, &open) {
                Ok(signer) => prepared.push(signer),
                Err(error) => fault = Some(graver(fault, error)),
            }
        }
        let next = Self {
            oldest: oldest(&workloads, generations, options, &open)?,
            workloads,
            prepared,
            are_from_files: false,
        };
        Ok(Some((next, fault)))
    }
}

/// One that is final stays: a PIN that was refused is not tried again because another key is not found.
fn graver(known: Option<OpenError>, error: OpenError) -> OpenError {
    known.filter(OpenError::is_final).unwrap_or(error)
}

fn oldest(
    workloads: &Arc<Signer>,
    generations: &Generations,
    options: &OpenOptions,
    open: &[&Arc<Signer>],
) -> Result<Arc<Signer>, OpenError> {
    let Some(one) = generations.server_issuer() else {
        return Ok(Arc::clone(workloads));
    };
    let open: Vec<_> = open.iter().copied().chain([workloads]).collect();
    signer(one, generations, options, workloads, &open)
}

fn signer(
    one: &Generation,
    generations: &Generations,
    options: &OpenOptions,
    like: &Signer,
    open: &[&Arc<Signer>],
) -> Result<Arc<Signer>, OpenError> {
    if let Some(signer) = open
        .iter()
        .find(|signer| signer.name().to_string() == one.name)
    {
        return Ok(Arc::clone(signer));
    }
    let issuing = Issuing::of(generations, one, options, keys::open)?;
    Ok(Arc::new(Signer::new(
        issuing,
        like.ttl_floor,
        like.slots.clone(),
    )))
}

impl Authority {
    /// What signs for workloads.
    pub(super) fn signer(&self) -> Arc<Signer> {
        Arc::clone(&self.signers.borrow().workloads)
    }

    /// What signs the CA's own certificate.
    pub(super) fn server_signer(&self, now: SystemTime) -> Arc<Signer> {
        Arc::clone(self.signers.borrow().server(now))
    }

    /// How old what signs is.
    pub(crate) fn ages(&self) -> Option<Ages> {
        let signer = self.signer();
        let validity =
            |der: &CertificateDer<'_>| CaCertificate::parse(der).map(|info| info.validity);
        Some(Ages {
            root: validity(&signer.root)?,
            intermediate: match &signer.intermediate {
                Some(intermediate) => Some(validity(intermediate)?),
                None => None,
            },
        })
    }

    /// Where the CA is, and how it is opened.
    pub(crate) fn place(&self) -> (&Path, &OpenOptions) {
        (&self.directory, &self.options)
    }

    /// Where its records are.
    pub(crate) fn database(&self) -> Database {
        self.options.database_in(&self.directory)
    }

    /// Which authority signs the CA's own certificate, and every later one.
    pub(crate) fn server_issuer(&self) -> watch::Receiver<KeyHash> {
        self.server_issuer.subscribe()
    }

    /// Which authorities cannot be used here.
    pub(super) fn unusable(&self) -> MutexGuard<'_, Unusable> {
        self.unusable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the database says of the authorities and the bundle. Gives whether all was done that trying again might
    /// do.
    pub(crate) async fn read_authorities(&self) -> bool {
        let taken = self.take_authorities().await;
        let error = taken.as_ref().err();
        let problem = error.map(|error| in_full(error));
        if let Some(problem) = &problem {
            tracing::error!(problem, "the authority that is to sign cannot be used here");
        }
        let mut unusable = self.unusable();
        unusable.active = problem;
        if let Ok(prepared) = taken.as_ref() {
            unusable.prepared = prepared.as_ref().map(|error| in_full(error));
            unusable.is_final = prepared.as_ref().is_some_and(OpenError::is_final);
            if let Some(problem) = &unusable.prepared {
                tracing::error!(
                    problem,
                    "the authority that is prepared cannot be used here"
                );
            }
        }
        // A PIN that is tried again and again locks the token, and with it every key.
        error.is_none_or(OpenError::is_final)
    }

    /// Gives why what is prepared cannot be used here, if so.
    async fn take_authorities(&self) -> Result<Option<OpenError>, OpenError> {
        let (generations, bundle) = self.store.authorities().await?;
        let (present, options) = (Arc::clone(&self.signers.borrow()), self.options.clone());
        // Opening a key takes as long as guessing a passphrase, or a look into a token.
        let opening = tokio::task::spawn_blocking(move || present.next(&generations, &options));
        let next = opening.await.map_err(|_| OpenError::Interrupted)??;
        let Some((next, fault)) = next else {
            return Ok(None);
        };
        // A root is known before anything is issued under it, and forgotten once nothing is: the server's certificate, too.
        let server_root = self.signers.borrow().oldest.root.clone();
        let keeps = bundle.authorities().contains(&server_root);
        if keeps {
            self.take_over(bundle.clone());
        }
        let server = next.server(SystemTime::now()).name();
        let issuer = next.workloads.name();
        let is_new = issuer != self.signer().name();
        self.signers.send_replace(Arc::new(next));
        self.server_issuer
            .send_if_modified(|present| std::mem::replace(present, server) != server);
        if !keeps {
            self.take_over(bundle.clone());
        }
        if is_new {
            tracing::info!(authority = %issuer, "another authority signs from now on");
        }
        self.copy_to_directory(&bundle).await;
        Ok(fault)
    }

    /// For new sidecars; the CA does not read it. The other files stay as they were: with records from before the first
    /// rotation it is they that count again. The directory may be read only.
    async fn copy_to_directory(&self, bundle: &TrustBundle) {
        let (path, pem) = (self.directory.join(files::BUNDLE), bundle.to_pem());
        let copied = tokio::task::spawn_blocking(move || {
            match std::fs::read(&path).ok().as_deref() == Some(pem.as_bytes()) {
                true => Ok(()),
                false => files::replace(&path, pem.as_bytes()),
            }
        });
        if let Ok(Err(error)) = copied.await {
            tracing::warn!(%error, "the CA's directory still has an older trust bundle");
        }
    }
}

/// Which authorities cannot be used here, and why.
#[derive(Debug, Default)]
pub(super) struct Unusable {
    /// The one that is to sign: it does not.
    pub(super) active: Option<String>,
    pub(super) prepared: Option<String>,
    /// Whether that one is not to be tried again.
    is_final: bool,
}

impl Unusable {
    /// Whether another look at what is prepared may find it better.
    pub(super) fn may_get_better(&self) -> bool {
        self.prepared.is_some() && !self.is_final
    }
}

#[cfg(test)]
mod tests;
