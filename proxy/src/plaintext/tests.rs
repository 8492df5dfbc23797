use super::*;

fn listener(mtls: Mtls) -> Arc<Listener> {
    let listen = "0.0.0.0:15006".parse().unwrap();
    let counters = [Counter::default(), Counter::default()];
    Listener::new(listen, mtls, SystemTime::UNIX_EPOCH, counters)
}

fn plain(number: u32) -> Who {
    Who::Unauthenticated(IpAddr::V4(number.into()))
}

fn later(by: Duration) -> SystemTime {
    SystemTime::now() + by
}

#[test]
fn only_plain_text_that_was_let_in_lately_stands_in_the_way() {
    let listener = listener(Mtls::Permissive);
    let now = SystemTime::now();
    let first = listener.report(now);
    assert!(first.safe_to_switch_to_strict, "{first:?}");
    assert!(first.why.contains("since the start"), "{}", first.why);

    // Refused: it would be refused by a strict listener, too.
    let connection = listener.connected(&plain(1), 8080).unwrap();
    connection.asked();
    let refused = listener.report(later(Duration::ZERO));
    assert!(refused.safe_to_switch_to_strict, "{refused:?}");
    assert_eq!(refused.ports[0].plaintext.requests, 1);

    drop(connection.granted());
    let served = listener.report(later(Duration::from_secs(60)));
    assert!(!served.safe_to_switch_to_strict, "{served:?}");
    assert!(served.why.contains("from 1 addresses"), "{}", served.why);
    let quiet = listener.report(later(QUIET + Duration::from_secs(60)));
    assert!(quiet.safe_to_switch_to_strict, "{quiet:?}");
    // A clock that was set back makes nothing safe.
    assert!(
        !listener
            .report(SystemTime::UNIX_EPOCH)
            .safe_to_switch_to_strict
    );
}

/// A stream of two days was let in two days ago, and a process that was just started has seen nothing of what comes nightly.
#[test]
fn what_still_flows_and_what_was_not_watched_is_not_safe() {
    let listener = listener(Mtls::Permissive);
    let soon = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
    let started = listener.report(soon);
    assert!(!started.safe_to_switch_to_strict, "{started:?}");

    let connection = listener.connected(&plain(1), 8080).unwrap();
    let stream = connection.granted();
    let flowing = listener.report(later(2 * QUIET));
    assert!(!flowing.safe_to_switch_to_strict, "{flowing:?}");
    assert!(flowing.why.starts_with("1 requests"), "{}", flowing.why);
    let ended = SystemTime::now();
    drop(stream);
    let report = listener.report(later(Duration::ZERO));
    assert!(!report.safe_to_switch_to_strict, "{report:?}");
    assert!(report.ports[0].plaintext.last_granted >= Some(ended));
    assert!(listener.report(later(2 * QUIET)).safe_to_switch_to_strict);
}

#[test]
fn a_flood_of_addresses_and_ports_is_counted_in_full_and_held_in_part() {
    const FLOOD: u32 = 3 * MAX_CALLERS as u32;
    let listener = listener(Mtls::Permissive);
    let open: Vec<_> = (0..FLOOD)
        .map(|number| {
            let port = u16::try_from(number % 300).unwrap();
            listener.connected(&plain(number), port).unwrap()
        })
        .collect();
    // Also those that were forgotten meanwhile.
    open.iter().for_each(Connection::asked);
    let report = listener.report(SystemTime::now());
    assert_eq!(report.ports.len(), MAX_PORTS + 1);
    let callers: usize = report.ports.iter().map(|port| port.callers.len()).sum();
    assert_eq!(callers, MAX_CALLERS);
    let mut all = Calls::default();
    report.ports.iter().for_each(|port| all.add(port.plaintext));
    assert_eq!(all.connections, u64::from(FLOOD));
    assert_eq!(all.requests, u64::from(FLOOD));
    assert_eq!(listener.connections.get(), u64::from(FLOOD));
}

#[test]
fn whoever_comes_again_is_remembered_while_others_are_forgotten() {
    let listener = listener(Mtls::Permissive);
    let steady = listener.connected(&plain(0), 80).unwrap();
    for number in 1..=2 * MAX_CALLERS as u32 {
        steady.asked();
        listener.connected(&plain(number), 80).unwrap();
    }
    let report = listener.report(SystemTime::now());
    let address = IpAddr::V4(0.into());
    let found = report.ports[0]
        .callers
        .iter()
        .find(|caller| caller.address == address);
    let found = found.expect("the steady one");
    assert_eq!(found.calls.requests, 2 * MAX_CALLERS as u64);
}

#[test]
fn a_strict_listener_counts_nobody() {
    let listener = listener(Mtls::Strict);
    assert!(listener.connected(&plain(1), 80).is_none());
    let report = listener.report(SystemTime::now());
    assert!(report.safe_to_switch_to_strict && report.ports.is_empty());
}
