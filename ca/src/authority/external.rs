//! A CA whose root is somewhere else: [`request_intermediate`] makes the issuing key and asks for its certificate,
//! [`finish`] takes the signed chain back and holds it against everything that will be asked of it.

use super::directory::{OpenError, read, read_key};
use super::init::{
    InitError, establish, in_new_directory, new_database, new_intermediate_key, write_files,
};
use super::sign::{USAGE, check};
use super::{IssueError, Request, Requester};
use crate::config::{InitOptions, MAX_TTL, OpenOptions};
use crate::directory::{
    self, BUNDLE, DATABASE, INTERMEDIATE_CERTIFICATE, INTERMEDIATE_KEY, INTERMEDIATE_REQUEST,
    ROOT_CERTIFICATE,
};
use crate::inspect::rfc3339;
use crate::profile::{self, CaCertificate, IssuedError, RequestedIssuer, Validity};
use crate::signer::CaKey;
use crate::store::unix_seconds;
use identity::{BundleError, SpiffeId, TrustBundle};
use rcgen::Issuer;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use zeroize::Zeroizing;

#[cfg(test)]
mod tests;

/// Where the rest of a CA is made before it appears, all of it or nothing.
const UNFINISHED: &str = "finish.new";

/// Makes the issuing key of a new CA in `directory`, which must not exist, and gives the PKCS#10 request for its
/// certificate (PEM): CA true, path length 0, keyCertSign and cRLSign, and the trust domain as URI.
///
/// # Errors
/// As [`super::init`].
pub fn request_intermediate(directory: &Path, options: &InitOptions) -> Result<String, InitError> {
    let mut request = String::new();
    in_new_directory(directory, |directory| {
        let (key, key_file) = new_intermediate_key(options)?;
        request = profile::intermediate_request(&options.trust_domain, &key)
            .and_then(|request| request.pem())
            .map_err(InitError::Sign)?;
        let files = [
            (INTERMEDIATE_KEY, key_file),
            (INTERMEDIATE_REQUEST, Zeroizing::new(request.clone())),
        ];
        write_files(directory, files)
    })?;
    Ok(request)
}

/// Completes a CA that [`request_intermediate`] began, with the certificates it got: the intermediate's, then the
/// root's (PEM).
///
/// # Errors
/// The first expectation that the chain does not meet, or why nothing could be written. The CA is as it was then.
pub fn finish(directory: &Path, chain: &[u8], options: &OpenOptions) -> Result<(), FinishError> {
    let path = directory.join(INTERMEDIATE_REQUEST);
    let request = fs::read(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => FinishError::NothingToFinish(directory.to_owned()),
        _ => FinishError::Io {
            path: path.clone(),
            source,
        },
    })?;
    let request =
        CertificateSigningRequestDer::from_pem_slice(&request).map_err(|_| FinishError::Request)?;
    let key = read_key(directory, options).map_err(FinishError::Open)?;
    let signed = Signed::accept(&request, chain, key, SystemTime::now())?;

    let io = |path: PathBuf| move |source| FinishError::Io { path, source };
    let unfinished = directory.join(UNFINISHED);
    // Left by an attempt that was cut off.
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io(unfinished)(error));
        }
        _ => {}
    }
    directory::create(&unfinished).map_err(io(unfinished.clone()))?;
    signed
        .write(&unfinished, options)
        .map_err(FinishError::Init)?;
    // The database last but one: without it there is no CA, and with the request this can be done again.
    for name in [ROOT_CERTIFICATE, INTERMEDIATE_CERTIFICATE, BUNDLE, DATABASE] {
        let place = directory.join(name);
        match fs::rename(unfinished.join(name), &place) {
            // A database elsewhere is no file here.
            Err(error) if name == DATABASE && error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(io(place))?,
        }
    }
    let request = directory.join(INTERMEDIATE_REQUEST);
    fs::remove_dir_all(&unfinished).map_err(io(unfinished))?;
    directory::sync_parent(&request).map_err(io(request.clone()))?;
    fs::remove_file(&request).map_err(io(request))
}

/// A chain that this CA can issue under.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) root: CertificateDer<'static>,
    pub(crate) intermediate: CertificateDer<'static>,
    /// With this root.
    pub(crate) bundle: TrustBundle,
}

impl Signed {
    /// Holds `chain`, in PEM, against the request that it answers and everything that will be asked of it.
    pub(crate) fn accept(
        request: &CertificateSigningRequestDer<'_>,
        chain: &[u8],
        key: CaKey,
        now: SystemTime,
    ) -> Result<Self, FinishError> {
        let asked = RequestedIssuer::parse(request).ok_or(FinishError::Request)?;
        if asked.key.hash() != key.hash() {
            return Err(FinishError::OtherKeyOnDisk);
        }
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(FinishError::Pem)?;
        let [intermediate, root] = &certificates[..] else {
            return Err(FinishError::Length(certificates.len()));
        };
        asked.check_issued(intermediate)?;
        let info = CaCertificate::parse(intermediate).ok_or(FinishError::Intermediate)?;
        let root_info = CaCertificate::parse(root)
            .filter(|_| profile::may_sign_issuers(root))
            .ok_or(FinishError::Root)?;
        let validity = info.validity.within(root_info.validity);
        let issuer = info.issuer(key).ok_or(FinishError::OtherKey)?;
        if now < validity.not_before || validity.not_after < now + MAX_TTL {
            return Err(FinishError::Validity {
                from: rfc3339(unix_seconds(validity.not_before)),
                until: rfc3339(unix_seconds(validity.not_after)),
            });
        }
        let bundle = TrustBundle::new(asked.trust_domain, vec![root.clone()], 1)
            .map_err(FinishError::Bundle)?;
        let signed = Self {
            root: root.clone(),
            intermediate: intermediate.clone(),
            bundle,
        };
        signed.try_issuing(&issuer, validity, now)?;
        Ok(signed)
    }

