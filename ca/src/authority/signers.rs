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
            are_from_files: generations.issuer().is_none(),
        })
    }

    /// For the CA's own server certificate. Asked at each: a root that stays for long may have an intermediate that ends.
    pub(super) fn server(&self, now: SystemTime) -> &Arc<Signer> {
        // One that ends would end the server's certificate early, and with it every connection.
        let lasts = self.oldest.issuer_validity.not_after > now + DEFAULT_TTL;
        if lasts { &self.oldest } else { &self.workloads }
    }

    /// The same after a rotation. Keys that are open stay so; `None` when there was none.
    fn next(
        &self,
        generations: &Generations,
        options: &OpenOptions,
    ) -> Result<Option<Self>, OpenError> {
        let Some(issuer) = generations.issuer() else {
            return Ok(None);
        };
        let open = [&self.workloads, &self.oldest];
        let workloads = signer(issuer, generations, options, &self.workloads, &open)?;
        Ok(Some(Self {
            oldest: oldest(&workloads, generations, options, &open)?,
            workloads,
            are_from_files: false,
        }))
    }
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

    /// Which authority signs the CA's own certificate, and every later one.
    pub(crate) fn server_issuer(&self) -> watch::Receiver<KeyHash> {
        self.server_issuer.subscribe()
    }

    /// Why the authority that is to sign does not.
    pub(super) fn unusable(&self) -> MutexGuard<'_, Option<String>> {
        self.unusable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what the database says of the authorities and the bundle. Gives whether it could.
    pub(crate) async fn read_authorities(&self) -> bool {
        let taken = self.take_authorities().await;
        let problem = taken.as_ref().err().map(|error| in_full(error));
        if let Some(problem) = &problem {
            tracing::error!(problem, "the authority that is to sign cannot be used here");
        }
        *self.unusable() = problem;
        taken.is_ok()
    }

    async fn take_authorities(&self) -> Result<(), OpenError> {
        let (generations, bundle) = self.store.authorities().await?;
        let (present, options) = (Arc::clone(&self.signers.borrow()), self.options.clone());
        // Opening a key takes as long as guessing a passphrase, or a look into a token.
        let opening = tokio::task::spawn_blocking(move || {
            let next = present.next(&generations, &options)?;
            Ok::<_, OpenError>((next, generations))
        });
        let (next, generations) = opening.await.map_err(|_| OpenError::Interrupted)??;
        let Some(next) = next else {
            return Ok(());
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
        self.copy_to_directory(&generations, &bundle).await;
        Ok(())
    }

    /// For whoever reads the directory; the CA does not. It may be read only.
    async fn copy_to_directory(&self, generations: &Generations, bundle: &TrustBundle) {
        let (directory, pem) = (self.directory.clone(), bundle.to_pem());
        let generations = generations.clone();
        let copied = tokio::task::spawn_blocking(move || copy(&directory, &generations, &pem));
        if let Ok(Err(error)) = copied.await {
            tracing::warn!(%error, "the CA's directory still has the files of another authority");
        }
    }
}

fn copy(directory: &Path, generations: &Generations, bundle: &str) -> std::io::Result<()> {
    let (Some(root), Some(issuer)) = (generations.root(), generations.issuer()) else {
        return Ok(());
    };
    let pem = |one: &Generation| {
        one.certificate
            .as_ref()
            .map(|der| identity::pem::encode(std::slice::from_ref(der)))
    };
    let (root, certificate) = (pem(root), pem(issuer));
    for (name, text) in [
        (
            files::INTERMEDIATE_KEY,
            issuer.key.0.as_ref().map(|text| text.as_str()),
        ),
        (files::INTERMEDIATE_CERTIFICATE, certificate.as_deref()),
        (files::ROOT_CERTIFICATE, root.as_deref()),
        (files::BUNDLE, Some(bundle)),
    ] {
        let path = directory.join(name);
        if let Some(text) = text
            && std::fs::read(&path).ok().as_deref() != Some(text.as_bytes())
        {
            files::replace(&path, text.as_bytes())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
