use super::*;
use std::time::Duration;

fn read(text: &str) -> Result<CaConfig, String> {
    let problems = Problems::new();
    let config = yaml::parse_one("ca.yaml", text, &problems)
        .and_then(|node| yaml::map(&node, &problems, CaConfig::read));
    problems
        .or_value(config)
        .map_err(|problems| crate::config::problems_text(&problems))
}

#[test]
fn a_directory_alone_is_a_configuration_and_means_what_the_flag_means() {
    let file = read("dir: ca").unwrap();
    let flag = CaConfig::of_dir(Path::new("ca"));
    assert_eq!(format!("{file:?}"), format!("{flag:?}"));
    assert!(file.listen.ip().is_loopback());
}

#[test]
fn every_key_is_read() {
    let config = read(
        "dir: /var/lib/tipstaff/ca\nlisten: 0.0.0.0:8443\nadmin: {listen: '[::1]:15000'}\n\
         allowShortTtlForTests: true\nkeys: {passphraseFile: ca.pass}\nstore: sqlite\n",
    )
    .unwrap();
    assert_eq!(config.listen.port(), 8443);
    assert_eq!(config.admin_listen.unwrap().port(), 15000);
    assert_eq!(config.ttl_floor, TtlFloor::AllowShortTtlForTests);
    assert_eq!(config.keys.passphrase, SecretSource::File("ca.pass".into()));
}

#[test]
fn rotation_is_by_age_unless_it_is_told_otherwise() {
    let read =
        |text: &str| read(&format!("dir: ca\nrotation: {text}\n")).map(|config| config.rotation);
    let usual = read("{}").unwrap();
    assert!(usual.automatic);
    assert_eq!(
        (usual.prepare_at_percent, usual.acknowledged_percent),
        (70, 100)
    );
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(
        (usual.activate_after, usual.retire_after),
        (day * 7, day * 30)
    );
    let told = read(
        "{automatic: false, prepareAtPercent: 50, acknowledgedPercent: 99, activateAfter: 1d, retireAfter: 2d, rootLife: 20d, intermediateLife: 10d}",
    )
    .unwrap();
    assert!(!told.automatic);
    assert_eq!(
        (told.prepare_at_percent, told.acknowledged_percent),
        (50, 99)
    );
    assert_eq!((told.activate_after, told.retire_after), (day, day * 2));
    assert_eq!(
        (told.lives.root, told.lives.intermediate),
        (day * 20, day * 10)
    );
    for wrong in [
        "{acknowledgedPercent: 0}",
        "{prepareAtPercent: 101}",
        "{rootLife: 20000d}",
        "{intermediateLife: 1d}",
        "{often: true}",
    ] {
        read(wrong).unwrap_err();
    }
}