    /// Signs as it will be asked to, throws the result away, and validates it. What any party of the chain restricts
    /// shows here: name constraints, path lengths, uses.
    pub(crate) fn try_issuing(
        &self,
        issuer: &Issuer<'static, CaKey>,
        validity: Validity,
        now: SystemTime,
    ) -> Result<(), FinishError> {
        let request = Request {
            id: SpiffeId::ca_server(self.bundle.trust_domain()),
            dns_names: BTreeSet::new(),
            public_key: issuer.key().public().clone(),
            ttl: None,
            until: None,
            requester: Requester::Ca,
        };
        let validity = Validity::of_leaf(now, MAX_TTL, validity);
        let leaf = profile::leaf(
            &request.id,
            &request.dns_names,
            &request.public_key,
            validity,
        )
        .and_then(|params| params.signed_by(&request.public_key, issuer))
        .map_err(IssueError::Sign)
        .map_err(FinishError::Trial)?;
        let chain = [leaf.into(), self.intermediate.clone()];
        let verify = |chain: &[_]| self.bundle.verify(chain, USAGE, now);
        check(&chain, &request, validity, verify)
            .map(|_| ())
            .map_err(FinishError::Trial)
    }

    fn write(&self, directory: &Path, options: &OpenOptions) -> Result<(), InitError> {
        let pem = |der: &CertificateDer<'static>| {
            Zeroizing::new(identity::pem::encode(std::slice::from_ref(der)))
        };
        let files = [
            (ROOT_CERTIFICATE, pem(&self.root)),
            (INTERMEDIATE_CERTIFICATE, pem(&self.intermediate)),
            (BUNDLE, Zeroizing::new(self.bundle.to_pem())),
        ];
        write_files(directory, files)?;
        let database = new_database(options.database.as_ref(), directory);
        establish(&database, &self.bundle, &self.intermediate)
    }
}

/// How long a CA can issue.
pub(crate) struct Forecast {
    /// The issuer, or what it depends on, whichever is first.
    pub(crate) issuer_ends: SystemTime,
}

/// Reads the CA in `directory`, has its key sign a certificate that is thrown away, and validates that.
pub(crate) fn forecast(
    directory: &Path,
    options: &OpenOptions,
    now: SystemTime,
) -> Result<Forecast, ForecastError> {
    let parts = read(directory, options)?;
    let issuing = parts.issuing;
    let signed = Signed {
        root: issuing.root,
        intermediate: issuing.certificate,
        bundle: parts.bundle,
    };
    signed
        .try_issuing(&issuing.issuer, issuing.validity, now)
        .map_err(|error| ForecastError::Trial(Box::new(error)))?;
    Ok(Forecast {
        issuer_ends: issuing.validity.not_after,
    })
}

/// Why a CA cannot issue.
#[derive(Debug, thiserror::Error)]
pub enum ForecastError {
    #[error("the CA cannot be opened")]
    Open(#[from] OpenError),
    #[error("nothing can be issued")]
    Trial(#[source] Box<FinishError>),
}

/// Why a signed chain was not taken.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    #[error("expected a CA in {0} that waits for its certificate (intermediate.csr), found none")]
    NothingToFinish(PathBuf),
    #[error("cannot use {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("expected the request that `ca init --external-root` wrote in intermediate.csr")]
    Request,
    #[error("cannot open the issuing key")]
    Open(#[source] OpenError),
    #[error("expected the key of intermediate.csr in intermediate.key, found another key")]
    OtherKeyOnDisk,
    #[error("expected PEM certificates")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("expected two certificates, the intermediate's and then the root's, found {0}")]
    Length(usize),
    #[error("the first certificate is not what was asked for")]
    Issued(#[from] IssuedError),
    #[error(
        "expected the intermediate to have a subject key identifier and no extended key usage, which would restrict its leaves"
    )]
    Intermediate,
    #[error(
        "expected the root to be a CA that may sign intermediates, with one common name, a subject key identifier and no extended key usage"
    )]
    Root,
    #[error("the first certificate is for another key than intermediate.key")]
    OtherKey,
    #[error(
        "expected a chain that is valid now and for another {} h, found one from {from} until {until}",
        MAX_TTL.as_secs() / 3600
    )]
    Validity { from: String, until: String },
    #[error("the root makes no trust bundle")]
    Bundle(#[source] BundleError),
    #[error("a certificate issued under this chain does not hold")]
    Trial(#[source] IssueError),
    #[error("cannot write the CA")]
    Init(#[source] InitError),
}
