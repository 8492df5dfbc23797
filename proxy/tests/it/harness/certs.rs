//! A CA for one test: good SVIDs by default, bad ones on demand.

use identity::{Svid, TrustBundle, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::time::{Duration, SystemTime};

pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    der: CertificateDer<'static>,
}

/// How long from now a certificate is valid.
#[derive(Clone, Copy)]
pub(crate) enum Life {
    Hour,
    For(Duration),
    OverSince(Duration),
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = params("spiffe://prod.example", Life::Hour);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { params, key, der }
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        let domain = TrustDomain::parse("prod.example").unwrap();
        TrustBundle::new(domain, vec![self.der.clone()], 1).unwrap()
    }

    pub(crate) fn svid(&self, id: &str, life: Life) -> Svid {
        let leaf = self.sign(&leaf(id, life));
        Svid::new(vec![leaf.der], leaf.key).unwrap()
    }

    /// Signs whatever it is given.
    pub(crate) fn sign(&self, params: &CertificateParams) -> Minted {
        Minted::new(params, &self.params, &self.key)
    }
}

/// A certificate with its key; what it says need not be right.
pub(crate) struct Minted {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Minted {
    pub(crate) fn self_signed(params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Self { der, key }
    }

    /// `params` signed by who says to be `issuer` and has `issuers_key`.
    pub(crate) fn new(
        params: &CertificateParams,
        issuer: &CertificateParams,
        issuers_key: &KeyPair,
    ) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(issuer, issuers_key);
        let der = params.signed_by(&key, &issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Self { der, key }
    }
}

/// A leaf that satisfies the profile.
pub(crate) fn leaf(id: &str, life: Life) -> CertificateParams {
    let mut leaf = params(id, life);
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    leaf
}

fn params(uri: &str, life: Life) -> CertificateParams {
    let now = SystemTime::now();
    let not_after = match life {
        Life::Hour => now + Duration::from_secs(3600),
        Life::For(time) => now + time,
        Life::OverSince(time) => now - time,
    };
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.not_before = (now - Duration::from_secs(600)).into();
    params.not_after = not_after.into();
    params
}
