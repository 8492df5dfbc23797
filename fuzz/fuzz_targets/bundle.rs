//! Trust bundles in the three forms they are read in: PEM, concatenated DER, and the SPIFFE bundle document.
#![no_main]

use fuzz::assert_one_line;
use identity::jwt::JwtKeys;
use identity::{BundleError, TrustBundle, TrustDomain};
use std::time::Duration;

fuzz::target!(|bytes: &[u8]| {
    for read in [
        TrustBundle::from_pem(trust_domain(), bytes, 7),
        TrustBundle::from_der(trust_domain(), bytes, 7),
        TrustBundle::from_spiffe_json(trust_domain(), bytes),
    ] {
        match read {
            Ok(bundle) => laws(&bundle),
            Err(error) => told(&error),
        }
    }
});

fn laws(bundle: &TrustBundle) {
    assert!(!bundle.authorities().is_empty());
    assert_eq!(bundle.trust_domain(), &trust_domain());
    let sequence = bundle.sequence();

    // Every form says the same of the certificates.
    let certificates = bundle.clone().with_jwt_keys(JwtKeys::default());
    let pem = TrustBundle::from_pem(trust_domain(), bundle.to_pem().as_bytes(), sequence);
    assert_eq!(pem.as_ref().ok(), Some(&certificates), "{pem:?}");
    let authorities = bundle.authorities().iter();
    let der: Vec<u8> = authorities.flat_map(|der| der.to_vec()).collect();
    let der = TrustBundle::from_der(trust_domain(), &der, sequence);
    assert_eq!(der.as_ref().ok(), Some(&certificates), "{der:?}");
    // The document also carries the keys of tokens, and no authorities of a kind that it has no words for.
    let document = bundle.to_spiffe_json(Duration::from_secs(60));
    match TrustBundle::from_spiffe_json(trust_domain(), document.as_bytes()) {
        Ok(again) => {
            assert_eq!(again.jwt_keys(), bundle.jwt_keys());
            assert_eq!(again.sequence(), sequence);
            let kept = |der| bundle.authorities().contains(der);
            assert!(again.authorities().iter().all(kept));
        }
        Err(error) => assert!(matches!(error, BundleError::Empty), "{error}"),
    }

    // A bundle may follow itself, and nothing older may follow it.
    assert_eq!(bundle.check_successor(bundle), Ok(()));
    if let Some(before) = sequence.checked_sub(1) {
        let older = TrustBundle::new(trust_domain(), bundle.authorities().to_vec(), before);
        let older = older.expect("the same certificates make a bundle again");
        assert!(bundle.check_successor(&older).is_err());
        assert_eq!(older.check_successor(bundle), Ok(()));
    }
}

fn told(error: &BundleError) {
    assert_one_line(error);
    // The texts of other crates are printed too, at the end of the chain.
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        assert_one_line(&error);
        source = error.source();
    }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("domain.test").expect("a trust domain")
}
