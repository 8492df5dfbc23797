use super::*;
use tokio::net::TcpListener;

/// With one door, where a listener that the test holds stands in for the kernel's rules.
async fn probe() -> (Probe, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let probe = Probe {
        doors: vec![listener.local_addr().unwrap()],
        knocking: Mutex::default(),
    };
    (probe, listener)
}

#[tokio::test]
async fn only_our_own_connection_to_a_door_proves_anything() {
    let (probe, listener) = probe().await;
    let door = probe.doors[0];
    let elsewhere = "203.0.113.7:80".parse().unwrap();
    let seen = async {
        let (_stream, peer) = listener.accept().await.unwrap();
        assert!(probe.look_at(Ok(peer), elsewhere).is_ok());
        let stranger = "127.0.0.1:1".parse().unwrap();
        assert!(probe.look_at(Ok(stranger), door).is_err());
        assert!(
            probe
                .look_at(Err(io::ErrorKind::NotConnected.into()), door)
                .is_err()
        );
        assert!(probe.lock().is_some(), "it was proven by somebody else");
        assert!(matches!(probe.look_at(Ok(peer), door), Err(Misled::Probe)));
    };
    let (knock, ()) = tokio::join!(probe.knock(door), seen);
    assert_eq!(knock, Knock::Arrived);

    // Taken by a process that is not this one.
    let taken = async { drop(listener.accept().await.unwrap()) };
    let (knock, ()) = tokio::join!(probe.knock(door), taken);
    assert_eq!(knock, Knock::Unclear);
    drop(listener);
    assert_eq!(probe.knock(door).await, Knock::Refused);
    assert!(probe.lock().is_none());
}

#[tokio::test]
async fn missing_rules_take_a_proof_back_and_a_listener_without_room_does_not() {
    let (probe, listener) = probe().await;
    let door = probe.doors[0];
    let mut missing = probe.doors.clone();
    let arrives = async {
        let (_stream, peer) = listener.accept().await.unwrap();
        probe.look_at(Ok(peer), door).unwrap_err();
    };
    tokio::join!(probe.look(&mut missing), arrives);
    assert_eq!(missing, []);
    // Nobody accepts.
    probe.look(&mut missing).await;
    assert_eq!(missing, []);
    drop(listener);
    probe.look(&mut missing).await;
    assert_eq!(missing, [door]);
    // And what is unclear proves nothing.
    let listener = TcpListener::bind(door).await.unwrap();
    let taken = async { drop(listener.accept().await.unwrap()) };
    tokio::join!(probe.look(&mut missing), taken);
    assert_eq!(missing, [door]);
}

/// The process before it takes some of the probes for as long as it holds the sockets.
#[tokio::test(start_paused = true)]
async fn an_heir_is_ready_while_another_takes_its_probes_and_not_when_nobody_does() {
    let (probe, listener) = probe().await;
    let readiness = Readiness::new();
    let watched = async {
        for _ in 0..3 {
            drop(listener.accept().await.unwrap());
            assert_eq!(readiness.pending(), Vec::<&str>::new());
        }
        drop(listener);
        while readiness.pending().is_empty() {
            sleep(SOON).await;
        }
        assert_eq!(readiness.pending(), [MISSING]);
    };
    // The time is paused, and goes on as soon as there is nothing to do.
    tokio::select! {
        never = probe.watch(&readiness, None) => match never {},
        noticed = timeout(20 * AGAIN, watched) => noticed.unwrap(),
    }
}

#[test]
fn readiness_waits_for_a_proof_where_there_are_doors() {
    let readiness = Readiness::new();
    assert!(Probe::default().unready(&readiness).is_none());
    let probe = Probe {
        doors: vec!["127.0.0.1:15051".parse().unwrap()],
        knocking: Mutex::default(),
    };
    let unready = probe.unready(&readiness);
    assert_eq!(readiness.pending(), [MISSING]);
    drop(unready);
    assert!(readiness.pending().is_empty());
}

#[test]
fn there_are_doors_where_connections_are_redirected_and_only_there() {
    let read = |text: &str| {
        let problems = policy::yaml::Problems::new();
        let node = policy::yaml::parse_one("sidecar.yaml", text, &problems).unwrap();
        policy::yaml::map(&node, &problems, Config::read).unwrap()
    };
    let doors = |text: &str| Probe::new(&read(text), true).doors;
    assert_eq!(
        doors("inbound: [{listen: \"[::]:15006\", app: \"127.0.0.1:80\"}]"),
        []
    );
    assert_eq!(
        doors("outbound: {listen: \"127.0.0.1:15001\", services: []}"),
        []
    );
    let shown =
        |text: &str| -> Vec<String> { doors(text).iter().map(ToString::to_string).collect() };
    assert_eq!(
        shown("inbound: [{listen: \"[::]:15006\", app: original}]"),
        ["127.0.0.1:15056", "[::1]:15056"]
    );
    assert_eq!(
        shown("inbound: [{listen: \"0.0.0.0:15006\", app: original}]"),
        ["127.0.0.1:15056"]
    );
    assert_eq!(
        shown("outbound: {listen: \"127.0.0.1:15001\", redirected: true, uids: [1], services: []}"),
        ["127.0.0.1:15051", "[::1]:15051"]
    );
}
