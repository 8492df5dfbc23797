use super::*;

#[test]
fn rates_are_read() {
    for (text, per_unit, unit_seconds) in [
        ("200/s", 200, 1),
        ("60/m", 60, 60),
        ("1/h", 1, 3600),
        ("1000000/s", 1_000_000, 1),
    ] {
        assert_eq!(
            text.parse(),
            Ok(Rate {
                count: per_unit,
                unit_seconds
            })
        );
    }
    for text in [
        "",
        "5",
        "/s",
        "0/s",
        "-1/s",
        "+1/s",
        "1.5/s",
        "1/d",
        "1 /s",
        "1/s ",
        "1000001/s",
        "99999999999/h",
    ] {
        assert_eq!(
            text.parse::<Rate>(),
            Err(ParseRateError(text.into())),
            "{text:?}"
        );
    }
}

#[test]
fn keys_are_read() {
    assert_eq!("grpcMethod".parse(), Ok(Key::GrpcMethod));
    assert_eq!(
        "header:X-Tenant".parse(),
        Ok(Key::Header("x-tenant".into()))
    );
    for text in ["", "Identity", "header", "header:", "header:a b", "jwt:sub"] {
        assert_eq!(
            text.parse::<Key>(),
            Err(ParseKeyError(text.into())),
            "{text:?}"
        );
    }
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let good = || Definition {
        id: "ns/doc/l".into(),
        alias: "l".into(),
        key: vec![],
        rate: "10/s".parse().unwrap(),
        burst: None,
        cost: vec![],
        ipv6_prefix: Definition::IPV6_PREFIX,
    };
    let cost = |cost| vec![("POST".to_owned(), cost)];
    let hourly = "1/h".parse().unwrap();
    for (definition, message) in [
        (
            Definition {
                alias: "a\"".into(),
                ..good()
            },
            r#"found "a\"""#,
        ),
        (
            Definition {
                alias: String::new(),
                ..good()
            },
            "found \"\"",
        ),
        (
            Definition {
                burst: Some(0),
                ..good()
            },
            "at least 1",
        ),
        (
            Definition {
                burst: Some(9000),
                rate: hourly,
                ..good()
            },
            "more than a year",
        ),
        (
            Definition {
                cost: cost(11),
                ..good()
            },
            "cost 11 of POST is more than the burst of 10",
        ),
        (
            Definition {
                ipv6_prefix: 0,
                ..good()
            },
            "1 to 128",
        ),
        (
            Definition {
                ipv6_prefix: 129,
                ..good()
            },
            "1 to 128",
        ),
    ] {
        let error = LimitSpec::new(definition).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert!(
        LimitSpec::new(Definition {
            cost: cost(10),
            ..good()
        })
        .is_ok()
    );
}

#[test]
fn without_a_burst_a_unit_of_the_rate_may_come_at_once() {
    assert_eq!(
        Quota::new("60/m".parse().unwrap(), 60).map(|quota| seconds(quota.window())),
        Ok(60)
    );
}

#[test]
fn a_rate_is_never_rounded_up() {
    for count in [3_u64, 7, 999_983] {
        let quota = Quota::new(format!("{count}/s").parse().unwrap(), 1).unwrap();
        assert!(quota.interval * count >= TICKS_PER_SECOND);
        assert!((quota.interval - 1) * count < TICKS_PER_SECOND);
    }
}

proptest::proptest! {
    /// Rounded up, so that going back and forth between two policies gives nobody anything.
    #[test]
    fn converting_keeps_the_share(from in quotas(), to in quotas(), debt: u64) {
        let debt = debt % (from.window() + 1);
        let converted = from.convert(debt, to);
        proptest::prop_assert!(converted <= to.window());
        let [from_window, to_window] = [from, to].map(|quota| u128::from(quota.window()));
        let [debt, converted] = [debt, converted].map(u128::from);
        proptest::prop_assert!(converted * from_window >= debt * to_window);
        proptest::prop_assert!(converted * from_window < debt * to_window + from_window);
    }
}

fn quotas() -> impl proptest::strategy::Strategy<Value = Quota> {
    use proptest::strategy::Strategy;
    (1..=Rate::MAX_PER_SECOND, 1..1000_u32).prop_filter_map("more than a year", |(count, burst)| {
        Quota::new(
            Rate {
                count,
                unit_seconds: 3600,
            },
            burst,
        )
        .ok()
    })
}
