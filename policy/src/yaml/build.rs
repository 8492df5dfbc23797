//! From parser events to nodes, within bounds.

use std::{collections::HashSet, sync::Arc};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::{Key, MAX_FILE_BYTES, Node, Path, Place, Problems, Step, Value, is_null};

/// Deepest nesting of lists and maps; our own documents need seven.
const MAX_DEPTH: usize = 32;
/// Most keys, values, lists and maps in a file (ten thousand grants fit): keeps the tree of a hostile file of the largest size below 100 MB.
const MAX_NODES: usize = 500_000;
/// Longest key, in bytes: keys are repeated in problem texts.
const MAX_KEY_BYTES: usize = 256;

/// Reads all documents of a file; that there is none is a problem too, since a file that was cut short would otherwise
/// take its rules away unnoticed. After a syntax error the documents before it are still returned; the problem is reported,
/// so the caller will not use them.
pub fn parse(file: &str, text: &str, problems: &Problems) -> Vec<Node> {
    let root = Arc::new(Path {
        parent: None,
        step: Step::File(file.to_owned()),
    });
    let start = Place {
        line: 1,
        column: 1,
        path: root.clone(),
    };
    if text.len() > MAX_FILE_BYTES {
        let found = text.len();
        problems.push(start.problem(format!(
            "expected at most {MAX_FILE_BYTES} bytes, found {found}"
        )));
        return Vec::new();
    }
    let mut builder = Builder {
        problems,
        root,
        open: Vec::new(),
        documents: Vec::new(),
        nodes: 0,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (mark, step) = match event {
            Ok((event, span)) => (span.start, builder.take(event, span.start)),
            Err(error) => (
                *error.marker(),
                Err(format!("not valid YAML: {}", error.info())),
            ),
        };
        if let Err(message) = step {
            problems.push(builder.place(mark).problem(message));
            return builder.documents;
        }
    }
    if builder.documents.is_empty() {
        problems.push(start.problem("expected a document, found none"));
    }
    builder.documents
}

/// Builds nodes from parser events without recursion.
struct Builder<'p> {
    problems: &'p Problems,
    root: Arc<Path>,
    open: Vec<Open>,
    documents: Vec<Node>,
    nodes: usize,
}

enum Open {
    List(Place, Vec<Node>),
    Map {
        place: Place,
        entries: Vec<(Key, Node)>,
        seen: HashSet<String>,
        key: Option<Key>,
    },
}

impl Builder<'_> {
    /// An error ends the reading of the file.
    fn take(&mut self, event: Event<'_>, mark: Marker) -> Result<(), String> {
        let (anchor, tag) = match &event {
            Event::Alias(_) => {
                return Err("aliases (*name) are not supported; write the value out".to_owned());
            }
            Event::Scalar(_, _, anchor, tag)
            | Event::SequenceStart(anchor, tag)
            | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            _ => (0, false),
        };
        self.nodes += usize::from(matches!(
            event,
            Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..)
        ));
        if self.nodes > MAX_NODES {
            return Err(format!(
                "expected at most {MAX_NODES} keys, values, lists and maps in a file"
            ));
        }
        if anchor != 0 {
            return Err("anchors (&name) are not supported; write the value out".to_owned());
        }
        if tag {
            return Err("tags (!name) are not supported".to_owned());
        }
        match event {
            Event::Scalar(text, style, ..) => {
                self.scalar(text.into_owned(), style != ScalarStyle::Plain, mark)
            }
            Event::SequenceStart(..) => {
                let place = self.enter(mark)?;
                self.open.push(Open::List(place, Vec::new()));
                Ok(())
            }
            Event::MappingStart(..) => {
                let place = self.enter(mark)?;
                self.open.push(Open::Map {
                    place,
                    entries: Vec::new(),
                    seen: HashSet::new(),
                    key: None,
                });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                match self.open.pop() {
                    Some(Open::List(place, items)) => self.value(Node {
                        place,
                        value: Value::List(items),
                    }),
                    Some(Open::Map { place, entries, .. }) => self.value(Node {
                        place,
                        value: Value::Map(entries),
                    }),
                    None => {}
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn enter(&self, mark: Marker) -> Result<Place, String> {
        if self.open.len() >= MAX_DEPTH {
            return Err(format!(
                "expected at most {MAX_DEPTH} levels of lists and maps"
            ));
        }
        if let Some(Open::Map { key: None, .. }) = self.open.last() {
            return Err("expected a key, found a list or map".to_owned());
        }
        Ok(self.place(mark))
    }

    fn scalar(&mut self, text: String, quoted: bool, mark: Marker) -> Result<(), String> {
        let place = self.place(mark);
        if let Some(Open::Map {
            place: map,
            seen,
            key: key @ None,
            ..
        }) = self.open.last_mut()
        {
            if text.len() > MAX_KEY_BYTES {
                return Err(format!(
                    "expected a key of at most {MAX_KEY_BYTES} bytes, found {}",
                    text.len()
                ));
            }
            let path = Path {
                parent: Some(map.path.clone()),
                step: Step::Key(text.clone()),
            };
            let place = Place {
                path: Arc::new(path),
                ..place
            };
            if !seen.insert(text.clone()) {
                self.problems
                    .push(place.problem("this key is written twice in one map"));
            }
            *key = Some(Key { name: text, place });
            return Ok(());
        }
        self.value(Node {
            place,
            value: Value::Scalar { text, quoted },
        });
        Ok(())
    }

    fn value(&mut self, node: Node) {
        match self.open.last_mut() {
            // A document that holds only comments reads as null.
            None if matches!(&node.value, Value::Scalar { text, quoted: false } if is_null(text)) =>
                {}
            None => self.documents.push(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map { entries, key, .. }) => {
                if let Some(key) = key.take() {
                    entries.push((key, node));
                }
            }
        }
    }

    fn place(&self, mark: Marker) -> Place {
        let path = match self.open.last() {
            None => self.root.clone(),
            Some(Open::List(list, items)) => Arc::new(Path {
                parent: Some(list.path.clone()),
                step: Step::Index(items.len()),
            }),
            Some(Open::Map { key: Some(key), .. }) => key.place.path.clone(),
            Some(Open::Map {
                place, key: None, ..
            }) => place.path.clone(),
        };
        Place {
            line: mark.line(),
            column: mark.col() + 1,
            path,
        }
    }
}
