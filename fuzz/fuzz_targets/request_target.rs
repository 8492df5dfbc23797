//! Request targets: one canonical form, and no server on the way can take an accepted path for another one.
//!
//! The first byte chooses the profile, the rest is the target.
#![no_main]

use std::borrow::Cow;

use fuzz::assert_one_line;
use policy::target::{
    EmptySegments, EncodedSlash, MAX_TARGET_BYTES, PathParams, Profile, Target, canonicalise,
    canonicalise_path,
};
use unicode_normalization::UnicodeNormalization;

fuzz::target!(|input: &[u8]| {
    let Some((choice, target)) = input.split_first() else {
        return;
    };
    let profile = profile(*choice);
    match canonicalise(target, &profile) {
        Ok(read) => {
            form(&read);
            reads_as_itself(&read, &profile);
            says_what_was_sent(&read, target);
            no_normaliser_changes(&read, &profile);
        }
        Err(reject) => {
            assert_one_line(&reject);
            assert!(matches!(reject.status(), 400 | 414));
            // What a profile refuses, the strict one refuses.
            assert!(canonicalise(target, &Profile::default()).is_err());
        }
    }
    if target.first() == Some(&b'/') {
        assert_eq!(
            canonicalise(target, &profile),
            canonicalise_path(target, &profile)
        );
    } else {
        assert!(canonicalise_path(target, &profile).is_err());
    }
    if let Ok(strict) = canonicalise(target, &Profile::default()) {
        assert_eq!(canonicalise(target, &profile), Ok(strict));
    }
});

fn profile(choice: u8) -> Profile {
    let mut profile = Profile::default();
    if choice & 1 != 0 {
        profile.encoded_slash = EncodedSlash::Opaque;
    }
    if choice & 2 != 0 {
        profile.path_params = PathParams::Literal;
    }
    if choice & 4 != 0 {
        profile.empty_segments = EmptySegments::Literal;
    }
    profile
}

fn form(read: &Target<'_>) {
    assert!(read.path.starts_with('/'));
    assert!(read.path.len() <= MAX_TARGET_BYTES);
    let is_path = |byte: u8| byte.is_ascii_graphic() && !br##""#<>?\^`{|}"##.contains(&byte);
    assert!(read.path.bytes().all(is_path), "{:?}", read.path);
    let is_query = |byte: u8| byte > b' ' && byte != 0x7F && byte != b'#';
    assert!(read.query.is_none_or(|query| query.bytes().all(is_query)));
}

/// Canonical once is canonical for ever, and costs no allocation.
fn reads_as_itself(read: &Target<'_>, profile: &Profile) {
    let mut forwarded = read.path.to_string();
    if let Some(query) = read.query {
        forwarded.extend(["?", query]);
    }
    // Decoding never lengthens; only the "/" of an absolute form without a path is added.
    if forwarded.len() > MAX_TARGET_BYTES {
        return;
    }
    let again = canonicalise_path(forwarded.as_bytes(), profile);
    let again = again.unwrap_or_else(|reject| panic!("{reject}: {forwarded:?}"));
    assert_eq!((&again.path, again.query), (&read.path, read.query));
    assert!(matches!(again.path, Cow::Borrowed(_)));
}

/// Nothing is repaired: decoded, the canonical path is the path that was sent.
fn says_what_was_sent(read: &Target<'_>, target: &[u8]) {
    let path = match read.authority {
        None => target,
        Some(authority) => {
            assert!(target[..7].eq_ignore_ascii_case(b"http://"));
            assert!(target[7..].starts_with(authority.as_bytes()));
            &target[7 + authority.len()..]
        }
    };
    let end = path.iter().position(|byte| *byte == b'?');
    let sent = match &path[..end.unwrap_or(path.len())] {
        b"" => b"/",
        path => path,
    };
    assert_eq!(decoded(read.path.as_bytes()), decoded(sent));
    assert_eq!(
        read.query.map(str::as_bytes),
        end.map(|end| &path[end + 1..])
    );
}

/// What servers are known to do to a path before they look it up, done to an accepted one, leaves it where it is.
fn no_normaliser_changes(read: &Target<'_>, profile: &Profile) {
    let once = decoded(read.path.as_bytes());
    assert_eq!(decoded(&once), once, "decoding twice: {:?}", read.path);
    let text = String::from_utf8(once).expect("what is accepted decodes to UTF-8");
    assert!(
        !text.contains(|c: char| c.is_ascii_control() || r"\?#".contains(c)),
        "{text:?}"
    );
    let compatible: String = text.nfkc().collect();
    for text in [&text, &compatible] {
        assert_eq!(remove_dot_segments(text), *text);
        // Some cut off parameters or trim spaces first, and find the dots then.
        for trimmed in [
            without_params(text),
            text.split('/').map(str::trim).collect::<Vec<_>>().join("/"),
        ] {
            assert_eq!(remove_dot_segments(&trimmed), trimmed, "in {text:?}");
        }
        if profile.empty_segments == EmptySegments::Reject {
            assert!(!text.contains("//"), "merging slashes: {text:?}");
        }
        if profile.path_params == PathParams::Reject {
            assert!(!text.contains(';'), "cutting parameters: {text:?}");
        }
    }
    let slashes = |text: &str| text.matches(['/', '\\']).count();
    assert_eq!(
        slashes(&compatible),
        slashes(&text),
        "compatibility forms: {text:?}"
    );
    if profile.encoded_slash == EncodedSlash::Reject {
        assert_eq!(
            slashes(&text),
            slashes(&read.path),
            "decoding slashes: {text:?}"
        );
    }
}

/// Decodes as leniently as backends do: an escape that cannot be read stays as it is.
fn decoded(text: &[u8]) -> Vec<u8> {
    let hex = |at: usize| {
        text.get(at)
            .and_then(|digit| char::from(*digit).to_digit(16))
    };
    let mut decoded = Vec::new();
    let mut at = 0;
    while at < text.len() {
        match (text[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high << 4 | low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

/// RFC 3986, section 5.2.4. Segments of three and more dots go as well: some file systems climb by them.
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            _ if segment.len() > 1 && segment.bytes().all(|byte| byte == b'.') => {
                kept.pop();
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

fn without_params(path: &str) -> String {
    let segments = path
        .split('/')
        .map(|segment| segment.split(';').next().unwrap_or_default());
    segments.collect::<Vec<_>>().join("/")
}
