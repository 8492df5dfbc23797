use std::{fmt, str::FromStr};

use identity::{SpiffeId, TrustDomain};

use super::{
    PatternError,
    sequence::{Segment, Sequence},
};
use crate::view::Caller;

const UNAUTHENTICATED: &str = "unauthenticated";

/// A pattern for SPIFFE IDs: literal, `*` for one whole path segment, a final `/**` for one or more; never in the
/// trust domain. Or the keyword `unauthenticated`, which no identity matches and which matches no identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdPattern {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Unauthenticated,
    Id {
        trust_domain: TrustDomain,
        sequence: Sequence,
    },
}

impl IdPattern {
    /// As written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain; `None` for `unauthenticated`.
    pub(crate) fn trust_domain(&self) -> Option<&TrustDomain> {
        match &self.kind {
            Kind::Unauthenticated => None,
            Kind::Id { trust_domain, .. } => Some(trust_domain),
        }
    }

    /// The one identity this pattern matches, if it has no wildcard.
    pub(crate) fn literal(&self) -> Option<SpiffeId> {
        match &self.kind {
            Kind::Id { sequence, .. }
                if !sequence.rest && !sequence.segments.contains(&Segment::One) =>
            {
                SpiffeId::parse(&self.text).ok()
            }
            _ => None,
        }
    }

    /// Whether every identity it matches is `/ns/<namespace>/...`.
    pub(crate) fn is_within(&self, namespace: &str) -> bool {
        let below = [
            Segment::Literal("ns".to_owned()),
            Segment::Literal(namespace.to_owned()),
        ];
        let below = Sequence {
            segments: below.into(),
            rest: true,
        };
        matches!(&self.kind, Kind::Id { sequence, .. } if below.covers(sequence))
    }

    /// Whether some identity matches both patterns.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (
                Kind::Id {
                    trust_domain: a,
                    sequence: mine,
                },
                Kind::Id {
                    trust_domain: b,
                    sequence: theirs,
                },
            ) => a == b && mine.overlaps(theirs),
            _ => self.kind == other.kind,
        }
    }

    /// Whether every identity that `other` matches is matched by this pattern.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (
                Kind::Id {
                    trust_domain: a,
                    sequence: mine,
                },
                Kind::Id {
                    trust_domain: b,
                    sequence: theirs,
                },
            ) => a == b && mine.covers(theirs),
            _ => self.kind == other.kind,
        }
    }

    /// Whether each of `narrow` is covered by one of `wide`.
    pub(crate) fn all_covered(narrow: &[Self], wide: &[Self]) -> bool {
        let is_covered = |narrow: &Self| wide.iter().any(|wide| wide.covers(narrow));
        narrow.iter().all(is_covered)
    }

    /// Whether the caller matches.
    pub(crate) fn matches(&self, caller: Caller<'_>) -> bool {
        match caller {
            Caller::Unauthenticated => self.kind == Kind::Unauthenticated,
            Caller::Identity(id) => self.matches_id(id),
        }
    }

    /// Whether the identity matches.
    pub(crate) fn matches_id(&self, id: &SpiffeId) -> bool {
        let Kind::Id {
            trust_domain,
            sequence,
        } = &self.kind
        else {
            return false;
        };
        // A view looks at every document, so this runs for thousands of patterns: no allocation here.
        let Some(path) = id
            .as_str()
            .strip_prefix("spiffe://")
            .and_then(|id| id.strip_prefix(trust_domain.as_str()))
        else {
            return false;
        };
        let mut path = path.split('/');
        // Either nothing or the empty text before the first slash; otherwise the trust domain only began alike.
        if path.next() != Some("") {
            return false;
        }
        sequence.matches(path)
    }
}

impl FromStr for IdPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if text == UNAUTHENTICATED {
            return Ok(Self {
                text: text.to_owned(),
                kind: Kind::Unauthenticated,
            });
        }
        let Some(id) = text.strip_prefix("spiffe://") else {
            return Err(PatternError::NotSpiffe);
        };
        let (domain, path) = id.split_at(id.find('/').unwrap_or(id.len()));
        if domain.contains('*') {
            return Err(PatternError::WildcardTrustDomain);
        }
        let trust_domain = TrustDomain::parse(domain)?;
        let (path, rest) = Sequence::split_rest(path);
        let mut segments = Vec::new();
        for part in path.split('/').skip(1) {
            segments.push(match part {
                "*" => Segment::One,
                "**" => return Err(PatternError::RestInside),
                _ if part.contains('*') => return Err(PatternError::PartialStar),
                _ => Segment::Literal(part.to_owned()),
            });
        }
        // What a matching identity would look like: valid exactly when the literals are.
        let sample: String = segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(literal) => format!("/{literal}"),
                Segment::One => "/x".to_owned(),
            })
            .collect();
        SpiffeId::parse(&format!("spiffe://{domain}{sample}"))?;
        let sequence = Sequence::new(segments, rest)?;
        Ok(Self {
            text: text.to_owned(),
            kind: Kind::Id {
                trust_domain,
                sequence,
            },
        })
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
