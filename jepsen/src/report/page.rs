//! The page for people: one file, without anything from elsewhere.

use std::fmt::Write;

use serde_json::json;
use tarn_invariants::Invariant;

use super::Report;
use super::chart::{ALONG, LEFT, WIDTH, chart, clock, colour};
use super::picture::Picture;
use super::words::{escaped, moment, spread, thousands, took, words};
use crate::checker::{Check, Outcome};
use crate::figures::{Spread, Tally, millis};
use crate::history::Event;

/// The style sheet of all pages.
pub const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// How many faults the page lists; the rest stands in the history.
const FAULTS_LISTED: usize = 400;
/// How many reasons for failures the page lists.
const REASONS_LISTED: usize = 12;

/// Makes the page.
pub fn page(report: &Report, history: &[Event], logs: &[String]) -> String {
    let picture = Picture::of(history);
    let setting = &report.setting;
    // The command has them all.
    let nemeses = match setting.nemeses.as_slice() {
        [] => "no faults".to_owned(),
        few if few.len() <= 4 => few.join(", "),
        many => format!("{} kinds of faults", many.len()),
    };
    let gap = &report.figures.longest_gap;
    let gap = (gap.from_s, gap.from_s + gap.ms / 1e3);
    let title = format!("{} under {nemeses}: {}", setting.workload, word(report.outcome));
    let body = [
        head(report, &nemeses),
        tiles(report),
        checks(report),
        legend(),
        chart(&picture, gap, setting.clients),
        "<div id=\"readout\" hidden></div>".to_owned(),
        recoveries(report, &picture),
        operations(report),
        reasons(report),
        faults(&picture),
        foot(report, logs),
    ]
    .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body class=\"{class}\">{body}\
         <script type=\"application/json\" id=\"data\">{data}</script><script>{SCRIPT}</script></body></html>\n",
        title = escaped(&title),
        class = word(report.outcome),
        data = data(&picture),
    )
}

/// An outcome as the classes of the style sheet name it.
pub fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Valid => "valid",
        Outcome::Invalid => "invalid",
        Outcome::Unknown => "unknown",
    }
}

fn head(report: &Report, nemeses: &str) -> String {
    let setting = &report.setting;
    let facts: String = [
        match setting.clusters {
            1 => format!("{} nodes", setting.nodes),
            clusters => format!("{clusters} clusters of {} nodes", setting.nodes),
        },
        format!("{} clients", setting.clients),
        format!("{} of work", clock(report.figures.seconds.round())),
        format!("seed {}", setting.seed),
        format!("network: {}", setting.network),
        format!("disk: {}", setting.disk),
        setting.tarn.clone(),
        moment(&setting.started),
    ]
    .iter()
    .map(|fact| format!("<span>{}</span> ", escaped(fact)))
    .collect();
    let meaning = match report.outcome {
        Outcome::Valid => "Everything that clients saw is possible.",
        Outcome::Invalid => "Clients saw what no correct cluster shows.",
        Outcome::Unknown => "This run proves nothing.",
    };
    format!(
        "<header><div class=\"badge {word}\">{word}</div><div><h1>{workload} <span>under</span> {nemeses}</h1>\
         <p>{meaning}</p><p class=\"facts\">{facts}</p><p><code>{command}</code></p></div></header>",
        word = word(report.outcome),
        workload = escaped(&setting.workload),
        nemeses = escaped(nemeses),
        command = escaped(&setting.command),
    )
}

fn tiles(report: &Report) -> String {
    let figures = &report.figures;
    let made: u64 = figures.faults.values().map(|recovery| recovery.made).sum();
    let slowest = figures.faults.iter().max_by(|one, other| one.1.after_healing.max_ms.total_cmp(&other.1.after_healing.max_ms));
    let gap = &figures.longest_gap;
    let during = if gap.during.is_empty() { "no fault".to_owned() } else { gap.during.join(", ") };
    let rate = figures.operations.ok as f64 / figures.seconds.max(0.001);
    let mut tiles = vec![
        ("answered", thousands(figures.operations.ok), format!("{rate:.0} a second"), "ok"),
        ("refused or failed", thousands(figures.operations.fail), "certainly without effect".to_owned(), "fail"),
        ("unknown", thousands(figures.operations.unknown), "without an answer".to_owned(), "unknown"),
        ("faults", made.to_string(), format!("{} kind{}", figures.faults.len(), if figures.faults.len() == 1 { "" } else { "s" }), ""),
        ("longest silence", took(gap.ms), format!("nobody was answered from {} on, during {during}", clock(gap.from_s)), ""),
    ];
    if let Some((nemesis, recovery)) = slowest {
        let what = format!("from the end of a fault ({nemesis}) to the next answer");
        tiles.push(("slowest return", took(recovery.after_healing.max_ms), what, ""));
    }
    let mut html = String::from("<section class=\"tiles\">");
    for (name, value, note, class) in tiles {
        let _ =
            write!(html, "<div class=\"tile {class}\"><div>{name}</div><b>{}</b><small>{}</small></div>", escaped(&value), escaped(&note));
    }
    html + "</section>"
}

