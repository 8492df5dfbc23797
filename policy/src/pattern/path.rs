use std::{fmt, str::FromStr};

use super::{
    PatternError,
    sequence::{Segment, Sequence},
};
use crate::target::{self, Profile};

/// A path pattern: literal segments, `{name}` for exactly one non-empty segment, a final `/**` for one or more
/// segments (an empty one included). Its literals are canonical by the strict profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathPattern {
    text: String,
    sequence: Sequence,
}

/// The segments of a canonical path: `/a/` has two, `a` and the empty one.
pub(crate) fn segments(path: &str) -> std::str::Split<'_, char> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

impl PathPattern {
    /// Every path.
    pub(crate) fn any() -> Self {
        Self {
            text: "/**".to_owned(),
            sequence: Sequence {
                segments: Vec::new(),
                rest: true,
            },
        }
    }

    /// The path of gRPC calls; `None` stands for any service or method. The names are what gRPC takes for names.
    pub(crate) fn grpc(service: Option<&str>, method: Option<&str>) -> Self {
        let segment =
            |name: Option<&str>| name.map_or(Segment::One, |n| Segment::Literal(n.to_owned()));
        Self {
            text: format!("/{}/{}", service.unwrap_or("*"), method.unwrap_or("*")),
            sequence: Sequence {
                segments: vec![segment(service), segment(method)],
                rest: false,
            },
        }
    }

    /// As written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Its segments.
    pub(crate) fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// Whether a canonical path matches.
    pub(crate) fn matches(&self, path: &str) -> bool {
        self.sequence.matches(segments(path))
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (prefix, rest) = Sequence::split_rest(text);
        let mut segments = Vec::new();
        // What a request that matches would look like: canonical exactly when the literals are.
        let mut sample = Vec::new();
        if !(rest && prefix.is_empty()) {
            for part in self::segments(prefix) {
                let (segment, example) = segment(part)?;
                segments.push(segment);
                sample.push(example);
            }
        }
        if !text.starts_with('/') {
            return Err(PatternError::NeverCanonical(target::Reject::NotAbsolute));
        }
        let sample = format!("/{}", sample.join("/"));
        let canonical = target::canonicalise_path(sample.as_bytes(), &Profile::default())
            .map_err(PatternError::NeverCanonical)?;
        if canonical.query.is_some() {
            return Err(PatternError::Query);
        }
        if canonical.path != sample {
            return Err(PatternError::NotCanonical(canonical.path.into_owned()));
        }
        Ok(Self {
            text: text.to_owned(),
            sequence: Sequence::new(segments, rest)?,
        })
    }
}

fn segment(part: &str) -> Result<(Segment, &str), PatternError> {
    if let Some(name) = part
        .strip_prefix('{')
        .and_then(|part| part.strip_suffix('}'))
    {
        let named = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        return if named {
            Ok((Segment::One, "x"))
        } else {
            Err(PatternError::PartialBraces)
        };
    }
    match part {
        "**" => Err(PatternError::RestInside),
        _ if part.contains(['{', '}']) => Err(PatternError::PartialBraces),
        _ if part.contains('*') => Err(PatternError::StarInPath),
        _ => Ok((Segment::Literal(part.to_owned()), part)),
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
