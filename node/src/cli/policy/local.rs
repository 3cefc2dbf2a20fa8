//! What needs no cluster: tests, an evaluation, a comparison.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use tarn_policy::limits::{DEFAULT_BUDGET, INPUT_BYTES_MAX};
use tarn_policy::{Bundle, Changes, Compiled, Diff, Input, Policies, Report};

use super::super::exit::Failure;
use super::super::output::Printer;
use super::{bundle, said};

/// Compiles and tests.
pub fn test(path: &Path, printer: Printer) -> Result<(), Failure> {
    let bundle = bundle(path)?;
    let report = bundle.check().map_err(said)?;
    printer.value(&json(&report)?, || report_text(&title(&bundle), &report))?;
    match report.passed() {
        true => Ok(()),
        false => Err(Failure::No),
    }
}

/// Fails unless it compiles and its tests pass.
pub fn must_pass(bundle: &Bundle) -> Result<(), Failure> {
    let report = bundle.check().map_err(said)?;
    match report.passed() {
        true => Ok(()),
        false => Err(Failure::Other(anyhow::anyhow!(
            "nothing was put, for it could not be activated:\n{}",
            report_text(&title(bundle), &report)
        ))),
    }
}

fn title(bundle: &Bundle) -> String {
    format!("{} {} for {}", bundle.name(), bundle.version(), bundle.environment())
}

fn report_text(title: &str, report: &Report) -> String {
    let mut lines = vec![format!("{title}: compiles")];
    for test in &report.tests {
        lines.push(match test.passed {
            true => format!("ok    {}", test.name),
            false => format!("FAIL  {} ({}:{}): {}", test.name, test.file, test.line, test.message),
        });
    }
    lines.extend(report.warnings.iter().map(|warning| format!("note: {warning}")));
    let (all, failed) = (report.tests.len(), report.failed());
    lines.push(match (all, failed) {
        (0, _) => "no tests: write rules test_… in *_test.rego".to_owned(),
        (_, 0) => format!("all {all} tests passed"),
        _ => format!("{failed} of {all} tests failed"),
    });
    lines.join("\n")
}

/// Judges one input.
pub fn eval(paths: &[PathBuf], input: &Path, printer: Printer) -> Result<(), Failure> {
    let compiled: Result<Vec<Compiled>, Failure> = paths.iter().map(|path| Compiled::new(&bundle(path)?).map_err(said)).collect();
    let policies = Policies::with_cache(compiled?, 0).map_err(said)?;
    let input = Input::from_json(&read_input(input)?).map_err(said)?;
    let decision = policies.decide(&input, DEFAULT_BUDGET);
    let value = serde_json::json!({
        "allowed": decision.allowed(),
        "verdicts": json(&decision.verdicts())?,
        "facts": json(&policies.shown(&input))?,
    });
    printer.value(&value, || {
        let mut lines: Vec<String> = decision.verdicts().iter().map(verdict_text).collect();
        lines.push(if decision.allowed() { "allowed" } else { "refused" }.to_owned());
        lines.join("\n")
    })?;
    match decision.allowed() {
        true => Ok(()),
        false => Err(Failure::No),
    }
}

fn verdict_text(verdict: &tarn_policy::Verdict) -> String {
    let mut lines = Vec::new();
    let title = format!("{} {}", verdict.bundle, verdict.version);
    let took = format!("{} µs", verdict.elapsed.as_micros());
    lines.push(match verdict.sentence() {
        Some(sentence) => format!("{title} ({took}): {sentence}"),
        None => format!("{title} ({took}): has nothing against it"),
    });
    for violation in &verdict.violations {
        let kind = if violation.blocking { "deny" } else { "warn" };
        lines.push(format!("  {kind}  {}  {}  {}", violation.severity, violation.code, violation.message));
    }
    lines.join("\n")
}

fn read_input(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    // One byte more than may be, so that what is too long is refused as such.
    let limit = INPUT_BYTES_MAX as u64 + 1;
    match path.to_str() {
        Some("-") => std::io::stdin().lock().take(limit).read_to_end(&mut bytes)?,
        _ => {
            let file = std::fs::File::open(path);
            let file = file.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
            file.take(limit).read_to_end(&mut bytes)?
        }
    };
    Ok(bytes)
}

/// Compares two bundles.
pub fn diff(old: &Path, new: &Path, printer: Printer) -> Result<(), Failure> {
    let diff = Diff::between(&bundle(old)?, &bundle(new)?).map_err(said)?;
    printer.value(&json(&diff)?, || diff_text(&diff))
}

fn diff_text(diff: &Diff) -> String {
    if diff.is_empty() {
        return "they are one and the same".to_owned();
    }
    let mut lines = diff.manifest.clone();
    for (what, changes) in [("module", &diff.modules), ("rule", &diff.rules), ("data", &diff.data)] {
        let Changes { added, removed, changed, omitted } = changes;
        for (sign, names) in [("+", added), ("-", removed), ("~", changed)] {
            lines.extend(names.iter().map(|name| format!("{sign} {what} {name}")));
        }
        if *omitted > 0 {
            lines.push(format!("  and {omitted} more of {what}"));
        }
    }
    lines.join("\n")
}

pub(super) fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::Other(error.into()))
}
