//! Names of networks, resources and nodes.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use thiserror::Error;

/// A name: `a-z`, `0-9` and `-`, 1 to 15 long, beginning and ending with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Nothing, or too much.
    #[error("must be 1 to 15 characters long, not {0}")]
    Length(usize),
    /// A character that is not allowed.
    #[error("must hold only a-z, 0-9 and -, not {0:?}")]
    Character(char),
    /// A hyphen at an end.
    #[error("must begin and end with a letter or a digit")]
    Edge,
}

impl Name {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
        if let Some(bad) = text.chars().find(|c| !allowed(c)) {
            return Err(NameError::Character(bad));
        }
        if text.is_empty() || text.len() > 15 {
            return Err(NameError::Length(text.len()));
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Edge);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

/// Why a text is no interface name: the kernel's `dev_valid_name`.
#[must_use]
pub fn interface_name_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() || text.len() > 15 {
        return Some("an interface name has 1 to 15 bytes");
    }
    if text == "."
        || text == ".."
        || text.contains(['/', ':'])
        || text.contains(char::is_whitespace)
    {
        return Some("an interface name holds no blank, slash or colon");
    }
    None
}
