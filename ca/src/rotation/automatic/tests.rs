use super::*;
use crate::config::{InitOptions, KeyProtection, OpenOptions};
use identity::TrustDomain;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

struct Ca {
    _folder: TempDir,
    dir: PathBuf,
    authority: Arc<Authority>,
    metrics: Metrics,
}

impl Ca {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        let domain = TrustDomain::parse("demo.test").unwrap();
        let options = InitOptions::new(domain, KeyProtection::InsecurePlaintext);
        crate::init(&dir, &options).unwrap();
        let authority = Arc::new(Authority::open(&dir, &OpenOptions::default()).unwrap());
        Self {
            _folder: folder,
            dir,
            authority,
            metrics: Metrics::default(),
        }
    }

    /// What the CA does at a time, and follows.
    async fn look(&self, days: u32) -> Vec<String> {
        let now = SystemTime::now() + DAY * days;
        let overdue = take_due(&self.authority, &Options::default(), &self.metrics, now).await;
        assert!(self.authority.read_authorities().await);
        overdue
    }

    async fn operator_prepares(&self, role: Role) {
        let (directory, options) = self.authority.place();
        let store = self.authority.store();
        prepare(
            directory,
            options,
            store,
            role,
            Lives::default(),
            By::Operator,
        )
        .await
        .unwrap();
    }

    /// In the order of their words, as all may be of the same second.
    async fn states(&self, role: Role) -> Vec<State> {
        let present = self.authority.store().generations().await.unwrap();
        let of_role = present.0.iter().filter(|one| one.role == role);
        let mut states: Vec<_> = of_role.map(|one| one.state).collect();
        states.sort_by_key(|state| state.as_str());
        states
    }
}

#[tokio::test]
async fn an_intermediate_is_replaced_at_seventy_percent_of_its_life_and_its_predecessor_later_forgotten()
 {
    use State::{Active, Prepared, Retired, Retiring};
    let ca = Ca::new();
    assert!(ca.look(250).await.is_empty());
    assert!(
        ca.states(Role::Intermediate).await.is_empty(),
        "it is young"
    );
    assert!(ca.look(256).await.is_empty());
    assert_eq!(ca.states(Role::Intermediate).await, [Active, Prepared]);
    let before = ca.authority.issue_server().await.unwrap();
    ca.look(256).await;
    assert_eq!(ca.states(Role::Intermediate).await, [Active, Retiring]);
    let after = ca.authority.issue_server().await.unwrap();
    assert_ne!(before.svid.chain()[1], after.svid.chain()[1]);
    ca.look(256).await;
    let states = ca.states(Role::Intermediate).await;
    assert!(states.contains(&Retiring), "for a day: {states:?}");
    ca.look(258).await;
    let states = ca.states(Role::Intermediate).await;
    assert!(
        states.contains(&Retired) && states.contains(&Active),
        "{states:?}"
    );
    let report = crate::ledger::verify(&ca.dir).unwrap();
    assert!(report.is_intact(), "{report}");
}

#[tokio::test]
async fn a_root_is_published_first_and_brings_its_own_intermediate() {
    let ca = Ca::new();
    let years = 365 * 8;
    // The intermediate has long been due as well.
    ca.look(years).await;
    assert_eq!(
        ca.states(Role::Root).await,
        [State::Active, State::Prepared]
    );
    assert_eq!(
        ca.states(Role::Intermediate).await.len(),
        3,
        "the present one has ended, and its successor does not wait for the root"
    );
    assert_eq!(ca.authority.bundle().borrow().authorities().len(), 2);
}

#[tokio::test]
async fn what_an_operator_has_begun_is_left_to_the_operator_and_is_an_alarm_past_its_time() {
    let ca = Ca::new();
    ca.operator_prepares(Role::Root).await;
    assert!(ca.look(365 * 6).await.is_empty(), "it has time");
    for _ in 0..2 {
        let overdue = ca.look(365 * 9).await;
        assert!(overdue[0].contains("rotate activate --root"), "{overdue:?}");
        assert_eq!(
            ca.states(Role::Root).await,
            [State::Active, State::Prepared]
        );
    }
}

#[tokio::test]
async fn an_operators_root_that_waits_does_not_keep_the_intermediate_from_being_replaced() {
    let ca = Ca::new();
    ca.operator_prepares(Role::Root).await;
    assert!(ca.look(256).await.is_empty());
    ca.look(256).await;
    let present = ca.authority.store().generations().await.unwrap();
    assert_eq!(present.issuer().unwrap().made_by, By::Age);
}

#[tokio::test]
async fn an_intermediate_that_an_operator_has_activated_is_replaced_though_its_predecessor_was_never_retired()
 {
    let ca = Ca::new();
    ca.operator_prepares(Role::Intermediate).await;
    let terms = Terms {
        percent: 100,
        published_for: Duration::ZERO,
        force: false,
    };
    let (store, now) = (ca.authority.store(), SystemTime::now());
    let activated = store.activate_authority(Role::Intermediate, terms, By::Operator, now);
    activated.await.unwrap().unwrap();
    ca.look(256).await;
    ca.look(256).await;
    let present = store.generations().await.unwrap();
    assert_eq!(present.issuer().unwrap().made_by, By::Age);
    assert_eq!(present.retiring(Role::Intermediate).count(), 2);
}

