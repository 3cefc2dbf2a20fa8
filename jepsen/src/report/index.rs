//! The page of a soak: all its runs, with links to their reports.

use super::chart::clock;
use super::page::{STYLE, table, word};
use super::words::{escaped, took};
use crate::checker::Outcome;
use crate::soak::Summary;

/// Makes the page.
pub fn index(summary: &Summary) -> String {
    let outcome = summary.outcome();
    let rows = summary.runs.iter().rev().map(|run| {
        let mark = run.outcome.map_or("<span class=\"mark invalid\">harness failed</span>".to_owned(), |outcome| {
            format!("<span class=\"mark {0}\">{0}</span>", word(outcome))
        });
        let report = run.folder.as_ref().map_or(String::new(), |folder| format!("<a href=\"{0}/report.html\">report</a>", escaped(folder)));
        vec![
            mark,
            format!("<code>{}</code> {}", escaped(&run.command), escaped(&run.finding)),
            run.operations.ok.to_string(),
            run.operations.unknown.to_string(),
            run.faults.to_string(),
            took(run.longest_gap_ms),
            report,
        ]
    });
    let heads = ["", "run", "answered", "unknown", "faults", "longest without an answer", ""];
    let count = |wanted: Option<Outcome>| summary.runs.iter().filter(|run| run.outcome == wanted).count();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>soak: {word}</title><style>{STYLE}</style></head>\n<body class=\"{word}\"><header><div class=\"badge {word}\">{word}</div>\
         <div><h1>soak</h1><p>{runs} runs in {time}: {valid} valid, {invalid} invalid, {unknown} unknown, {failed} failures of the \
         harness.</p></div></header><section><h2>Runs, the latest first</h2>{table}</section></body></html>\n",
        word = word(outcome),
        runs = summary.runs.len(),
        time = clock(summary.seconds),
        valid = count(Some(Outcome::Valid)),
        invalid = count(Some(Outcome::Invalid)),
        unknown = count(Some(Outcome::Unknown)),
        failed = count(None),
        table = table("runs", &heads, rows),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Tally;
    use crate::soak::Entry;

    #[test]
    fn a_soak_is_as_bad_as_its_worst_run_and_links_its_reports() {
        let entry = |outcome, folder: Option<&str>| Entry {
            command: "jepsen run --workload queue".to_owned(),
            outcome,
            folder: folder.map(str::to_owned),
            finding: "a < b".to_owned(),
            operations: Tally::default(),
            faults: 3,
            longest_gap_ms: 1_500.0,
        };
        let summary = Summary {
            folder: "soak".into(),
            seconds: 90.0,
            runs: vec![entry(Some(Outcome::Valid), Some("one")), entry(Some(Outcome::Invalid), Some("two")), entry(None, None)],
        };
        let page = index(&summary);
        assert!(page.contains("<body class=\"invalid\">") && page.contains("href=\"two/report.html\"") && page.contains("a &lt; b"));
        assert!(page.contains("1 valid, 1 invalid, 0 unknown, 1 failures"));
    }
}
