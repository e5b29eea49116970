//! The picture.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table, Tabs};

use super::figure::rate;
use super::table::{Column, Names, Shown, Tab, Tables};
use super::view::View;

/// What is drawn besides the tables.
#[derive(Clone, Debug)]
pub(super) struct Scene<'a> {
    pub(super) tables: &'a Tables,
    pub(super) names: &'a Names,
    /// Why the figures are old, if they are.
    pub(super) trouble: Option<&'a str>,
    pub(super) color: bool,
}

const HELP: &str = "\
 1 2 3 4, Tab       prefixes, ports, reasons, tunnels
 s S                sort by the next, the former column
 r                  the other way round
 /                  filter: a prefix and those inside it, an
                    address, or letters of a name; Esc ends it
 j k, PgDn PgUp, g  scroll; to the first line
 p, space           pause
 + -                longer, shorter interval
 q, ctrl-c          quit

 to: forwarded towards the prefix; from: what came from it.
 A port's received = forwarded + to kernel + dropped + lost.
 Prefixes that never counted anything are left out.

 Any key goes back.";

/// Draws everything, and lets the view know how much there is room for.
pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View, scene: &Scene<'_>) {
    let rows = [
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ];
    let [head, sums, tabs, body, foot] = Layout::vertical(rows).areas(frame.area());
    let room = usize::from(body.height.saturating_sub(1));
    let ask = |most| {
        let (tables, names) = (scene.tables, scene.names);
        tables.shown(view.tab, view.sort(), &view.filter, most, names)
    };
    let mut shown = ask(view.top.saturating_add(room));
    view.settle(shown.passed, room);
    shown.rows.drain(..view.top.min(shown.rows.len()));
    frame.render_widget(headline(view, scene), head);
    frame.render_widget(totals(scene), sums);
    let titles = Tab::ALL.iter().zip(1..);
    let titles = titles.map(|(tab, number)| format!("{number} {}", tab.title()));
    let selected = Style::new().add_modifier(Modifier::REVERSED);
    let titles = Tabs::new(titles).select(view.tab as usize);
    frame.render_widget(titles.highlight_style(selected), tabs);
    frame.render_widget(table(view, scene, &shown, body.width), body);
    frame.render_widget(footline(view, scene, &shown), foot);
    if view.help {
        help(frame);
    }
}

fn headline<'a>(view: &View, scene: &Scene<'a>) -> Line<'a> {
    let place = match scene.names.namespaces.as_slice() {
        [one] => one.clone(),
        all => format!("{} namespaces", all.len()),
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut spans = vec![
        Span::styled("netmesh top", bold),
        Span::raw(format!("  {place}  every {} s", view.interval)),
    ];
    if 2 * scene.tables.took > Duration::from_secs(view.interval) {
        let took = scene.tables.took.as_secs_f64();
        spans.push(Span::raw(format!(
            " or less often: reading takes {took:.1} s"
        )));
    }
    if view.paused {
        spans.push(Span::styled("  paused", bold));
    }
    if let Some(trouble) = scene.trouble {
        spans.push(Span::styled(
            format!("  these figures are old: {trouble}"),
            paint(scene, Color::Red).add_modifier(Modifier::BOLD),
        ));
    }
    Line::from(spans)
}

/// What all ports do together.
fn totals<'a>(scene: &Scene<'_>) -> Line<'a> {
    let ports = &scene.tables.ports;
    let of = |figure| rate(ports.rate_of_all(figure));
    let bits = ports.rate_of_all(2).map(|bytes| 8.0 * bytes);
    let plain = format!(
        "forwarded {} pkt/s {} bit/s  to kernel {} pkt/s",
        of(1),
        rate(bits),
        of(3)
    );
    let mut spans = vec![Span::raw(plain)];
    for (what, figure) in [("dropped", 4), ("lost", 5)] {
        let some = ports.rate_of_all(figure).is_some_and(|rate| rate > 0.0);
        let style = if some {
            paint(scene, Color::Yellow).add_modifier(Modifier::BOLD)
        } else {
            Style::new()
        };
        let text = format!("  {what} {} pkt/s", of(figure));
        spans.push(Span::styled(text, style));
    }
    Line::from(spans)
}