#[tokio::test]
async fn an_intermediate_of_a_week_has_a_successor_before_it_ends_and_so_has_that() {
    let ca = Ca::new();
    let (week, start) = (DAY * 7, SystemTime::now());
    let options = Options::default();
    let store = ca.authority.store();
    ca.operator_prepares(Role::Intermediate).await;
    let mut present = store.generations().await.unwrap();
    let generation = |made_by, state, name: &str, present: &Generations| Generation {
        name: name.to_owned(),
        made_by,
        state,
        since: start,
        ..present.next(Role::Intermediate).unwrap().clone()
    };
    let (active, retiring) = (
        generation(By::Age, State::Active, "active", &present),
        generation(By::Age, State::Retiring, "retiring", &present),
    );
    present.0.retain(|one| one.role == Role::Root);
    present.0.extend([active, retiring]);
    let ages = Ages {
        root: Validity::of_ca(start, DAY * 3650),
        intermediate: Some(Validity::of_ca(start, week)),
    };
    assert_eq!(
        due(&present, ages, &options, start + DAY * 2),
        [Due::Retire(Role::Intermediate)]
    );
    assert_eq!(
        due(&present, ages, &options, start + DAY * 5),
        [
            Due::Prepare(Role::Intermediate),
            Due::Retire(Role::Intermediate)
        ],
        "though the one before is still there"
    );
}

#[tokio::test]
async fn a_root_of_our_own_that_is_late_does_not_let_the_intermediate_end() {
    let ca = Ca::new();
    ca.look(365 * 8).await;
    let mut present = ca.authority.store().generations().await.unwrap();
    present
        .0
        .retain(|one| one.role == Role::Root || one.state == State::Active);
    let (start, options) = (SystemTime::now(), Options::default());
    let ages = |days: u32| Ages {
        root: Validity::of_ca(start - DAY * 365 * 8, DAY * 3650),
        intermediate: Some(Validity::of_ca(start - DAY * 300, DAY * (300 + days))),
    };
    let prepares = |days| {
        due(&present, ages(days), &options, start).contains(&Due::Prepare(Role::Intermediate))
    };
    assert!(!prepares(30), "the root brings one");
    assert!(prepares(7));
}

#[tokio::test]
async fn a_root_that_is_elsewhere_is_asked_for_and_that_is_an_alarm() {
    let ca = Ca::new();
    std::fs::remove_file(ca.dir.join("root.key")).unwrap();
    let overdue = ca.look(256).await;
    assert!(
        overdue[0].contains("rotate prepare --intermediate"),
        "{overdue:?}"
    );
    assert_eq!(ca.look(257).await, overdue, "until it is there");
}

#[test]
fn a_root_waits_for_the_sidecars_until_its_deadline_or_until_the_old_one_ends() {
    let now = SystemTime::now();
    let next = Generation {
        name: "next".to_owned(),
        role: Role::Root,
        state: State::Prepared,
        parent: None,
        certificate: None,
        request: None,
        key: super::super::KeyFile::default(),
        sequence: 2,
        since: now,
        made_by: By::Age,
        is_revoked: false,
    };
    let active = |days| Validity {
        not_before: now - DAY,
        not_after: now + DAY * days,
    };
    let options = Options::default();
    let by = |role, days, waited| patience(role, &next, active(days), &options, now + DAY * waited);
    assert_eq!(by(Role::Root, 1000, 6), By::Age);
    assert_eq!(by(Role::Root, 1000, 7), By::Deadline);
    assert_eq!(by(Role::Root, 3, 1), By::Age);
    assert_eq!(
        by(Role::Root, 3, 2),
        By::Deadline,
        "the old root issues a full life no more"
    );
    assert_eq!(by(Role::Intermediate, 1000, 7), By::Age);
    let present = Generations(vec![next.clone()]);
    let step = |at| replacement(Role::Root, active(1000), &present, &options, at);
    assert_eq!(step(now), None, "other trust domains have not asked yet");
    let activate = Due::Activate(Role::Root, By::Age);
    assert_eq!(step(now + DEFAULT_PUBLISHED_FOR), Some(activate));
}

#[tokio::test]
async fn a_root_that_waits_for_sidecars_is_looked_at_beside_whoever_writes() {
    let ca = Ca::new();
    ca.look(365 * 8).await;
    let database = rusqlite::Connection::open(ca.dir.join(crate::directory::DATABASE)).unwrap();
    let sidecar = "INSERT INTO certificate (serial, spiffe_id, not_before, not_after, renew_at, der, audit_seq)
            VALUES ('a', 'spiffe://demo.test/a', 0, 99999999999, 0, x'00', 1);
        INSERT INTO descent (serial, lineage, predecessor, key_hash, acknowledged) VALUES ('a', 'l', NULL, 'k', 1);";
    database.execute_batch(sidecar).unwrap();
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    let now = SystemTime::now() + DAY;
    let waiting = Due::Activate(Role::Root, By::Age);
    let taken = take(&ca.authority, waiting, &Options::default(), now).await;
    let Err(NotTaken::Refused(Refused::Blocked(blockers))) = taken else {
        panic!("{taken:?}");
    };
    assert_eq!(blockers.len(), 1);
}
