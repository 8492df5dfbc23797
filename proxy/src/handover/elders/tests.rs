use super::*;
use crate::proof::Ends;
use crate::proof::tests::peer;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

const NAME: Name = [7; NAME_BYTES];

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://prod.example/ns/shop/sa/{name}")).unwrap()
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn proof(name: Name, peer: &str) -> Proof {
    Proof {
        name,
        peer: id(peer),
        own: id("orders"),
        until: 200,
    }
}

/// A process that has given its sockets away, and this one's end of the conversation.
fn elder() -> (Arc<Held>, StdUnixStream, JoinHandle<io::Result<()>>) {
    let held = Arc::<Held>::default();
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let mut theirs = UnixStream::from_std(theirs).unwrap();
    let heeding = Arc::clone(&held);
    let heeds = tokio::spawn(async move { heed(&mut theirs, &heeding).await });
    (held, ours, heeds)
}

#[tokio::test]
async fn the_process_that_has_the_connection_lets_it_go_on_and_no_other_identity_can_ask_for_that()
{
    let (first, first_line, _first) = elder();
    let (_second, second_line, _second_heeds) = elder();
    let ends = Arc::new(Ends::new(at(100), peer().0));
    let hold = first.hold(NAME, &id("front"), &id("orders"), &ends);
    let elders = Arc::<Elders>::default();
    assert!(!elders.prove(&proof(NAME, "front")).await, "nobody to ask");
    elders.add(vec![first_line, second_line]).await;

    assert!(!elders.prove(&proof(NAME, "cart")).await);
    assert!(!elders.prove(&proof([8; NAME_BYTES], "front")).await);
    let other = Proof {
        own: id("cart"),
        ..proof(NAME, "front")
    };
    assert!(!elders.prove(&other).await);
    assert_eq!(ends.moment(), at(100));
    assert!(elders.prove(&proof(NAME, "front")).await);
    assert_eq!(ends.moment(), at(200));
    drop(hold);
    assert!(!elders.prove(&proof(NAME, "front")).await);
}

#[tokio::test]
async fn who_has_ended_says_nothing_at_all_or_something_else_is_not_asked_again() {
    for said in [Some(&b""[..]), Some(&[b'y'; NAME_BYTES + 1]), None] {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        let elders = Arc::<Elders>::default();
        elders.add(vec![ours]).await;
        if let Some(said) = said {
            io::Write::write_all(&mut theirs, said).unwrap();
        }
        let _silent = said.is_none().then_some(theirs);
        assert!(!elders.prove(&proof(NAME, "front")).await);
        assert!(elders.hush().await.is_empty(), "{said:?}");
    }
}

/// Each was asked in its turn: a process that was stopped kept the proof from the one behind it for a second.
#[tokio::test]
async fn one_that_is_stuck_keeps_no_other_from_agreeing() {
    let (stuck, _silent) = StdUnixStream::pair().unwrap();
    let (held, line, _heeds) = elder();
    let ends = Arc::new(Ends::new(at(100), peer().0));
    let _hold = held.hold(NAME, &id("front"), &id("orders"), &ends);
    let elders = Arc::<Elders>::default();
    elders.add(vec![stuck, line]).await;
    assert!(elders.prove(&proof(NAME, "front")).await);
    let is_asking = elders.lines.try_lock().is_err();
    assert!(is_asking, "the one that is stuck is still waited for");
    assert_eq!(elders.hush().await.len(), 1, "and then no more");
}

/// What an asker leaves behind used to be the answer to the next question.
#[tokio::test]
async fn a_caller_that_does_not_wait_leaves_the_conversation_whole() {
    let (held, line, _heeds) = elder();
    let ends = Arc::new(Ends::new(at(100), peer().0));
    let _hold = held.hold(NAME, &id("front"), &id("orders"), &ends);
    let elders = Arc::<Elders>::default();
    elders.add(vec![line]).await;
    let hushed = elders.hush().await;
    let (unknown, known) = (proof([8; NAME_BYTES], "front"), proof(NAME, "front"));
    let left = timeout(Duration::from_millis(10), elders.prove(&unknown)).await;
    assert!(left.is_err(), "it waits for its turn");
    drop(hushed);
    assert!(elders.prove(&known).await);
}

#[tokio::test]
async fn the_next_process_asks_on_with_its_own_handle_and_hears_of_those_alone_that_live() {
    let (held, line, heeds) = elder();
    let (_gone, ended, ends_now) = elder();
    let ends = Arc::new(Ends::new(at(100), peer().0));
    let _hold = held.hold(NAME, &id("front"), &id("orders"), &ends);
    let ours = Arc::<Elders>::default();
    ours.add(vec![line, ended]).await;
    ends_now.abort();
    assert!(ends_now.await.unwrap_err().is_cancelled());
    let handles = ours.handles().await.unwrap();
    assert_eq!(handles.len(), 1);
    ours.hush().await.clear();

    let next = Arc::<Elders>::default();
    next.add(handles.into_iter().map(StdUnixStream::from).collect())
        .await;
    assert!(!ours.prove(&proof(NAME, "front")).await);
    assert!(next.prove(&proof(NAME, "front")).await);
    // It has heard the last of everyone who could say anything.
    drop(next);
    heeds.await.unwrap().unwrap();
}

#[tokio::test]
async fn garbage_ends_the_conversation() {
    for said in [
        [&NAME[..], &[0; 8], &[0, 3], b"x.y"].concat(),
        [&NAME[..], &[0; 8], &[0, 1], &[0xFF]].concat(),
    ] {
        let (_held, mut line, heeds) = elder();
        io::Write::write_all(&mut line, &said).unwrap();
        let error = heeds.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn of_more_processes_than_any_upgrade_leaves_the_oldest_are_forgotten() {
    let elders = Elders::default();
    let (given, _kept): (Vec<_>, Vec<_>) = (0..MOST + 3)
        .map(|_| StdUnixStream::pair().unwrap())
        .unzip();
    elders.add(given).await;
    assert_eq!(elders.hush().await.len(), MOST);
}
