use super::*;
use crate::attest::Renewals;

const CART: &str = "spiffe://demo.test/ns/shop/sa/cart";
const SELECTORS: [&str; 3] = ["k8s:cluster:prod", "k8s:ns:shop", "k8s:sa:cart"];

fn written() -> Written {
    Written {
        id: CART.to_owned(),
        selectors: SELECTORS.map(str::to_owned).to_vec(),
        ttl_seconds: Some(600),
        hint: Some("main".to_owned()),
        dns_names: vec!["cart.shop.example".to_owned()],
        federates_with: vec!["partner.example".to_owned()],
        recovery_grace_seconds: Some(1200),
    }
}

fn evidence(selectors: &[&str]) -> Evidence {
    Evidence {
        attestor: "kubernetes/prod".to_owned(),
        subject: String::new(),
        holder: None,
        selectors: selectors.iter().map(|text| text.parse().unwrap()).collect(),
        natural_id: None,
        ends: None,
        renewals: Renewals::Attest,
    }
}

#[test]
fn an_entry_reads_back_and_has_one_name_in_whatever_order_it_is_written() {
    let entry = Entry::try_from(written()).unwrap();
    assert_eq!(Entry::try_from(entry.to_written()).unwrap(), entry);
    let mut other = written();
    other.selectors.reverse();
    other.selectors.push(SELECTORS[0].to_owned());
    other.ttl_seconds = None;
    assert_eq!(Entry::try_from(other).unwrap().name(), entry.name());
    let mut other = written();
    other.selectors.pop();
    assert_ne!(Entry::try_from(other).unwrap().name(), entry.name());
}

#[test]
fn all_selectors_have_to_be_met() {
    let entry = Entry::try_from(written()).unwrap();
    let more = [&SELECTORS[..], &["k8s:sa:other"]].concat();
    assert!(entry.is_met_by(&evidence(&SELECTORS)));
    assert!(entry.is_met_by(&evidence(&more)));
    for missing in 0..SELECTORS.len() {
        let mut fewer = SELECTORS.to_vec();
        fewer.remove(missing);
        assert!(!entry.is_met_by(&evidence(&fewer)), "{fewer:?}");
    }
    assert!(!entry.is_met_by(&evidence(&[])));
}

#[test]
fn an_entry_that_could_be_anybodys_or_nobodys_is_refused() {
    let with = |change: fn(&mut Written)| {
        let mut written = written();
        change(&mut written);
        Entry::try_from(written).unwrap_err().to_string()
    };
    for (said, words) in [
        (with(|entry| entry.selectors.clear()), "for everybody"),
        (
            with(|entry| drop(entry.selectors.remove(0))),
            "k8s:cluster:<name>",
        ),
        (
            with(|entry| entry.selectors.truncate(1)),
            "at least one other",
        ),
        (
            with(|entry| drop(entry.selectors.remove(1))),
            "can be made in any namespace",
        ),
        (
            with(|entry| {
                entry.selectors = ["k8s:cluster:a", "k8s:cluster:b"]
                    .map(str::to_owned)
                    .to_vec()
            }),
            "at least one other",
        ),
        (
            with(|entry| entry.selectors.push("unix:uid:0".to_owned())),
            "one kind of attestor",
        ),
        (
            with(|entry| entry.selectors.push("k8s:ns:*".to_owned())),
            "a value of its form",
        ),
        (
            with(|entry| entry.selectors = vec!["k8s:ns:a".to_owned(); 17]),
            "at most 16",
        ),
        (
            with(|entry| entry.id = "spiffe://demo.test/tipstaff/ca".to_owned()),
            "of a workload",
        ),
        (
            with(|entry| entry.id = "spiffe://demo.test".to_owned()),
            "of a workload",
        ),
        (with(|entry| entry.id = "cart".to_owned()), "a SPIFFE ID"),
        (with(|entry| entry.ttl_seconds = Some(0)), "a life of"),
        (
            with(|entry| entry.ttl_seconds = Some(u64::MAX)),
            "a life of",
        ),
        (
            with(|entry| entry.hint = Some("a\nb".to_owned())),
            "a hint of",
        ),
        (
            with(|entry| entry.federates_with = vec!["A".to_owned()]),
            "to federate with",
        ),
    ] {
        assert!(said.contains(words), "{words:?} in {said:?}");
    }
}

#[test]
fn a_claim_that_all_tokens_have_tells_nobody_from_another() {
    let of = |claims: &[&str]| {
        let selectors = [&["oidc:issuer:ci"], claims].concat();
        Entry::try_from(Written {
            selectors: selectors.into_iter().map(str::to_owned).collect(),
            recovery_grace_seconds: None,
            ..written()
        })
    };
    let claims =
        ["iss", "aud", "exp", "iat", "nbf", "jti"].map(|name| format!("oidc:claim:{name}=1"));
    let claims = claims.each_ref().map(String::as_str);
    let refused = of(&claims).unwrap_err().to_string();
    assert!(refused.contains("at least one other"), "{refused}");
    assert!(of(&[claims[1], "oidc:claim:sub=ci"]).is_ok());
    assert!(of(&["oidc:claim:audit=1"]).is_ok());
}

#[test]
fn unknown_keys_of_a_document_are_refused() {
    let json = serde_json::to_string(&written()).unwrap();
    assert!(serde_json::from_str::<Written>(&json).is_ok());
    let more = json.replacen('{', "{\"admin\":true,", 1);
    assert!(serde_json::from_str::<Written>(&more).is_err());
}

#[test]
fn what_ends_with_its_evidence_is_not_recovered_beyond_that() {
    for selectors in [
        ["oidc:issuer:ci", "oidc:claim:sub=ci"],
        ["x509pop:ca:corp", "x509pop:cn:cart"],
    ] {
        let of = |recovery_grace_seconds| {
            Entry::try_from(Written {
                selectors: selectors.map(str::to_owned).to_vec(),
                recovery_grace_seconds,
                ..written()
            })
        };
        assert_eq!(of(Some(1200)), Err(EntryError::EvidenceEnds));
        assert!(of(None).is_ok());
    }
}
