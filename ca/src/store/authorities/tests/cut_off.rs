//! A step that ends in the middle has not been taken, and is taken again.

use super::*;
use std::fmt::Debug;

/// All that a step may change, as text.
fn records(ca: &Ca) -> Vec<String> {
    let database = Connection::open(ca.dir.join(crate::directory::DATABASE)).unwrap();
    let texts = [
        "SELECT name || state || since || coalesce(key_file, '') || sequence FROM authority ORDER BY name",
        "SELECT sequence || pem FROM bundle",
        "SELECT seq || hex(hash) FROM audit ORDER BY seq",
        "SELECT kind || name FROM barred ORDER BY name",
    ];
    let read = |sql: &str| {
        let mut statement = database.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| row.get::<_, String>(0));
        rows.unwrap().map(Result::unwrap).collect::<Vec<_>>()
    };
    texts.iter().flat_map(|sql| read(sql)).collect()
}

/// Cuts `step` off at each of its `writes`, and takes it then.
async fn cut_off<T: Debug, E: Debug>(
    ca: &Ca,
    writes: &[&str],
    step: impl AsyncFn() -> Result<T, E>,
) -> T {
    let before = records(ca);
    for write in writes {
        ca.edit(&format!(
            "CREATE TRIGGER cut_off BEFORE {write} BEGIN SELECT RAISE(ABORT, 'cut off'); END"
        ));
        let cut = step().await;
        ca.edit("DROP TRIGGER cut_off");
        assert!(cut.is_err(), "nothing to cut at {write}: {cut:?}");
        assert_eq!(records(ca), before, "{write}");
    }
    step().await.unwrap()
}

#[tokio::test]
async fn a_step_that_is_cut_off_at_any_write_has_changed_nothing_and_is_taken_again() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    let store = ca.authority.store();
    let (now, forced) = (
        SystemTime::now(),
        Terms {
            force: true,
            ..PATIENT
        },
    );
    ca.issue().await.unwrap();
    for role in [Role::Root, Role::Intermediate] {
        // Everybody hears of what is done by the last two.
        let told = [
            "INSERT ON audit",
            "INSERT ON change WHEN NEW.topic <> 'touched'",
        ];
        let with = |first: &[&'static str]| [first, &told].concat();
        let published: &[_] = match role {
            Role::Root => &["UPDATE ON bundle"],
            Role::Intermediate => &[],
        };
        let prepares = with(&[published, &["INSERT ON authority"]].concat());
        cut_off(&ca, &prepares, async || ca.prepare(role).await).await;
        let gives_up = with(&[published, &["UPDATE ON authority"]].concat());
        let abandon = async || store.abandon_authority(role, By::Operator, now).await;
        cut_off(&ca, &gives_up, abandon).await.unwrap();

        ca.prepare(role).await.unwrap();
        let activate = async || {
            store
                .activate_authority(role, PATIENT, By::Operator, now)
                .await
        };
        let step = cut_off(&ca, &with(&["UPDATE ON authority"]), activate).await;
        assert!(!step.unwrap().authorities.is_empty());
        let barred: &[_] = match role {
            Role::Root => &["INSERT ON barred"],
            Role::Intermediate => &[],
        };
        let retires = with(&[published, barred, &["UPDATE ON authority"]].concat());
        let retire = async || {
            store
                .retire_authority(role, forced, By::Operator, now)
                .await
        };
        let step = cut_off(&ca, &retires, retire).await.unwrap();
        assert!(!step.authorities.is_empty());
        assert!(ca.authority.read_authorities().await);
        ca.issue().await.unwrap();
    }
    let report = crate::ledger::verify(&ca.dir).unwrap();
    assert!(report.is_intact(), "{report}");
}

#[tokio::test]
async fn a_ca_that_ended_before_it_had_copied_the_bundle_copies_it_when_it_starts_again() {
    let ca = Ca::new(KeyProtection::InsecurePlaintext);
    let copy = || fs::read(ca.dir.join(crate::directory::BUNDLE)).unwrap();
    let before = copy();
    for role in [Role::Root, Role::Intermediate] {
        // The CA itself does not follow.
        ca.prepare(role).await.unwrap();
        ca.activate(role).await.unwrap();
    }
    assert_eq!(copy(), before);
    let again = Arc::new(Authority::open(&ca.dir, &ca.options).unwrap());
    let present = ca.authority.store().generations().await.unwrap();
    let follows = tokio::spawn({
        let again = Arc::clone(&again);
        async move { again.follow().await }
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while copy() == before {
        assert!(std::time::Instant::now() < deadline, "not copied");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    follows.abort();
    let signer = present.issuer().unwrap();
    let issued = again.issue_server().await.unwrap();
    let server = present.server_issuer().unwrap();
    assert_ne!(server.name, signer.name, "the old root is not retired");
    assert_eq!(issued.svid.chain()[1], server.certificate.clone().unwrap());
}
