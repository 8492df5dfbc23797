use super::sign::{USAGE, check};
use super::*;
use crate::config::{DEFAULT_TTL, InitOptions, KeyProtection, MIN_TTL, TtlFloor};
use crate::keys::Passphrase;
use crate::ledger;
use crate::profile::{self, Validity};
use identity::VerifiedIssuer;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use tempfile::TempDir;

const DOMAIN: &str = "demo.test";
const ORDERS: &str = "spiffe://demo.test/ns/shop/sa/orders";

fn options() -> InitOptions {
    let domain = TrustDomain::parse(DOMAIN).unwrap();
    InitOptions::new(domain, KeyProtection::InsecurePlaintext)
}

fn new_ca(options: &InitOptions) -> (TempDir, Authority) {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("ca");
    init(&directory, options).unwrap();
    let authority = Authority::open(&directory, &OpenOptions::default()).unwrap();
    (temporary, authority)
}

fn request(id: &str, ttl: Option<Duration>) -> Request {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    Request {
        id: SpiffeId::parse(id).unwrap(),
        dns_names: Default::default(),
        public_key: PublicKey::from_spki(&key.subject_public_key_info()).unwrap(),
        ttl,
        until: None,
        requester: Requester::Operator,
    }
}

#[tokio::test]
async fn an_issued_certificate_is_recorded_and_short_lived() {
    let (temporary, ca) = new_ca(&options());
    let before = SystemTime::now();
    let issued = ca.issue(request(ORDERS, None)).await.unwrap();

    assert_eq!(issued.id.as_str(), ORDERS);
    assert_eq!(issued.chain.len(), 2);
    let life = issued.not_after.duration_since(before).unwrap();
    assert!(
        life <= DEFAULT_TTL + Duration::from_secs(1) && life > DEFAULT_TTL - Duration::from_secs(5)
    );
    let backdate = before.duration_since(issued.not_before).unwrap();
    assert!((29..=31).contains(&backdate.as_secs()), "{backdate:?}");

    let report = ledger::verify(&temporary.path().join("ca")).unwrap();
    assert!(report.is_intact(), "{report}");
    assert_eq!((report.records, report.certificates), (2, 1));
}

#[tokio::test]
async fn ids_that_no_workload_may_have_are_refused() {
    let (_temporary, ca) = new_ca(&options());
    for (id, expected) in [
        (
            "spiffe://other.test/ns/shop/sa/orders",
            "expected an ID in trust domain demo.test, found spiffe://other.test/ns/shop/sa/orders",
        ),
        (
            "spiffe://demo.test/tipstaff/ca",
            "spiffe://demo.test/tipstaff/ca is reserved and never issued to a workload",
        ),
        (
            "spiffe://demo.test/tipstaff",
            "spiffe://demo.test/tipstaff is reserved and never issued to a workload",
        ),
        (
            "spiffe://demo.test",
            "expected the ID of a workload, found spiffe://demo.test, which has no path",
        ),
    ] {
        let error = ca.issue(request(id, None)).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[tokio::test]
async fn the_ca_has_its_host_names_and_no_workload_gets_them() {
    let (temporary, _) = new_ca(&options());
    let name = |name: &str| name.parse::<DnsName>().unwrap();
    let open = OpenOptions {
        server_names: [name("ca.example")].into(),
        ..OpenOptions::default()
    };
    let ca = Authority::open(&temporary.path().join("ca"), &open).unwrap();
    let server = ca.issue_server().await.unwrap().svid;
    let found = profile::dns_names(&server.chain()[0]);
    assert_eq!(found, Some([name("ca.example")].into()));

    let with = |names: &[String]| Request {
        dns_names: names.iter().map(|text| name(text)).collect(),
        ..request(ORDERS, None)
    };
    let stolen = ca
        .issue(with(&["a.example".into(), "ca.example".into()]))
        .await;
    assert!(matches!(stolen, Err(IssueError::OwnDnsName(found)) if found == name("ca.example")));
    let many: Vec<_> = (0..=MAX_DNS_NAMES)
        .map(|n| format!("h{n}.example"))
        .collect();
    let too_many = ca.issue(with(&many)).await;
    assert!(
        matches!(too_many, Err(IssueError::TooManyDnsNames { .. })),
        "{too_many:?}"
    );
    let issued = ca.issue(with(&many[1..])).await.unwrap();
    assert_eq!(
        profile::dns_names(&issued.chain[0]).unwrap().len(),
        MAX_DNS_NAMES
    );
}

#[tokio::test]
async fn the_life_is_clamped() {
    let (temporary, ca) = new_ca(&options());
    let short = OpenOptions {
        ttl_floor: TtlFloor::AllowShortTtlForTests,
        ..OpenOptions::default()
    };
    let short = Authority::open(&temporary.path().join("ca"), &short).unwrap();
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 60 * 60));
    for (ca, asked, expected) in [
        (&ca, second, MIN_TTL),
        (&ca, 10 * day, day),
        (&short, second, 5 * second),
    ] {
        let now = SystemTime::now();
        let issued = ca.issue(request(ORDERS, Some(asked))).await.unwrap();
        let life = issued.not_after.duration_since(now).unwrap_or_default();
        assert!(
            life <= expected + second && life + 2 * second >= expected,
            "{life:?} for {asked:?}"
        );
    }
}

