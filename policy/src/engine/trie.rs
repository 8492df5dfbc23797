//! Rules by path segment: finding the ones that match costs steps in the length of the path, not in the number of
//! rules.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::fold::Folded;
use crate::pattern::{PathPattern, Segment};

/// A rule: the document it stands in, and its index there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RuleId {
    pub(crate) document: u32,
    pub(crate) rule: u32,
}

/// Rules by path pattern. One trie is built either with exact or with folded literals, and read accordingly. `R` is what
/// stands at a rule's place: its [`RuleId`], or that with what decides most requests.
#[derive(Debug)]
pub(crate) struct Trie<R = RuleId> {
    nodes: Vec<Node<R>>,
}

#[derive(Debug)]
struct Node<R> {
    literals: Literals,
    one: Option<usize>,
    /// Rules whose pattern ends here.
    here: SmallVec<[R; 1]>,
    /// Rules whose pattern goes on with `/**`.
    rest: SmallVec<[R; 1]>,
}

impl<R> Default for Node<R> {
    fn default() -> Self {
        Self {
            literals: Literals::None,
            one: None,
            here: SmallVec::new(),
            rest: SmallVec::new(),
        }
    }
}

/// The children of a node by literal. Most nodes have one child, which is then found without a further trip to memory:
/// those are what a decision among ten thousand grants costs.
#[derive(Debug, Default)]
enum Literals {
    #[default]
    None,
    One(Literal, usize),
    Many(HashMap<Literal, usize>),
}

/// A segment's text, mostly without a trip to the heap.
type Literal = SmallVec<[u8; 24]>;

impl Literals {
    fn get(&self, segment: &str) -> Option<usize> {
        match self {
            Literals::None => None,
            Literals::One(literal, child) => {
                (literal.as_slice() == segment.as_bytes()).then_some(*child)
            }
            Literals::Many(children) => children.get(segment.as_bytes()).copied(),
        }
    }

    /// The child of `literal`, which is `fresh` if there was none.
    fn get_or_insert(&mut self, literal: Literal, fresh: usize) -> usize {
        match std::mem::take(self) {
            Literals::None => {
                *self = Literals::One(literal, fresh);
                fresh
            }
            Literals::One(only, child) if only == literal => {
                *self = Literals::One(only, child);
                child
            }
            Literals::One(only, child) => {
                *self = Literals::Many(HashMap::from([(only, child), (literal, fresh)]));
                fresh
            }
            Literals::Many(mut children) => {
                let child = *children.entry(literal).or_insert(fresh);
                *self = Literals::Many(children);
                child
            }
        }
    }
}

impl<R> Default for Trie<R> {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }
}

impl<R: Copy> Trie<R> {
    /// Adds a rule to be found by [`Trie::narrow`].
    pub(crate) fn insert(&mut self, pattern: &PathPattern, rule: R) {
        self.insert_with(pattern, rule, |literal| Some(literal.as_bytes().into()));
    }

    /// Adds a rule to be found by [`Trie::wide`]: its literals are folded too, and a final slash is dropped.
    pub(crate) fn insert_folded(&mut self, pattern: &PathPattern, rule: R) {
        self.insert_with(pattern, rule, |literal| {
            let folded = Folded::of(literal);
            if folded.is_empty() {
                None
            } else {
                folded.text().map(|text| text.as_bytes().into())
            }
        });
    }

    fn insert_with(
        &mut self,
        pattern: &PathPattern,
        rule: R,
        key: impl Fn(&str) -> Option<Literal>,
    ) {
        let mut at = 0;
        for segment in &pattern.sequence().segments {
            let fresh = self.nodes.len();
            let next = match segment {
                Segment::Literal(literal) => match key(literal) {
                    Some(key) => self.nodes[at].literals.get_or_insert(key, fresh),
                    None => at,
                },
                Segment::One => *self.nodes[at].one.get_or_insert(fresh),
            };
            if next == fresh {
                self.nodes.push(Node::default());
            }
            at = next;
        }
        let node = &mut self.nodes[at];
        if pattern.sequence().rest {
            node.rest.push(rule)
        } else {
            node.here.push(rule)
        }
    }

