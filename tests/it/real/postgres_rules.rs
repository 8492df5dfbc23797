//! Lineage and revocation where they are hardest to keep: two replicas on one PostgreSQL, asked at the same moment.

use super::postgres::Postgres;
use crate::harness::wait_for;
use ca::authority::{Fault, IssueError};
use ca::config::{InitOptions, KeyProtection, OpenOptions};
use ca::csr::PublicKey;
use ca::lineage::{LineageError, LineageName};
use ca::revoke::{Reason, RevokeError, Target};
use ca::store::{Database, ServerTrust};
use ca::{Authority, Issued, Request, Requester};
use identity::{SpiffeId, TrustDomain};
use rcgen::{KeyPair, PublicKeyData};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

const ID: &str = "spiffe://test.example/ns/shop/sa/orders";
/// Callers at the same moment.
const CALLERS: usize = 12;
const ROUNDS: usize = 10;

struct Replicas {
    runtime: Runtime,
    replicas: [Arc<Authority>; 2],
    database: Database,
    server: Postgres,
    _folder: TempDir,
}

impl Replicas {
    fn start() -> Self {
        let (server, folder) = (Postgres::start(), TempDir::new().expect("a folder"));
        let url = format!("postgres://postgres@{}/postgres", server.address);
        let known = ca::store::Postgres::new(&url, &ServerTrust::SameMachine);
        let database = Database::Postgres(known.expect("a database"));
        let domain = TrustDomain::parse("test.example").expect("a name");
        let options = InitOptions {
            database: Some(database.clone()),
            ..InitOptions::new(domain, KeyProtection::InsecurePlaintext)
        };
        let dir = folder.path().join("ca");
        ca::init(&dir, &options).expect("a CA");
        let open = OpenOptions {
            database: Some(database.clone()),
            ..OpenOptions::default()
        };
        let replica = || Arc::new(Authority::open(&dir, &open).expect("a replica"));
        Self {
            runtime: Runtime::new().expect("a runtime"),
            replicas: [replica(), replica()],
            database,
            server,
            _folder: folder,
        }
    }

    /// The serials of revoked certificates.
    fn revoked(&self) -> BTreeSet<String> {
        let listed = ca::inspect::revocations(&self.database, u32::MAX).expect("a list");
        let certificates = listed.into_iter().filter(|one| one.what == "certificate");
        certificates.map(|one| one.name).collect()
    }

    /// Has all callers ask for a certificate at once, half of them each replica, and gives what they got. Each has a key of
    /// its own.
    async fn ask_all(
        &self,
        requester: impl Fn(usize) -> Requester,
    ) -> Vec<Result<Issued, IssueError>> {
        let (start, mut asked) = (Arc::new(Barrier::new(CALLERS)), JoinSet::new());
        for number in 0..CALLERS {
            let replica = Arc::clone(&self.replicas[number % 2]);
            let (request, start) = (request(requester(number)), Arc::clone(&start));
            asked.spawn(async move {
                start.wait().await;
                replica.issue(request).await
            });
        }
        asked.join_all().await
    }
}

fn request(requester: Requester) -> Request {
    let key = KeyPair::generate().expect("a key");
    Request {
        id: SpiffeId::parse(ID).expect("an ID"),
        dns_names: Default::default(),
        public_key: PublicKey::from_spki(&key.subject_public_key_info()).expect("P-256"),
        ttl: None,
        until: None,
        requester,
    }
}

fn is_revoked(outcome: &Result<Issued, IssueError>) -> bool {
    let Err(IssueError::Lineage(refused)) = outcome else {
        return false;
    };
    matches!(refused, LineageError::Revoked { .. })
}

fn renewing(serial: &str) -> Requester {
    Requester::Svid {
        serial: serial.to_owned(),
        attested: None,
    }
}