/// What is not valid, in full; what is, by name, with the rest to be unfolded.
fn checks(report: &Report) -> String {
    let row = |check: &Check| {
        let counts: Vec<String> =
            check.counts.iter().map(|(name, count)| format!("{} {}", name.replace('_', " "), thousands(*count))).collect();
        vec![
            format!("<span class=\"mark {0}\">{0}</span>", word(check.outcome)),
            format!("<b>{}</b>", escaped(&check.name)),
            format!("{}{}", escaped(&check.detail), rules(check)),
            format!("<small>{}</small>", escaped(&counts.join(", "))),
        ]
    };
    let heads = ["", "check", "finding", "counted"];
    let (valid, others): (Vec<&Check>, Vec<&Check>) = report.checks.iter().partition(|check| check.outcome == Outcome::Valid);
    let found = if others.is_empty() { String::new() } else { table("checks", &heads, others.into_iter().map(row)) };
    let chips: String = valid.iter().map(|check| format!("<span class=\"mark valid\">{}</span>", escaped(&check.name))).collect();
    let hold = format!("{} of {} checks hold", valid.len(), report.checks.len());
    format!(
        "<section><h2>Checks</h2>{found}<details class=\"valid\"><summary>{hold}<div class=\"chips\">{chips}</div></summary>{}</details></section>",
        table("checks", &heads, valid.into_iter().map(row))
    )
}

/// The invariants that a check asked, each with its rule and source.
fn rules(check: &Check) -> String {
    let asked = |invariant: &&Invariant| check.invariants.iter().any(|name| name == invariant.name);
    tarn_invariants::ALL
        .iter()
        .filter(asked)
        .map(|Invariant { name, rule, source }| {
            let text = format!("{name}: {rule} ({source})");
            format!("<br><small>{}</small>", escaped(&text))
        })
        .collect()
}

fn legend() -> String {
    let parts = [
        ("ok", "answered"),
        ("fail", "refused or failed: certainly without effect"),
        ("unknown", "unknown: no answer"),
        ("median", "median of the answered"),
        ("p99", "99th percentile of the answered"),
        ("hollow", "a fault that could not be made"),
        ("drain", "drain: clients have stopped, accepted work ends"),
    ];
    let keys: String = parts.iter().map(|(class, text)| format!("<span><i class=\"{class}\"></i>{text}</span>")).collect();
    format!(
        "<h2>What happened</h2><p class=\"legend\">{keys}<span>Bands are faults, in the colours of the uppermost rows; point at a bar or a \
         moment for more.</span></p>"
    )
}

fn recoveries(report: &Report, picture: &Picture) -> String {
    if report.figures.faults.is_empty() {
        return String::new();
    }
    let rows = report.figures.faults.iter().map(|(nemesis, recovery)| {
        vec![
            format!("<i class=\"{}\"></i> {}", colour(picture, nemesis), escaped(nemesis)),
            recovery.made.to_string(),
            recovery.not_made.to_string(),
            spread(&recovery.after_fault),
            spread(&recovery.after_healing),
            spread(&recovery.everyone),
        ]
    });
    let heads = ["nemesis", "made", "not made", "fault to next answer", "healing to next answer", "healing to an answer for every client"];
    format!(
        "<section><h2>Faults and recoveries</h2><p>Counted are operations that were begun after the fault or its healing. – where there is none to measure, as where \
         another fault came between.</p>{}</section>",
        table("recoveries", &heads, rows)
    )
}

