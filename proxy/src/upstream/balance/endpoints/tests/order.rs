//! Where the configuration or DNS says who comes first: keys, priorities, weights.

use super::*;

#[test]
fn requests_of_one_key_go_to_one_endpoint_and_to_the_next_on_the_ring_while_it_is_out() {
    let rules = Resilience {
        hash: Some(config::HashKey::Path),
        ..Resilience::default()
    };
    let (mut endpoints, now) = (with(rules, 5), Instant::now());
    let owner = |endpoints: &mut Endpoints, key: u32, now| {
        let picked = endpoints.pick(&[], Some(&key.to_be_bytes()), now).unwrap();
        endpoints.end(picked.number, false, picked.is_probe.then_some(now));
        picked.number
    };
    let before: Vec<_> = (0..1000)
        .map(|key| owner(&mut endpoints, key, now))
        .collect();
    eject(&mut endpoints, 2, now);
    let out = endpoints.all[2].number;
    let meanwhile: Vec<_> = (0..1000)
        .map(|key| owner(&mut endpoints, key, now))
        .collect();
    assert!(!meanwhile.contains(&out));
    for (before, meanwhile) in before.iter().zip(&meanwhile) {
        assert!(before == meanwhile || *before == out);
    }
    // A key of its own finds out how it is; the others stay where they are.
    let later = now + Duration::from_secs(10);
    let again: Vec<_> = (0..1000)
        .map(|key| owner(&mut endpoints, key, later))
        .collect();
    assert_eq!(again, before);
}

#[test]
fn the_lowest_priority_that_has_endpoints_in_use_gets_the_requests_by_key_or_not() {
    for hash in [None, Some(config::HashKey::Path)] {
        let rules = Resilience {
            hash,
            ..Resilience::default()
        };
        let mut endpoints = with(rules, 0);
        let members = [(1, 10), (2, 20), (3, 10), (4, 20)].map(|(port, priority)| Member {
            priority,
            ..Member::at(at(port))
        });
        let now = Instant::now();
        set(&mut endpoints, members.into_iter(), now);
        let picked = |endpoints: &mut Endpoints| {
            let place = |key: u32| {
                let picked = endpoints.pick(&[], Some(&key.to_be_bytes()), now);
                let number = picked.expect("one of four").number;
                endpoints.all.iter().position(|all| all.number == number)
            };
            let picked: BTreeSet<_> = (0..100).filter_map(place).collect();
            picked.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(picked(&mut endpoints), [0, 2]);
        eject(&mut endpoints, 0, now);
        assert_eq!(picked(&mut endpoints), [2]);
        eject(&mut endpoints, 2, now);
        assert_eq!(picked(&mut endpoints), [1, 3]);
    }
}

#[test]
fn endpoints_under_load_share_by_weight() {
    let mut service = Service::new(vec![slow; 2]);
    let members = [(0, 3), (1, 1)].map(|(port, weight)| Member {
        weight,
        ..Member::at(at(port))
    });
    let now = service.now;
    set(&mut service.endpoints, members.into_iter(), now);
    let handed = service.run(30_000);
    let share = f64::from(handed[0]) / f64::from(handed[1]);
    assert!((2.0..=4.0).contains(&share), "{handed:?}");
}
