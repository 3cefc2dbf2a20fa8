//! Takes values out of the layers, strongest first, and keeps the books: what was taken from where, what was wrong, what nobody took.

use std::ops::RangeInclusive;

use super::raw::{Layer, Origin};
use super::settings::Key;
use super::types::Setting;
use super::{Problem, Shown};

pub(super) struct Reader {
    /// Strongest first.
    layers: Vec<Layer>,
    values: Vec<Shown>,
    problems: Vec<Problem>,
}

impl Reader {
    pub(super) fn new(layers: Vec<Layer>) -> Self {
        Self { layers, values: Vec::new(), problems: Vec::new() }
    }

    /// The value of a setting. Where the given value is unfit, the problem is noted and the default stands in, so that reading goes on
    /// and finds the other problems.
    pub(super) fn take<T: Setting>(&mut self, key: &'static str, default: T, range: Option<RangeInclusive<u64>>) -> T {
        let mut given = None;
        // A value that a stronger layer hides is still checked: it is a mistake that waits.
        for layer in self.layers.iter_mut().rev() {
            let Some((raw, origin)) = layer.remove(key) else {
                continue;
            };
            let unfit = match (T::read(&raw), &range) {
                (None, _) => Some(format!("expected {}, found {}", T::EXPECTED, raw.kind())),
                (Some(value), Some(range)) if value.number().is_some_and(|number| !range.contains(&number)) => {
                    Some(format!("{} is out of range: from {} to {}", value.show(), range.start(), range.end()))
                }
                (Some(value), _) => {
                    given = Some((value, origin.clone()));
                    None
                }
            };
            if let Some(message) = unfit {
                self.problems.push(Problem { origin, key: key.into(), message });
            }
        }
        let (value, origin) = given.unwrap_or((default, Origin::Default));
        self.values.push(Shown { key, value: value.show(), origin });
        value
    }

    /// All values that were taken, and all problems, the keys that nobody took included.
    pub(super) fn finish(mut self, keys: &[Key]) -> (Vec<Shown>, Vec<Problem>) {
        for layer in self.layers {
            for (key, (_, origin)) in layer {
                let message = match nearest(&key, keys) {
                    Some(near) => format!("unknown key; did you mean {near}?"),
                    None => "unknown key".into(),
                };
                self.problems.push(Problem { origin, key, message });
            }
        }
        (self.values, self.problems)
    }
}

/// The known key that is fewest edits away, if it is near enough to be what was meant.
fn nearest(key: &str, keys: &[Key]) -> Option<&'static str> {
    let by_distance = keys.iter().map(|known| (distance(key, known.path), known.path));
    let same_name = |known: &&Key| known.path.rsplit('.').next() == key.rsplit('.').next();
    by_distance
        .min()
        .filter(|(edits, _)| *edits <= 1 + key.len() / 4)
        .map(|(_, path)| path)
        // The right name in the wrong section.
        .or_else(|| keys.iter().find(same_name).map(|known| known.path))
}

/// Edits (insert, delete, replace) between two short strings.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replace = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
