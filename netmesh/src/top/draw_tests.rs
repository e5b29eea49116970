use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::KeyCode;

use super::*;
use crate::plan::state::PublicKey;
use crate::top::sample::{NEVER, Sample};

/// A node that forwarded so much by now.
fn sample(packets: u64) -> Sample {
    let net = |text: &str| text.parse().unwrap();
    let key = |letter: &str| PublicKey(letter.repeat(44));
    Sample {
        at: Instant::now(),
        took: Duration::from_millis(1500),
        prefixes: vec![
            (
                (0, net("10.1.10.0/24")),
                [packets, 100 * packets, 2 * packets, 3000 * packets],
            ),
            ((0, net("2001:db8:1::/64")), [9, 900, 0, 0]),
        ],
        counted: 1_000_000,
        ports: vec![
            (
                (0, "seg0".into()),
                [4 * packets, 2 * packets, 250 * packets, packets, packets, 0],
            ),
            ((0, "up0".into()), [0; 6]),
        ],
        reasons: vec![
            ((0, "seg0".into(), "dropped", "no_route"), [packets]),
            ((0, "seg0".into(), "to kernel", "too_big"), [7]),
        ],
        peers: vec![
            ((0, "wg-501".into(), key("A")), [packets, 0, 75]),
            ((0, "wg-501".into(), key("B")), [0, 0, NEVER]),
        ],
        planes: 1,
    }
}

struct Screen {
    view: View,
    tables: Tables,
    names: Names,
    trouble: Option<String>,
}

impl Screen {
    /// Two samples, two seconds apart.
    fn new() -> Self {
        let mut tables = Tables::default();
        tables.advance(sample(1000), None);
        tables.advance(sample(3000), Some(2.0));
        Self {
            view: View::new(2),
            tables,
            names: Names {
                namespaces: vec!["node".into()],
                peers: [(PublicKey("A".repeat(44)), "alice/web".to_owned())].into(),
                ..Names::default()
            },
            trouble: None,
        }
    }

    fn press(&mut self, keys: &str) {
        for letter in keys.chars() {
            self.view.key(KeyCode::Char(letter).into());
        }
    }

    fn lines(&mut self, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let scene = Scene {
            tables: &self.tables,
            names: &self.names,
            trouble: self.trouble.as_deref(),
            color: true,
        };
        terminal
            .draw(|frame| draw(frame, &mut self.view, &scene))
            .unwrap();
        let buffer = terminal.backend().buffer();
        (0..height)
            .map(|y| {
                (0..width)
                    .map(|x| buffer[(x, y)].symbol())
                    .collect::<String>()
            })
            .map(|line| line.trim_end().to_owned())
            .collect()
    }
}

/// The words of the line that begins with this one.
fn words<'a>(lines: &'a [String], first: &str) -> Vec<&'a str> {
    let mut found = lines
        .iter()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    found
        .find(|words| words.first() == Some(&first))
        .unwrap_or_else(|| panic!("no {first} in {lines:#?}"))
}

#[test]
fn prefixes_are_drawn_with_rates_and_totals() {
    let lines = Screen::new().lines(120, 12);
    assert_eq!(
        lines[0],
        "netmesh top  node  every 2 s or less often: reading takes 1.5 s"
    );
    assert_eq!(
        lines[1],
        "forwarded 2.00 k pkt/s 2.00 M bit/s  to kernel 1.00 k pkt/s  dropped 1.00 k pkt/s  lost 0 pkt/s"
    );
    assert!(lines[2].contains("1 prefixes") && lines[2].contains("4 tunnels"));
    assert!(lines[3].starts_with("prefix ") && lines[3].contains("bit/s to↓"));
    assert_eq!(
        words(&lines, "10.1.10.0/24").join(" "),
        "10.1.10.0/24 1.00 k 800 k 2.00 k 24.0 M 3000 293 KiB 6000 8.58 MiB"
    );
    let order: Vec<_> = lines[4..6].iter().map(|line| &line[..4]).collect();
    assert_eq!(order, ["10.1", "2001"]);
    assert!(lines[11].starts_with("1-2 of 2 (1000000 are counted)"));
}

#[test]
fn the_first_sample_has_no_rates() {
    let mut screen = Screen::new();
    screen.tables = Tables::default();
    screen.tables.advance(sample(1000), None);
    let lines = screen.lines(120, 12);
    assert_eq!(
        words(&lines, "10.1.10.0/24")[1..6],
        ["-", "-", "-", "-", "1000"]
    );
    assert!(lines[1].starts_with("forwarded - pkt/s - bit/s"));
}

