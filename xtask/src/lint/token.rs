//! Rust source as tokens with their lines: enough to tell code from comments and strings.

/// One token.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Token {
    /// The line it begins on, from 1.
    pub(crate) line: usize,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What a token is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// A name or a keyword.
    Word(String),
    /// One sign; `::` is two of them.
    Sign(char),
    /// A comment, its signs included.
    Comment(String),
    /// A string, a character, a number, a lifetime: nothing any rule looks into.
    Literal,
}

/// The tokens of a file. What is no valid Rust gives tokens of no use, never a failure: the
/// compiler has the last word on that.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut reader = Reader {
        rest: text,
        line: 1,
    };
    let mut found = Vec::new();
    while let Some(token) = reader.next() {
        found.push(token);
    }
    found
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<Token> {
        let space = self.rest.len() - self.rest.trim_start().len();
        self.take(space);
        let line = self.line;
        let first = self.rest.chars().next()?;
        let (length, literal) = match first {
            '/' if self.rest.starts_with("//") => {
                (self.rest.find('\n').unwrap_or(self.rest.len()), None)
            }
            '/' if self.rest.starts_with("/*") => (block_comment(self.rest), None),
            '"' => (string(self.rest, 0), Some(Kind::Literal)),
            '\'' => (quote(self.rest), Some(Kind::Literal)),
            _ if first.is_ascii_digit() => (word(self.rest), Some(Kind::Literal)),
            _ if is_word(first) => match prefixed(self.rest) {
                Some(length) => (length, Some(Kind::Literal)),
                None => {
                    let text = self.take(word(self.rest));
                    return Some(Token {
                        line,
                        kind: Kind::Word(text),
                    });
                }
            },
            _ => (first.len_utf8(), Some(Kind::Sign(first))),
        };
        let text = self.take(length);
        let kind = literal.unwrap_or(Kind::Comment(text));
        Some(Token { line, kind })
    }

    fn take(&mut self, length: usize) -> String {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken.to_owned()
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn word(text: &str) -> usize {
    text.find(|c| !is_word(c)).unwrap_or(text.len())
}

/// A string with letters before its quotes: `b"`, `r#"`, `c"`, `b'`.
fn prefixed(text: &str) -> Option<usize> {
    let letters = word(text);
    let prefix = &text[..letters];
    let rest = &text[letters..];
    if prefix == "b" && rest.starts_with('\'') {
        return Some(letters + quote(rest));
    }
    if !["b", "r", "c", "br", "cr"].contains(&prefix) {
        return None;
    }
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    if !rest[hashes..].starts_with('"') || (hashes > 0 && !prefix.ends_with('r')) {
        return None;
    }
    if !prefix.ends_with('r') {
        return Some(letters + string(rest, 0));
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = &rest[hashes + 1..];
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(letters + hashes + 1 + length)
}

/// Length of a string with escapes.
fn string(text: &str, from: usize) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip_while(|(at, _)| *at <= from) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of a character, or of a lifetime.
fn quote(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escape, c))) => {
            let after = escape + c.len_utf8();
            text[after..]
                .find('\'')
                .map_or(text.len(), |at| after + at + 1)
        }
        (Some(_), Some((end, '\''))) => end + 1,
        _ => 1 + word(&text[1..]),
    }
}

/// Length of a block comment; they nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<(usize, String)> {
        tokens(text)
            .into_iter()
            .filter_map(|token| match token.kind {
                Kind::Word(word) => Some((token.line, word)),
                Kind::Sign(_) | Kind::Comment(_) | Kind::Literal => None,
            })
            .collect()
    }

    #[test]
    fn code_is_told_from_strings_and_comments() {
        let text = "a \"b \\\" c\" // d\n/* e /* f */ g\n*/ h r#\"i \" j\"# 'k' '\\'' 'l: m b\"n\" b'o' 0x1f";
        let found: Vec<String> = words(text).into_iter().map(|(_, word)| word).collect();
        assert_eq!(found, ["a", "h", "m"]);
    }

    #[test]
    fn lines_are_counted_through_what_spans_them() {
        assert_eq!(
            words("\"x\ny\"\n/*\n*/ a\nb"),
            [(4, "a".to_owned()), (5, "b".to_owned())]
        );
    }

    #[test]
    fn a_lifetime_is_no_open_character() {
        let found = words("fn f<'a>(x: &'a str) -> &'static str { x }");
        assert_eq!(found.last(), Some(&(1, "x".to_owned())));
    }
}
