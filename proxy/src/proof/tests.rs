use super::*;
use crate::{IdentityFeed, IdentityState};
use identity::{Leaf, Revocations, TrustBundle};
use tokio::sync::{mpsc, watch};

const NAME: Name = [7; 32];

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://prod.example/ns/shop/sa/{name}")).unwrap()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A peer with a certificate that is numbered 1, and the list that it may come to be on.
pub(crate) fn peer() -> (Revocable, watch::Sender<Arc<Revocations>>) {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&rcgen::KeyPair::generate().unwrap());
    let front = id("front");
    let bundle =
        TrustBundle::new(front.trust_domain(), vec![root.unwrap().der().clone()], 1).unwrap();
    let (list, revocations) = watch::channel(Arc::default());
    let live = LiveIdentity::new(&IdentityFeed {
        svid: watch::channel(None).1,
        bundle: watch::channel(Arc::new(bundle)).1,
        revocations,
        state: watch::channel(IdentityState::default()).1,
        renew: mpsc::channel(1).0,
    });
    let leaf = Leaf {
        id: front,
        serial: "01".to_owned(),
        not_before: at(0),
        not_after: at(100),
    };
    let signers = Vec::new();
    let chain = Arc::new(VerifiedChain { leaf, signers });
    (Revocable::new(&chain, &live), list)
}

/// A connection of the front end to the orders that ends at 100.
fn held() -> (Arc<Held>, Arc<Ends>, Hold) {
    let held = Arc::<Held>::default();
    let ends = Arc::new(Ends::new(at(100), peer().0));
    let hold = held.hold(NAME, &id("front"), &id("orders"), &ends);
    (held, ends, hold)
}

async fn answers(held: &Held, peer: &str, own: &str, said: &[u8]) -> (io::Result<()>, Vec<u8>) {
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    near.write_all(said).await.unwrap();
    near.shutdown().await.unwrap();
    let answered = held.answer(far, &id(peer), &id(own), at(200)).await;
    let mut heard = Vec::new();
    near.read_to_end(&mut heard).await.unwrap();
    (answered, heard)
}

#[tokio::test]
async fn the_same_identity_puts_the_end_of_its_connection_off_and_never_nearer() {
    let (held, ends, _hold) = held();
    let (answered, heard) = answers(&held, "front", "orders", &NAME).await;
    answered.unwrap();
    assert_eq!(heard, 200_u64.to_be_bytes());
    assert_eq!(ends.moment(), at(200));
    ends.put_off(150);
    assert_eq!(ends.moment(), at(200));
}

#[tokio::test]
async fn a_stolen_name_is_refused_to_every_other_identity() {
    let (held, ends, _hold) = held();
    for (peer, own) in [("cart", "orders"), ("front", "cart"), ("orders", "front")] {
        let (answered, heard) = answers(&held, peer, own, &NAME).await;
        answered.unwrap();
        assert_eq!(heard, [0; 8], "{peer} to {own}");
    }
    assert_eq!(ends.moment(), at(100));
}

#[tokio::test]
async fn an_unknown_name_and_one_of_a_connection_that_has_ended_are_refused() {
    let (held, ends, hold) = held();
    let (_, heard) = answers(&held, "front", "orders", &[&[8; 32][..], &NAME].concat()).await;
    assert_eq!(heard, [[0; 8], 200_u64.to_be_bytes()].concat());
    drop(hold);
    let (_, heard) = answers(&held, "front", "orders", &NAME).await;
    assert_eq!(heard, [0; 8]);
    assert_eq!(ends.moment(), at(200));
    assert!(held.lock().is_empty());
}

#[tokio::test]
async fn half_a_name_says_nothing_and_names_without_end_are_not_read() {
    let (held, ends, _hold) = held();
    let (_, heard) = answers(&held, "front", "orders", &NAME[..31]).await;
    assert!(heard.is_empty(), "{heard:?}");
    assert_eq!(ends.moment(), at(100));
    let many = NAME.repeat(MOST_NAMES + 1);
    let (_, heard) = answers(&held, "front", "orders", &many).await;
    assert_eq!(heard.len(), MOST_NAMES * 8);
}

#[test]
fn what_a_flood_of_connections_took_is_given_back_and_the_others_are_kept() {
    let (held, _ends, _hold) = held();
    let ends = Arc::new(Ends::new(at(100), peer().0));
    let flood: Vec<_> = (0..10_000_u64)
        .map(|number| {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&number.to_be_bytes());
            held.hold(name, &id("front"), &id("orders"), &ends)
        })
        .collect();
    assert_eq!(held.lock().len(), 10_001);
    drop(flood);
    assert!(held.lock().capacity() <= 2 * LEAST_ROOM);
    assert!(held.prove(&Proof {
        name: NAME,
        peer: id("front"),
        own: id("orders"),
        until: 200,
    }));
}

#[tokio::test]
async fn the_connection_of_a_revoked_peer_has_ended_and_no_proof_puts_that_off() {
    let (peer, list) = peer();
    let tomorrow = SystemTime::now() + Duration::from_secs(24 * 3600);
    let ends = Ends::new(tomorrow, peer);
    assert!(ends.moment() > SystemTime::now());
    list.send_replace(Arc::new(Revocations {
        sequence: 1,
        serials: ["01".to_owned()].into(),
        ..Revocations::default()
    }));
    ends.put_off(seconds(tomorrow) + 24 * 3600);
    assert_eq!(ends.moment(), UNIX_EPOCH);
    ends.reached().await;
}
