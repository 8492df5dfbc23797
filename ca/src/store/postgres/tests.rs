use super::*;

fn authority() -> CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().into()
}

#[test]
fn plain_text_stays_on_this_machine_unless_it_is_asked_for() {
    for (url, near) in [
        ("postgres://ca:hunter2@127.0.0.1/ca", true),
        ("postgres://ca:hunter2@[::1]:5433/ca", true),
        ("postgres://localhost/ca", true),
        ("host=/run/postgresql user=ca", true),
        ("postgres:///ca?host=/run/postgresql", true),
        ("postgres://10.0.0.7/ca", false),
        ("postgres://db.example/ca", false),
        ("postgres://127.0.0.1,db.example/ca", false),
        // A name for TLS, and the address to which it would go.
        ("postgres://localhost/ca?hostaddr=10.0.0.7", false),
        ("postgres://db.example/ca?hostaddr=127.0.0.1", false),
    ] {
        let made = Postgres::new(url, &ServerTrust::SameMachine).err();
        assert_eq!(made, (!near).then_some(PostgresError::Plaintext), "{url}");
        assert!(
            Postgres::new(url, &ServerTrust::InsecurePlaintext).is_ok(),
            "{url}"
        );
    }
}

/// What the URL asks for does not count: `prefer` would go on without TLS when somebody on the way says that there is
/// none.
#[test]
fn with_authorities_there_is_no_connection_without_tls() {
    let trust = ServerTrust::Authorities(vec![authority()]);
    for mode in ["disable", "prefer", "require"] {
        let url = format!("postgres://db.example/ca?sslmode={mode}");
        let server = Postgres::new(&url, &trust).unwrap();
        assert_eq!(server.config.get_ssl_mode(), SslMode::Require, "{mode}");
    }
    let socket = Postgres::new("host=/run/postgresql user=ca", &trust);
    assert_eq!(socket.err(), Some(PostgresError::TlsOnUnixSocket));
    let nobody = Postgres::new("host=db.example", &ServerTrust::Authorities(Vec::new()));
    assert_eq!(nobody.err(), Some(PostgresError::Authorities));
}

#[test]
fn neither_errors_nor_debug_show_a_password() {
    for url in [
        "postgres://ca:hunter2@db:port/ca",
        "postgres://ca:hunter2@db/ca?hunter2=1",
        "host=db password=hunter2 hunter2",
        "hunter2",
        "user=hunter2",
    ] {
        let error = Postgres::new(url, &ServerTrust::InsecurePlaintext).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(!text.contains("hunter2"), "{text}");
    }
    let server = Postgres::new(
        "postgres://hunter2:hunter2@db/ca",
        &ServerTrust::InsecurePlaintext,
    );
    let text = format!("{:?}", server.unwrap());
    assert!(text.contains("db") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_migration_in_the_words_of_postgresql() {
    let sql = "CREATE TABLE t (\n    n INTEGER PRIMARY KEY,\n    b BLOB NOT NULL\n) STRICT;";
    assert_eq!(
        translated(sql),
        "CREATE TABLE t (\n    n BIGINT PRIMARY KEY,\n    b BYTEA NOT NULL\n);"
    );
}