    /// Calls `see` with every rule whose pattern matches a canonical path, the most specific pattern first: segment by
    /// segment, a literal comes before `{name}`, and that before `/**`.
    pub(crate) fn narrow(&self, path: &str, see: &mut impl FnMut(R)) {
        self.narrow_from(0, Some(path.strip_prefix('/').unwrap_or(path)), see);
    }

    /// Recursion is as deep as the deepest pattern, not as the path.
    fn narrow_from(&self, at: usize, path: Option<&str>, see: &mut impl FnMut(R)) {
        let node = &self.nodes[at];
        let Some(path) = path else {
            return node.here.iter().copied().for_each(see);
        };
        let (segment, rest) = split(path);
        if let Some(next) = node.literals.get(segment) {
            self.narrow_from(next, rest, see);
        }
        if let Some(next) = node.one
            && !segment.is_empty()
        {
            self.narrow_from(next, rest, see);
        }
        node.rest.iter().copied().for_each(see);
    }

    /// Whether `holds` for some rule whose pattern may match in the eyes of some server. Segments are folded, and the path
    /// is read as it stands, without trailing segments that fold to nothing (`/admin/`, `/admin/;x`), without any such
    /// segment, and with an opaque `%2F` as a slash. `/**` matches the empty rest.
    ///
    /// Each reading is one pass: trying every mixture of them would let a path with many empty segments take
    /// exponential time.
    pub(crate) fn wide(&self, path: &str, holds: &mut impl FnMut(R) -> bool) -> bool {
        let whole = path.strip_prefix('/').unwrap_or(path);
        if self.wide_from(0, Some(whole), holds) {
            return true;
        }
        let trimmed = trim_unseen(whole);
        if trimmed != Some(whole) && self.wide_from(0, trimmed, holds) {
            return true;
        }
        let Some(trimmed) = trimmed else { return false };
        // The rest concerns only profiles that let such paths through; it may allocate.
        if trimmed.split('/').any(is_unseen) {
            let seen: Vec<&str> = trimmed
                .split('/')
                .filter(|segment| !is_unseen(segment))
                .collect();
            if self.wide_from(0, Some(&seen.join("/")), holds) {
                return true;
            }
        }
        trimmed.contains("%2F") && self.wide(&format!("/{}", trimmed.replace("%2F", "/")), holds)
    }

    fn wide_from(&self, at: usize, path: Option<&str>, holds: &mut impl FnMut(R) -> bool) -> bool {
        let node = &self.nodes[at];
        if node.rest.iter().any(|rule| holds(*rule)) {
            return true;
        }
        let Some(path) = path else {
            return node.here.iter().any(|rule| holds(*rule));
        };
        if matches!(node.literals, Literals::None) && node.one.is_none() {
            return false;
        }
        let (segment, rest) = split(path);
        if let Some(next) = Folded::of(segment)
            .text()
            .and_then(|text| node.literals.get(text))
            && self.wide_from(next, rest, holds)
        {
            return true;
        }
        match node.one {
            Some(next) if !segment.is_empty() => self.wide_from(next, rest, holds),
            _ => false,
        }
    }
}

fn split(path: &str) -> (&str, Option<&str>) {
    match path.split_once('/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (path, None),
    }
}

/// A path without the trailing segments that some servers do not see; `None` if nothing is left.
fn trim_unseen(mut path: &str) -> Option<&str> {
    loop {
        let (rest, last) = match path.rsplit_once('/') {
            Some((rest, last)) => (Some(rest), last),
            None => (None, path),
        };
        if !is_unseen(last) {
            return Some(path);
        }
        path = rest?;
    }
}

/// Whether a segment folds to nothing. Folding is needed only for those that begin like it.
fn is_unseen(segment: &str) -> bool {
    match segment.as_bytes().first() {
        None => true,
        Some(b'.' | b';' | b'%') => Folded::of(segment).is_empty(),
        Some(_) => false,
    }
}
