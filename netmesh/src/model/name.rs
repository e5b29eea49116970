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

/// Devices that a network namespace has from its birth, or gets with a module: nobody can make
/// them, nothing is behind them.
const BORN: [&str; 11] = [
    "lo", "sit0", "ip6tnl0", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0",
    "ip6gre0", "teql0",
];

/// The name is that of a device that network namespaces have by themselves.
#[must_use]
pub fn is_born(text: &str) -> bool {
    BORN.contains(&text)
}

/// The known word that is most like one, if any is like it.
pub(super) fn nearest<'a>(known: impl IntoIterator<Item = &'a str>, word: &str) -> Option<&'a str> {
    let likeness = |known: &str| strsim::jaro_winkler(known, word);
    known
        .into_iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .filter(|near| likeness(near) > 0.75)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typo_has_a_nearest_word_and_another_word_has_none() {
        let known = ["auto", "kernel", "embedded"];
        assert_eq!(nearest(known, "kernal"), Some("kernel"));
        assert_eq!(nearest(known, "Embeded"), Some("embedded"));
        for program in ["wireguard-go", "boringtun-cli", "wireguard-rs"] {
            assert_eq!(nearest(known, program), None, "{program}");
        }
    }
}
