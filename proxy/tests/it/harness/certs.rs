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

    pub(crate) fn bundle(&self) -> TrustBundle {
        let domain = TrustDomain::parse("prod.example").unwrap();
        TrustBundle::new(domain, vec![self.der.clone()], 1).unwrap()
    }

    pub(crate) fn svid(&self, id: &str, life: Life) -> Svid {
        let mut leaf = params(id, life);
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = leaf.signed_by(&key, &issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Svid::new(vec![der], key).unwrap()
    }
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