#[tokio::test]
async fn no_certificate_outlives_an_issuer() {
    let mut options = options();
    options.intermediate_life = Duration::from_secs(600);
    options.root_life = Duration::from_secs(300);
    let (_temporary, ca) = new_ca(&options);
    let issued = ca.issue(request(ORDERS, None)).await.unwrap();
    for der in issued.chain.iter().chain([&ca.signer().root]) {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).unwrap();
        let end = parsed.validity().not_after.timestamp();
        assert!(crate::store::unix_seconds(issued.not_after) <= end);
    }
}

#[tokio::test]
async fn an_issuer_about_to_end_issues_nothing() {
    let mut options = options();
    options.intermediate_life = Duration::from_secs(20);
    let (temporary, ca) = new_ca(&options);
    let error = ca.issue(request(ORDERS, None)).await.unwrap_err();
    assert!(matches!(error, IssueError::IssuerExpires { .. }), "{error}");
    let report = ledger::verify(&temporary.path().join("ca")).unwrap();
    assert_eq!(report.certificates, 0);
}

#[tokio::test]
async fn a_thousand_serials_are_unique_and_renewals_are_spread() {
    let (_temporary, ca) = new_ca(&options());
    let ca = Arc::new(ca);
    let mut tasks = tokio::task::JoinSet::new();
    let one = request(ORDERS, None);
    for _ in 0..1000 {
        let (ca, request) = (Arc::clone(&ca), one.clone());
        tasks.spawn(async move { ca.issue(request).await.unwrap() });
    }
    let issued = tasks.join_all().await;
    let serials: HashSet<_> = issued.iter().map(|issued| &issued.serial).collect();
    assert_eq!(serials.len(), 1000);

    let shares: Vec<f64> = issued
        .iter()
        .map(|issued| {
            let start = issued.not_before + profile::BACKDATE;
            let life = issued.not_after.duration_since(start).unwrap();
            issued.renew_at.duration_since(start).unwrap().as_secs_f64() / life.as_secs_f64()
        })
        .collect();
    assert!(shares.iter().all(|share| (0.499..0.702).contains(share)));
    // Uniform: a tenth of the range gets about a hundred of a thousand.
    for tenth in 0..10 {
        let low = 0.5 + 0.02 * f64::from(tenth);
        let count = shares
            .iter()
            .filter(|share| (low..low + 0.02).contains(*share))
            .count();
        assert!((50..150).contains(&count), "{count} from {low}");
    }
}

