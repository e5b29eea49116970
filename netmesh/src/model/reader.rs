//! Fields out of a tree, collecting every fault on the way.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use super::fault::{Fault, Faults, Place, Severity, SourceFile};
use super::name::nearest;
use super::tree::{Kind, Node};

/// Where the fields of an object stand. Two objects are equal wherever they stand.
#[derive(Clone, Debug)]
pub struct Places {
    /// The object as a whole.
    pub whole: Place,
    fields: BTreeMap<&'static str, Place>,
}

impl Places {
    /// Where a field stands; the object's place when it is left out.
    #[must_use]
    pub fn of(&self, field: &'static str) -> Place {
        self.fields.get(field).unwrap_or(&self.whole).clone()
    }
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}

/// One table being read.
pub(super) struct Reader<'a> {
    file: &'a Arc<SourceFile>,
    object: String,
    fields: &'a BTreeMap<String, (std::ops::Range<usize>, Node)>,
    pub(super) places: Places,
    faults: &'a mut Faults,
}

impl<'a> Reader<'a> {
    /// Begins with a table; unknown fields are faults at once.
    pub(super) fn new(
        file: &'a Arc<SourceFile>,
        object: String,
        node: &'a Node,
        known: &[&'static str],
        faults: &'a mut Faults,
    ) -> Option<Self> {
        let whole = Place {
            file: Arc::clone(file),
            span: headline(file, node),
        };
        let Kind::Table(fields) = &node.kind else {
            faults.push(Fault {
                severity: Severity::Error,
                code: "NM0003",
                place: whole,
                object,
                cause: format!("must be a table, is {}", node.kind.word()),
                remedy: "write its fields as a table".to_owned(),
            });
            return None;
        };
        for (key, (span, _)) in fields {
            if known.contains(&key.as_str()) {
                continue;
            }
            let remedy = nearest(known.iter().copied(), key).map_or_else(
                || format!("remove it; known are {}", known.join(", ")),
                |near| format!("did you mean `{near}`?"),
            );
            faults.push(Fault {
                severity: Severity::Error,
                code: "NM0002",
                place: Place {
                    file: Arc::clone(file),
                    span: span.clone(),
                },
                object: format!("{object}.{key}"),
                cause: "unknown field".to_owned(),
                remedy,
            });
        }
        let mut places = BTreeMap::new();
        for name in known {
            if let Some((_, value)) = fields.get(*name) {
                places.insert(
                    *name,
                    Place {
                        file: Arc::clone(file),
                        span: value.span.clone(),
                    },
                );
            }
        }
        let places = Places {
            whole,
            fields: places,
        };
        Some(Self {
            file,
            object,
            fields,
            places,
            faults,
        })
    }

    /// The name for messages, once it is known.
    pub(super) fn rename(&mut self, object: String) {
        self.object = object;
    }

    /// The raw value of a field.
    pub(super) fn node(&self, field: &str) -> Option<&'a Node> {
        self.fields.get(field).map(|(_, node)| node)
    }

    /// A field that must be there.
    pub(super) fn required<T>(&mut self, field: &'static str, remedy: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        if self.node(field).is_none() {
            self.fault(field, "NM0004", "is missing".to_owned(), remedy.to_owned());
            return None;
        }
        self.optional(field, remedy)
    }

    /// A text field that is read as `T`.
    pub(super) fn optional<T>(&mut self, field: &'static str, remedy: &str) -> Option<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let node = self.node(field)?;
        let Kind::Text(text) = &node.kind else {
            self.wrong_kind(field, "a text", node);
            return None;
        };
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                let shown: String = text.chars().take(80).collect();
                self.fault(
                    field,
                    "NM0005",
                    format!("{shown:?} {error}"),
                    remedy.to_owned(),
                );
                None
            }
        }
    }

    /// A number in a range.
    pub(super) fn number(
        &mut self,
        field: &'static str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        let node = self.node(field)?;
        match &node.kind {
            Kind::Integer(value) if range.contains(value) => Some(*value),
            Kind::Integer(value) => {
                let cause = format!("{value} is out of range");
                let remedy = format!("use {} to {}", range.start(), range.end());
                self.fault(field, "NM0006", cause, remedy);
                None
            }
            _ => {
                self.wrong_kind(field, "a number", node);
                None
            }
        }
    }

    /// A truth value.
    pub(super) fn boolean(&mut self, field: &'static str) -> Option<bool> {
        let node = self.node(field)?;
        match &node.kind {
            Kind::Boolean(value) => Some(*value),
            _ => {
                self.wrong_kind(field, "true or false", node);
                None
            }
        }
    }

    /// The items of an array.
    pub(super) fn array(&mut self, field: &'static str) -> Vec<&'a Node> {
        let Some(node) = self.node(field) else {
            return Vec::new();
        };
        match &node.kind {
            Kind::Array(items) => items.iter().collect(),
            _ => {
                self.wrong_kind(field, "an array", node);
                Vec::new()
            }
        }
    }

    /// The items of an array of texts, each read as `T`.
    pub(super) fn texts<T>(&mut self, field: &'static str, remedy: &str) -> Vec<T>
    where
        T: FromStr,
        T::Err: Display,
    {
        let mut values = Vec::new();
        for item in self.array(field) {
            let Kind::Text(text) = &item.kind else {
                self.wrong_kind(field, "an array of texts", item);
                continue;
            };
            match text.parse() {
                Ok(value) => values.push(value),
                Err(error) => {
                    let place = Place {
                        file: Arc::clone(self.file),
                        span: item.span.clone(),
                    };
                    let cause = format!("{text:?} {error}");
                    self.fault_at(place, field, "NM0005", cause, remedy.to_owned());
                }
            }
        }
        values
    }

    /// Reads a table inside this one.
    pub(super) fn inner(
        &mut self,
        object: String,
        node: &'a Node,
        known: &[&'static str],
    ) -> Option<Reader<'_>> {
        Reader::new(self.file, object, node, known, self.faults)
    }

    /// Adds a fault of a field.
    pub(super) fn fault(
        &mut self,
        field: &'static str,
        code: &'static str,
        cause: String,
        remedy: String,
    ) {
        let place = self.places.of(field);
        self.fault_at(place, field, code, cause, remedy);
    }

    fn fault_at(
        &mut self,
        place: Place,
        field: &str,
        code: &'static str,
        cause: String,
        remedy: String,
    ) {
        let object = format!("{}.{field}", self.object);
        self.faults.push(Fault {
            severity: Severity::Error,
            code,
            place,
            object,
            cause,
            remedy,
        });
    }

    fn wrong_kind(&mut self, field: &'static str, expected: &str, node: &Node) {
        let place = Place {
            file: Arc::clone(self.file),
            span: node.span.clone(),
        };
        let cause = format!("must be {expected}, is {}", node.kind.word());
        self.fault_at(
            place,
            field,
            "NM0003",
            cause,
            format!("write it as {expected}"),
        );
    }
}

/// The first line of a table, not all of it: that is where an operator looks.
fn headline(file: &SourceFile, node: &Node) -> std::ops::Range<usize> {
    let start = node.span.start.min(file.text.len());
    let rest = file
        .text
        .get(start..node.span.end.min(file.text.len()))
        .unwrap_or("");
    let length = rest.find('\n').unwrap_or(rest.len());
    start..start + length.max(1).min(file.text.len().saturating_sub(start))
}
