//! Faults in the objects: where, what, and the remedy; all of them at once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, NamedSource};
use serde::Serialize;

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The objects are refused.
    Error,
    /// They are taken; the operator should look.
    Warning,
}

/// A file's name and text, shared by every place in it.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// As the operator named it.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// A place in a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<SourceFile>,
    /// Bytes of its text.
    pub span: Range<usize>,
}

impl Place {
    /// Line and column, both from 1; the column counts characters.
    #[must_use]
    pub fn line_column(&self) -> (usize, usize) {
        let before = self
            .file
            .text
            .get(..self.span.start)
            .unwrap_or(&self.file.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        write!(f, "{}:{line}:{column}", self.file.name)
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How bad.
    pub severity: Severity,
    /// Stable code: `NM0203`.
    pub code: &'static str,
    /// Where.
    pub place: Place,
    /// The object and field: `resource "web".prefix`.
    pub object: String,
    /// What is wrong, in words.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.place.line_column();
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(
            f,
            "{}:{line}:{column}: {severity}[{}]: {}: {}; {}",
            self.place.file.name, self.code, self.object, self.cause, self.remedy
        )
    }
}

impl Serialize for Fault {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let (line, column) = self.place.line_column();
        let mut fields = serializer.serialize_struct("Fault", 8)?;
        fields.serialize_field("severity", &self.severity)?;
        fields.serialize_field("code", self.code)?;
        fields.serialize_field("file", &self.place.file.name)?;
        fields.serialize_field("line", &line)?;
        fields.serialize_field("column", &column)?;
        fields.serialize_field("object", &self.object)?;
        fields.serialize_field("cause", &self.cause)?;
        fields.serialize_field("remedy", &self.remedy)?;
        fields.end()
    }
}

/// Every fault of an input, in order of place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Adds one.
    pub fn push(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// There is at least one that is no mere warning.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|fault| fault.severity == Severity::Error)
    }

    /// There is none at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, sorted by file and place.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Fault> {
        let mut faults: Vec<&Fault> = self.0.iter().collect();
        faults.sort_by_key(|fault| {
            (
                fault.place.file.name.clone(),
                fault.place.span.start,
                fault.code,
                fault.cause.clone(),
            )
        });
        faults
    }

    /// With the lines they are in, for a terminal.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let theme = if color {
            GraphicalTheme::unicode()
        } else {
            GraphicalTheme::none()
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(100);
        let mut text = String::new();
        for fault in self.sorted() {
            let (line, column) = fault.place.line_column();
            let place = format!("{}:{line}:{column}", fault.place.file.name);
            let diagnostic = MietteDiagnostic::new(format!("{}: {}", fault.object, fault.cause))
                .with_code(format!("{} {place}", fault.code))
                .with_severity(match fault.severity {
                    Severity::Error => miette::Severity::Error,
                    Severity::Warning => miette::Severity::Warning,
                })
                .with_help(fault.remedy.clone())
                .with_label(LabeledSpan::underline(fault.place.span.clone()));
            let source = NamedSource::new(&fault.place.file.name, shown(&fault.place.file.text));
            let report = miette::Report::new(diagnostic).with_source_code(source);
            if handler.render_report(&mut text, report.as_ref()).is_err() {
                text.push_str(&format!("{fault}\n"));
            }
        }
        text
    }
}

/// Characters of a key in base64 before the one that pads it.
const KEY: usize = 43;

/// The text without what looks like a key: 32 bytes in base64, public or private.
#[must_use]
pub fn hidden(text: &str) -> String {
    without_keys(text, "(hidden)")
}

/// A file's text as it is shown: every place is where it was, and what looks like a key and is not
/// said to be a public one is not to be read.
fn shown(text: &str) -> String {
    let line = |line: &str| match line.trim_start().starts_with("public_key") {
        true => line.to_owned(),
        false => without_keys(line, &"*".repeat(KEY + 1)),
    };
    text.split_inclusive('\n').map(line).collect()
}

fn without_keys(text: &str, instead: &str) -> String {
    let mut left = String::with_capacity(text.len());
    let mut run = 0;
    for c in text.chars() {
        if c == '=' && run >= KEY {
            // All of the run is ASCII.
            left.truncate(left.len() - KEY);
            left.push_str(instead);
            run = 0;
            continue;
        }
        run = if c.is_ascii_alphanumeric() || c == '+' || c == '/' {
            run + 1
        } else {
            0
        };
        left.push(c);
    }
    left
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.sorted().into_iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_a_file_is_not_shown_with_its_faults() {
        let key = "cFJpdmF0ZUtleVRoYXRNdXN0TmV2ZXJCZVNlZW4xMjM=";
        let text = format!("private_key = \"{key}\"\npublic_key = \"{key}\"\n");
        let file = SourceFile {
            name: "a.toml".to_owned(),
            text: text.clone(),
        };
        let mut faults = Faults::default();
        faults.push(Fault {
            severity: Severity::Error,
            code: "NM0000",
            place: Place {
                file: Arc::new(file),
                span: 0..11,
            },
            object: "network".to_owned(),
            cause: "unknown field".to_owned(),
            remedy: "remove it".to_owned(),
        });
        assert_eq!(
            faults.render(false).matches(key).count(),
            1,
            "the public one"
        );
        assert_eq!(
            shown(&text).len(),
            text.len(),
            "places stay where they were"
        );
    }

    #[test]
    fn keys_are_left_out_and_nothing_else() {
        let key = "cFJpdmF0ZUtleVRoYXRNdXN0TmV2ZXJCZVNlZW4xMjM=";
        for (text, shown) in [
            (format!("`{key}` is none"), "`(hidden)` is none"),
            (format!("{key}{key}"), "(hidden)(hidden)"),
            (format!("é{key}"), "é(hidden)"),
            (format!("{}=", &key[1..43]), &format!("{}=", &key[1..43])),
            (
                "a/path/of/fourty/characters/and/some/more/of/them: x".into(),
                { "a/path/of/fourty/characters/and/some/more/of/them: x" },
            ),
        ] {
            assert_eq!(hidden(&text), shown);
        }
    }
}
