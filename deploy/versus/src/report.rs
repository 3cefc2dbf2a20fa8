//! The report: for each scenario a table of medians over the rounds, with the least and the greatest, and tarn's ratio.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::measure::{Summary, median};
use crate::record::Record;
use crate::scenario::Scenario;

/// The whole report. `reference` is the system with which the others are compared.
pub fn text(records: &[Record], scenarios: &[Scenario], reference: &str) -> String {
    let mut text = String::new();
    for scenario in scenarios {
        let of: Vec<&Record> = records.iter().filter(|record| record.scenario == scenario.name()).collect();
        if of.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{}", scenario.title());
        let loads = of.iter().any(|record| record.summary.is_some() || record.failed.is_some());
        if loads {
            text += &table(&HEAD, &load_rows(&of, reference));
        }
        text += &figures(&of);
        text += &notes(&of);
    }
    text
}

const HEAD: [&str; 9] = ["load", "system", "a second", "least–most", "tarn is", "p50 ms", "p99 ms", "least–most", "servers µs/op"];

/// Records by case and system, both in the order in which they first came.
fn groups<'a>(records: &[&'a Record]) -> Vec<((&'a str, &'static str), Vec<&'a Record>)> {
    let mut groups: Vec<((&str, &str), Vec<&Record>)> = Vec::new();
    let (mut cases, mut systems) = (Vec::new(), Vec::new());
    for record in records {
        if !cases.contains(&record.case.as_str()) {
            cases.push(record.case.as_str());
        }
        if !systems.contains(&record.system) {
            systems.push(record.system);
        }
        let key = (record.case.as_str(), record.system);
        match groups.iter_mut().find(|(other, _)| *other == key) {
            Some((_, group)) => group.push(record),
            None => groups.push((key, vec![record])),
        }
    }
    groups.sort_by_key(|((case, system), _)| {
        (cases.iter().position(|other| other == case), systems.iter().position(|other| other == system))
    });
    groups
}

fn load_rows(records: &[&Record], reference: &str) -> Vec<Vec<String>> {
    let groups = groups(records);
    let mut rows = Vec::new();
    let mut last_case = "";
    for ((case, system), group) in &groups {
        let of = |figure: fn(&Summary) -> f64| group.iter().filter_map(|record| record.summary.as_ref().map(figure)).collect::<Vec<_>>();
        let (rates, p99) = (of(|summary| summary.per_second), of(|summary| summary.p99_ms));
        let references = groups.iter().find(|(key, _)| *key == (*case, reference));
        let ratio = references.filter(|_| *system != reference).map_or_else(String::new, |(_, references)| ratio(references, group));
        let failed = group.iter().filter(|record| record.failed.is_some()).count();
        let mark = if group.iter().any(|record| record.disturbed) { "*" } else { "" };
        let mark = if failed > 0 { format!("{mark} {failed} FAILED") } else { mark.to_owned() };
        let cost = median(group.iter().filter_map(|record| record.server_micros_per_operation));
        rows.push(vec![
            if *case == last_case { String::new() } else { (*case).to_owned() },
            format!("{system}{mark}"),
            number(median(rates.iter().copied())),
            span(&rates),
            ratio,
            number(median(of(|summary| summary.p50_ms))),
            number(median(p99.iter().copied())),
            span(&p99),
            number(cost),
        ]);
        last_case = case;
    }
    rows
}

/// What tarn does for each unit that the other does in the same round: of the rate, or, where the rate is fixed, how long it takes for each
/// unit of time that the other takes in the median.
fn ratio(tarn: &[&Record], other: &[&Record]) -> String {
    let fixed = other.iter().any(|record| record.load.as_ref().is_some_and(|load| load.rate_per_second.is_some()));
    let figure = |record: &Record| record.summary.as_ref().map(|summary| if fixed { summary.p50_ms } else { summary.per_second });
    let rounds = other.iter().filter_map(|record| {
        let same = tarn.iter().find(|tarn| tarn.round == record.round)?;
        Some(figure(same)? / figure(record)?)
    });
    let ratios: Vec<f64> = rounds.collect();
    if ratios.is_empty() {
        return String::new();
    }
    let what = if fixed { " of p50" } else { "×" };
    format!("{:.2}{what} ({})", median(ratios.iter().copied()), span_by(&ratios, |ratio| format!("{ratio:.2}")))
}

