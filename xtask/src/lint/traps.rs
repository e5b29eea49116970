//! The table of traps in `docs/conformance.md`: every trap has its row, every row a test that
//! exists or the reason why the trap cannot occur.

use std::collections::BTreeMap;

use super::token::{Kind, Token, tokens};

/// Where the table is.
pub(crate) const DOCUMENT: &str = "docs/conformance.md";

/// Traps are numbered from 1.
const TRAPS: u32 = 67;

/// What a row without a test begins with.
const REASON: &str = "cannot occur: ";

/// Words that stand for a test that is still being written. Empty, a row has to have its test.
const AWAITED: [&str; 0] = [];

/// First segments of a test's path, and the folder of each.
const PACKAGES: [(&str, &str); 4] = [
    ("netmesh", "netmesh"),
    ("netmesh_common", "netmesh-common"),
    ("tests", "tests"),
    ("xtask", "xtask"),
];

/// Where the packets of `case NAME` are.
const CASES: &str = "netmesh-common/tests/cases/";

/// The faults of the document; `sources` are the texts of all files by name.
pub(crate) fn faults(document: &str, sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut next = 1;
    for (number, line) in document.lines().enumerate() {
        let at = format!("{DOCUMENT}:{}", number + 1);
        for name in quoted(line) {
            if let Some(fault) = unknown(name, sources) {
                faults.push(format!("{at}: {fault}"));
            }
        }
        let Some((trap, covered)) = row(line) else {
            continue;
        };
        if trap != next {
            faults.push(format!("{at}: T{trap}, where T{next} is next"));
        }
        next = trap + 1;
        let has_test = quoted(covered).any(|name| path(name).is_some() || case(name).is_some());
        let has_reason = covered
            .strip_prefix(REASON)
            .is_some_and(|why| why.len() > 20);
        let is_awaited = AWAITED.iter().any(|word| covered.contains(word));
        if !has_test && !has_reason && !is_awaited {
            faults.push(format!("{at}: T{trap} has neither a test nor a reason"));
        }
        let loose = covered.contains(concat!("TO", "DO")) && !is_awaited;
        if loose {
            faults.push(format!("{at}: T{trap} is not finished"));
        }
    }
    if next != TRAPS + 1 {
        faults.push(format!(
            "{DOCUMENT}: T{next} has no row, T{TRAPS} is the last"
        ));
    }
    faults
}

/// A row of the table: the trap's number, and what its last column says.
fn row(line: &str) -> Option<(u32, &str)> {
    let mut cells = line.strip_prefix("| T")?.split(" | ");
    let trap = cells.next()?.trim().parse().ok()?;
    let covered = cells.last()?.trim_end_matches('|').trim();
    Some((trap, covered))
}

/// What stands between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Folder, modules and name of a test, if a name is a test's.
fn path(name: &str) -> Option<(&'static str, Vec<&str>, &str)> {
    let mut segments: Vec<&str> = name.split("::").collect();
    let test = segments.pop()?;
    let (package, modules) = segments.split_first()?;
    let (_, folder) = PACKAGES.iter().find(|(name, _)| name == package)?;
    (!modules.is_empty()).then(|| (*folder, modules.to_vec(), test))
}

/// A packet of the table of cases, which two tests send through library and programs.
fn case(name: &str) -> Option<&str> {
    name.strip_prefix("case ")
}

/// Why a name between backticks is wrong; what is no name of ours is not.
fn unknown(name: &str, sources: &BTreeMap<String, String>) -> Option<String> {
    if let Some(case) = case(name) {
        let wanted = format!("\"{case}\"");
        let known = sources
            .iter()
            .any(|(file, text)| file.starts_with(CASES) && text.contains(&wanted));
        return (!known).then(|| format!("there is no case {wanted}"));
    }
    let (folder, modules, test) = path(name)?;
    let file = modules.join("/");
    let places = ["tests/", "src/"].map(|kind| format!("{folder}/{kind}{file}.rs"));
    let places = [
        places.to_vec(),
        vec![format!("{folder}/tests/{file}/main.rs")],
    ]
    .concat();
    let found = places.iter().find_map(|place| sources.get(place));
    match found {
        None => Some(format!(
            "there is no {} for {name}",
            places[..2].join(" or ")
        )),
        Some(text) if is_test(&tokens(text), test) => None,
        Some(_) => Some(format!("there is no test {name}")),
    }
}

