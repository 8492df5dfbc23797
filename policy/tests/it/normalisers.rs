//! What servers in use make of a path: more than any one of them would.

use unicode_normalization::UnicodeNormalization;

/// How servers in use get from a target to a resource. Each alone, and then one after another.
pub(crate) const NORMALISERS: [fn(&str) -> String; 9] = [
    rfc3986,
    decoded_twice,
    backslashes,
    merged_slashes,
    without_parameters,
    windows,
    compatibility_forms,
    without_controls,
    all_of_them,
];

fn path_of(target: &str) -> &str {
    target.split(['?', '#']).next().unwrap_or_default()
}

/// RFC 3986 section 5.2.4, after decoding once: what most servers do.
fn rfc3986(target: &str) -> String {
    let mut out: Vec<&str> = Vec::new();
    let path = decode(path_of(target));
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => {
                out.pop();
            }
            segment => out.push(segment),
        }
    }
    format!("/{}", out.join("/"))
}

fn decoded_twice(target: &str) -> String {
    rfc3986(&decode(&decode(path_of(target))))
}

fn backslashes(target: &str) -> String {
    rfc3986(&decode(path_of(target)).replace('\\', "/"))
}

fn merged_slashes(target: &str) -> String {
    let path = decode(path_of(target));
    let segments: Vec<&str> = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .collect();
    rfc3986(&format!("/{}", segments.join("/")))
}

/// Servlet containers cut `;x=1` off each segment before they resolve dots.
fn without_parameters(target: &str) -> String {
    let path = decode(path_of(target));
    let cut = |segment: &str| segment.split(';').next().unwrap_or_default().to_owned();
    rfc3986(&path.split('/').map(cut).collect::<Vec<_>>().join("/"))
}

/// File systems that know no case and drop dots and spaces at the end of a name.
fn windows(target: &str) -> String {
    let path = rfc3986(&backslashes(target)).to_lowercase();
    let trim = |segment: &str| segment.trim_end_matches(['.', ' ']).to_owned();
    path.split('/').map(trim).collect::<Vec<_>>().join("/")
}

fn compatibility_forms(target: &str) -> String {
    let path: String = decode(path_of(target)).nfkc().collect();
    rfc3986(&path.to_lowercase())
}

fn without_controls(target: &str) -> String {
    let path = decode(path_of(target));
    rfc3986(
        &path
            .split('\0')
            .next()
            .unwrap_or_default()
            .replace(|c: char| c.is_control() || c.is_whitespace(), ""),
    )
}

fn all_of_them(target: &str) -> String {
    let steps = [
        decoded_twice,
        compatibility_forms,
        without_parameters,
        backslashes,
        merged_slashes,
        windows,
        without_controls,
    ];
    steps
        .iter()
        .fold(target.to_owned(), |path, normalise| normalise(&path))
}

/// As lenient as servers are: what is no escape stays, what is no UTF-8 is replaced.
fn decode(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let digits = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(octet) => {
                out.push(octet);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
