use super::*;
use tokio::net::TcpListener;

fn own(ports: &[u16]) -> OwnPorts {
    OwnPorts {
        ports: ports.into(),
        probe: Arc::default(),
    }
}

#[test]
fn own_ports_are_loops_at_every_address_of_this_machine_in_every_spelling() {
    let own = own(&[15006, 15001]);
    let local = "127.0.0.1:15001".parse().unwrap();
    for address in [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "::ffff:127.0.0.1",
        "0.0.0.0",
        "::",
    ] {
        let destination = canonical(SocketAddr::new(address.parse().unwrap(), 15006));
        let refused = own.check(local, destination);
        assert!(matches!(refused, Err(Misled::Loop(_))), "{address}");
    }
    // The same port of another machine, and another port of this one.
    for elsewhere in ["203.0.113.7:15006", "[2001:db8::7]:15006", "127.0.0.1:8080"] {
        let elsewhere = elsewhere.parse().unwrap();
        assert_eq!(own.check(local, elsewhere).unwrap(), elsewhere);
    }
}

/// A sidecar that was short of descriptors took its own addresses for another machine's.
#[test]
fn an_address_that_could_not_be_looked_at_is_taken_for_this_machines() {
    for (error, expected) in [
        (Errno::ADDRNOTAVAIL, true),
        (Errno::AFNOSUPPORT, true),
        (Errno::MFILE, false),
        (Errno::NFILE, false),
        (Errno::NOBUFS, false),
        (Errno::INVAL, false),
    ] {
        let found = is_elsewhere(&error.into());
        assert_eq!(found, expected, "{error}");
    }
}

/// The app is looked for at loopback, whatever address the caller meant.
#[test]
fn no_caller_means_a_port_of_the_sidecar() {
    let own = own(&[15006, 15000]);
    for address in [
        "203.0.113.7:15006",
        "[2001:db8::7]:15000",
        "127.0.0.1:15006",
    ] {
        let refused = own.port_here(address.parse().unwrap());
        assert!(matches!(refused, Err(Misled::Loop(_))), "{address}");
    }
    let app = own.port_here("203.0.113.7:8080".parse().unwrap());
    assert_eq!(app.unwrap(), 8080);
}

#[tokio::test]
async fn a_connection_that_nothing_redirected_is_refused() {
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = if address.starts_with("[::]") {
            "127.0.0.1"
        } else {
            address.rsplit_once(':').unwrap().0
        };
        let _caller = TcpStream::connect(format!("{to}:{port}")).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let refused = own(&[]).destination(&accepted).unwrap_err();
        assert_eq!(refused.reason(), "not_redirected", "{address}");
    }
}
