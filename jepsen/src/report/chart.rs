//! The plots of a report: faults, throughput, latency and clients above each other, with one axis of time.
//!
//! Drawn here rather than by a script in the page, so that a report is whole wherever it is opened, and printed. Colours are classes, which
//! the page's style sheet fills for a light and a dark background.

use std::fmt::Write;

use super::picture::{COLUMNS, FINE, LOWEST_NS, Lane, Picture, ROWS_PER_DECADE, row};
use super::words::{escaped, words};

/// The whole width, in the drawing's own units.
pub const WIDTH: f64 = 1200.0;
/// Where the axis of time begins; names stand to the left.
pub const LEFT: f64 = 120.0;
/// How long the axis of time is.
pub const ALONG: f64 = WIDTH - LEFT - 14.0;
/// The classes of the three outcomes.
const CLASSES: [&str; 3] = ["ok", "fail", "unknown"];
/// How many colours there are for nemeses.
const COLOURS: usize = 16;

const FAULT_ROW: f64 = 20.0;
const RATE_HEIGHT: f64 = 130.0;
const LATENCY_HEIGHT: f64 = 210.0;
/// Between two plots, with room for the lower one's title.
const BETWEEN: f64 = 34.0;

/// Draws everything. `gap` is the longest time without an answer, in seconds since clients began to work: from, to. Clients have numbers below
/// `clients`; whoever acts beside them belongs to the end of the run.
pub fn chart(picture: &Picture, gap: (f64, f64), clients: u32) -> String {
    let mut svg = Svg::default();
    let faults = 24.0;
    let rate = faults + FAULT_ROW * picture.nemeses.len().max(1) as f64 + BETWEEN;
    let latency = rate + RATE_HEIGHT + BETWEEN;
    let lanes = latency + LATENCY_HEIGHT + BETWEEN;
    let lane = lane_height(picture.lanes.len());
    let bottom = lanes + lane * picture.lanes.len() as f64;
    bands(&mut svg, picture, faults, bottom);
    time_axis(&mut svg, picture, faults, bottom);
    fault_rows(&mut svg, picture, faults);
    rates(&mut svg, picture, rate);
    silence(&mut svg, picture, rate, gap);
    latencies(&mut svg, picture, latency);
    client_lanes(&mut svg, picture, lanes, lane, clients);
    svg.line("hair", LEFT, faults - 6.0, LEFT, bottom);
    format!(
        "<div class=\"scroll\"><svg id=\"chart\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"Faults, throughput, latency and clients over \
         time\">{body}</svg></div>",
        height = bottom + 26.0,
        body = svg.0
    )
}

fn lane_height(lanes: usize) -> f64 {
    (320.0 / lanes.max(1) as f64).clamp(5.0, 16.0)
}

/// The class of a nemesis, which decides its colour.
pub fn colour(picture: &Picture, nemesis: &str) -> String {
    let at = picture.nemeses.iter().position(|name| name == nemesis).unwrap_or(0);
    format!("n{}", at % COLOURS)
}

fn x(picture: &Picture, ns: u64) -> f64 {
    LEFT + picture.place(ns) * ALONG
}

/// The faults as bands behind everything, and the time after clients stopped.
fn bands(svg: &mut Svg, picture: &Picture, top: f64, bottom: f64) {
    for fault in &picture.faults {
        let (from, to) = (x(picture, fault.begun_ns), x(picture, fault.over_ns(picture.to_ns)));
        let class = format!("band {}", colour(picture, &fault.nemesis));
        svg.rect(&class, from, top - 6.0, (to - from).max(1.0), bottom - top + 6.0, "");
    }
    let drain = x(picture, picture.stop_ns);
    if drain < LEFT + ALONG - 1.0 {
        svg.rect("drain", drain, top - 6.0, LEFT + ALONG - drain, bottom - top + 6.0, "Clients stop, and accepted work ends");
        svg.text("small", drain + 4.0, top - 10.0, "start", "drain");
    }
}

fn time_axis(svg: &mut Svg, picture: &Picture, top: f64, bottom: f64) {
    let seconds = (picture.to_ns - picture.from_ns) as f64 / 1e9;
    let step = step(seconds);
    let mut at = 0.0;
    while at <= seconds {
        let x = LEFT + at / seconds * ALONG;
        svg.line("grid", x, top - 6.0, x, bottom);
        svg.text("small", x, bottom + 16.0, "middle", &clock(at));
        at += step;
    }
}

/// A round number of seconds, of which about ten fit into the whole.
fn step(seconds: f64) -> f64 {
    const STEPS: [f64; 13] = [0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0];
    STEPS.into_iter().find(|step| seconds / step <= 11.0).unwrap_or(7_200.0)
}

/// A time as people write it.
pub fn clock(seconds: f64) -> String {
    if seconds < 120.0 {
        return format!("{} s", (seconds * 10.0).round() / 10.0);
    }
    let whole = seconds.round() as u64;
    format!("{}:{:02} min", whole / 60, whole % 60)
}

