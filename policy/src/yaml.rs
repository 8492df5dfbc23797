//! YAML with a place for everything: the reader behind policy documents and configuration files.
//!
//! [`parse`] turns a file into [`Node`]s that know their line, column and dotted key path. Readers (`fn(&Node,
//! &Problems) -> Option<T>`) turn nodes into values; each reports what it dislikes to [`Problems`] and goes on, so one
//! run shows everything that is wrong with a file. [`map`] is the only way into a mapping and refuses unknown keys.
//!
//! A file is hostile until proven otherwise: its size, depth and node count are bounded, and anchors, aliases and tags
//! are refused outright (nothing we read needs them, and aliases are how small files become large ones).

mod build;
mod map;
mod scalar;

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
    sync::Arc,
};

pub use build::parse;
pub use map::{Map, map};
pub use scalar::{
    boolean, byte_size, duration, list, number, parse_duration, parse_timestamp, parsed, text,
    timestamp, word,
};

/// Largest file that is read, in bytes. Some thousand grants fit.
pub const MAX_FILE_BYTES: usize = 4 << 20;
/// Most problems kept: a broken file of the largest size must not make a report larger than itself.
const MAX_PROBLEMS: usize = 1000;

/// Something wrong in a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The name the file was given to [`parse`] with.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// Dotted path of the key, such as `outbound.services[0].timeout`; empty for the whole file.
    pub key: String,
    /// What was expected and what was found; lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Where readers put what they find wrong. Interior mutability lets a nested reader report while its parent still reads.
#[derive(Debug, Default)]
pub struct Problems {
    found: RefCell<Vec<Problem>>,
}

impl Problems {
    /// An empty collection.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one; past a thousand, problems are no longer kept (the first ones are enough to refuse the file).
    pub fn push(&self, problem: Problem) {
        let mut found = self.found.borrow_mut();
        if found.len() < MAX_PROBLEMS {
            found.push(problem);
        }
    }

    /// Whether nothing was reported.
    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// Everything reported, ordered by file, line and column.
    pub fn into_sorted(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
        found
    }

    /// `value`, if it is there and nothing was reported; otherwise what was reported, sorted.
    pub fn or_value<T>(self, value: Option<T>) -> Result<T, Vec<Problem>> {
        match value {
            Some(value) if self.is_empty() => Ok(value),
            _ => Err(self.into_sorted()),
        }
    }
}

/// One value of a file together with its place.
#[derive(Debug, Clone)]
pub struct Node {
    place: Place,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    /// A quoted scalar is text whatever it looks like; a plain one may be a number or a truth value.
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
struct Key {
    name: String,
    place: Place,
}

impl Node {
    /// Where it stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A problem located at this node.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        self.place.problem(message)
    }

    /// Whether this is a scalar with exactly this text.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.value, Value::Scalar { text, .. } if text == word)
    }

    /// What this is, for the "found" half of a message.
    fn found(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Scalar {
                text,
                quoted: false,
            } if is_null(text) => "nothing".to_owned(),
            Value::Scalar { text, .. } => shown(text),
        }
    }
}

/// Text from a file as it may appear in a message: quoted, controls escaped, cut at 80 characters.
pub fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// Reads a file that must hold exactly one document.
pub fn parse_one(file: &str, text: &str, problems: &Problems) -> Option<Node> {
    let mut documents = parse(file, text, problems).into_iter();
    let first = documents.next()?;
    if let Some(second) = documents.next() {
        problems.push(second.problem("expected one document, found a second one"));
        return None;
    }
    Some(first)
}

fn is_null(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

/// Where something stands in a file. Cheap to clone; outlives the nodes.
#[derive(Debug, Clone)]
pub struct Place {
    line: usize,
    column: usize,
    path: Arc<Path>,
}

impl Place {
    /// The line in the file, counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }

    /// The name of the file.
    pub fn file(&self) -> &str {
        self.path.file()
    }

    /// A problem located here.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            file: self.file().to_owned(),
            line: self.line,
            column: self.column,
            key: self.path.to_string(),
            message: message.into(),
        }
    }
}

/// A key path as links to the parent, so that deep files do not copy it for every node.
#[derive(Debug)]
struct Path {
    parent: Option<Arc<Path>>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    File(String),
    Key(String),
    Index(usize),
}

impl Path {
    fn file(&self) -> &str {
        match (&self.step, &self.parent) {
            (Step::File(name), _) => name,
            (_, Some(parent)) => parent.file(),
            (_, None) => "",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(parent) = &self.parent else {
            return Ok(());
        };
        parent.fmt(f)?;
        match &self.step {
            Step::File(_) => Ok(()),
            Step::Key(key) if parent.parent.is_none() => write_key(f, key),
            Step::Key(key) => {
                f.write_str(".")?;
                write_key(f, key)
            }
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A key is the file's text and may be no key at all. What cannot be printed is escaped: a terminal would obey it, and a
/// log would start a new line.
fn write_key(f: &mut fmt::Formatter<'_>, key: &str) -> fmt::Result {
    key.chars().try_for_each(|c| match c {
        '\\' | '"' | '\'' => f.write_char(c),
        _ => write!(f, "{}", c.escape_debug()),
    })
}

#[cfg(test)]
mod tests;
