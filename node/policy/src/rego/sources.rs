//! Modules as the interpreter gets them: with imports written out, and the way back for places in its messages.

use std::{collections::BTreeMap, sync::LazyLock};

use regex::{Captures, Regex};

use super::{Analysis, analysis::is_test_module};
use crate::Bundle;

/// How modules were changed.
pub(super) struct Sources {
    /// Changes of each module, in the order of the text. Modules that are left out are not here.
    changes: BTreeMap<String, Vec<Change>>,
}

struct Change {
    start: usize,
    end: usize,
    text: String,
    line: u32,
    /// Where the name starts in the original.
    column: u32,
    /// Columns that it had, and that what replaced it has.
    widths: (u32, u32),
}

/// A place in a message.
static PLACE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?m)-->\s*([^\n:]+):(\d+):(\d+)$").expect("the pattern is fixed and valid"));

impl Sources {
    /// Takes what the analysis wants changed, with or without the tests.
    pub(super) fn new(bundle: &Bundle, analysis: &Analysis, with_tests: bool) -> Self {
        let kept = bundle.modules().filter(|(path, _)| with_tests || !is_test_module(path, &analysis.packages[*path]));
        let changes = kept.map(|(path, text)| {
            let rewrites = analysis.rewrites.get(path).into_iter().flatten();
            let changes = rewrites.map(|(start, rewrite)| {
                let (start, end) = (*start as usize, rewrite.end as usize);
                let columns = |text: &str| u32::try_from(text.chars().count()).unwrap_or(u32::MAX);
                let widths = (columns(&text[start..end]), columns(&rewrite.text));
                Change { start, end, text: rewrite.text.clone(), line: rewrite.line, column: rewrite.column, widths }
            });
            (path.to_owned(), changes.collect())
        });
        Self { changes: changes.collect() }
    }

    /// Path and changed text of every module.
    pub(super) fn texts<'a>(&'a self, bundle: &'a Bundle) -> impl Iterator<Item = (String, String)> + 'a {
        self.changes.iter().map(|(path, changes)| {
            let original = bundle.module(path).expect("the changes are of this bundle");
            let mut text = String::with_capacity(original.len());
            let mut at = 0;
            for change in changes {
                text += &original[at..change.start];
                text += &change.text;
                at = change.end;
            }
            text += &original[at..];
            (path.clone(), text)
        })
    }

    /// A message with its places as they are in the originals.
    pub(super) fn original(&self, message: &str) -> String {
        let place = |found: &Captures<'_>| {
            let (file, line) = (&found[1], &found[2]);
            let column = match (line.parse(), found[3].parse()) {
                (Ok(line), Ok(column)) => self.original_column(file, line, column),
                _ => 0,
            };
            format!("--> {file}:{line}:{column}")
        };
        PLACE.replace_all(message, place).into_owned()
    }

    fn original_column(&self, file: &str, line: u32, column: u32) -> u32 {
        // How much further right the text so far is than it was.
        let mut shift = 0_u32;
        for change in self.changes.get(file).into_iter().flatten().filter(|change| change.line == line) {
            let start = change.column + shift;
            let (old, new) = change.widths;
            if column < start {
                break;
            }
            if column < start + new {
                return change.column;
            }
            shift = (shift + new).saturating_sub(old);
        }
        column.saturating_sub(shift)
    }
}
