//! `cargo xtask lint`: what no compiler checks. Who imports whom, how long files are, what is
//! said about `unsafe`, that nothing was left for later, and that every trap has its test.

mod path;
mod rooms;
mod stats;
mod token;
mod traps;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::run::root;
use stats::Stats;
use token::{Kind, Token, tokens};

/// Where the sources are.
const FOLDERS: [&str; 6] = [
    "netmesh",
    "netmesh-common",
    "netmesh-ebpf",
    "tests/src",
    "tests/tests",
    "xtask/src",
];

/// A file that is longer has more than one job.
const MAX_LINES: usize = 600;

/// Words that say that something is not done; split, so that this file does not find itself.
const UNDONE: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
];
const UNDONE_MACROS: [&str; 2] = ["todo", "unimplemented"];

/// Lines above an `unsafe` in which its reason may end.
const REACH: usize = 3;

/// Checks the work tree.
pub(crate) fn run(with_stats: bool) -> anyhow::Result<()> {
    let root = root();
    let mut files = Vec::new();
    for folder in FOLDERS {
        sources(&root.join(folder), &mut files)?;
    }
    let mut faults = Vec::new();
    let mut table: BTreeMap<String, Stats> = BTreeMap::new();
    let mut texts = BTreeMap::new();
    for file in &files {
        let text =
            fs::read_to_string(file).with_context(|| format!("{} is no text", file.display()))?;
        let name = file.strip_prefix(&root).unwrap_or(file);
        let name = name.display().to_string();
        let tokens = tokens(&text);
        faults.extend(check(&name, &text, &tokens));
        table
            .entry(part(&name))
            .or_default()
            .add(&text, &tokens, is_test(&name));
        texts.insert(name, text);
    }
    let document = fs::read_to_string(root.join(traps::DOCUMENT))
        .with_context(|| format!("{} cannot be read", traps::DOCUMENT))?;
    faults.extend(traps::faults(&document, &texts));
    if with_stats {
        println!("{}", Stats::head());
        for (name, stats) in &table {
            println!("{}", stats.row(name));
        }
    }
    for fault in &faults {
        println!("{fault}");
    }
    match faults.len() {
        0 => eprintln!("    {} files keep the house rules", files.len()),
        1 => bail!("a house rule is broken"),
        many => bail!("house rules are broken in {many} places"),
    }
    Ok(())
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("{} cannot be read", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()));
    let mut entries: Vec<PathBuf> = entries.collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The part of the house a file is counted with.
fn part(file: &str) -> String {
    match rooms::room(file) {
        Some(room) => format!("netmesh/{room}"),
        None => file.split('/').next().unwrap_or(file).to_owned(),
    }
}

fn is_test(file: &str) -> bool {
    file.contains("/tests/") || file.contains("/tests.rs") || file.starts_with("tests/")
}

/// The faults of one file.
fn check(file: &str, text: &str, tokens: &[Token]) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > MAX_LINES {
        faults.push(format!(
            "{file}:{MAX_LINES}: {lines} lines: split it by job, {MAX_LINES} are the most"
        ));
    }
    for named in path::paths(tokens, &module(file)) {
        if let Some(fault) = rooms::fault(file, &named) {
            faults.push(format!("{file}:{}: {fault}", named.line));
        }
    }
    for (at, token) in tokens.iter().enumerate() {
        let fault = match &token.kind {
            Kind::Comment(text) => undone(text, token.line),
            Kind::Word(word) if word == "unsafe" => unexplained(tokens, at)
                .then(|| (token.line, "`unsafe` without `// SAFETY:`".into())),
            Kind::Word(word) => {
                let is_macro =
                    tokens.get(at + 1).map(|token| &token.kind) == Some(&Kind::Sign('!'));
                (is_macro && UNDONE_MACROS.contains(&word.as_str()))
                    .then(|| (token.line, format!("{word}!: finish it")))
            }
            Kind::Sign(_) | Kind::Literal => None,
        };
        faults.extend(fault.map(|(line, fault)| format!("{file}:{line}: {fault}")));
    }
    faults
}

