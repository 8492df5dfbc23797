use super::*;
use tokio::time::timeout;

/// A file says nothing new for as long as nobody writes it: that alone would never end.
#[tokio::test]
async fn a_file_that_nobody_follows_any_more_is_not_looked_at() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "- 127.0.0.1:1").unwrap();
    let followed = Arc::new(Followed::new(
        Endpoints::File(file.path().into()),
        Whose::OfServices,
    ));
    let task = Task::new(&followed, Arc::new(Dns::new(Vec::new())), Metrics::new());
    let mut known = followed.subscribe();
    let running = tokio::spawn(task.run());
    let limit = Duration::from_secs(10);
    let read = timeout(limit, known.changed()).await;
    read.expect("the file is read").unwrap();
    drop(followed);
    let ended = timeout(limit, running).await;
    ended.expect("it ends soon").unwrap();
}
/// More would be an answer made to hurt: each has connections and a place in every worker's choice.
#[test]
fn endpoints_beyond_the_limit_are_not_used_and_those_within_it_stay() {
    let at = |number: u16| Source::Address(([127, 0, 0, 1], number + 1).into());
    let most = u16::try_from(MAX_ENDPOINTS).unwrap();
    for count in [most - 1, most, most + 1, 4 * most] {
        let listed = Endpoints::Listed((0..count).map(at).collect());
        let followed = Followed::new(listed, Whose::OfServices);
        let known = followed.subscribe();
        let Known::Members(members) = &*known.borrow() else {
            panic!("expected endpoints of {count}");
        };
        assert_eq!(members.len(), usize::from(count.min(most)), "{count}");
        let ports = members.iter().map(|member| member.address.port);
        assert!(ports.eq(1..=count.min(most)), "{count}");
    }
}

#[test]
fn an_endpoint_that_is_listed_twice_takes_one_place() {
    let once = Source::Address(([127, 0, 0, 1], 1).into());
    let twice = Endpoints::Listed(vec![once.clone(), once]);
    let followed = Followed::new(twice, Whose::OfServices);
    let known = followed.subscribe();
    assert!(matches!(&*known.borrow(), Known::Members(members) if members.len() == 1));
}