#[test]
fn a_database_elsewhere_is_reached_over_tls_or_by_name_without() {
    let store = |text: &str| read(&format!("dir: ca\nstore: {text}\n")).map(|config| config.store);
    let expected = |transport| {
        Store::Postgres(Postgres {
            url: SecretSource::Ambient,
            transport,
        })
    };
    assert_eq!(
        store("{postgres: {authorities: db.pem}}").unwrap(),
        expected(Transport::Authorities("db.pem".into()))
    );
    assert_eq!(
        store("{postgres: {}}").unwrap(),
        expected(Transport::SameMachine)
    );
    assert_eq!(
        store("{postgres: {insecurePlaintext: true}}").unwrap(),
        expected(Transport::InsecurePlaintext)
    );
    store("{postgres: {authorities: db.pem, insecurePlaintext: true}}").unwrap_err();
    // A URL has a password in it.
    let said = store("{postgres: {url: 'postgres://ca:hunter2@db/ca'}}").unwrap_err();
    assert!(said.contains("store.postgres.url: unknown key"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn old_audit_records_go_where_the_file_says_and_nowhere_without_it() {
    let archive = |text: &str| read(&format!("dir: ca\n{text}")).map(|config| config.archive);
    assert_eq!(archive("").unwrap(), None);
    let options = |days: u64| {
        Some(ca::ledger::ArchiveOptions {
            folder: "/var/audit".into(),
            older_than: Duration::from_secs(days * 24 * 60 * 60),
        })
    };
    let given = archive("audit: {archive: {folder: /var/audit}}\n").unwrap();
    assert_eq!(given, options(30));
    let given = archive("audit: {archive: {folder: /var/audit, olderThan: 7d}}\n").unwrap();
    assert_eq!(given, options(7));
    for wrong in [
        "audit: {}",
        "audit: {archive: {olderThan: 7d}}",
        "audit: {archive: {folder: /var/audit, olderThan: 7}}",
        "audit: {archive: {folder: /var/audit, every: 1h}}",
    ] {
        archive(wrong).unwrap_err();
    }
}

#[test]
fn every_problem_is_reported_in_one_run_with_its_line() {
    let said = read(
        "listen: here\nadmin: {listen: 0.0.0.0:1}\nkeys: {passphrase: hunter2, pkcs11: {module: hsm.so, pin: hunter2}}\nstore: mysql\n\
         allowShortTtlForTests: 'true'\nrotate: yes\n",
    )
    .unwrap_err();
    for (line, words) in [
        (1, "expected the key `dir`, which is missing"),
        (1, "listen: expected an address such as 0.0.0.0:8443"),
        (2, "expected a loopback address, found 0.0.0.0:1"),
        (3, "keys.passphrase: unknown key"),
        (3, "keys.pkcs11.module: expected an absolute path"),
        (3, "expected the key `token`, which is missing"),
        (3, "keys.pkcs11.pin: unknown key"),
        (4, "store: expected a map"),
        (5, "allowShortTtlForTests: expected true or false"),
        (6, "rotate: unknown key"),
    ] {
        let at = format!("ca.yaml:{line}:");
        let found = said
            .lines()
            .any(|problem| problem.starts_with(&at) && problem.contains(words));
        assert!(found, "{at} {words} in\n{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

const CLUSTER: &str = "name: prod, issuer: 'https://k8s', audience: tipstaff, jwksFile: jwks";

fn with_clusters(clusters: &[String]) -> Result<CaConfig, String> {
    let list: String = clusters
        .iter()
        .map(|cluster| format!("    - {{{cluster}}}\n"))
        .collect();
    read(&format!("dir: ca\nattest:\n  kubernetes:\n{list}"))
}

#[test]
fn a_cluster_is_read_and_renewals_take_a_token_unless_it_says_otherwise() {
    let config = with_clusters(&[CLUSTER.to_owned()]).unwrap();
    let [cluster] = &*config.attest.kubernetes else {
        panic!("{config:?}");
    };
    assert_eq!(cluster.renewals, ca::attest::Renewals::Attest);
    assert_eq!(cluster.review, None);
}

#[test]
fn what_is_wrong_with_a_cluster_is_said() {
    let other = CLUSTER.replace("prod", "test");
    for (clusters, words) in [
        (
            vec![CLUSTER.to_owned(), CLUSTER.to_owned()],
            "\"prod\" twice",
        ),
        (vec![CLUSTER.to_owned(), other], "at most one cluster"),
        (vec![CLUSTER.replace("prod", "Prod")], "lower-case letters"),
        (
            vec![CLUSTER.replace("tipstaff", "''")],
            "audience: expected text",
        ),
        (
            vec![CLUSTER.replace(", jwksFile: jwks", "")],
            "jwksFile or jwks",
        ),
        (
            vec![format!(
                "{CLUSTER}, jwks: {{url: 'https://k8s', caFile: ca}}"
            )],
            "found both",
        ),
        (
            vec![format!(
                "{CLUSTER}, tokenReview: {{url: 'http://k8s', caFile: ca}}"
            )],
            "expected a URL such as",
        ),
        (
            vec![format!(
                "{CLUSTER}, tokenReview: {{url: 'https://k8s', caFile: ca}}"
            )],
            "nobody without a name",
        ),
        (
            vec![format!("{CLUSTER}, renewals: never")],
            "attest, certificate",
        ),
    ] {
        let said = with_clusters(&clusters).unwrap_err();
        assert!(said.contains(words), "{words}: {said}");
    }
}
