//! Trust bundles in the three forms they are read in: PEM, concatenated DER, and the SPIFFE bundle document.
#![no_main]

use fuzz::assert_one_line;
use identity::{BundleError, TrustBundle, TrustDomain};

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

    // Every form says the same.
    let pem = TrustBundle::from_pem(trust_domain(), bundle.to_pem().as_bytes(), sequence);
    assert_eq!(pem.as_ref().ok(), Some(bundle), "{pem:?}");
    let authorities = bundle.authorities().iter();
    let der: Vec<u8> = authorities.flat_map(|der| der.to_vec()).collect();
    let der = TrustBundle::from_der(trust_domain(), &der, sequence);
    assert_eq!(der.as_ref().ok(), Some(bundle), "{der:?}");

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
