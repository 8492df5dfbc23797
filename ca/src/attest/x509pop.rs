//! A certificate of a named outside CA: its holder proves the key by signing [`possession_statement`].
//!
//! The statement names the identity and the CSR asked with, so that nobody else has any use for the signature, and the time,
//! so that it has none for long. Outside CAs are a PEM file each; their certificates have to be for client authentication,
//! as in TLS.

use super::fetch::FetchError;
use super::selector::Kind;
use super::{AttestError, Evidence, Renewals, Selector, fetch, possession_statement};
use crate::ledger::fingerprint;
use crate::proto::X509Possession;
use crate::store::unix_seconds;
use identity::SpiffeId;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use webpki::aws_lc_rs as algorithms;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

const MAX_ROOTS_BYTES: usize = 1024 * 1024;
/// Leaf and intermediates; what webpki follows is not longer.
const MAX_CHAIN: usize = 8;
/// How far from our time a statement may have been signed, either way: clocks differ, and a call takes its time.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Names of one certificate that become selectors.
const MAX_NAMES: usize = 64;

/// id-kp-clientAuth (RFC 5280 section 4.2.1.12), which has to be there: a certificate for anything is for nothing.
const CLIENT_AUTH: &[u8] = &[43, 6, 1, 5, 5, 7, 3, 2];

/// How the statement may be signed: what TLS 1.3 has.
static SIGNATURES: [&dyn SignatureVerificationAlgorithm; 4] = [
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ED25519,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
];

/// One outside CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What the CA is called in entries and records.
    pub name: String,
    /// Its roots, PEM; read when the CA starts.
    pub ca_file: PathBuf,
    pub renewals: Renewals,
}

/// A certificate, and what its holder has signed just now.
pub(super) struct Possession<'p> {
    chain: Vec<CertificateDer<'p>>,
    statement: Vec<u8>,
    signature: &'p [u8],
}

impl<'p> Possession<'p> {
    /// What `presented` says to whoever asks for `id` with `csr`, if it was signed just now. The signature is not looked at.
    pub(super) fn read(
        presented: &'p X509Possession,
        id: &SpiffeId,
        csr: &[u8],
        now: SystemTime,
    ) -> Result<Self, AttestError> {
        let signed = presented.signed_unix_seconds;
        if unix_seconds(now).abs_diff(signed) > WINDOW.as_secs() {
            return Err(AttestError::Stale);
        }
        let chain = presented.chain.iter();
        Ok(Self {
            chain: chain.map(|der| CertificateDer::from(&**der)).collect(),
            statement: possession_statement(id, csr, signed),
            signature: &presented.signature,
        })
    }
}

/// An outside CA whose certificates are believed.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) name: String,
    pub(super) renewals: Renewals,
    roots: Vec<TrustAnchor<'static>>,
}

impl Outside {
    pub(super) async fn open(options: Options) -> Result<Self, FetchError> {
        let pem = fetch::read(&options.ca_file, MAX_ROOTS_BYTES).await?;
        let anchor =
            |der: CertificateDer<'static>| Some(anchor_from_trusted_cert(&der).ok()?.to_owned());
        let roots: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .filter_map(Result::ok)
            .filter_map(anchor)
            .collect();
        match roots.is_empty() {
            true => Err(FetchError::NoRoots(options.ca_file)),
            false => Ok(Self {
                name: options.name,
                renewals: options.renewals,
                roots,
            }),
        }
    }

    /// What the holder of the first certificate is; `None` if it is not of this CA.
    pub(super) fn attest(
        &self,
        possession: &Possession<'_>,
        now: SystemTime,
    ) -> Option<Result<Evidence, AttestError>> {
        let (leaf, intermediates) = possession.chain.split_first()?;
        if intermediates.len() >= MAX_CHAIN {
            return None;
        }
        let certificate = EndEntityCert::try_from(leaf).ok()?;
        let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).ok()?);
        let usage = KeyUsage::required(CLIENT_AUTH);
        certificate
            .verify_for_usage(
                ALL_VERIFICATION_ALGS,
                &self.roots,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .ok()?;
        // Each algorithm takes keys of its own kind alone.
        let signed = SIGNATURES.iter().any(|algorithm| {
            certificate
                .verify_signature(*algorithm, &possession.statement, possession.signature)
                .is_ok()
        });
        if !signed {
            return Some(Err(AttestError::Possession));
        }
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        let sha256 = fingerprint(leaf);
        let named = [
            Selector::new(Kind::X509Authority, &*self.name),
            Selector::new(Kind::X509Sha256, &*sha256),
        ];
        Some(Ok(Evidence {
            attestor: format!("x509pop/{}", self.name),
            subject: format!("certificate {sha256}"),
            holder: Some(format!("certificate {sha256}")),
            selectors: named.into_iter().flatten().chain(names(&parsed)).collect(),
            natural_id: None,
            ends: Some(parsed.validity().not_after.to_datetime().into()),
            renewals: self.renewals,
        }))
    }
}

/// The common name, if there is exactly one, and the alternative names.
fn names(certificate: &X509Certificate<'_>) -> Vec<Selector> {
    let mut common = certificate.subject().iter_common_name();
    let common = match (common.next(), common.next()) {
        (Some(name), None) => name.as_str().ok(),
        _ => None,
    };
    let common = common.and_then(|name| Selector::new(Kind::X509CommonName, name));
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative
        .into_iter()
        .flat_map(|names| &names.value.general_names);
    let alternative = alternative.take(MAX_NAMES).filter_map(|name| match name {
        GeneralName::DNSName(name) => Selector::new(Kind::X509DnsName, *name),
        GeneralName::URI(name) => Selector::new(Kind::X509Uri, *name),
        _ => None,
    });
    common.into_iter().chain(alternative).collect()
}
