//! The paths a file names, resolved to where they begin: in `use` lines, groups included, and in
//! the midst of code.

use super::token::{Kind, Token};

/// One path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Named {
    /// The line of its last segment.
    pub(crate) line: usize,
    /// Its segments; the first is `crate` or another crate's name where that is known.
    pub(crate) segments: Vec<String>,
    /// It stands in a `use` line.
    pub(crate) is_use: bool,
    /// It stands in a module that exists for tests only.
    pub(crate) in_test: bool,
}

/// The paths in a file that is module `module` of its crate (`["plan", "diff"]`).
pub(crate) fn paths(tokens: &[Token], module: &[String]) -> Vec<Named> {
    let code: Vec<&Token> = tokens
        .iter()
        .filter(|token| !matches!(token.kind, Kind::Comment(_)))
        .collect();
    let mut walk = Walk {
        code: &code,
        at: 0,
        found: Vec::new(),
        modules: Vec::new(),
        depth: 0,
        file: module,
    };
    walk.run();
    walk.found
}

/// A module inside the file, and the depth of braces at which it ends.
struct Inner {
    name: String,
    depth: usize,
    is_test: bool,
}

struct Walk<'a> {
    code: &'a [&'a Token],
    at: usize,
    found: Vec<Named>,
    modules: Vec<Inner>,
    depth: usize,
    file: &'a [String],
}