#[tokio::test]
async fn a_renewal_time_is_a_function_of_the_serial_over_restarts_too() {
    let (temporary, ca) = new_ca(&options());
    let again = Authority::open(&temporary.path().join("ca"), &OpenOptions::default()).unwrap();
    let (_other, stranger) = new_ca(&options());
    let now = SystemTime::now();
    let drawn =
        |ca: &Authority, serial: &str| ca.signer().slots.renew_at(serial, now, now + DEFAULT_TTL);
    assert_eq!(drawn(&ca, "4fa1"), drawn(&again, "4fa1"));
    assert_ne!(drawn(&ca, "4fa1"), drawn(&ca, "4fa2"));
    assert_ne!(
        drawn(&ca, "4fa1"),
        drawn(&stranger, "4fa1"),
        "nobody can foretell it"
    );
}

/// The last look before a certificate leaves finds what went wrong while it was made.
#[tokio::test]
async fn what_is_not_as_intended_does_not_leave() {
    let (_temporary, ca) = new_ca(&options());
    let (_other, stranger) = new_ca(&options());
    let request = request(ORDERS, None);
    let issued = ca.issue(request.clone()).await.unwrap();
    let (now, bundle) = (SystemTime::now(), ca.bundle().borrow().clone());
    let validity = Validity {
        not_before: issued.not_before,
        not_after: issued.not_after,
    };
    // The issuer is known by then, and verified once.
    let verified = VerifiedIssuer::default();
    let check = |chain: &[_], request: &Request, validity, bundle: &Arc<TrustBundle>| {
        check(chain, request, validity, |chain| {
            verified.verify(bundle, chain, USAGE, now)
        })
    };
    check(&issued.chain, &request, validity, &bundle).unwrap();

    let mut other_id = request.clone();
    other_id.id = SpiffeId::parse("spiffe://demo.test/ns/shop/sa/front").unwrap();
    let longer = Validity {
        not_after: issued.not_after + Duration::from_secs(1),
        ..validity
    };
    for (request, validity) in [(&other_id, validity), (&request, longer)] {
        let error = check(&issued.chain, request, validity, &bundle).unwrap_err();
        assert!(matches!(error, IssueError::NotAsIntended(_)), "{error}");
    }
    let error = check(&issued.chain[1..], &request, validity, &bundle).unwrap_err();
    assert!(matches!(error, IssueError::Profile(_)), "{error}");
    let foreign = stranger.bundle().borrow().clone();
    let error = check(&issued.chain, &request, validity, &foreign).unwrap_err();
    assert!(matches!(error, IssueError::Path(_)), "{error}");
    let mut altered = issued.chain.clone();
    let mut der = altered[0].to_vec();
    *der.last_mut().unwrap() ^= 1;
    altered[0] = der.into();
    let error = check(&altered, &request, validity, &bundle).unwrap_err();
    assert!(matches!(error, IssueError::Path(_)), "{error}");
}

#[tokio::test]
async fn the_server_identity_is_the_reserved_one() {
    let (_temporary, ca) = new_ca(&options());
    let server = ca.issue_server().await.unwrap();
    assert_eq!(server.svid.id().as_str(), "spiffe://demo.test/tipstaff/ca");
    assert!(server.renew_at > SystemTime::now());
}

#[tokio::test]
async fn a_new_bundle_is_published_with_a_higher_sequence_that_lasts() {
    let (temporary, ca) = new_ca(&options());
    let (_other, foreign) = new_ca(&options());
    let mut watch = ca.bundle();
    assert_eq!(watch.borrow_and_update().sequence(), 1);

    let refused = ca
        .publish_authorities(vec![foreign.signer().root.clone()])
        .await;
    assert!(matches!(refused, Err(PublishError::RootMissing)));
    assert!(!watch.has_changed().unwrap());

    let both = vec![ca.signer().root.clone(), foreign.signer().root.clone()];
    ca.publish_authorities(both.clone()).await.unwrap();
    assert_eq!(watch.borrow_and_update().sequence(), 2);
    drop(ca);
    let directory = temporary.path().join("ca");
    let ca = Authority::open(&directory, &OpenOptions::default()).unwrap();
    assert_eq!(ca.bundle().borrow().sequence(), 2);
    assert_eq!(ca.bundle().borrow().authorities(), both);
    assert_eq!(
        fs::read_to_string(directory.join("ca-bundle.pem")).unwrap(),
        ca.bundle().borrow().to_pem()
    );
}

