use super::*;
use crate::authority::{Authority, Requester, init};
use crate::config::{InitOptions, KeyProtection, OpenOptions};
use crate::csr::PublicKey;
use crate::metrics::Metrics;
use futures_util::poll;
use identity::TrustDomain;
use rcgen::{KeyPair, PublicKeyData};
use std::net::Ipv4Addr;
use std::pin::pin;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ONE_AT_A_TIME: Bounds = Bounds {
    places: 1,
    waiting: 1,
    wait: Duration::from_secs(60),
};

/// A CA that gives one certificate a minute, to anybody.
fn one_a_minute() -> (Api, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let domain = TrustDomain::parse("demo.test").unwrap();
    let options = InitOptions::new(domain, KeyProtection::InsecurePlaintext);
    init(&path, &options).unwrap();
    let authority = Authority::open(&path, &OpenOptions::default()).unwrap();
    let limits = Limits {
        certificates_per_minute: 1,
        certificates_per_minute_per_address: 1,
        turns: ONE_AT_A_TIME,
    };
    let api = Api::new(Arc::new(authority), Arc::new(Metrics::default()), limits);
    (api, directory)
}

fn order(until: Option<SystemTime>) -> IssueOrder {
    let key = KeyPair::generate().unwrap();
    IssueOrder {
        id: SpiffeId::parse("spiffe://demo.test/a").unwrap(),
        dns_names: Default::default(),
        public_key: PublicKey::from_spki(&key.subject_public_key_info()).unwrap(),
        ttl: None,
        until,
        requester: Requester::Operator,
    }
}

fn asking() -> Asking<'static> {
    Asking {
        address: HERE,
        due: Due::without_certificate(),
        ledger_head: None,
    }
}

#[tokio::test]
async fn what_brought_no_certificate_takes_nothing_from_the_budgets() {
    let (api, _directory) = one_a_minute();
    for _ in 0..3 {
        let ended = order(Some(SystemTime::UNIX_EPOCH));
        let refused = api.issue_in_turn(ended, asking()).await.unwrap_err();
        assert!(matches!(refused, Refused::Issue(_)), "{refused:?}");
    }
    api.issue_in_turn(order(None), asking()).await.unwrap();
    let refused = api.issue_in_turn(order(None), asking()).await.unwrap_err();
    assert!(
        matches!(refused, Refused::TooManyCertificates { .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn who_leaves_the_line_takes_nothing_along() {
    let (api, _directory) = one_a_minute();
    let place = api.turns.take(Due::without_certificate()).await.unwrap();
    for _ in 0..3 {
        let mut waiting = pin!(api.issue_in_turn(order(None), asking()));
        assert!(poll!(&mut waiting).is_pending());
    }
    drop(place);
    api.issue_in_turn(order(None), asking()).await.unwrap();
}

#[tokio::test]
async fn who_leaves_while_the_certificate_is_made_pays_for_it() {
    let (api, _directory) = one_a_minute();
    {
        let mut issuing = pin!(api.issue_in_turn(order(None), asking()));
        assert!(poll!(&mut issuing).is_pending());
    }
    let refused = api.issue_in_turn(order(None), asking()).await.unwrap_err();
    assert!(
        matches!(refused, Refused::TooManyCertificates { .. }),
        "{refused:?}"
    );
}