#[test]
fn every_table_has_its_columns() {
    let mut screen = Screen::new();
    screen.press("2");
    let lines = screen.lines(120, 12);
    assert!(lines[3].starts_with("port↑"));
    assert_eq!(
        words(&lines, "seg0").join(" "),
        "seg0 4.00 k 2.00 k 2.00 M 1.00 k 1.00 k 0 12000 6000"
    );
    screen.press("3");
    let lines = screen.lines(120, 12);
    assert_eq!(
        lines[4].split_whitespace().collect::<Vec<_>>().join(" "),
        "seg0 dropped no_route 1.00 k 3000"
    );
    assert_eq!(
        lines[5].split_whitespace().collect::<Vec<_>>().join(" "),
        "seg0 to kernel too_big 0 7"
    );
    screen.press("4");
    let lines = screen.lines(120, 12);
    assert!(lines[4].contains("alice/web") && lines[4].contains("75 s"));
    assert!(lines[4].contains("8.00 k"));
    assert!(lines[5].contains("BBBBBBBB ") && lines[5].contains("never"));
}

#[test]
fn a_filter_and_an_order_change_the_lines() {
    let mut screen = Screen::new();
    screen.press("/2001:db8::/32");
    let lines = screen.lines(120, 12);
    assert!(lines[4].starts_with("2001:db8:1::/64") && lines[5].is_empty());
    assert_eq!(lines[11], "filter: 2001:db8::/32█");
    screen.view.key(KeyCode::Esc.into());
    screen.press("r");
    let lines = screen.lines(120, 12);
    assert!(lines[3].contains("bit/s to↑"));
    assert!(lines[4].starts_with("2001:db8:1::/64") && lines[5].starts_with("10.1.10.0/24"));
}

#[test]
fn several_namespaces_get_a_column_and_trouble_is_told() {
    let mut screen = Screen::new();
    screen.names.namespaces.push("nm-alice-gw".into());
    screen.trouble = Some("the map is gone".into());
    screen.press("p");
    let lines = screen.lines(140, 12);
    assert!(
        lines[0]
            .ends_with("2 namespaces  every 2 s or less often: reading takes 1.5 s  paused  these figures are old: the map is gone")
    );
    assert!(lines[3].starts_with("namespace prefix"));
    assert!(lines[4].starts_with("node      10.1.10.0/24"));
}

#[test]
fn columns_that_do_not_fit_go_but_not_the_sorted_one() {
    let mut screen = Screen::new();
    let lines = screen.lines(59, 12);
    let titles = "prefix           pkt/s to bit/s to↓  pkt/s from";
    assert_eq!(lines[3], format!("{titles}  bit/s from"));
    assert!(lines[4].ends_with(" 24.0 M"));
    // One cell less: the last one goes, and nothing is cut.
    assert_eq!(screen.lines(58, 12)[3], titles);
    for _ in 0..6 {
        screen.press("s");
    }
    let lines = screen.lines(60, 12);
    assert!(lines[3].ends_with("bytes from↓"), "{}", lines[3]);
    assert!(lines[4].ends_with(" 8.58 MiB"));
}

#[test]
fn help_and_small_terminals_do_no_harm() {
    let mut screen = Screen::new();
    screen.press("?");
    let lines = screen.lines(80, 24);
    assert!(lines.iter().any(|line| line.contains("Any key goes back.")));
    for (width, height) in [(1, 1), (10, 3), (20, 5), (61, 8)] {
        let _ = screen.lines(width, height);
    }
}

#[test]
fn a_long_table_is_scrolled() {
    let mut screen = Screen::new();
    let rows = (0..1000_u64).map(|i| {
        let net = format!("2001:db8:{i:x}::/64").parse().unwrap();
        ((0, net), [i + 1, 0, 0, 0])
    });
    let mut many = sample(1);
    many.prefixes = rows.collect();
    screen.tables.advance(many, Some(1.0));
    screen.view.key(KeyCode::Char('S').into()); // By packets a second.
    let lines = screen.lines(120, 15);
    assert!(lines[4].starts_with("2001:db8:3e7::/64"));
    assert!(lines[14].starts_with("1-10 of 1000"));
    screen.view.key(KeyCode::PageDown.into());
    let lines = screen.lines(120, 15);
    assert!(lines[4].starts_with("2001:db8:3dd::/64"));
    assert!(lines[14].starts_with("11-20 of 1000"));
}
