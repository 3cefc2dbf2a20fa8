//! The picture: throughput against the slowest hundredth's latency, a panel for each kind of work, a line for each system.
//!
//! A point is the median of the rounds under one load; its label is how many clients or workers there were. Further to the right and
//! further down is better. Both axes are logarithmic.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::measure::median;
use crate::record::Record;

/// Pixels of one panel.
const PANEL: (u32, u32) = (560, 420);
/// Panels beside each other.
const COLUMNS: usize = 2;
/// One for each system, in the order in which they come; distinguishable for the colour-blind too (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];
/// How much room there is beside the outermost points, as a factor.
const ROOM: f64 = 1.6;

/// The part of a panel's height that a line of the legend takes.
const LEGEND_PART: f64 = 0.07;

/// One load's medians.
struct Point {
    per_second: f64,
    p99_ms: f64,
    label: String,
}

/// A panel: its title, and each system's points in the order of the loads.
struct Panel {
    title: String,
    lines: Vec<(&'static str, Vec<Point>)>,
}

/// Draws what was measured at several loads, as SVG; `None` where there is nothing of the kind.
///
/// # Errors
/// If it cannot be drawn.
pub fn svg(records: &[Record]) -> Result<Option<String>> {
    let panels = panels(records);
    if panels.is_empty() {
        return Ok(None);
    }
    let columns = panels.len().min(COLUMNS);
    let rows = panels.len().div_ceil(columns);
    let size = (PANEL.0 * u32::try_from(columns)?, PANEL.1 * u32::try_from(rows)?);
    let systems: Vec<&str> = systems(&panels);
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&WHITE).map_err(drawing)?;
        for (panel, area) in panels.iter().zip(root.split_evenly((rows, columns))) {
            draw(panel, &systems, &area)?;
        }
        root.present().map_err(drawing)?;
    }
    Ok(Some(text))
}

fn drawing<E: std::fmt::Display>(error: E) -> anyhow::Error {
    anyhow!("the picture cannot be drawn: {error}")
}

fn systems(panels: &[Panel]) -> Vec<&'static str> {
    let mut systems = Vec::new();
    for (system, _) in panels.iter().flat_map(|panel| &panel.lines) {
        if !systems.contains(system) {
            systems.push(*system);
        }
    }
    systems
}

/// A panel for each scenario with several loads; work queues have one for each number of outstanding tasks.
fn panels(records: &[Record]) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    let mut done: Vec<(&str, &str, &'static str)> = Vec::new();
    for record in records {
        let Some(load) = record.load.as_ref().filter(|load| load.rate_per_second.is_none() && record.scenario != "growth") else {
            continue;
        };
        let key = (record.scenario, record.case.as_str(), record.system);
        if record.summary.is_none() || done.contains(&key) {
            continue;
        }
        done.push(key);
        let (title, label) = match record.scenario {
            "queue" => (format!("queue, {} outstanding", load.outstanding), load.workers.to_string()),
            other => (other.to_owned(), load.clients.to_string()),
        };
        let same = || records.iter().filter(|other| (other.scenario, other.case.as_str(), other.system) == key);
        let of = |figure: fn(&crate::measure::Summary) -> f64| median(same().filter_map(|record| record.summary.as_ref().map(figure)));
        let point = Point { per_second: of(|summary| summary.per_second), p99_ms: of(|summary| summary.p99_ms), label };
        let at = panels.iter().position(|panel| panel.title == title).unwrap_or_else(|| {
            panels.push(Panel { title, lines: Vec::new() });
            panels.len() - 1
        });
        let lines = &mut panels[at].lines;
        match lines.iter_mut().find(|(system, _)| *system == record.system) {
            Some((_, points)) => points.push(point),
            None => lines.push((record.system, vec![point])),
        }
    }
    panels
}

fn draw(panel: &Panel, systems: &[&str], area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<()> {
    let points = || panel.lines.iter().flat_map(|(_, points)| points);
    let (across, mut up) = (range(points().map(|point| point.per_second)), range(points().map(|point| point.p99_ms)));
    // Room for the legend above all points.
    up.end *= (up.end / up.start).powf(LEGEND_PART * panel.lines.len() as f64);
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(58)
        .build_cartesian_2d(across.log_scale(), up.log_scale())
        .map_err(drawing)?;
    let mesh_labels = |figure: &f64| if *figure >= 10.0 { format!("{figure:.0}") } else { format!("{figure}") };
    chart
        .configure_mesh()
        .x_labels(5)
        .x_desc("operations a second")
        .y_desc("p99, ms")
        .x_label_formatter(&mesh_labels)
        .y_label_formatter(&mesh_labels)
        .light_line_style(WHITE)
        .draw()
        .map_err(drawing)?;
    for (system, points) in &panel.lines {
        let colour = COLOURS[systems.iter().position(|other| other == system).unwrap_or(0) % COLOURS.len()];
        let places = || points.iter().map(|point| (point.per_second, point.p99_ms));
        chart
            .draw_series(LineSeries::new(places(), colour.stroke_width(2)))
            .map_err(drawing)?
            .label(*system)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(3)));
        let labelled = points.iter().map(|point| {
            EmptyElement::at((point.per_second, point.p99_ms))
                + Circle::new((0, 0), 4, colour.filled())
                + Text::new(point.label.clone(), (6, -14), ("sans-serif", 12).into_font())
        });
        chart.draw_series(labelled).map_err(drawing)?;
    }
    let legend = chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).draw();
    legend.map_err(drawing)
}

/// From a little below the least to a little above the greatest.
fn range(figures: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let least = figures.clone().fold(f64::INFINITY, f64::min).max(1e-3);
    let most = figures.fold(0.0, f64::max).max(least);
    least / ROOM..most * ROOM
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::{Load, Samples, Summary};
    use crate::record::Shape;
    use crate::scenario::Scenario;
    use crate::usage::Meter;

    fn record(system: &'static str, clients: usize, round: usize) -> Record {
        let load = Load {
            time: Duration::from_secs(1),
            warm_up: Duration::ZERO,
            clients,
            connections: 1,
            workers: 1,
            outstanding: 8,
            rate: None,
            payload: 16,
            meter: Meter::default(),
        };
        let samples = Samples { micros: vec![1_000; clients * 10 * round], took: Duration::from_secs(1), facts: Vec::new() };
        let record = Record::new(Scenario::Put, &format!("{clients} clients"), system, round);
        Record { summary: Some(Summary::of(&samples)), load: Some(Shape::from(&load)), ..record }
    }

    #[test]
    fn each_system_has_a_line_with_a_point_for_each_load() {
        let records = [record("tarn", 1, 1), record("tarn", 64, 1), record("etcd", 1, 1), record("tarn", 1, 3)];
        let panels = panels(&records);
        assert_eq!(panels.len(), 1);
        let lines: Vec<(&str, Vec<f64>)> =
            panels[0].lines.iter().map(|(system, points)| (*system, points.iter().map(|point| point.per_second).collect())).collect();
        assert_eq!(lines, [("tarn", vec![20.0, 640.0]), ("etcd", vec![10.0])]);
        let svg = svg(&records).expect("it can be drawn").expect("there is something to draw");
        assert!(svg.contains("<svg") && svg.contains("etcd") && svg.contains("64"));
    }

    #[test]
    fn nothing_measured_is_no_picture() {
        assert!(svg(&[Record::new(Scenario::Start, "empty", "tarn", 1)]).expect("no error").is_none());
    }
}
