//! Which lines are shown.

use std::net::IpAddr;

use ipnet::IpNet;

/// What a line must have to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Filter {
    /// Nothing.
    #[default]
    All,
    /// Its prefix is inside this one.
    Inside(IpNet),
    /// Its prefix holds this address.
    Holds(IpAddr),
    /// These letters, in any case, in one of its words.
    Text(String),
}

impl Filter {
    /// What was typed: a prefix, an address, or anything else.
    pub(super) fn parse(text: &str) -> Self {
        let text = text.trim();
        if text.is_empty() {
            Self::All
        } else if let Ok(net) = text.parse() {
            Self::Inside(net)
        } else if let Ok(address) = text.parse() {
            Self::Holds(address)
        } else {
            Self::Text(text.to_lowercase())
        }
    }

    /// Whether a line with these words, and this prefix if it has one, is shown. The words are
    /// asked for only when they matter: a prefix costs more to print than to compare.
    pub(super) fn passes(
        &self,
        prefix: Option<IpNet>,
        words: impl FnOnce() -> Vec<String>,
    ) -> bool {
        match (self, prefix) {
            (Self::All, _) => true,
            (Self::Inside(net), Some(prefix)) => net.contains(&prefix),
            (Self::Holds(address), Some(prefix)) => prefix.contains(address),
            (Self::Text(text), _) => holds(words, text),
            (Self::Inside(net), None) => holds(words, &net.to_string()),
            (Self::Holds(address), None) => holds(words, &address.to_string()),
        }
    }
}

fn holds(words: impl FnOnce() -> Vec<String>, text: &str) -> bool {
    words()
        .iter()
        .any(|word| word.to_lowercase().contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_what_its_words_look_like() {
        let prefix: IpNet = "2001:db8:1::/64".parse().unwrap();
        let shows = |filter: &str, prefix| {
            Filter::parse(filter).passes(prefix, || vec!["Alice".into(), "port0".into()])
        };
        for (filter, shown) in [
            ("", true),
            ("2001:db8::/32", true),
            ("2001:db8:1::/64", true),
            ("2001:db8:1::/80", false),
            ("10.0.0.0/8", false),
            ("2001:db8:1::7", true),
            ("2001:db8:2::7", false),
            ("alice", true),
            ("RT0", true),
            ("bob", false),
        ] {
            assert_eq!(shows(filter, Some(prefix)), shown, "{filter}");
        }
        assert!(!shows("2001:db8::/32", None));
        assert!(shows("  ", None));
    }
}
