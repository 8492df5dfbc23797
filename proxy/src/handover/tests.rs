use super::*;
use crate::drain::Drain;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tokio::net::UnixStream as AsyncUnixStream;

type Received = (Vec<(Address, OwnedFd)>, Vec<UnixStream>);

const SOON: Duration = Duration::from_secs(10);

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn handover(is_heir: bool) -> Arc<Handover> {
    let sockets = vec![Listening::of_tcp(&listener()).unwrap()];
    Handover::new(sockets, Arc::default(), is_heir)
}

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
}

async fn sent(sockets: &[Listening]) -> io::Result<Received> {
    sent_with(sockets, &[]).await
}

async fn sent_with(sockets: &[Listening], elders: &[OwnedFd]) -> io::Result<Received> {
    let (ours, theirs) = pair();
    ours.set_nonblocking(true).unwrap();
    let mut ours = AsyncUnixStream::from_std(ours).unwrap();
    let receiving = tokio::task::spawn_blocking(move || received(&theirs));
    wire::send(&mut ours, sockets, elders).await.unwrap();
    receiving.await.unwrap()
}

fn received(stream: &UnixStream) -> io::Result<Received> {
    wire::receive(&mut wire::Timely::new(stream, SOON))
}

fn predecessor(stream: UnixStream) -> Predecessor {
    Predecessor {
        stream,
        elders: Vec::new(),
    }
}

/// Each octet used to have the whole time for itself.
#[test]
fn nothing_more_is_read_when_the_time_for_all_of_it_is_over() {
    let (mut ours, theirs) = pair();
    let list = br#"{"listening":[],"elders":0}"#;
    let length = u32::try_from(list.len()).unwrap().to_be_bytes();
    ours.write_all(&[&length, &list[..]].concat()).unwrap();
    let late = wire::receive(&mut wire::Timely::new(&theirs, Duration::ZERO));
    assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(received(&theirs).unwrap().0.len(), 0);
}

/// More than fit into one message, each recognised by what waits in it.
#[tokio::test]
async fn what_waits_in_a_socket_is_accepted_by_whoever_got_it() {
    let listeners: Vec<TcpListener> = (0..100).map(|_| listener()).collect();
    let mut clients = Vec::new();
    for listener in &listeners {
        clients.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    }
    let offered: Vec<Listening> = listeners
        .iter()
        .map(|listener| Listening::of_tcp(listener).unwrap())
        .collect();
    let (received, _) = sent(&offered).await.unwrap();
    drop((offered, listeners));
    assert_eq!(received.len(), clients.len());
    for ((address, socket), mut client) in received.into_iter().zip(clients) {
        assert_eq!(address, Address::Tcp(client.peer_addr().unwrap()));
        let (mut accepted, _) = TcpListener::from(socket).accept().unwrap();
        accepted.write_all(b"yours").unwrap();
        drop(accepted);
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "yours");
    }
}