fn operations(report: &Report) -> String {
    let none = Spread::default();
    let rows = report.figures.by_operation.iter().map(|(op, tally)| {
        let Tally { ok, fail, unknown } = tally;
        let latency = report.figures.latency.get(op).unwrap_or(&none);
        vec![escaped(op), thousands(*ok), thousands(*fail), thousands(*unknown), spread(latency)]
    });
    let heads = ["operation", "answered", "refused or failed", "unknown", "time to the answer"];
    format!("<section><h2>Operations</h2>{}</section>", table("operations", &heads, rows))
}

fn reasons(report: &Report) -> String {
    let mut reasons: Vec<(&String, &u64)> = report.figures.reasons.iter().collect();
    if reasons.is_empty() {
        return String::new();
    }
    reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(**count), (*reason).clone()));
    let rows = reasons.into_iter().take(REASONS_LISTED).map(|(reason, count)| vec![escaped(reason), thousands(*count)]);
    format!("<section><h2>Why operations failed or stayed unknown</h2>{}</section>", table("reasons", &["reason", "times"], rows))
}

fn faults(picture: &Picture) -> String {
    if picture.faults.is_empty() {
        return String::new();
    }
    let since = |ns: u64| ns.saturating_sub(picture.from_ns) as f64 / 1e9;
    let rows = picture.faults.iter().take(FAULTS_LISTED).map(|fault| {
        let what = match &fault.error {
            Some(error) => format!("<span class=\"mark unknown\">not made</span> {}", escaped(error)),
            None => escaped(&words(&fault.what)),
        };
        vec![
            format!("{:.1} s", since(fault.begun_ns)),
            format!("<i class=\"{}\"></i> {}", colour(picture, &fault.nemesis), escaped(&fault.nemesis)),
            took(millis(fault.over_ns(picture.to_ns) - fault.begun_ns)),
            what,
        ]
    });
    format!(
        "<details{open}><summary>All {count} faults</summary>{table}</details>",
        open = if picture.faults.len() <= 12 { " open" } else { "" },
        count = picture.faults.len(),
        table = table("faults", &["at", "nemesis", "lasted", "what"], rows)
    )
}

fn foot(report: &Report, logs: &[String]) -> String {
    let links: Vec<String> = ["history.jsonl", "verdict.json"]
        .into_iter()
        .map(str::to_owned)
        .chain(logs.iter().cloned())
        .map(|name| format!("<a href=\"{0}\">{0}</a>", escaped(&name)))
        .collect();
    let settings: Vec<String> = report.setting.settings.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("<footer><p>{}</p><p>Settings of the nodes: <code>{}</code></p></footer>", links.join(" · "), escaped(&settings.join(", ")))
}

/// A table of cells that are HTML already.
pub fn table(class: &str, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut html = format!("<div class=\"scroll\"><table class=\"{class}\"><thead><tr>");
    for head in heads {
        let _ = write!(html, "<th>{head}</th>");
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            let _ = write!(html, "<td>{cell}</td>");
        }
        html.push_str("</tr>");
    }
    html + "</tbody></table></div>"
}

/// What the page's script reads, to tell figures where the pointer is.
fn data(picture: &Picture) -> String {
    let columns: Vec<_> = picture
        .columns
        .iter()
        .map(|column| {
            let [ok, fail, unknown] = column.ended;
            json!([ok, fail, unknown, millis(column.median_ns), millis(column.p99_ns)])
        })
        .collect();
    let seconds = |ns: u64| (ns.saturating_sub(picture.from_ns) as f64 / 1e7).round() / 100.0;
    let faults: Vec<_> =
        picture.faults.iter().map(|fault| json!([fault.nemesis, seconds(fault.begun_ns), seconds(fault.over_ns(picture.to_ns))])).collect();
    let data = json!({
        "seconds": seconds(picture.to_ns), "left": LEFT / WIDTH, "along": ALONG / WIDTH, "columns": columns, "faults": faults,
    });
    // A closing tag in a name must not end the script.
    data.to_string().replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_shows_the_rules_that_it_asked() {
        let check = Check {
            name: "nodes agree".to_owned(),
            invariants: vec!["equal digests".to_owned()],
            outcome: Outcome::Valid,
            detail: String::new(),
            counts: Default::default(),
        };
        let shown = rules(&check);
        assert!(shown.contains("equal digests: nodes that have applied") && shown.contains("provable"), "{shown}");
    }
}
