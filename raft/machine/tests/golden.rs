//! Golden scripts: commands as text, and below each what it must give. `tests/golden/README.md` explains the language.
//!
//! With `TARN_UPDATE_GOLDEN=1` the expected part is rewritten; the diff is then what a reviewer judges.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::script::Runner;

#[test]
fn every_script_gives_what_it_says() {
    let mut scripts = Vec::new();
    // Asked now and not when this was built: a target folder outlives a clone.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    find(&Path::new(&package).join("tests/golden"), &mut scripts);
    assert!(!scripts.is_empty(), "there are golden scripts");
    let update = std::env::var_os("TARN_UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for path in scripts {
        let expected = fs::read_to_string(&path).expect("a script can be read");
        let actual = run(&path, &expected);
        if update {
            fs::write(&path, &actual).expect("a script can be written");
        } else if actual != expected {
            wrong.push(format!("{}:\n{}", path.display(), first_difference(&expected, &actual)));
        }
    }
    assert!(wrong.is_empty(), "golden scripts differ (TARN_UPDATE_GOLDEN=1 accepts):\n{}", wrong.join("\n"));
}

/// Runs a script and gives it back with the outcomes that it had.
fn run(path: &Path, script: &str) -> String {
    assert!(script.starts_with("# "), "{} begins with prose that says what it shows", path.display());
    let mut runner = Runner::new();
    let mut out = String::new();
    for (number, line) in script.lines().enumerate() {
        if line.starts_with("  ") {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        if let Some(input) = line.strip_prefix("> ") {
            let at = format!("{}:{}", path.display(), number + 1);
            for output in runner.run(input).unwrap_or_else(|error| panic!("{at}: {error}")) {
                out.push_str(&format!("  {output}\n"));
            }
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{}:{}: what is {line:?}?", path.display(), number + 1);
        }
    }
    out
}

fn first_difference(expected: &str, actual: &str) -> String {
    let lines = expected.lines().zip(actual.lines()).enumerate();
    let found = lines.into_iter().find(|(_, (e, a))| e != a);
    match found {
        Some((number, (e, a))) => format!("  line {}\n    expected {e}\n    got      {a}", number + 1),
        None => format!("  {} lines expected, {} given", expected.lines().count(), actual.lines().count()),
    }
}

fn find(dir: &Path, scripts: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(dir).expect("the folder of scripts exists").flatten().collect();
    entries.sort_by_key(|entry| entry.path());
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            find(&path, scripts);
        } else if path.extension().is_some_and(|extension| extension == "script") {
            scripts.push(path);
        }
    }
}