impl Walk<'_> {
    fn run(&mut self) {
        let mut tests_only = false;
        while let Some(token) = self.code.get(self.at) {
            match &token.kind {
                Kind::Sign('{') => {
                    self.depth += 1;
                    self.at += 1;
                }
                Kind::Sign('}') => {
                    self.depth = self.depth.saturating_sub(1);
                    self.modules.retain(|inner| inner.depth < self.depth + 1);
                    self.at += 1;
                }
                Kind::Sign('#') => tests_only |= self.attribute(),
                Kind::Word(word) if word == "mod" => {
                    self.module(tests_only);
                    tests_only = false;
                }
                Kind::Word(word) if word == "use" => {
                    self.at += 1;
                    self.tree(&[], true, tests_only);
                    tests_only = false;
                }
                Kind::Word(_) if self.follows_path_sign() => self.at += 1,
                Kind::Word(_) => {
                    if self.begins_path() {
                        self.tree(&[], false, false);
                    } else {
                        self.at += 1;
                    }
                }
                Kind::Sign(sign) => {
                    if *sign == ';' {
                        tests_only = false;
                    }
                    self.at += 1;
                }
                Kind::Comment(_) | Kind::Literal => self.at += 1,
            }
        }
    }

    /// Steps into an attribute, so that paths in it are seen; tells whether it is `#[cfg(test)]`.
    fn attribute(&mut self) -> bool {
        let is = |offset: usize, expected: &str| self.word(self.at + offset) == Some(expected);
        let found = is(2, "cfg") && is(4, "test") && self.sign(self.at + 5) == Some(')');
        self.at += 1;
        found
    }

    fn module(&mut self, is_test: bool) {
        if let Some(name) = self.word(self.at + 1)
            && self.sign(self.at + 2) == Some('{')
        {
            self.modules.push(Inner {
                name: name.to_owned(),
                depth: self.depth + 1,
                is_test,
            });
        }
        self.at += 2;
    }

    /// Reads `a::b::{c, d::e}` and notes each of its paths.
    fn tree(&mut self, before: &[String], is_use: bool, in_test: bool) {
        let mut segments = before.to_vec();
        let mut line = 0;
        if self.is_path_sign(self.at) {
            self.at += 2;
        }
        loop {
            if let Some(word) = self.word(self.at) {
                segments.push(word.to_owned());
                line = self.code[self.at].line;
                self.at += 1;
            } else if self.sign(self.at) == Some('{') && is_use {
                self.at += 1;
                while self.at < self.code.len() && self.sign(self.at) != Some('}') {
                    let start = self.at;
                    self.tree(&segments, is_use, in_test);
                    // `as name`, commas and `*`: up to the next branch.
                    while self.at < self.code.len()
                        && !matches!(self.sign(self.at), Some(',' | '}'))
                    {
                        self.at += 1;
                    }
                    if self.sign(self.at) == Some(',') || self.at == start {
                        self.at += 1;
                    }
                }
                self.at += 1;
                return;
            } else {
                break;
            }
            if !self.is_path_sign(self.at) {
                break;
            }
            self.at += 2;
        }
        if !segments.is_empty() {
            let segments = self.resolve(segments);
            self.found.push(Named {
                line,
                segments,
                is_use,
                in_test: in_test || self.modules.iter().any(|inner| inner.is_test),
            });
        }
    }

    /// `self::x` and `super::x` as `crate::…::x`.
    fn resolve(&self, segments: Vec<String>) -> Vec<String> {
        let mut base: Vec<String> = self.file.to_vec();
        base.extend(self.modules.iter().map(|inner| inner.name.clone()));
        let mut rest = segments.as_slice();
        let mut relative = false;
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "self" => {}
                "super" => {
                    base.pop();
                }
                _ => break,
            }
            relative = true;
            rest = after;
        }
        if !relative {
            return segments;
        }
        let mut resolved = vec!["crate".to_owned()];
        resolved.extend(base);
        resolved.extend(rest.iter().cloned());
        resolved
    }

    fn begins_path(&self) -> bool {
        self.is_path_sign(self.at + 1)
    }

    fn follows_path_sign(&self) -> bool {
        self.at >= 2 && self.is_path_sign(self.at - 2) && {
            // `<T as Trait>::name` and turbofish tails belong to no path of their own; a path
            // that begins with `::` does.
            let before = self.at.checked_sub(3).and_then(|at| self.code.get(at));
            before.is_some_and(|token| matches!(token.kind, Kind::Sign('>') | Kind::Word(_)))
        }
    }

    fn is_path_sign(&self, at: usize) -> bool {
        self.sign(at) == Some(':') && self.sign(at + 1) == Some(':')
    }

    fn word(&self, at: usize) -> Option<&str> {
        match &self.code.get(at)?.kind {
            Kind::Word(word) => Some(word),
            Kind::Sign(_) | Kind::Comment(_) | Kind::Literal => None,
        }
    }

    fn sign(&self, at: usize) -> Option<char> {
        match self.code.get(at)?.kind {
            Kind::Sign(sign) => Some(sign),
            Kind::Word(_) | Kind::Comment(_) | Kind::Literal => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::token::tokens;
    use super::*;

    fn found(text: &str) -> Vec<String> {
        let module = ["plan".to_owned(), "diff".to_owned()];
        paths(&tokens(text), &module)
            .into_iter()
            .map(|named| format!("{} {}", named.line, named.segments.join("::")))
            .collect()
    }

    #[test]
    fn groups_are_taken_apart() {
        assert_eq!(
            found(
                "use crate::{\n    kernel::{self, Netns as N},\n    dataplane::*,\n};\nuse std::fs;"
            ),
            [
                "2 crate::kernel::self",
                "2 crate::kernel::Netns",
                "3 crate::dataplane",
                "5 std::fs",
            ]
        );
    }

    #[test]
    fn paths_in_code_are_seen_and_strings_are_not() {
        assert_eq!(
            found("fn f() { let x = crate::kernel::observe(\"crate::cli\"); ::aya::load(x) }"),
            ["1 crate::kernel::observe", "1 aya::load"]
        );
    }

    #[test]
    fn relative_paths_are_resolved() {
        assert_eq!(
            found("use super::state::State; use super::super::kernel; use self::x::Y;"),
            [
                "1 crate::plan::state::State",
                "1 crate::kernel",
                "1 crate::plan::diff::x::Y",
            ]
        );
        assert_eq!(
            found("mod inner { use super::super::super::kernel; } use super::step;"),
            ["1 crate::kernel", "1 crate::plan::step"]
        );
    }

    #[test]
    fn modules_for_tests_are_known() {
        let text = "use std::fmt;\n#[cfg(test)]\nmod tests {\n use std::fs;\n}\nuse std::io;";
        let named = paths(&tokens(text), &[]);
        let in_test: Vec<bool> = named.iter().map(|named| named.in_test).collect();
        assert_eq!(in_test, [false, true, false]);
    }
}
