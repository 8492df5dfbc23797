use super::*;
use crate::Leaf;
use crate::mint::{self, Minted, WORKLOAD};
use rustls::server::ServerSessionMemoryCache;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConnection, HandshakeKind, NamedGroup, ServerConnection};
use std::sync::Mutex;
use std::time::Duration;

const SERVER: &str = "spiffe://domain.test/server";

#[derive(Debug)]
struct StoppedClock;

impl TimeProvider for StoppedClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = mint::NOW.unix_timestamp().unsigned_abs();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// A client and a server of one trust domain, to be spoilt by a test.
struct Pair {
    root: Minted,
    client: ClientConfig,
    server: ServerConfig,
}

impl Pair {
    fn new() -> Self {
        let root = Minted::root();
        let bundle = Arc::new(root.bundle());
        let client = client(&root, Some(&root.svid(WORKLOAD)), SERVER);
        let server = server_config(
            &root.svid(SERVER),
            Arc::new(bundle),
            ClientAuth::Required,
            &[b"h2"],
        );
        Self {
            root,
            client,
            server,
        }
    }

    fn handshake(self) -> Result<(ClientConnection, ServerConnection), Error> {
        handshake(&stopped_client(self.client), &stopped_server(self.server))
    }
}

fn client(root: &Minted, svid: Option<&Svid>, expected: &str) -> ClientConfig {
    let expected = SpiffeId::parse(expected).unwrap();
    client_config(svid, Arc::new(Arc::new(root.bundle())), expected, &[b"h2"])
}

fn stopped_client(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.time_provider = Arc::new(StoppedClock);
    Arc::new(config)
}

fn stopped_server(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.time_provider = Arc::new(StoppedClock);
    Arc::new(config)
}

/// Both ends of a finished handshake, or the error of the end that refused the other.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let mut client = ClientConnection::new(client.clone(), server_name())?;
    let mut server = ServerConnection::new(server.clone())?;
    // One round more than the handshake takes, so that tickets, if there were any, would arrive.
    for _ in 0..4 {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        feed(&flight, |bytes| server.read_tls(bytes));
        server.process_new_packets()?;
        let mut flight = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        feed(&flight, |bytes| client.read_tls(bytes));
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn feed(mut flight: &[u8], mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
    while !flight.is_empty() {
        read(&mut flight).unwrap();
    }
}

fn reason(found: Result<(ClientConnection, ServerConnection), Error>) -> &'static str {
    let error = found.expect_err("the handshake succeeded");
    refusal(&error)
        .unwrap_or_else(|| panic!("{error:?}"))
        .reason()
}

