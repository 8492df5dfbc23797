//! Certificates for tests: good by default, bad on demand. No key outlives its test.

use crate::{Svid, TrustBundle, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::time::SystemTime;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};

/// The moment in which all tests take place.
pub(crate) const NOW: OffsetDateTime = datetime!(2026-06-01 12:00 UTC);
pub(crate) const TRUST_DOMAIN: &str = "domain.test";
pub(crate) const WORKLOAD: &str = "spiffe://domain.test/workload";

pub(crate) fn now() -> SystemTime {
    NOW.into()
}

pub(crate) fn trust_domain() -> TrustDomain {
    TrustDomain::parse(TRUST_DOMAIN).unwrap()
}

/// A certificate with its key.
pub(crate) struct Minted {
    pub(crate) der: CertificateDer<'static>,
    params: CertificateParams,
    key: KeyPair,
}

impl Minted {
    pub(crate) fn root() -> Self {
        Self::self_signed(signer("root"))
    }

    pub(crate) fn self_signed(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        Self { der, params, key }
    }

    /// Signs `params`, whatever this certificate may or may not do by its own profile.
    pub(crate) fn sign(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).unwrap().der().clone();
        Self { der, params, key }
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(trust_domain(), vec![self.der.clone()], 1).unwrap()
    }

    /// An SVID for `id`, signed by this certificate and sent without it.
    pub(crate) fn svid(&self, id: &str) -> Svid {
        let leaf = self.sign(leaf(id));
        Svid::new(vec![leaf.der.clone()], leaf.private_key()).unwrap()
    }
}

/// A leaf that satisfies the profile for an hour either side of [`NOW`].
pub(crate) fn leaf(id: &str) -> CertificateParams {
    let mut params = around_now("leaf");
    params.is_ca = IsCa::ExplicitNoCa;
    params.subject_alt_names = vec![uri(id)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

/// A signing certificate that satisfies the profile for an hour either side of [`NOW`].
pub(crate) fn signer(name: &str) -> CertificateParams {
    let mut params = around_now(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![uri("spiffe://domain.test")];
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn around_now(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = NOW - Duration::HOUR;
    params.not_after = NOW + Duration::HOUR;
    params
}
