//! Laws that hold for every input.

use proptest::prelude::*;

use super::*;

/// Targets that come near the rules: random bytes hardly ever get past the first check.
fn targets() -> impl Strategy<Value = String> {
    let parts = [
        "/",
        "/",
        "/",
        "a",
        "B7",
        "..",
        ".",
        "-",
        "~",
        "*",
        ":",
        "%41",
        "%2e",
        "%2E",
        "%2f",
        "%2F",
        "%5c",
        "%c3%a9",
        "%C3",
        "%A9",
        "%25",
        "25",
        "2e",
        "%",
        "%20",
        "%E3%80%80",
        "%ef%bc%8f",
        "%3b",
        ";",
        ";x=1",
        "?",
        "#",
        "\\",
        "%00",
    ];
    let part = proptest::sample::select(parts.to_vec());
    proptest::collection::vec(part, 0..12).prop_map(|parts| format!("/{}", parts.concat()))
}

fn profiles() -> impl Strategy<Value = Profile> {
    any::<[bool; 3]>().prop_map(|[slash, params, empty]| Profile {
        encoded_slash: if slash {
            EncodedSlash::Opaque
        } else {
            EncodedSlash::Reject
        },
        path_params: if params {
            PathParams::Literal
        } else {
            PathParams::Reject
        },
        empty_segments: if empty {
            EmptySegments::Literal
        } else {
            EmptySegments::Reject
        },
    })
}

/// A decoder as lenient as backends are: escapes it cannot read stay as they are.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let octet = text
            .get(at + 1..at + 3)
            .filter(|_| text[at] == b'%')
            .and_then(|digits| {
                let digits = str::from_utf8(digits).ok()?;
                digits
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit())
                    .then(|| u8::from_str_radix(digits, 16))?
                    .ok()
            });
        out.push(octet.unwrap_or(text[at]));
        at += if octet.is_some() { 3 } else { 1 };
    }
    out
}

fn raw_path(target: &str) -> &str {
    target.split('?').next().unwrap()
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>, profile in profiles()) {
        let rooted = [b"/", bytes.as_slice()].concat();
        for target in [&bytes, &rooted] {
            if let Ok(target) = canonicalise(target, &profile) {
                prop_assert!(target.path.starts_with('/'));
                prop_assert!(target.path.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }

    #[test]
    fn a_canonical_target_stays_as_it_is(target in targets(), profile in profiles()) {
        if let Ok(once) = canonicalise(target.as_bytes(), &profile) {
            let forwarded = match once.query {
                Some(query) => format!("{}?{query}", once.path),
                None => once.path.to_string(),
            };
            let twice = canonicalise(forwarded.as_bytes(), &profile);
            prop_assert_eq!(twice.as_ref(), Ok(&once));
            prop_assert!(matches!(twice.unwrap().path, Cow::Borrowed(_)));
        }
    }

    #[test]
    fn the_canonical_path_decodes_to_what_was_sent(target in targets(), profile in profiles()) {
        if let Ok(read) = canonicalise(target.as_bytes(), &profile) {
            prop_assert_eq!(decode(read.path.as_bytes()), decode(raw_path(&target).as_bytes()));
        }
    }

    #[test]
    fn what_is_accepted_reads_the_same_however_often_it_is_decoded(target in targets()) {
        if let Ok(read) = canonicalise(target.as_bytes(), &STRICT) {
            let once = decode(read.path.as_bytes());
            prop_assert_eq!(&decode(&once), &once);
            let text = String::from_utf8(once).unwrap();
            let segments: Vec<&str> = text.split('/').skip(1).collect();
            for (at, segment) in segments.iter().enumerate() {
                let dots = segment.trim().chars().all(|c| c == '.');
                prop_assert!(!dots || (segment.is_empty() && at + 1 == segments.len()), "{}", text);
                prop_assert!(!segment.contains([';', '\\', '?', '#']), "{}", text);
            }
        }
    }

    #[test]
    fn opting_in_never_changes_how_a_strict_target_is_read(target in targets(), profile in profiles()) {
        if let Ok(strict) = canonicalise(target.as_bytes(), &STRICT) {
            prop_assert_eq!(canonicalise(target.as_bytes(), &profile), Ok(strict));
        }
    }

    #[test]
    fn escaping_an_unreserved_character_changes_nothing(
        target in targets(),
        profile in profiles(),
        pick: proptest::sample::Index,
    ) {
        let path = raw_path(&target);
        let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        // Digits that already belong to an escape are no characters of their own.
        let candidates: Vec<usize> = (0..path.len())
            .filter(|at| is_unreserved(path.as_bytes()[*at]) && !path[at.saturating_sub(2)..*at].contains('%'))
            .collect();
        prop_assume!(!candidates.is_empty());
        let at = candidates[pick.index(candidates.len())];
        let escaped = format!("{}%{:02x}{}", &path[..at], path.as_bytes()[at], &path[at + 1..]);
        prop_assert_eq!(super::path(&escaped, &profile), super::path(path, &profile));
    }
}
