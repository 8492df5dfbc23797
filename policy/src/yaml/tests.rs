use super::*;

fn problems(text: &str) -> Vec<String> {
    let problems = Problems::new();
    parse("f.yaml", text, &problems);
    problems
        .into_sorted()
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Reads `value` of the one-line file `key: <text>`.
fn read<T>(text: &str, reader: impl Fn(&Node, &Problems) -> Option<T>) -> Result<T, String> {
    let problems = Problems::new();
    let node = parse_one("f.yaml", &format!("key: {text}"), &problems).unwrap();
    let value = map(&node, &problems, |map| map.required("key", &reader));
    problems
        .or_value(value)
        .map_err(|problems| problems[0].message.clone())
}

#[test]
fn problems_name_file_line_column_and_key_path() {
    let problems = Problems::new();
    let node = parse_one(
        "f.yaml",
        "outbound:\n  services:\n    - {timeout: soon}\n",
        &problems,
    )
    .unwrap();
    let service = |node: &Node, problems: &Problems| {
        map(node, problems, |map| map.required("timeout", duration))
    };
    let outbound = |node: &Node, problems: &Problems| {
        map(node, problems, |map| {
            map.required("services", list(service))
        })
    };
    let read = map(&node, &problems, |map| map.required("outbound", outbound));
    assert_eq!(
        problems.or_value(read).unwrap_err()[0].to_string(),
        "f.yaml:3:17: outbound.services[0].timeout: \
         expected a duration such as 500ms, 5s, 10m, 24h or 14d, found \"soon\""
    );
}

#[test]
fn documents_of_one_file_keep_their_lines() {
    let problems = Problems::new();
    let nodes = parse(
        "f.yaml",
        "# comment\n---\na: 1\n---\n---\nb: 2\n",
        &problems,
    );
    let lines: Vec<usize> = nodes.iter().map(|node| node.place().line()).collect();
    assert_eq!(lines, [3, 6]);
    assert!(problems.is_empty());
}

#[test]
fn hostile_files_are_problems() {
    let deep = "[".repeat(40);
    let deep_block = "- ".repeat(40);
    let wide = format!("[{}]", "a,".repeat(600_000));
    let large = "a".repeat(MAX_FILE_BYTES + 1);
    let long_key = format!("{}: 1", "k".repeat(300));
    for (text, expected) in [
        (
            "a: &x 1\nb: *x",
            "f.yaml:1:4: a: anchors (&name) are not supported; write the value out",
        ),
        (
            "a: *x",
            "f.yaml:1:4: a: not valid YAML: while parsing node, found unknown anchor",
        ),
        (
            "a: !!str 1",
            "f.yaml:1:4: a: tags (!name) are not supported",
        ),
        (
            "a: 1\na: 2",
            "f.yaml:2:1: a: this key is written twice in one map",
        ),
        (
            "? [a]\n: 1",
            "f.yaml:1:3: expected a key, found a list or map",
        ),
        (
            &large,
            "f.yaml:1:1: expected at most 4194304 bytes, found 4194305",
        ),
        (
            &wide,
            "f.yaml:1:1000000: [499999]: expected at most 500000 keys, values, lists and maps in a file",
        ),
    ] {
        assert_eq!(problems(text), [expected]);
    }
    for text in [&deep, &deep_block] {
        assert!(
            problems(text)[0].ends_with("expected at most 32 levels of lists and maps"),
            "{text}"
        );
    }
    assert!(problems(&long_key)[0].ends_with("expected a key of at most 256 bytes, found 300"));
    for text in ["a: [", "{", "\u{feff}\u{0}", "a: b: c", "%TAG", "'"] {
        assert!(!problems(text).is_empty(), "{text:?}");
    }
}

#[test]
fn scalars_are_read_by_what_they_look_like() {
    let (text_error, found) = ("expected text, found", "found \"");
    assert_eq!(read("orders", text), Ok("orders".to_owned()));
    assert_eq!(read("'2231'", text), Ok("2231".to_owned()));
    assert_eq!(read("no", text), Ok("no".to_owned()));
    assert_eq!(read("nan", text), Ok("nan".to_owned()));
    for plain in [
        "2231", "1e3", "0x1F", ".5", "true", "False", "~", "", "[a]", "{a: b}",
    ] {
        assert!(
            read(plain, text).unwrap_err().starts_with(text_error),
            "{plain}"
        );
    }
    assert_eq!(read("true", boolean), Ok(true));
    for other in ["yes", "'true'", "True"] {
        assert!(read(other, boolean).unwrap_err().contains(found), "{other}");
    }
    assert_eq!(read("8080", number::<u16>), Ok(8080));
    for other in ["'8080'", "65536", "-1", "+1", "1.0", "0x10", "1_000"] {
        assert!(
            read(other, number::<u16>).unwrap_err().contains(found),
            "{other}"
        );
    }
}

#[test]
fn units_are_written_out() {
    for (text, millis) in [
        ("500ms", 500),
        ("5s", 5000),
        ("2m", 120_000),
        ("24h", 86_400_000),
        ("14d", 1_209_600_000),
    ] {
        assert_eq!(read(text, duration).unwrap().as_millis(), millis, "{text}");
    }
    for text in [
        "5",
        "s",
        "5 s",
        "1.5s",
        "-1s",
        "1w",
        "99999999999999999999s",
        "999999999999999999d",
    ] {
        assert!(read(text, duration).is_err(), "{text}");
    }
    for (text, bytes) in [
        ("512B", 512),
        ("64KiB", 65_536),
        ("4MiB", 4 << 20),
        ("1GiB", 1 << 30),
    ] {
        assert_eq!(read(text, byte_size), Ok(bytes), "{text}");
    }
    for text in ["64", "64KB", "64k", "99999999999999999999GiB"] {
        assert!(read(text, byte_size).is_err(), "{text}");
    }
    let noon = read("2026-11-01T12:00:00+02:00", timestamp).unwrap();
    assert_eq!(Ok(noon), read("2026-11-01T10:00:00Z", timestamp));
    for text in [
        "2026-11-01",
        "2026-13-01T00:00:00Z",
        "1969-12-31T23:59:59Z",
        "2026-11-01T00:00:00",
    ] {
        assert!(read(text, timestamp).is_err(), "{text}");
    }
}

#[test]
fn enumerations_list_their_words_and_lists_report_every_item() {
    let reader = word(&[("opaque", 1), ("reject", 2)]);
    assert_eq!(read("opaque", &reader), Ok(1));
    assert_eq!(
        read("open", &reader),
        Err("expected one of opaque, reject, found \"open\"".to_owned())
    );
    let problems = Problems::new();
    let node = parse_one("f.yaml", "[1, x, 2, y]", &problems).unwrap();
    assert_eq!(list(number::<u8>)(&node, &problems), None);
    assert_eq!(problems.into_sorted().len(), 2);
}

#[test]
fn a_message_shows_hostile_text_harmlessly() {
    assert_eq!(shown("a\u{1b}[31m\nb"), "\"a\\u{1b}[31m\\nb\"");
    assert!(shown(&"x".repeat(10_000)).len() < 100);
}

/// The path of an unknown key went to the terminal as it stood in the file.
#[test]
fn a_key_path_shows_hostile_keys_harmlessly() {
    let problems = Problems::new();
    let text = "\"a\\e[31m\": 1\n\"it's \\\"b\\\"\\n\": 2\n";
    let node = parse_one("f.yaml", text, &problems).unwrap();
    map(&node, &problems, |_| Some(()));
    let found: Vec<String> = problems.into_sorted().into_iter().map(|p| p.key).collect();
    assert_eq!(found, ["a\\u{1b}[31m", "it's \"b\"\\n"]);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "([ \\t\\n\\-:,?&*!|>'\"%@`#{}\\[\\]a0~é\u{feff}]|---\n|: |- ){0,60}") {
        let problems = Problems::new();
        for node in parse("f.yaml", &text, &problems) {
            map(&node, &problems, |map| map.optional("a", self::text));
            list(timestamp)(&node, &problems);
        }
        proptest::prop_assert!(problems.into_sorted().len() <= 1000);
    }
}
