//! Columns for people.

use tabled::builder::Builder;
use tabled::settings::{Alignment, Padding, Style, object::Columns};

/// A table without lines: a header, rows, columns two blanks apart; `right` names the columns
/// of numbers.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut builder = Builder::default();
    builder.push_record(header.iter().copied());
    for row in rows {
        builder.push_record(row);
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    for column in right {
        table.modify(Columns::one(*column), Alignment::right());
    }
    let mut text: String = table
        .to_string()
        .lines()
        .flat_map(|line| [line.trim_end(), "\n"])
        .collect();
    if text.is_empty() {
        text.push('\n');
    }
    text
}

/// A byte count as people read it: binary units, three digits.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut unit = 0;
    let mut whole = count;
    let mut rest = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        rest = whole % 1024;
        whole /= 1024;
        unit += 1;
    }
    format!("{whole}.{} {}", rest * 10 / 1024, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_magnitude() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(10 << 30), "10.0 GiB");
    }

    #[test]
    fn a_table_has_a_line_a_row() {
        let text = table(
            &["prefix", "packets"],
            vec![vec!["a".into(), "1".into()]],
            &[1],
        );
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("prefix  packets"));
        assert_eq!(table(&["x"], vec![], &[]), "");
    }
}