/// The module a file is: `netmesh/src/plan/diff.rs` is `plan::diff`.
fn module(file: &str) -> Vec<String> {
    let inside = file.split_once("/src/").map_or("", |(_, inside)| inside);
    let inside = inside.strip_suffix(".rs").unwrap_or(inside);
    inside
        .split('/')
        .filter(|name| !["", "lib", "main", "mod"].contains(name))
        .map(ToOwned::to_owned)
        .collect()
}

/// A word in a comment that says that something is not done, and its line.
fn undone(comment: &str, first: usize) -> Option<(usize, String)> {
    comment.lines().enumerate().find_map(|(offset, line)| {
        let word = line
            .split(|c: char| !c.is_alphanumeric())
            .find(|word| UNDONE.contains(word))?;
        Some((
            first + offset,
            format!("{word}: finish it, or open an issue"),
        ))
    })
}

/// An `unsafe` that does something (a block, an `impl`) and has no reason above or beside it.
fn unexplained(tokens: &[Token], at: usize) -> bool {
    let does = match tokens.get(at + 1).map(|token| &token.kind) {
        Some(Kind::Sign('{')) => true,
        Some(Kind::Word(word)) => word == "impl",
        _ => false,
    };
    // A reason of several lines is several comments: each reaches up to the next.
    let mut reached = tokens[at].line;
    let explained = tokens[..at]
        .iter()
        .rev()
        .take_while(|token| {
            let near = token.line + REACH >= reached;
            if matches!(token.kind, Kind::Comment(_)) && near {
                reached = token.line;
            }
            near
        })
        .any(|token| matches!(&token.kind, Kind::Comment(text) if text.contains("SAFETY:")));
    does && !explained
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(file: &str, text: &str) -> Vec<String> {
        check(file, text, &tokens(text))
    }

    #[test]
    fn a_forbidden_import_is_told_with_its_line() {
        assert_eq!(
            faults(
                "netmesh/src/kernel/x.rs",
                "\nuse crate::{\n    plan,\n    dataplane::Fib,\n};\n"
            ),
            ["netmesh/src/kernel/x.rs:4: kernel may not know dataplane"]
        );
        assert_eq!(
            faults("netmesh/src/plan/x.rs", "use super::super::cli::Output;"),
            ["netmesh/src/plan/x.rs:1: plan may not know cli"]
        );
    }

    #[test]
    fn a_long_file_is_found() {
        assert!(faults("xtask/src/x.rs", &"\n".repeat(MAX_LINES)).is_empty());
        assert_eq!(
            faults("xtask/src/x.rs", &"\n".repeat(MAX_LINES + 1)).len(),
            1
        );
    }

    #[test]
    fn what_is_not_done_is_found() {
        let text = format!(
            "/* a\n {}: later */\nfn f() {{ {}!() }}",
            UNDONE[0], UNDONE_MACROS[0]
        );
        let found = faults("xtask/src/x.rs", &text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("xtask/src/x.rs:2: "), "{found:?}");
        let harmless = "// Todor mends todo lists.\nlet name = \"tmpXXXXXX\";";
        assert!(faults("xtask/src/x.rs", harmless).is_empty());
    }

    #[test]
    fn unsafe_gives_its_reason() {
        let explained = "\
// SAFETY: the descriptor is ours, and
// stays open.
let x = unsafe { f() };
// SAFETY: plain bytes.
unsafe impl P for X {}
#[unsafe(no_mangle)]
unsafe fn g() {}
";
        assert_eq!(faults("xtask/src/x.rs", explained), [""; 0]);
        let bare = "// SAFETY: of something else.\nfn f() {\n}\n\n\n\nfn g() { unsafe { f() } }";
        assert_eq!(
            faults("xtask/src/x.rs", bare),
            ["xtask/src/x.rs:7: `unsafe` without `// SAFETY:`"]
        );
        assert_eq!(
            faults("xtask/src/x.rs", "// It is fine.\nunsafe { f() }").len(),
            1
        );
    }
}
