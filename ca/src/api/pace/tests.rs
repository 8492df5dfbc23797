use super::*;
use crate::authority::{Authority, Requester, init};
use crate::config::{InitOptions, KeyProtection, OpenOptions};
use crate::csr::PublicKey;
use crate::metrics::Metrics;
use crate::proto::RenewRequest;
use futures_util::poll;
use identity::{Leaf, TrustDomain};
use rcgen::{KeyPair, PublicKeyData};
use std::net::Ipv4Addr;
use std::pin::pin;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A CA that gives one certificate a minute, to anybody, with so long a line.
fn one_a_minute(waiting: usize) -> (Api, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let domain = TrustDomain::parse("demo.test").unwrap();
    let options = InitOptions::new(domain, KeyProtection::InsecurePlaintext);
    init(&path, &options).unwrap();
    let authority = Authority::open(&path, &OpenOptions::default()).unwrap();
    let limits = Limits {
        certificates_per_minute: 1,
        certificates_per_minute_per_address: 1,
        turns: Bounds {
            places: 1,
            waiting,
            wait: Duration::from_secs(60),
        },
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

async fn ask(api: &Api, order: IssueOrder) -> Result<Issued, Refused> {
    let admitted = api.take_turn(&order.id, asking()).await?;
    api.issue_in_turn(order, admitted).await
}

#[tokio::test]
async fn what_brought_no_certificate_takes_nothing_from_the_budgets() {
    let (api, _directory) = one_a_minute(1);
    for _ in 0..3 {
        let ended = order(Some(SystemTime::UNIX_EPOCH));
        let refused = ask(&api, ended).await.unwrap_err();
        assert!(matches!(refused, Refused::Issue(_)), "{refused:?}");
    }
    ask(&api, order(None)).await.unwrap();
    let refused = ask(&api, order(None)).await.unwrap_err();
    assert!(
        matches!(refused, Refused::TooManyCertificates { .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn who_leaves_the_line_takes_nothing_along() {
    let (api, _directory) = one_a_minute(1);
    let place = api.turns.take(Due::without_certificate()).await.unwrap();
    for _ in 0..3 {
        let mut waiting = pin!(ask(&api, order(None)));
        assert!(poll!(&mut waiting).is_pending());
    }
    drop(place);
    ask(&api, order(None)).await.unwrap();
}

#[tokio::test]
async fn who_leaves_while_the_certificate_is_made_pays_for_it() {
    let (api, _directory) = one_a_minute(1);
    {
        let mut issuing = pin!(ask(&api, order(None)));
        assert!(poll!(&mut issuing).is_pending());
    }
    let refused = ask(&api, order(None)).await.unwrap_err();
    assert!(
        matches!(refused, Refused::TooManyCertificates { .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn whose_turn_it_is_not_is_turned_away_before_the_store_is_asked() {
    let (api, _directory) = one_a_minute(0);
    let _place = api.turns.take(Due::without_certificate()).await.unwrap();
    let now = SystemTime::now();
    let svid = Leaf {
        id: order(None).id,
        serial: "01".to_owned(),
        not_before: now,
        not_after: now + Duration::from_secs(3600),
    };
    let renewal = RenewRequest::default();
    let refused = api.issue_after(&svid, &renewal, HERE).await.unwrap_err();
    assert!(matches!(refused, Refused::Overloaded { .. }), "{refused:?}");
}
