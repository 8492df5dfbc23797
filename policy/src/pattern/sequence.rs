use super::PatternError;

/// Longest sequence. Matching rules by trie recurses once per segment of a pattern.
pub(super) const MAX_SEGMENTS: usize = 64;

/// What identity and path patterns have in common: segments one after the other, and whether `/**` follows, which
/// stands for one or more segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) segments: Vec<Segment>,
    pub(crate) rest: bool,
}

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Literal(String),
    /// Any one non-empty segment.
    One,
}

impl Segment {
    fn matches(&self, segment: &str) -> bool {
        match self {
            Segment::Literal(literal) => literal == segment,
            Segment::One => !segment.is_empty(),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Segment::Literal(literal)) => self.matches(literal),
            (_, Segment::One) => *self == Segment::One,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

impl Sequence {
    pub(super) fn new(segments: Vec<Segment>, rest: bool) -> Result<Self, PatternError> {
        if segments.len() > MAX_SEGMENTS {
            return Err(PatternError::TooManySegments);
        }
        Ok(Self { segments, rest })
    }

    /// Splits a text into what stands before a final `/**`, and whether it is there.
    pub(super) fn split_rest(text: &str) -> (&str, bool) {
        match text.strip_suffix("/**") {
            Some(prefix) => (prefix, true),
            None => (text, false),
        }
    }

    /// Whether exactly these segments match.
    pub(crate) fn matches<'s>(&self, mut segments: impl Iterator<Item = &'s str>) -> bool {
        let prefix = self
            .segments
            .iter()
            .all(|mine| segments.next().is_some_and(|segment| mine.matches(segment)));
        prefix && segments.next().is_some() == self.rest
    }

    /// Whether everything that `other` matches is matched by this one.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.segments.len(), other.segments.len());
        let length = match self.rest {
            true => theirs > mine || (theirs == mine && other.rest),
            false => theirs == mine && !other.rest,
        };
        length
            && self
                .segments
                .iter()
                .zip(&other.segments)
                .all(|(mine, theirs)| mine.covers(theirs))
    }

    /// Whether something is matched by both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let length = match self.segments.len().cmp(&other.segments.len()) {
            std::cmp::Ordering::Less => self.rest,
            std::cmp::Ordering::Equal => self.rest == other.rest,
            std::cmp::Ordering::Greater => other.rest,
        };
        length
            && self
                .segments
                .iter()
                .zip(&other.segments)
                .all(|(mine, theirs)| mine.overlaps(theirs))
    }
}
