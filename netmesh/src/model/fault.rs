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
            let source = NamedSource::new(&fault.place.file.name, fault.place.file.text.clone());
            let report = miette::Report::new(diagnostic).with_source_code(source);
            if handler.render_report(&mut text, report.as_ref()).is_err() {
                text.push_str(&format!("{fault}\n"));
            }
        }
        text
    }
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