#[tokio::test]
async fn conversations_with_processes_before_come_behind_the_sockets_and_nothing_else_passes_for_one()
 {
    let (near, far) = pair();
    let one = Listening::of_tcp(&listener()).unwrap();
    let (listening, elders) = sent_with(&[one], &[far.into()]).await.unwrap();
    assert_eq!((listening.len(), elders.len()), (1, 1));
    (&elders[0]).write_all(b"proof").unwrap();
    let mut heard = [0; 5];
    (&near).read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"proof");
    let error = sent_with(&[], &[listener().into()]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[tokio::test]
async fn a_socket_that_is_not_what_the_list_calls_it_is_refused() {
    let (one, other) = (listener(), listener());
    let wrong_address = Listening {
        address: Address::Tcp(other.local_addr().unwrap()),
        socket: one.as_fd().try_clone_to_owned().unwrap(),
    };
    let wrong_kind = Listening {
        address: Address::Unix("/run/app.sock".into()),
        socket: one.as_fd().try_clone_to_owned().unwrap(),
    };
    let connection = TcpStream::connect(one.local_addr().unwrap()).unwrap();
    let no_listener = Listening {
        address: Address::Tcp(connection.local_addr().unwrap()),
        socket: connection.into(),
    };
    for (name, wrong) in [
        ("another address", wrong_address),
        ("another kind", wrong_kind),
        ("a connection", no_listener),
    ] {
        let sockets = [Listening::of_tcp(&one).unwrap(), wrong];
        let error = sent(&sockets).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
    }
}

#[test]
fn a_list_that_is_none_or_lacks_its_descriptors_is_refused() {
    let list = |text: &str| {
        [
            &u32::try_from(text.len()).unwrap().to_be_bytes(),
            text.as_bytes(),
        ]
        .concat()
    };
    for (name, said) in [
        ("nothing", Vec::new()),
        ("half a length", vec![0, 0]),
        ("a length without end", vec![0xFF; 64]),
        ("half a list", list("{}")[..5].to_vec()),
        ("no JSON", list("listeners")),
        (
            "no addresses",
            list(r#"{"listening":[{"udp":"127.0.0.1:1"}],"elders":0}"#),
        ),
        (
            "no descriptor",
            list(r#"{"listening":[{"tcp":"127.0.0.1:1"}],"elders":0}"#),
        ),
        (
            "an elder without one",
            list(r#"{"listening":[],"elders":1}"#),
        ),
        (
            "elders without end",
            list(r#"{"listening":[],"elders":65}"#),
        ),
        (
            "an octet without one",
            [
                list(r#"{"listening":[{"tcp":"127.0.0.1:1"}],"elders":0}"#),
                vec![b'.'],
            ]
            .concat(),
        ),
    ] {
        let (mut ours, theirs) = pair();
        ours.write_all(&said).unwrap();
        drop(ours);
        assert!(received(&theirs).is_err(), "{name}");
    }
}

#[test]
fn sockets_are_lent_to_one_at_a_time_and_come_back_unless_they_were_given() {
    let handover = handover(false);
    let loan = handover.lend().unwrap();
    assert_eq!(handover.lend().unwrap_err(), NotNow::Lent);
    drop(loan);
    let loan = handover.lend().unwrap();
    assert!(handover.is_owner());
    loan.give();
    assert!(!handover.is_owner());
    assert!(handover.is_given());
    assert_eq!(handover.lend().unwrap_err(), NotNow::Given);
}

#[test]
fn an_heir_lends_nothing_before_it_owns_and_nobody_does_after_closing() {
    let handover = handover(true);
    assert!(!handover.is_owner());
    assert_eq!(handover.lend().unwrap_err(), NotNow::Theirs);
    handover.own();
    assert!(handover.lend().is_ok());
    handover.close();
    assert_eq!(handover.lend().unwrap_err(), NotNow::Stopping);
}

/// The order to stop overtakes the patience of a process that was replaced.
#[tokio::test]
async fn a_process_that_was_replaced_rests_until_it_is_told_to_stop() {
    let drain = Drain::new();
    let _stream = drain.hold();
    drain.relieve();
    drain.started().await;
    assert!(!drain.is_closing_idle());
    let resting = tokio::spawn({
        let drain = drain.clone();
        async move { drain.rest(Duration::from_secs(3600)).await }
    });
    drain.start();
    resting.await.unwrap();
}

/// The word used to be able to come just after nobody waited for it any more: then neither process served.
#[test]
fn a_process_that_is_no_longer_waited_for_cannot_let_go() {
    let (mut ours, theirs) = pair();
    let predecessor = predecessor(theirs);
    let limit = Duration::from_millis(50);
    let relieved = predecessor.relieve_within(limit);
    assert!(matches!(relieved, Err(RelieveError::Late)), "{relieved:?}");
    assert!(ours.write_all(&[DONE]).is_err());
}

#[test]
fn only_a_process_that_died_leaves_without_a_word() {
    for (name, said, is_relieved) in [
        ("it has let go", Some(DONE), true),
        ("it keeps them", Some(KEPT), false),
        ("nonsense", Some(b'?'), false),
        ("it died", None, true),
    ] {
        let (mut ours, theirs) = pair();
        ours.write_all(said.as_slice()).unwrap();
        drop(ours);
        let relieved = predecessor(theirs).relieve();
        assert_eq!(relieved.is_ok(), is_relieved, "{name}: {relieved:?}");
    }
}
