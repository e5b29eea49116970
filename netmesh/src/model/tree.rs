//! TOML and JSON as one tree that knows where each value stands.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use jsonc_parser::ast::Value as Json;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Faults, Place, Severity, SourceFile};

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) span: Range<usize>,
}

/// What kind of value.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Table(BTreeMap<String, (Range<usize>, Node)>),
    Array(Vec<Node>),
    Text(String),
    Integer(i64),
    Boolean(bool),
    /// Something no field of ours takes: a float, a date, null.
    Other(&'static str),
}

impl Kind {
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Table(_) => "a table",
            Self::Array(_) => "an array",
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Other(word) => word,
        }
    }
}

/// Values nested deeper than any object of ours.
const MAX_DEPTH: usize = 16;

/// Reads a file; JSON by its ending, TOML otherwise.
pub(super) fn parse(name: &str, text: &str) -> Result<(Arc<SourceFile>, Node), Faults> {
    let file = Arc::new(SourceFile {
        name: name.to_owned(),
        text: text.to_owned(),
    });
    let node = if name.ends_with(".json") {
        json(&file)
    } else {
        toml(&file)
    };
    node.map(|node| (file, node))
}

fn toml(file: &Arc<SourceFile>) -> Result<Node, Faults> {
    let (table, errors) = DeTable::parse_recoverable(&file.text);
    if errors.is_empty() {
        return Ok(from_table(table.get_ref(), table.span()));
    }
    let mut faults = Faults::default();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        faults.push(syntax(file, span, error.message(), "TOML"));
    }
    Err(faults)
}

fn from_table(table: &DeTable<'_>, span: Range<usize>) -> Node {
    let fields = table
        .iter()
        .map(|(key, value)| (key.get_ref().to_string(), (key.span(), from_toml(value))))
        .collect();
    Node {
        kind: Kind::Table(fields),
        span,
    }
}

fn from_toml(value: &Spanned<DeValue<'_>>) -> Node {
    let kind = match value.get_ref() {
        DeValue::Table(table) => return from_table(table, value.span()),
        DeValue::Array(items) => Kind::Array(items.iter().map(from_toml).collect()),
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            i64::from_str_radix(&digits, number.radix())
                .map_or(Kind::Other("a number out of range"), Kind::Integer)
        }
        DeValue::Boolean(value) => Kind::Boolean(*value),
        DeValue::Float(_) => Kind::Other("a fraction"),
        DeValue::Datetime(_) => Kind::Other("a date"),
    };
    Node {
        kind,
        span: value.span(),
    }
}

fn json(file: &Arc<SourceFile>) -> Result<Node, Faults> {
    let strict = ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
    };
    let refuse = |span: Range<usize>, message: &str| {
        let mut faults = Faults::default();
        faults.push(syntax(file, span, message, "JSON"));
        faults
    };
    let parsed =
        parse_to_ast(&file.text, &CollectOptions::default(), &strict).map_err(|error| {
            refuse(
                error.range().start..error.range().end,
                &error.kind().to_string(),
            )
        })?;
    let value = parsed
        .value
        .ok_or_else(|| refuse(0..0, "the file is empty"))?;
    from_json(&value, 0).map_err(|(span, message)| refuse(span, message))
}

fn from_json(value: &Json<'_>, depth: usize) -> Result<Node, (Range<usize>, &'static str)> {
    let range = match value {
        Json::StringLit(value) => value.range,
        Json::NumberLit(value) => value.range,
        Json::BooleanLit(value) => value.range,
        Json::Object(value) => value.range,
        Json::Array(value) => value.range,
        Json::NullKeyword(value) => value.range,
    };
    let span = range.start..range.end;
    if depth > MAX_DEPTH {
        return Err((span, "nested too deep"));
    }
    let kind = match value {
        Json::StringLit(text) => Kind::Text(text.value.to_string()),
        Json::NumberLit(number) => number
            .value
            .parse()
            .map_or(Kind::Other("a fraction"), Kind::Integer),
        Json::BooleanLit(value) => Kind::Boolean(value.value),
        Json::NullKeyword(_) => Kind::Other("null"),
        Json::Array(items) => Kind::Array(
            items
                .elements
                .iter()
                .map(|item| from_json(item, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Json::Object(object) => {
            let mut fields = BTreeMap::new();
            for property in &object.properties {
                let key = property.name.as_str().to_owned();
                let at = property.range.start..property.range.end;
                let value = from_json(&property.value, depth + 1)?;
                if fields.insert(key, (at.clone(), value)).is_some() {
                    return Err((at, "the field is there twice"));
                }
            }
            Kind::Table(fields)
        }
    };
    Ok(Node { kind, span })
}

fn syntax(file: &Arc<SourceFile>, span: Range<usize>, message: &str, language: &str) -> Fault {
    Fault {
        severity: Severity::Error,
        code: "NM0001",
        place: Place {
            file: Arc::clone(file),
            span,
        },
        object: "file".to_owned(),
        cause: format!("not {language}: {}", message.replace('\n', ", ")),
        remedy: format!("mend the {language} syntax here"),
    }
}