fn fault_rows(svg: &mut Svg, picture: &Picture, top: f64) {
    if picture.nemeses.is_empty() {
        svg.text("name", LEFT - 8.0, top + 13.0, "end", "no faults");
    }
    for (at, nemesis) in picture.nemeses.iter().enumerate() {
        let y = top + at as f64 * FAULT_ROW;
        svg.text("name", LEFT - 8.0, y + 13.0, "end", nemesis);
        let class = colour(picture, nemesis);
        for fault in picture.faults.iter().filter(|fault| fault.nemesis == *nemesis) {
            let end = fault.over_ns(picture.to_ns);
            let (from, to) = (x(picture, fault.begun_ns), x(picture, end));
            let seconds = |ns: u64| clock(ns.saturating_sub(picture.from_ns) as f64 / 1e9);
            let title = format!("{nemesis}, {} to {}: {}", seconds(fault.begun_ns), seconds(end), words(&fault.what));
            let class = if fault.made_ns.is_none() { format!("{class} hollow") } else { class.clone() };
            svg.rect(&class, from, y + 3.0, (to - from).max(2.0), FAULT_ROW - 7.0, &title);
        }
    }
}

fn rates(svg: &mut Svg, picture: &Picture, top: f64) {
    let per_second = 1e9 / picture.column_ns();
    let most = picture.columns.iter().map(|column| column.ended.iter().sum::<u64>() as f64 * per_second).fold(1.0, f64::max);
    let scale = round_up(most);
    svg.title(top, "Operations per second");
    for share in [0.0, 0.5, 1.0] {
        let y = top + RATE_HEIGHT * (1.0 - share);
        svg.line("grid", LEFT, y, LEFT + ALONG, y);
        svg.text("small", LEFT - 8.0, y + 4.0, "end", &plain(scale * share));
    }
    let width = ALONG / COLUMNS as f64;
    for (outcome, class) in CLASSES.iter().enumerate() {
        let mut path = String::new();
        for (at, column) in picture.columns.iter().enumerate().filter(|(_, column)| column.ended[outcome] > 0) {
            let height = |count: u64| count as f64 * per_second / scale * RATE_HEIGHT;
            let below: u64 = column.ended[..outcome].iter().sum();
            let tall = height(column.ended[outcome]).max(1.0);
            let y = top + RATE_HEIGHT - height(below) - tall;
            boxed(&mut path, LEFT + at as f64 * width, y, width, tall);
        }
        svg.path(class, &path);
    }
}

/// The longest time without an answer, where it is long enough to be seen: a line over the plot of rates, and how long it is.
fn silence(svg: &mut Svg, picture: &Picture, top: f64, (from, to): (f64, f64)) {
    let at = |seconds: f64| x(picture, picture.from_ns + (seconds * 1e9) as u64);
    let (left, right) = (at(from), at(to));
    if right - left < ALONG / 50.0 {
        return;
    }
    let y = top + RATE_HEIGHT * 0.25;
    svg.line("silence", left, y, right, y);
    for end in [left, right] {
        svg.line("silence", end, y - 4.0, end, y + 4.0);
    }
    // Beside the axis or the edge the text would leave the plot.
    let middle = ((left + right) / 2.0).clamp(LEFT + 60.0, LEFT + ALONG - 60.0);
    let text = format!("no answer for {}", clock(to - from));
    svg.text("small", middle, y - 7.0, "middle", &text);
}

fn latencies(svg: &mut Svg, picture: &Picture, top: f64) {
    svg.title(top, "Time until an operation ended, by when it ended (each mark is some operations)");
    let rows = picture.cells.iter().flat_map(|cells| cells.keys()).map(|(_, row)| *row);
    let highest = rows.max().unwrap_or(0).max(row(1_000_000_000)) + 2;
    let tall = LATENCY_HEIGHT / highest as f64;
    for decade in 0..=(highest as f64 / ROWS_PER_DECADE) as usize {
        let y = top + LATENCY_HEIGHT - decade as f64 * ROWS_PER_DECADE * tall;
        svg.line("grid", LEFT, y, LEFT + ALONG, y);
        let label = LOWEST_NS * 10f64.powi(i32::try_from(decade).unwrap_or(0));
        svg.text("small", LEFT - 8.0, y + 4.0, "end", &duration(label));
    }
    let width = ALONG / COLUMNS as f64;
    for (outcome, class) in CLASSES.iter().enumerate() {
        // Few, some, many: a glance tells where most of them are.
        let mut paths = [String::new(), String::new(), String::new()];
        for (&(column, row), &count) in &picture.cells[outcome] {
            let weight = if count < 3 { 0 } else { 1 + usize::from(count >= 12) };
            let y = top + LATENCY_HEIGHT - (row + 1) as f64 * tall;
            boxed(&mut paths[weight], LEFT + column as f64 * width, y, width, tall);
        }
        for (weight, path) in paths.iter().enumerate() {
            svg.path(&format!("{class} w{weight}"), path);
        }
    }
    let height = |ns: u64| {
        let rows = ((ns as f64 / LOWEST_NS).log10() * ROWS_PER_DECADE).clamp(0.0, highest as f64);
        top + LATENCY_HEIGHT - rows * tall
    };
    for (class, value) in [("median", 0), ("p99", 1)] {
        let points = picture.columns.iter().map(|column| [column.median_ns, column.p99_ns][value]);
        svg.path(class, &polyline(points, width, height));
    }
}