/// Figures that are no rates, one table for each of their names' sets.
fn figures(records: &[&Record]) -> String {
    let with: Vec<&Record> = records.iter().filter(|record| !record.figures.is_empty()).copied().collect();
    let mut rows = Vec::new();
    for ((case, system), group) in groups(&with) {
        let mut by_name: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, figure) in group.iter().flat_map(|record| &record.figures) {
            by_name.entry(name).or_default().push(*figure);
        }
        for (name, figures) in by_name {
            rows.push(vec![
                case.to_owned(),
                system.to_owned(),
                name.replace('_', " "),
                number(median(figures.iter().copied())),
                span(&figures),
            ]);
        }
    }
    if rows.is_empty() { String::new() } else { table(&["", "system", "figure", "median", "least–most"], &rows) }
}

/// What each system promised, what failed, and what a mark means.
fn notes(records: &[&Record]) -> String {
    let mut notes = String::new();
    let mut seen: Vec<&str> = Vec::new();
    for record in records {
        if !seen.contains(&record.system) && !record.facts.is_empty() {
            seen.push(record.system);
            let facts = ["version", "replication", "fsync", "transport"];
            let facts: Vec<&str> = facts.iter().filter_map(|name| record.facts.get(name).map(String::as_str)).collect();
            let _ = writeln!(notes, "{}: {}", record.system, facts.join("; "));
        }
    }
    for record in records {
        if let Some(failed) = &record.failed {
            let _ = writeln!(notes, "FAILED in round {}: {}, {}: {failed}", record.round, record.case, record.system);
        }
    }
    if records.iter().any(|record| record.disturbed) {
        notes += "* somebody else used more than a tenth of a core in at least one round, in every try\n";
    }
    notes
}

/// Three digits that mean something, and whole numbers in full.
fn number(figure: f64) -> String {
    match figure.abs() {
        _ if figure.is_nan() => "–".to_owned(),
        size if size >= 100.0 => thousands(figure.round()),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

fn thousands(whole: f64) -> String {
    let digits = format!("{whole:.0}");
    let grouped: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    grouped.join(",")
}

fn span(figures: &[f64]) -> String {
    span_by(figures, number)
}

fn span_by(figures: &[f64], text: impl Fn(f64) -> String) -> String {
    let least = figures.iter().copied().min_by(f64::total_cmp);
    let most = figures.iter().copied().max_by(f64::total_cmp);
    least.zip(most).map_or_else(String::new, |(least, most)| format!("{}–{}", text(least), text(most)))
}

/// Columns under their heads, all but the first two to the right.
fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut text = line(head.to_vec());
    rows.iter().for_each(|row| text += &line(row.iter().map(String::as_str).collect()));
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::measure::Samples;

    fn record(system: &'static str, round: usize, per_second: u32) -> Record {
        let samples = Samples { micros: vec![2_000; per_second as usize], took: Duration::from_secs(1), facts: Vec::new() };
        Record { summary: Some(Summary::of(&samples)), ..Record::new(Scenario::Put, "1 client", system, round) }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let records =
            [record("tarn", 1, 100), record("etcd", 1, 50), record("tarn", 2, 3_000), record("etcd", 2, 2_000), record("etcd", 3, 1)];
        let text = text(&records, &[Scenario::Put], "tarn");
        assert!(text.contains("1.75× (1.50–2.00)"), "{text}");
        assert!(text.contains("1,550"), "{text}");
    }

    #[test]
    fn a_failure_is_told_with_its_reason() {
        let failed = Record { failed: Some("3 tasks are lost".to_owned()), ..Record::new(Scenario::Queue, "64 workers", "tarn", 2) };
        let text = text(&[failed], &[Scenario::Queue], "tarn");
        assert!(text.contains("1 FAILED") && text.contains("in round 2: 64 workers, tarn: 3 tasks are lost"), "{text}");
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!([0.123, 12.34, 123.4, 1_234_567.0].map(number), ["0.12", "12.3", "123", "1,234,567"]);
        assert_eq!(number(f64::NAN), "–");
    }
}
