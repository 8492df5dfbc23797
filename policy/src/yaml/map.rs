//! Reading a mapping so that no key goes unnoticed.

use super::{Key, Node, Problems, Value};

/// Reads a mapping: `read` asks for the keys it knows, and every other key is then a problem (with the nearest known
/// key as a hint). There is no way to read a mapping without this check.
///
/// `read` should ask for all its keys before it gives up on one (`?` last), so that one run shows all problems; a key
/// it did not get round to asking for would count as unknown.
///
/// ```
/// use policy::yaml::{self, Problems};
///
/// let problems = Problems::new();
/// let node = yaml::parse_one("a.yaml", "listen: here\ntimeot: 5s", &problems).unwrap();
/// let read = yaml::map(&node, &problems, |map| {
///     let listen = map.required("listen", yaml::text);
///     let timeout = map.optional("timeout", yaml::duration);
///     Some((listen?, timeout))
/// });
/// assert_eq!(
///     problems.or_value(read).unwrap_err()[0].to_string(),
///     "a.yaml:2:1: timeot: unknown key; did you mean `timeout`?"
/// );
/// ```
pub fn map<T>(
    node: &Node,
    problems: &Problems,
    read: impl FnOnce(&mut Map<'_>) -> Option<T>,
) -> Option<T> {
    let Value::Map(entries) = &node.value else {
        problems.push(node.problem(format!("expected a map, found {}", node.found())));
        return None;
    };
    let mut map = Map {
        node,
        entries,
        asked: Vec::new(),
        problems,
    };
    let value = read(&mut map);
    map.finish();
    value
}

/// A mapping being read; see [`map`].
#[derive(Debug)]
pub struct Map<'n> {
    node: &'n Node,
    entries: &'n [(Key, Node)],
    asked: Vec<&'static str>,
    problems: &'n Problems,
}

impl<'n> Map<'n> {
    /// The value of `key`. `None` means that a problem was reported: the key is absent or its value unreadable.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'n Node, &'n Problems) -> Option<T>,
    ) -> Option<T> {
        match self.node_of(key) {
            Some(node) => read(node, self.problems),
            None => {
                self.problems.push(
                    self.node
                        .problem(format!("expected the key `{key}`, which is missing")),
                );
                None
            }
        }
    }

    /// The value of `key`; `None` if it is absent, or unreadable (then a problem was reported, and the caller's
    /// [`Problems::or_value`] fails).
    pub fn optional<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'n Node, &'n Problems) -> Option<T>,
    ) -> Option<T> {
        self.node_of(key).and_then(|node| read(node, self.problems))
    }

    /// Knows `key` and refuses it if present: for what a later version will understand.
    pub fn refuse(&mut self, key: &'static str, why: &str) {
        if let Some(node) = self.node_of(key) {
            self.problems.push(node.problem(why));
        }
    }

    /// The node of `key`, for a caller that decides itself how to read it. The key counts as known.
    pub fn node_of(&mut self, key: &'static str) -> Option<&'n Node> {
        self.asked.push(key);
        self.entries
            .iter()
            .find(|(found, _)| found.name == key)
            .map(|(_, node)| node)
    }

    /// The mapping itself, to report a problem that concerns several keys.
    pub fn node(&self) -> &'n Node {
        self.node
    }

    /// Where this map's readers report.
    pub fn problems(&self) -> &'n Problems {
        self.problems
    }

    /// Every entry that was not asked for so far; they then count as known. For maps whose keys are free, such as
    /// costs by method.
    pub fn rest(&mut self) -> impl Iterator<Item = (&'n str, &'n Node)> + use<'n> {
        let entries = std::mem::take(&mut self.entries);
        let asked = self.asked.clone();
        entries
            .iter()
            .filter(move |(key, _)| !asked.contains(&key.name.as_str()))
            .map(|(key, node)| (key.name.as_str(), node))
    }

    fn finish(self) {
        for (key, _) in self
            .entries
            .iter()
            .filter(|(key, _)| !self.asked.contains(&key.name.as_str()))
        {
            // Names of other lengths are not near, and measuring long ones takes time.
            let near = |known: &&&str| known.len().abs_diff(key.name.len()) <= 2;
            let nearest = self
                .asked
                .iter()
                .filter(near)
                .map(|known| (distance(&key.name, known), *known))
                .min();
            let message = match nearest {
                Some((distance, known)) if distance <= 2 && distance < known.len() => {
                    format!("unknown key; did you mean `{known}`?")
                }
                _ if self.asked.is_empty() => "unknown key".to_owned(),
                _ => format!("unknown key; known here: {}", self.asked.join(", ")),
            };
            self.problems.push(key.place.problem(message));
        }
    }
}

/// Levenshtein distance, ignoring case. Quadratic; both sides are short.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let substitute = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// `value` if it is one of `words`, for readers of enumerations.
pub(super) fn one_of<T: Copy>(node: &Node, words: &[(&str, T)], problems: &Problems) -> Option<T> {
    if let Value::Scalar { text, .. } = &node.value
        && let Some((_, value)) = words.iter().find(|(word, _)| word == text)
    {
        return Some(*value);
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    problems.push(node.problem(format!(
        "expected one of {}, found {}",
        known.join(", "),
        node.found()
    )));
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn distance_counts_edits_without_case() {
        assert_eq!(super::distance("timeot", "timeout"), 1);
        assert_eq!(super::distance("notafter", "notAfter"), 0);
        assert_eq!(super::distance("", "abc"), 3);
    }
}