/// As many columns as fit; the last ones go first, but not the one that is sorted by.
fn table<'a>(view: &View, scene: &Scene<'_>, shown: &Shown, room: u16) -> Table<'a> {
    // A column that says the same everywhere says nothing.
    let mut words = vec!["namespace"];
    words.extend(view.tab.words());
    let telling = |i: &usize| match words.get(*i) {
        Some(&"namespace") => scene.names.namespaces.len() > 1,
        Some(&"network") => !scene.names.networks.is_empty(),
        _ => true,
    };
    let kept: Vec<usize> = (0..words.len()).filter(telling).collect();
    let sort = view.sort();
    let arrow = if sort.rising { "↑" } else { "↓" };
    let mut widths = Vec::new();
    let mut header = Vec::new();
    for (nth, i) in kept.iter().enumerate() {
        let mark = if sort.column.is_none() && nth == 0 {
            arrow
        } else {
            ""
        };
        let title = format!("{}{mark}", words[*i]);
        let longest = shown.rows.iter().map(|row| row.words[*i].chars().count());
        let width = longest.max().unwrap_or(0).max(title.chars().count());
        widths.push(u16::try_from(width).unwrap_or(u16::MAX));
        header.push(Cell::from(title));
    }
    let taken: usize = widths.iter().map(|width| usize::from(*width) + 1).sum();
    let columns = fitting(view, usize::from(room).saturating_sub(taken));
    for i in &columns {
        let Column(title, _) = view.tab.columns()[*i];
        let mark = if sort.column == Some(*i) { arrow } else { "" };
        let title = Line::from(format!("{title}{mark}"));
        widths.push(width(view.tab.columns()[*i]));
        header.push(Cell::from(title.alignment(Alignment::Right)));
    }
    let rows = shown.rows.iter().map(|row| {
        let words = kept.iter().map(|i| Cell::from(row.words[*i].clone()));
        let figures = columns.iter().map(|i| {
            let figure = Line::from(row.figures[*i].clone());
            Cell::from(figure.alignment(Alignment::Right))
        });
        Row::new(words.chain(figures).collect::<Vec<_>>())
    });
    let header = Row::new(header).style(paint(scene, Color::Cyan).add_modifier(Modifier::BOLD));
    Table::new(rows.collect::<Vec<_>>(), widths)
        .header(header)
        .column_spacing(1)
}

/// One more than the title for the arrow, so that nothing moves when it comes.
fn width(column: Column) -> u16 {
    u16::try_from(column.0.len().max(8) + 1).unwrap_or(u16::MAX)
}

/// The columns of figures that fit into so many cells, in order.
fn fitting(view: &View, room: usize) -> Vec<usize> {
    let columns = view.tab.columns();
    let wide = |i: &usize| usize::from(width(columns[*i])) + 1;
    let sorted = view.sort().column;
    let mut left = room.saturating_sub(sorted.as_ref().map_or(0, wide));
    let mut full = false;
    let mut fits = |i: &usize| {
        full |= wide(i) > left + 1; // Nothing follows the last one.
        left = left.saturating_sub(if full { 0 } else { wide(i) });
        !full
    };
    (0..columns.len())
        .filter(|i| sorted == Some(*i) || fits(i))
        .collect()
}

fn footline<'a>(view: &View, scene: &Scene<'_>, shown: &Shown) -> Line<'a> {
    if view.typing {
        return Line::from(format!("filter: {}█", view.typed));
    }
    let first = view.top + usize::from(!shown.rows.is_empty());
    let mut text = format!(
        "{first}-{} of {}",
        view.top + shown.rows.len(),
        shown.passed
    );
    if view.tab == Tab::Prefixes {
        text.push_str(&format!(" ({} are counted)", scene.tables.counted));
    }
    if !view.typed.is_empty() {
        text.push_str(&format!("  filter: {}", view.typed));
    }
    text.push_str("  s sort  r reverse  / filter  p pause  ? help  q quit");
    Line::from(text)
}

fn help(frame: &mut Frame<'_>) {
    let all = frame.area();
    let height = u16::try_from(HELP.lines().count()).unwrap_or(u16::MAX);
    let (width, height) = (
        (62).min(all.width),
        height.saturating_add(2).min(all.height),
    );
    let area = Rect {
        x: all.x + (all.width - width) / 2,
        y: all.y + (all.height - height) / 2,
        width,
        height,
    };
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" keys ");
    frame.render_widget(Paragraph::new(HELP).block(block), area);
}

fn paint(scene: &Scene<'_>, color: Color) -> Style {
    if scene.color {
        Style::new().fg(color)
    } else {
        Style::new()
    }
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