#[test]
fn init_refuses_an_existing_directory_and_guards_what_it_makes() {
    let temporary = tempfile::tempdir().unwrap();
    assert!(matches!(
        init(temporary.path(), &options()),
        Err(InitError::Exists(_))
    ));
    let directory = temporary.path().join("ca");
    init(&directory, &options()).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    // Nothing else was left beside it.
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
}

#[test]
fn a_failed_init_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("missing").join("ca");
    assert!(matches!(
        init(&directory, &options()),
        Err(InitError::Io { .. })
    ));
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[test]
fn a_life_beyond_the_calendar_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let mut options = options();
    options.intermediate_life = Duration::MAX;
    let refused = init(&temporary.path().join("ca"), &options);
    assert!(matches!(refused, Err(InitError::Life { .. })));
}

#[test]
fn an_encrypted_ca_opens_with_its_passphrase_only() {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("ca");
    let passphrase = |text: &str| Passphrase::new(text.as_bytes().to_vec()).unwrap();
    let mut options = options();
    options.key_protection = KeyProtection::Encrypted(passphrase("right"));
    init(&directory, &options).unwrap();
    // The root's key may be taken off line.
    fs::remove_file(directory.join("root.key")).unwrap();

    let open = |passphrase| {
        let options = OpenOptions {
            passphrase,
            ..OpenOptions::default()
        };
        Authority::open(&directory, &options)
    };
    assert!(open(Some(passphrase("right"))).is_ok());
    for (given, expected) in [
        (
            Some(passphrase("wrong")),
            crate::keys::KeyError::WrongPassphrase,
        ),
        (None, crate::keys::KeyError::PassphraseMissing),
    ] {
        let error = open(given).unwrap_err();
        assert!(
            matches!(&error, OpenError::Key { source, .. } if *source == expected),
            "{error}"
        );
    }
}

#[tokio::test]
async fn parts_of_two_cas_do_not_open_together() {
    let (a, _) = new_ca(&options());
    let (b, _) = new_ca(&options());
    let (a, b) = (a.path().join("ca"), b.path().join("ca"));
    let open = || Authority::open(&a, &OpenOptions::default());

    let swap = |name: &str| fs::copy(b.join(name), a.join(name)).unwrap();
    let own_key = fs::read(a.join("intermediate.key")).unwrap();
    swap("intermediate.key");
    assert!(matches!(open(), Err(OpenError::KeyMismatch)));
    // With both swapped the parts match each other, but not the root: what is signed does not validate.
    swap("intermediate.pem");
    let error = open()
        .unwrap()
        .issue(request(ORDERS, None))
        .await
        .unwrap_err();
    assert!(matches!(error, IssueError::Path(_)), "{error}");
    fs::write(a.join("intermediate.key"), own_key).unwrap();
    assert!(matches!(open(), Err(OpenError::KeyMismatch)));
    swap("root.pem");
    assert!(matches!(open(), Err(OpenError::RootNotInBundle)));
    fs::write(a.join("root.pem"), "no certificate").unwrap();
    assert!(matches!(open(), Err(OpenError::Certificate { .. })));
}

#[tokio::test]
async fn two_processes_issue_beside_each_other() {
    let (temporary, first) = new_ca(&options());
    let directory = temporary.path().join("ca");
    let second = Authority::open(&directory, &OpenOptions::default()).unwrap();
    for _ in 0..10 {
        let (a, b) = tokio::join!(
            first.issue(request(ORDERS, None)),
            second.issue(request(ORDERS, None))
        );
        a.unwrap();
        b.unwrap();
    }
    let report = ledger::verify(&directory).unwrap();
    assert!(report.is_intact() && report.certificates == 20, "{report}");
}
