//! The results as pictures, beside the document.

use std::path::{Path, PathBuf};

use plotters::prelude::*;

use crate::forward;
use crate::report::Row;
use crate::sets::Kind;

/// A line: its name, and points of both axes.
type Series = (&'static str, Vec<(f64, f64)>);

/// Look-ups that wait for each other, by the number of prefixes.
pub(crate) fn look_ups(document: &Path, rows: &[Row]) -> anyhow::Result<()> {
    let mut series = Vec::new();
    let rows = rows
        .iter()
        .filter(|row| row.kind == Kind::Random && row.traffic == "uniform");
    for row in rows {
        add(&mut series, row.method, row.size, row.dependent.median);
    }
    let title = "One look-up that the next one waits for";
    draw(&beside(document, "look-ups"), title, "prefixes", &series)
}

/// The way of a packet through XDP, by the number of routes.
pub(crate) fn forwarding(document: &Path, rows: &[forward::Row]) -> anyhow::Result<()> {
    let mut series = Vec::new();
    let rows = rows
        .iter()
        .filter(|row| row.hook == "XDP" && row.traffic == "uniform");
    for row in rows {
        add(&mut series, row.way, row.routes, row.time.median);
    }
    let title = "One packet from source to sink, through XDP";
    draw(&beside(document, "forwarding"), title, "routes", &series)
}

fn beside(document: &Path, name: &str) -> PathBuf {
    document.with_file_name(format!("performance-{name}.svg"))
}

fn add(series: &mut Vec<Series>, name: &'static str, size: usize, nanoseconds: f64) {
    if nanoseconds.is_nan() {
        return;
    }
    let point = (size as f64, nanoseconds.max(1.0));
    match series.iter_mut().find(|(found, _)| *found == name) {
        Some((_, points)) => points.push(point),
        None => series.push((name, vec![point])),
    }
}

fn draw(file: &Path, title: &str, what: &str, series: &[Series]) -> anyhow::Result<()> {
    let points = || series.iter().flat_map(|(_, points)| points);
    let most = |axis: fn(&(f64, f64)) -> f64| points().map(axis).fold(1.0, f64::max);
    let (right, top) = (most(|point| point.0) * 1.5, most(|point| point.1) * 6.0);
    let bottom = points().map(|point| point.1).fold(top, f64::min) / 2.0;
    let area = SVGBackend::new(file, (900, 560)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((0.8..right).log_scale(), (bottom..top).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(what)
        .y_desc("nanoseconds")
        .light_line_style(WHITE)
        .draw()?;
    for (n, (name, points)) in series.iter().enumerate() {
        let colour = Palette99::pick(n).to_rgba();
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(line)?
            .label(name.replace('`', ""))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        let dots = points
            .iter()
            .map(|point| Circle::new(*point, 3, colour.filled()));
        chart.draw_series(dots)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(area.present()?)
}