#[test]
fn both_ends_learn_who_the_other_is() {
    let (client, server) = Pair::new().handshake().unwrap();
    let peer = |certs: Option<&[CertificateDer<'_>]>| Leaf::parse(&certs.unwrap()[0]).unwrap().id;
    assert_eq!(peer(client.peer_certificates()).as_str(), SERVER);
    assert_eq!(peer(server.peer_certificates()).as_str(), WORKLOAD);
    assert_eq!(server.alpn_protocol(), Some(&b"h2"[..]));
}

#[test]
fn the_hybrid_key_exchange_is_what_both_ends_choose() {
    let (client, server) = Pair::new().handshake().unwrap();
    for group in [
        client.negotiated_key_exchange_group(),
        server.negotiated_key_exchange_group(),
    ] {
        assert_eq!(group.unwrap().name(), NamedGroup::X25519MLKEM768);
    }
}

#[test]
fn a_server_name_stays_at_home() {
    let pair = Pair::new();
    let name = ServerName::try_from("orders.shop").unwrap();
    let mut client = ClientConnection::new(stopped_client(pair.client), name).unwrap();
    let mut server = ServerConnection::new(stopped_server(pair.server)).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    feed(&hello, |bytes| server.read_tls(bytes));
    server.process_new_packets().unwrap();
    assert!(server.alpn_protocol().is_some(), "the hello was not read");
    assert_eq!(server.server_name(), None);
}

#[test]
fn no_session_is_resumed() {
    let pair = Pair::new();
    let (client, server) = (stopped_client(pair.client), stopped_server(pair.server));
    for _ in 0..2 {
        let (client, server) = handshake(&client, &server).unwrap();
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(server.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn a_client_that_would_resume_gets_no_ticket() {
    let mut pair = Pair::new();
    pair.client.resumption = Resumption::in_memory_sessions(8);
    let (client, server) = (stopped_client(pair.client), stopped_server(pair.server));
    for _ in 0..2 {
        let (client, _) = handshake(&client, &server).unwrap();
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
    }
}

#[test]
fn a_client_does_not_use_the_tickets_of_a_server_that_sends_them() {
    let mut pair = Pair::new();
    pair.server.session_storage = ServerSessionMemoryCache::new(8);
    pair.server.send_tls13_tickets = 2;
    let (client, server) = (stopped_client(pair.client), stopped_server(pair.server));
    for _ in 0..2 {
        let (client, _) = handshake(&client, &server).unwrap();
        assert_eq!(client.tls13_tickets_received(), 2);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[test]
fn a_server_that_is_not_the_expected_one_is_refused() {
    let mut pair = Pair::new();
    let ca = SpiffeId::ca_server(&mint::trust_domain());
    pair.client = client(&pair.root, None, ca.as_str());
    assert_eq!(reason(pair.handshake()), "unexpected_identity");
}

#[test]
fn a_server_of_another_ca_is_refused() {
    let mut pair = Pair::new();
    pair.client = client(&Minted::root(), None, SERVER);
    assert_eq!(reason(pair.handshake()), "bad_signature");
}

#[test]
fn a_client_of_another_ca_is_refused_even_where_none_is_required() {
    for client_auth in [ClientAuth::Required, ClientAuth::Optional] {
        let mut pair = Pair::new();
        let stranger = Minted::root().svid(WORKLOAD);
        pair.client = client(&pair.root, Some(&stranger), SERVER);
        pair.server = server_config(
            &pair.root.svid(SERVER),
            Arc::new(Arc::new(pair.root.bundle())),
            client_auth,
            &[b"h2"],
        );
        assert_eq!(reason(pair.handshake()), "bad_signature", "{client_auth:?}");
    }
}

#[test]
fn an_expired_client_certificate_is_refused() {
    let mut pair = Pair::new();
    let mut params = mint::leaf(WORKLOAD);
    params.not_after = mint::NOW - time::Duration::SECOND;
    let leaf = pair.root.sign(params);
    let svid = Svid::new(vec![leaf.der.clone()], leaf.private_key()).unwrap();
    pair.client = client(&pair.root, Some(&svid), SERVER);
    assert_eq!(reason(pair.handshake()), "expired");
}

#[test]
fn a_client_without_a_certificate_passes_only_where_none_is_required() {
    let mut pair = Pair::new();
    pair.client = client(&pair.root, None, SERVER);
    assert_eq!(pair.handshake().err(), Some(Error::NoCertificatesPresented));

    let mut pair = Pair::new();
    pair.client = client(&pair.root, None, SERVER);
    pair.server = server_config(
        &pair.root.svid(SERVER),
        Arc::new(Arc::new(pair.root.bundle())),
        ClientAuth::Optional,
        &[b"h2"],
    );
    let (_, server) = pair.handshake().unwrap();
    assert_eq!(server.peer_certificates(), None);
}

#[test]
fn a_copied_certificate_without_its_key_is_refused() {
    let mut pair = Pair::new();
    let (victim, thief) = (pair.root.svid(WORKLOAD), pair.root.svid(WORKLOAD));
    let copied =
        rustls::sign::CertifiedKey::new(victim.chain().to_vec(), thief.certified_key().key.clone());
    pair.client.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(copied));
    assert_eq!(
        pair.handshake().err(),
        Some(CertificateError::BadSignature.into())
    );
}

#[test]
fn tls_1_2_is_not_spoken() {
    let mut pair = Pair::new();
    pair.client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(server_verifier(
            Arc::new(Arc::new(pair.root.bundle())),
            SpiffeId::parse(SERVER).unwrap(),
        ))
        .with_no_client_auth();
    let found = pair.handshake().err();
    assert!(
        matches!(found, Some(Error::PeerIncompatible(_))),
        "{found:?}"
    );
}

#[derive(Debug)]
struct Changing(Mutex<Arc<TrustBundle>>);

impl BundleSource for Changing {
    fn bundle(&self) -> Arc<TrustBundle> {
        self.0.lock().unwrap().clone()
    }
}

#[test]
fn a_changed_bundle_counts_from_the_next_handshake_on() {
    let mut pair = Pair::new();
    let bundles = Arc::new(Changing(Mutex::new(Arc::new(pair.root.bundle()))));
    pair.server = server_config(
        &pair.root.svid(SERVER),
        bundles.clone(),
        ClientAuth::Required,
        &[b"h2"],
    );
    let (client, server) = (stopped_client(pair.client), stopped_server(pair.server));
    assert!(handshake(&client, &server).is_ok());
    *bundles.0.lock().unwrap() = Arc::new(Minted::root().bundle());
    assert_eq!(reason(handshake(&client, &server)), "bad_signature");
}
