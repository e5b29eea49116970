//! `cargo xtask lint --stats`: how big the units are.

use super::token::{Kind, Token};

/// What is counted, over any number of files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    files: Vec<usize>,
    functions: Vec<usize>,
    code_lines: usize,
    unsafe_blocks: usize,
    safety_comments: usize,
    unwraps: usize,
}

impl Stats {
    /// Adds a file. Functions, `unsafe` and unwraps within modules for tests do not count.
    pub(crate) fn add(&mut self, text: &str, tokens: &[Token], is_test_file: bool) {
        let lines = text.lines().count();
        self.files.push(lines);
        if is_test_file {
            return;
        }
        let end = tests_begin(tokens).unwrap_or(tokens.len());
        let tokens = &tokens[..end];
        self.code_lines += tokens.last().map_or(0, |token| token.line);
        self.safety_comments += tokens
            .iter()
            .filter(|token| matches!(&token.kind, Kind::Comment(text) if text.contains("SAFETY:")))
            .count();
        let code: Vec<&Token> = tokens
            .iter()
            .filter(|token| !matches!(token.kind, Kind::Comment(_)))
            .collect();
        for (at, token) in code.iter().enumerate() {
            let Kind::Word(word) = &token.kind else {
                continue;
            };
            let next = code.get(at + 1).map(|token| &token.kind);
            let is_method = at > 0 && code[at - 1].kind == Kind::Sign('.');
            match (word.as_str(), next) {
                ("unsafe", Some(Kind::Sign('{'))) => self.unsafe_blocks += 1,
                ("unsafe", Some(Kind::Word(what))) if what == "impl" => self.unsafe_blocks += 1,
                ("unwrap" | "expect", Some(Kind::Sign('('))) if is_method => self.unwraps += 1,
                ("fn", Some(Kind::Word(_))) => self.functions.extend(function(&code[at..])),
                _ => {}
            }
        }
    }

    /// One line of the table.
    pub(crate) fn row(&self, name: &str) -> String {
        format!(
            "{name:<24} {:>5}  {:>15} {:>15}  {:>6} / {:<6} {:>6.1}",
            self.files.len(),
            spread(&self.files),
            spread(&self.functions),
            self.unsafe_blocks,
            self.safety_comments,
            self.unwraps as f64 * 1000.0 / self.code_lines.max(1) as f64,
        )
    }

    /// The line above the table.
    pub(crate) fn head() -> String {
        format!(
            "{:<24} {:>5}  {:>15} {:>15}  {:>6} / {:<6} {:>6}\n{:<24} {:>5}  {:>15} {:>15}",
            "code",
            "files",
            "file",
            "fn",
            "unsafe",
            "SAFETY",
            "unwrap",
            "",
            "",
            "p50/p90/max",
            "p50/p90/max",
        )
    }
}

/// Median, 90th percentile and largest.
fn spread(sizes: &[usize]) -> String {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    let at = |percent: usize| {
        let last = sizes.len().saturating_sub(1);
        sizes.get(last * percent / 100).copied().unwrap_or(0)
    };
    format!("{}/{}/{}", at(50), at(90), at(100))
}

/// Lines of a function whose `fn` comes first; none for one without a body.
fn function(code: &[&Token]) -> Option<usize> {
    let mut depth = 0_usize;
    for token in code {
        match token.kind {
            Kind::Sign(';') if depth == 0 => return None,
            Kind::Sign('{' | '[' | '(') => depth += 1,
            Kind::Sign('}' | ']' | ')') => {
                depth = depth.saturating_sub(1);
                if depth == 0 && token.kind == Kind::Sign('}') {
                    return Some(token.line - code.first()?.line + 1);
                }
            }
            Kind::Sign(_) | Kind::Word(_) | Kind::Comment(_) | Kind::Literal => {}
        }
    }
    None
}

/// Where the module for tests begins: `#[cfg(test)] mod … {`, by custom the last in a file.
fn tests_begin(tokens: &[Token]) -> Option<usize> {
    let is = |at: usize, word: &str| matches!(tokens.get(at).map(|token| &token.kind), Some(Kind::Word(found)) if found == word);
    let opens = |at: usize| {
        tokens[at..]
            .iter()
            .take(12)
            .find_map(|token| match token.kind {
                Kind::Sign('{') => Some(true),
                Kind::Sign(';') => Some(false),
                Kind::Sign(_) | Kind::Word(_) | Kind::Comment(_) | Kind::Literal => None,
            })
    };
    (0..tokens.len()).find(|at| is(*at, "cfg") && is(at + 2, "test") && opens(*at) == Some(true))
}

#[cfg(test)]
mod tests {
    use super::super::token::tokens;
    use super::*;

    #[test]
    fn units_are_measured_and_tests_are_cut() {
        let text = "\
fn one() -> [u8; 2] { [0, 1] }
trait T { fn none(&self); }
fn four() {
    // SAFETY: none.
    unsafe { x.unwrap() }
}
#[cfg(test)]
mod tests {
    fn f() { x.unwrap(); unsafe {} }
}
";
        let mut stats = Stats::default();
        stats.add(text, &tokens(text), false);
        assert_eq!(stats.files, [10]);
        assert_eq!(stats.functions, [1, 4]);
        assert_eq!(
            (stats.unsafe_blocks, stats.safety_comments, stats.unwraps),
            (1, 1, 1)
        );
    }
}