/// A line through the columns that have a value, broken where one has none.
fn polyline(values: impl Iterator<Item = u64>, width: f64, height: impl Fn(u64) -> f64) -> String {
    let mut path = String::new();
    let mut drawing = false;
    for (at, value) in values.enumerate() {
        if value > 0 {
            let pen = if drawing { 'L' } else { 'M' };
            let _ = write!(path, "{pen}{:.1} {:.1}", LEFT + (at as f64 + 0.5) * width, height(value));
        }
        drawing = value > 0;
    }
    path
}

fn client_lanes(svg: &mut Svg, picture: &Picture, top: f64, height: f64, clients: u32) {
    svg.title(top, "Clients: when each had an operation open, by how it ended (workers of the SDK show none)");
    for (at, (client, lane)) in picture.lanes.iter().enumerate() {
        let y = top + at as f64 * height;
        if height >= 9.0 || at % 4 == 0 {
            let name = if *client < clients { format!("client {client}") } else { "at the end".to_owned() };
            svg.text("small", LEFT - 8.0, y + height * 0.75, "end", &name);
        }
        client_lane(svg, lane, y, height);
    }
}

/// Answered operations fill a lane; failed ones mark its lower part and unknown ones its upper part, so that neither hides the others.
fn client_lane(svg: &mut Svg, lane: &Lane, y: f64, height: f64) {
    let inner = height * 0.82;
    let parts = [(0.0, inner), (inner * 0.6, inner * 0.4), (0.0, inner * 0.55)];
    for ((stretches, class), (below, tall)) in lane.iter().zip(CLASSES).zip(parts) {
        let mut path = String::new();
        for &(from, to) in stretches {
            let width = (to - from) as f64 * ALONG / FINE as f64;
            boxed(&mut path, LEFT + from as f64 * ALONG / FINE as f64, y + below, width, tall);
        }
        svg.path(class, &path);
    }
}

/// The next of 1, 2, 5, 10, 20, … that is at least this.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(value)
}

fn plain(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// A duration in nanoseconds with a unit that keeps it short.
fn duration(ns: f64) -> String {
    match ns {
        ns if ns < 1e6 => format!("{} ms", ns / 1e6),
        ns if ns < 1e9 => format!("{:.0} ms", ns / 1e6),
        ns => format!("{:.0} s", ns / 1e9),
    }
}

/// Adds a box to a path.
fn boxed(path: &mut String, x: f64, y: f64, width: f64, height: f64) {
    let _ = write!(path, "M{x:.1} {y:.1}h{width:.1}v{height:.1}h-{width:.1}z");
}

/// The drawing's text.
#[derive(Default)]
struct Svg(String);

impl Svg {
    fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64, title: &str) {
        let _ = write!(self.0, "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">");
        if !title.is_empty() {
            let _ = write!(self.0, "<title>{}</title>", escaped(title));
        }
        self.0.push_str("</rect>");
    }

    fn line(&mut self, class: &str, x1: f64, y1: f64, x2: f64, y2: f64) {
        let _ = write!(self.0, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
    }

    fn path(&mut self, class: &str, path: &str) {
        if !path.is_empty() {
            let _ = write!(self.0, "<path class=\"{class}\" d=\"{path}\"/>");
        }
    }

    fn text(&mut self, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
        let _ = write!(self.0, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escaped(text));
    }

    fn title(&mut self, top: f64, text: &str) {
        self.text("title", LEFT, top - 10.0, "start", text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_are_round() {
        assert_eq!((round_up(1.0), round_up(17.0), round_up(501.0)), (1.0, 20.0, 1_000.0));
        assert_eq!((step(60.0), step(600.0), step(9.0)), (10.0, 60.0, 1.0));
        assert_eq!((clock(30.0), clock(600.0)), ("30 s".to_owned(), "10:00 min".to_owned()));
        assert_eq!((duration(1e5), duration(1e7), duration(1e10)), ("0.1 ms".into(), "10 ms".into(), "10 s".into()));
    }

    #[test]
    fn a_line_is_broken_where_nothing_was_answered() {
        let path = polyline([5, 5, 0, 5].into_iter(), 1.0, |ns| ns as f64);
        assert_eq!(path, format!("M{:.1} 5.0L{:.1} 5.0M{:.1} 5.0", LEFT + 0.5, LEFT + 1.5, LEFT + 3.5));
    }
}