/// A function of this name that carries `#[test]`.
fn is_test(tokens: &[Token], name: &str) -> bool {
    let word = |at: usize, wanted: &str| matches!(tokens.get(at).map(|token| &token.kind), Some(Kind::Word(word)) if word == wanted);
    (1..tokens.len()).any(|at| {
        let is_function = word(at, name) && word(at - 1, "fn");
        // From the function back to the end of what stands before it.
        let attributes = tokens[..at]
            .iter()
            .rev()
            .skip(1)
            .take_while(|token| !matches!(token.kind, Kind::Sign('{' | '}' | ';')));
        is_function
            && attributes
                .into_iter()
                .any(|token| matches!(&token.kind, Kind::Word(word) if word == "test"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> BTreeMap<String, String> {
        [
            (
                "tests/tests/x.rs",
                "fn helper() {}\n/// Doc.\n#[test]\n#[ignore = \"why\"]\nfn good() {}",
            ),
            (
                "netmesh/src/a/b.rs",
                "#[cfg(test)] mod tests { fn plain() {} #[test] fn inner() {} }",
            ),
            (
                "netmesh-common/tests/cases/list.rs",
                "case(\"hop limit 1\")",
            ),
        ]
        .map(|(file, text)| (file.to_owned(), text.to_owned()))
        .into()
    }

    fn table(first: &str) -> String {
        let rows = (2..=TRAPS).map(|n| format!("| T{n} | x | `tests::x::good` |\n"));
        format!("| T1 | x | {first} |\n{}", rows.collect::<String>())
    }

    #[test]
    fn a_full_table_passes() {
        for first in [
            "`netmesh::a::b::inner`, `case hop limit 1`",
            "cannot occur: no such thing is ever made",
            "with `--hook tc`: `tests::x::good`",
        ] {
            assert_eq!(faults(&table(first), &sources()), [""; 0], "{first}");
        }
    }

    #[test]
    fn what_is_missing_is_found() {
        for (first, says) in [
            ("`tests::x::bad`", "there is no test tests::x::bad"),
            ("`tests::x::helper`", "there is no test tests::x::helper"),
            (
                "`netmesh::a::b::plain`",
                "there is no test netmesh::a::b::plain",
            ),
            (
                "`tests::y::good`",
                "there is no tests/tests/y.rs or tests/src/y.rs for tests::y::good",
            ),
            (
                "`case nothing` `tests::x::good`",
                "there is no case \"nothing\"",
            ),
            ("", "T1 has neither a test nor a reason"),
            ("cannot occur: no", "T1 has neither a test nor a reason"),
        ] {
            let found = faults(&table(first), &sources());
            assert_eq!(found, [format!("{DOCUMENT}:1: {says}")], "{first}");
        }
        let later = concat!("`tests::x::good` TO", "DO: the rest");
        assert_eq!(faults(&table(later), &sources()).len(), 1);
    }

    #[test]
    fn every_trap_has_one_row() {
        let all = table("`tests::x::good`");
        let without = |row: &str| all.replace(row, "");
        let found = faults(&without("| T9 | x | `tests::x::good` |\n"), &sources());
        assert_eq!(found, [format!("{DOCUMENT}:9: T10, where T9 is next")]);
        let found = faults(&without("| T67 | x | `tests::x::good` |\n"), &sources());
        assert_eq!(found.len(), 1, "{found:?}");
    }
}
