use super::*;
use std::time::Duration;

fn generation(name: &str, role: Role, state: State, parent: Option<&str>, age: u64) -> Generation {
    Generation {
        name: name.to_owned(),
        role,
        state,
        parent: parent.map(str::to_owned),
        certificate: Some(CertificateDer::from(name.as_bytes().to_vec())),
        request: None,
        key: KeyFile::default(),
        sequence: age,
        since: SystemTime::UNIX_EPOCH + Duration::from_secs(age),
        made_by: By::Operator,
        is_revoked: false,
    }
}

fn name(found: Option<&Generation>) -> Option<&str> {
    found.map(|one| one.name.as_str())
}

#[test]
fn the_server_is_certified_under_the_oldest_root_that_is_published() {
    use Role::{Intermediate, Root};
    use State::{Active, Prepared, Retired, Retiring};
    let all = Generations(vec![
        generation("gone", Root, Retired, None, 0),
        generation("gone-issuer", Intermediate, Retired, Some("gone"), 0),
        generation("older", Root, Retiring, None, 1),
        generation("older-first", Intermediate, Retiring, Some("older"), 1),
        generation("older-last", Intermediate, Retiring, Some("older"), 2),
        generation("old", Root, Retiring, None, 3),
        generation("old-issuer", Intermediate, Retiring, Some("old"), 3),
        generation("present", Root, Active, None, 4),
        generation("issuer", Intermediate, Active, Some("present"), 4),
        generation("next", Root, Prepared, None, 5),
        generation("next-issuer", Intermediate, Prepared, Some("next"), 5),
    ]);
    assert_eq!(name(all.root()), Some("present"));
    assert_eq!(name(all.issuer()), Some("issuer"));
    assert_eq!(name(all.server_issuer()), Some("older-last"));
    assert_eq!(name(all.next(Root)), Some("next"));
    assert_eq!(name(all.next(Intermediate)), None, "it goes with its root");
    assert_eq!(
        all.retiring(Intermediate).count(),
        0,
        "they go with their roots"
    );
    assert_eq!(all.retiring(Root).count(), 2);
    let replaced: Vec<_> = all
        .replaced(Root)
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(replaced, ["issuer", "present"]);
}

#[test]
fn a_root_without_intermediates_signs_itself() {
    let old = generation("old", Role::Root, State::Retiring, None, 0);
    let all = Generations(vec![
        old,
        generation("new", Role::Root, State::Active, None, 1),
    ]);
    assert_eq!(name(all.issuer()), Some("new"));
    assert_eq!(name(all.server_issuer()), Some("old"));
}

#[test]
fn every_word_of_the_database_is_read_back() {
    for state in State::ALL {
        assert_eq!(State::parse(state.as_str()), Some(state));
    }
    for role in [Role::Root, Role::Intermediate] {
        assert_eq!(Role::parse(role.as_str()), Some(role));
    }
    for by in [By::Operator, By::Age, By::Deadline] {
        assert_eq!(By::parse(by.as_str()), Some(by));
    }
    assert_eq!((State::parse("lost"), Role::parse("leaf")), (None, None));
}
