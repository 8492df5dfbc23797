use super::server::{Certificate, Server};
use super::{Workload, entry, listening, originate};
use crate::harness::Authority;
use proxy::Address;
use proxy::config::external::{External, Tls};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

const SOON: Duration = Duration::from_secs(5);

/// A listener before the hosts `*.example.com`, all of which are one server.
struct Way {
    world: Authority,
    server: Server,
    workload: Workload,
    listener: SocketAddr,
}

impl Way {
    async fn new() -> Self {
        let world = Authority::new();
        let server = Server::start(&world, Certificate::Good("*.example.com")).await;
        let external = listening(entry("*.example.com", server.address, Tls::Passthrough));
        let workload = Workload::new(vec![external]);
        let [Address::Tcp(listener)] = workload.sidecar.tcp[..] else {
            panic!("expected one listener");
        };
        Self {
            world,
            server,
            workload,
            listener,
        }
    }

    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.world.root()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    /// What the workload hears when it calls `name` itself.
    async fn get(&self, name: &'static str) -> io::Result<String> {
        let stream = TcpStream::connect(self.listener).await?;
        let name = ServerName::try_from(name).unwrap();
        let mut tls = TlsConnector::from(self.client())
            .connect(name, stream)
            .await?;
        tls.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        let mut answer = [0; 15];
        tls.read_exact(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// What is answered to these bytes before the connection ends.
    async fn say(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.listener).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(SOON, stream.read_to_end(&mut answer)).await;
        // A reset is an end, too.
        let _ = ended.expect("it ends");
        answer
    }

    async fn ended(&self, reason: &str) -> u64 {
        let series = format!(
            "tipstaff_ended_connections_total{{direction=\"outbound\",reason=\"{reason}\"}}"
        );
        self.workload.counted(&series).await
    }
}

fn hello(config: Arc<ClientConfig>, name: &'static str) -> Vec<u8> {
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(config, name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn the_workloads_own_tls_passes_to_the_name_that_it_asks_for() {
    let way = Way::new().await;
    assert_eq!(way.get("a.example.com").await.unwrap(), "HTTP/1.1 200 OK");
    assert_eq!(way.server.seen(), "GET / HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn a_name_that_the_entry_does_not_have_is_refused_and_counted() {
    let way = Way::new().await;
    let error = way.get("a.example.org").await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    assert_eq!(way.workload.refused("a.example.org:443").await, 1);
    assert_eq!(way.ended("unknown_destination").await, 1);
    assert_eq!(way.server.connections(), 0);
}

#[tokio::test]
async fn what_does_not_say_in_time_which_server_it_wants_is_refused() {
    let way = Way::new().await;
    let unnamed = hello(way.client(), "192.0.2.1");
    let whole = hello(way.client(), "a.example.com");
    let mut endless = [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 20_000]].concat();
    endless.truncate(17_000);
    for (bytes, reason) in [
        (&unnamed[..], "no_server_name"),
        (b"GET / HTTP/1.1\r\n\r\n", "not_tls"),
        (
            b"\x16\x03\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            "not_tls",
        ),
        (&endless, "hello_too_long"),
        (&whole[..whole.len() - 1], "hello_timeout"),
        (b"", "hello_timeout"),
    ] {
        let before = way.ended(reason).await;
        assert_eq!(way.say(bytes).await, b"", "{reason}");
        assert_eq!(way.ended(reason).await, before + 1, "{reason}");
    }
    assert_eq!(way.workload.refused("*.example.com:443").await, 6);
    assert_eq!(way.server.connections(), 0);
}

#[tokio::test]
async fn a_hello_in_single_bytes_is_a_hello() {
    let way = Way::new().await;
    let mut stream = TcpStream::connect(way.listener).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in hello(way.client(), "a.example.com") {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answer = [0; 6];
    timeout(SOON, stream.read_exact(&mut answer))
        .await
        .unwrap()
        .unwrap();
    // A handshake record with a ServerHello in it.
    assert_eq!((answer[0], answer[5]), (22, 2));
}

#[tokio::test]
async fn behind_a_listener_tls_is_ours_to_speak_where_the_entry_says_so() {
    let world = Authority::new();
    for (certificate, passes) in [("db.example.com", true), ("other.example.com", false)] {
        let server = Server::start(&world, Certificate::Good(certificate)).await;
        let external = listening(entry("db.example.com", server.address, originate(&world)));
        let workload = Workload::new(vec![external]);
        let [Address::Tcp(listener)] = workload.sidecar.tcp[..] else {
            panic!("expected one listener");
        };
        let mut stream = TcpStream::connect(listener).await.unwrap();
        stream.write_all(b"SELECT 1").await.unwrap();
        let mut answer = [0; 8];
        let read = timeout(SOON, stream.read(&mut answer)).await.unwrap();
        assert_eq!(matches!(read, Ok(8)), passes, "{certificate}: {read:?}");
        assert_eq!(server.seen(), if passes { "SELECT 1" } else { "" });
    }
}

/// It was dropped: whoever had been accepted by a process that was then replaced found its connection closed.
#[tokio::test]
async fn a_hello_that_comes_while_another_process_takes_over_is_served() {
    let way = Way::new().await;
    let hello = hello(way.client(), "a.example.com");
    let (first, rest) = hello.split_at(hello.len() / 2);
    let mut stream = TcpStream::connect(way.listener).await.unwrap();
    stream.write_all(first).await.unwrap();
    let open = "tipstaff_open_connections{direction=\"outbound\"}";
    while way.workload.counted(open).await == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    way.workload.sidecar.drain.relieve();
    stream.write_all(rest).await.unwrap();
    let mut answer = [0; 6];
    let read = timeout(SOON, stream.read_exact(&mut answer)).await;
    read.unwrap().unwrap();
    assert_eq!((answer[0], answer[5]), (22, 2));
}

#[tokio::test]
async fn a_connection_ends_when_its_entry_no_longer_leads_there_and_not_before() {
    let way = Way::new().await;
    let apply = |change: &dyn Fn(&mut External)| {
        let mut config = way.workload.sidecar.config.clone();
        change(&mut config.outbound.as_mut().unwrap().external[0]);
        way.workload.sidecar.reload.apply(config).unwrap();
    };
    let stream = TcpStream::connect(way.listener).await.unwrap();
    let name = ServerName::try_from("a.example.com").unwrap();
    let connector = TlsConnector::from(way.client());
    let mut tls = connector.connect(name, stream).await.unwrap();
    let mut answer = [0; 15];
    for change in [
        &|entry: &mut External| entry.timeout = Duration::from_secs(1),
        &|entry: &mut External| entry.hosts.push("other.example.org".parse().unwrap()),
    ] as [&dyn Fn(&mut External); 2]
    {
        apply(change);
        tls.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let read = timeout(SOON, tls.read_exact(&mut answer)).await;
        read.unwrap().expect("an entry that still has it");
        let mut rest = [0; 4096];
        let read = timeout(SOON, tls.read(&mut rest)).await;
        read.unwrap().expect("the rest of the answer");
    }

    apply(&|entry| entry.hosts = vec!["*.example.org".parse().unwrap()]);
    let read = timeout(SOON, tls.read(&mut answer)).await;
    assert!(!matches!(read, Err(_) | Ok(Ok(1..))), "{read:?}");
    assert!(way.get("a.example.com").await.is_err());
    assert_eq!(way.ended("unknown_destination").await, 1);
}

/// They were kept until a restart, and changes to them refused everything else that had changed.
#[tokio::test]
async fn other_roots_take_effect_behind_a_listener() {
    let world = Authority::new();
    let server = Server::start(&world, Certificate::Good("db.example.com")).await;
    let external = listening(entry("db.example.com", server.address, originate(&world)));
    let workload = Workload::new(vec![external]);
    let [Address::Tcp(listener)] = workload.sidecar.tcp[..] else {
        panic!("expected one listener");
    };
    for (roots, passes) in [
        (originate(&world), true),
        (originate(&Authority::new()), false),
    ] {
        let mut config = workload.sidecar.config.clone();
        config.outbound.as_mut().unwrap().external[0].tls = roots;
        workload.sidecar.reload.apply(config).unwrap();
        let mut stream = TcpStream::connect(listener).await.unwrap();
        stream.write_all(b"SELECT 1").await.unwrap();
        let mut answer = [0; 8];
        let read = timeout(SOON, stream.read(&mut answer)).await.unwrap();
        assert_eq!(matches!(read, Ok(8)), passes, "{read:?}");
        assert_eq!(server.seen(), if passes { "SELECT 1" } else { "" });
    }
}