#[test]
fn of_many_renewals_at_once_one_key_gets_a_successor_and_the_lineage_is_frozen() {
    let ca = Replicas::start();
    ca.runtime.block_on(async {
        for _ in 0..ROUNDS {
            let first = ca.replicas[0].issue(request(Requester::Operator)).await;
            let serial = first.expect("a certificate").serial;
            let given = ca.ask_all(|_| renewing(&serial)).await;
            let (got, refused): (Vec<_>, Vec<_>) = given.into_iter().partition(Result::is_ok);
            assert_eq!(got.len(), 1, "{got:?}");
            let (mut alarms, mut frozen) = (0, 0);
            for refusal in &refused {
                match refusal {
                    Err(IssueError::Lineage(LineageError::SecondSuccessor { .. })) => alarms += 1,
                    Err(IssueError::Lineage(LineageError::Frozen { .. })) => frozen += 1,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!((alarms, frozen), (1, CALLERS - 2));
        }
    });
    let frozen = ca::inspect::frozen_lineages(&ca.database, 100).expect("a list");
    assert_eq!(frozen.len(), ROUNDS);
    assert!(
        ca::ledger::verify(&ca.database)
            .expect("a report")
            .is_intact()
    );
}

/// A revocation is one moment for all replicas: who was before it is revoked, and nobody comes after it.
#[test]
fn what_is_issued_while_its_identity_is_revoked_is_revoked_with_it_or_not_issued() {
    let ca = Replicas::start();
    let target = Target::Identity(SpiffeId::parse(ID).expect("an ID"));
    ca.runtime.block_on(async {
        for round in 0..ROUNDS {
            let revoking = async {
                // Not always at the same point.
                tokio::time::sleep(Duration::from_millis(2 * round as u64)).await;
                let store = ca.replicas[round % 2].store();
                let revoked =
                    store.revoke(target.clone(), Reason::KeyCompromise, SystemTime::now());
                revoked.await.expect("a database")
            };
            let (given, revoked) = tokio::join!(ca.ask_all(|_| Requester::Operator), revoking);
            assert!(revoked.is_ok(), "{revoked:?}");
            let serials: BTreeSet<_> = given.into_iter().flatten().map(|got| got.serial).collect();
            let listed = ca.revoked();
            let left: Vec<_> = serials.difference(&listed).collect();
            assert!(left.is_empty(), "issued and not revoked: {left:?}");
            for replica in &ca.replicas {
                let refused = replica.issue(request(Requester::Operator)).await;
                assert!(is_revoked(&refused), "{refused:?}");
            }
            let store = ca.replicas[0].store();
            let lifted = store.lift(target.clone(), "a test".to_owned(), SystemTime::now());
            lifted.await.expect("a database").expect("it was revoked");
        }
    });
    assert!(
        ca::ledger::verify(&ca.database)
            .expect("a report")
            .is_intact()
    );
}

#[test]
fn serials_lineages_and_what_is_lifted_are_told_apart_as_on_sqlite() {
    let ca = Replicas::start();
    ca.runtime.block_on(async {
        let [one, other] = &ca.replicas;
        let now = SystemTime::now();
        let issue = async || {
            let issued = one.issue(request(Requester::Operator)).await;
            issued.expect("a certificate").serial
        };
        let (by_serial, by_lineage, kept) = (issue().await, issue().await, issue().await);
        let revoke = async |target: Target| {
            let revoked = other.store().revoke(target, Reason::Superseded, now).await;
            revoked.expect("a database")
        };
        assert_eq!(revoke(Target::Serial(by_serial.clone())).await, Ok(1));
        // What an operator issued begins a lineage of its own, named by its serial.
        let lineage = Target::Lineage(LineageName::new(&*by_lineage));
        assert_eq!(revoke(lineage.clone()).await, Ok(1));
        let unknown = revoke(Target::Serial("0badcafe".to_owned())).await;
        assert!(matches!(unknown, Err(RevokeError::UnknownSerial(_))));
        let renewed = async |serial: &str| one.issue(request(renewing(serial))).await;
        for serial in [&by_serial, &by_lineage] {
            let refused = renewed(serial).await;
            assert!(is_revoked(&refused), "{refused:?}");
        }
        renewed(&kept).await.expect("nobody has revoked it");
        let lifted = one.store().lift(lineage, "a test".to_owned(), now).await;
        lifted.expect("a database").expect("it was revoked");
        // The lineage may have more, but not after a certificate that stays revoked.
        renewed(&by_lineage)
            .await
            .expect_err("its serial is revoked");
        assert_eq!(ca.revoked(), BTreeSet::from([by_serial, by_lineage]));
    });
}

/// What is only written leaves with a later statement, in the end with the commit, which the server answers as if all were well
/// when something before it has failed.
#[test]
fn nobody_has_a_certificate_of_which_the_database_refused_a_part() {
    let ca = Replicas::start();
    // Counts on although what it was counted for is rolled back.
    ca.server.ask(
        "create sequence turn;
         create function refuse() returns trigger language plpgsql as $$ begin
             if nextval('turn') % 5 = 0 then raise exception 'not this one'; end if;
             return new;
         end $$;
         create trigger refuse before insert on descent for each row execute function refuse()",
    );
    let (mut given, mut refused) = (BTreeSet::new(), 0);
    ca.runtime.block_on(async {
        for round in 0..4 * ROUNDS {
            let answers = match round % 2 {
                0 => vec![ca.replicas[0].issue(request(Requester::Operator)).await],
                _ => ca.ask_all(|_| Requester::Operator).await,
            };
            for answer in answers {
                match answer {
                    Ok(issued) => assert!(given.insert(issued.serial)),
                    Err(IssueError::Record(_)) => refused += 1,
                    Err(other) => panic!("{other}"),
                }
            }
        }
    });
    assert!(refused > 0 && !given.is_empty(), "{refused} {given:?}");
    let recorded = ca.server.ask("select serial from certificate");
    let recorded: BTreeSet<_> = recorded.lines().map(str::to_owned).collect();
    assert_eq!(given, recorded);
    let report = ca::ledger::verify(&ca.database).expect("a report");
    assert!(report.is_intact(), "{report}");
    assert_eq!(
        ca.server.ask("select count(*) from audit").trim(),
        (1 + given.len()).to_string()
    );
}

/// What was revoked meanwhile would be unknown to it.
#[test]
fn a_replica_that_hears_nothing_from_its_database_is_not_ready_until_it_does_again() {
    let mut ca = Replicas::start();
    let replica = Arc::clone(&ca.replicas[0]);
    let faults = |ca: &Replicas| ca.runtime.block_on(replica.faults());
    assert_eq!(faults(&ca), []);
    ca.server.stop();
    wait_for("the replica to be behind", || {
        faults(&ca).contains(&Fault::Behind).then_some(())
    });
    ca.server.start_again();
    wait_for("the replica to be ready", || {
        faults(&ca).is_empty().then_some(())
    });
}
