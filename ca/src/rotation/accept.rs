//! Taking the chain back that a root elsewhere has made of a request.

use super::make::{PrepareError, Prepared, of, prepared};
use super::{By, Generation, KeyFile, Refused, Role, State};
use crate::authority::{ISSUING, Signed};
use crate::config::OpenOptions;
use crate::keys;
use crate::store::{New, Store};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use std::time::SystemTime;

/// Takes what a root elsewhere has made of the request: the intermediate's certificate, then the root's (PEM). A root that is
/// another one than the active is published.
///
/// # Errors
/// The first expectation that the chain does not meet.
pub async fn accept(
    options: &OpenOptions,
    store: &Store,
    role: Role,
    chain: Vec<u8>,
    by: By,
) -> Result<Prepared, PrepareError> {
    let present = store.generations().await?;
    if let Some(ready @ Prepared::Ready(_)) = prepared(&present, role) {
        return Ok(ready);
    }
    let requested = present
        .requested()
        .ok_or(PrepareError::NothingRequested)?
        .clone();
    let active = present.root().and_then(|root| root.certificate.clone());
    let (options, now) = (options.clone(), SystemTime::now());
    let held = tokio::task::spawn_blocking(move || {
        let new = held_against(&requested, &chain, &options, now)?;
        let is_new_root = active.as_ref() != new[0].certificate.as_ref();
        match (role, is_new_root) {
            (Role::Root, true) => Ok(new),
            (Role::Intermediate, false) => Ok(new[1..].to_vec()),
            (Role::Root, false) => Err(PrepareError::SameRoot),
            (Role::Intermediate, true) => Err(PrepareError::OtherRoot),
        }
    });
    let new = New {
        role,
        adopted: Vec::new(),
        made: held.await.map_err(|_| PrepareError::Interrupted)??,
    };
    let present = store.prepare_authority(new, by, now).await??;
    prepared(&present, role).ok_or(PrepareError::Refused(Refused::Overtaken))
}

/// A root and the requested intermediate under it.
fn held_against(
    requested: &Generation,
    chain: &[u8],
    options: &OpenOptions,
    now: SystemTime,
) -> Result<Vec<Generation>, PrepareError> {
    let (Some(request), Some(text)) = (&requested.request, &requested.key.0) else {
        return Err(PrepareError::NothingRequested);
    };
    let request = CertificateSigningRequestDer::from_pem_slice(request.as_bytes())
        .map_err(|_| PrepareError::NothingRequested)?;
    let key = keys::open(ISSUING, text, 0o600, options).map_err(PrepareError::Key)?;
    let signed = Signed::accept(&request, chain, key, now).map_err(PrepareError::Chain)?;
    let root = of(Role::Root, State::Prepared, signed.root, KeyFile::default())?;
    let mut intermediate = of(
        Role::Intermediate,
        State::Prepared,
        signed.intermediate,
        requested.key.clone(),
    )?;
    intermediate.parent = Some(root.name.clone());
    Ok(vec![root, intermediate])
}
