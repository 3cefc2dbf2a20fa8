//! The versions of one key: which there are, which are kept, what they weigh.

use crate::limits;
use crate::rows::{ContextRow, KeyRow, RestoreRow, VersionRow};

/// The row as it is now: what a restore under way has still to write into it is written.
pub fn caught_up(context: &ContextRow, stored: &KeyRow) -> KeyRow {
    let mut row = stored.clone();
    let restore = context.restore.unwrap_or_default();
    if let Some(last) = row.versions.last().filter(|last| last.version < restore.version) {
        let RestoreRow { version, to, at_ms } = restore;
        let then = at(&row, to).unwrap_or_default();
        if then.value != last.value {
            row.versions.push(VersionRow { version, at_ms, ..then });
        }
    }
    row
}

/// The version with the present value, if there is a value.
pub fn present(row: &KeyRow) -> Option<VersionRow> {
    row.versions.last().filter(|last| last.value != 0).copied()
}

/// The version with the value at a moment of the past that a snapshot holds, if there was a value.
pub fn at(row: &KeyRow, moment: u64) -> Option<VersionRow> {
    let place = row.versions.partition_point(|version| version.version <= moment);
    row.versions[..place].last().filter(|then| then.value != 0).copied()
}

/// Drops the versions that nobody needs: of a key with a value all but the last few, of one without any all; but none that a snapshot
/// holds. What is left of a key that is nowhere is an empty row.
pub fn prune(context: &ContextRow, row: &mut KeyRow) {
    let all = std::mem::take(&mut row.versions);
    let has_value = all.last().is_some_and(|last| last.value != 0);
    let recent = all.len().saturating_sub(if has_value { limits::KEY_VERSIONS_KEPT } else { 1 });
    let moments = || context.snapshots.iter().copied().chain(context.restore.map(|restore| restore.to));
    for (place, version) in all.iter().enumerate() {
        let next = all.get(place + 1).map_or(u64::MAX, |next| next.version);
        let held = || moments().any(|moment| (version.version..next).contains(&moment));
        // That there is no value needs no version to say so where there is none before it.
        let says_something = version.value != 0 || !row.versions.is_empty();
        if says_something && (place >= recent || held()) {
            row.versions.push(*version);
        }
    }
}

/// The values that a row names, each once.
pub fn values(row: &KeyRow) -> impl Iterator<Item = u64> {
    distinct(row).map(|version| version.value)
}

/// What a key counts with: each value that is kept, with the key.
pub fn weight(key: &str, row: &KeyRow) -> u64 {
    distinct(row).map(|version| key.len() as u64 + version.bytes).sum()
}

/// The versions that have a value which none before them has.
fn distinct(row: &KeyRow) -> impl Iterator<Item = &VersionRow> {
    let is_first = |place: usize, value| row.versions[..place].iter().all(|earlier| earlier.value != value);
    let with_value = row.versions.iter().enumerate().filter(|(_, version)| version.value != 0);
    with_value.filter(move |(place, version)| is_first(*place, version.value)).map(|(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(versions: &[(u64, u64)]) -> KeyRow {
        let version = |(version, value): &(u64, u64)| VersionRow { version: *version, value: *value, bytes: 10, at_ms: 1 };
        KeyRow { versions: versions.iter().map(version).collect() }
    }

    fn numbers(row: &KeyRow) -> Vec<u64> {
        row.versions.iter().map(|version| version.version).collect()
    }

    fn pruned(snapshots: &[u64], versions: &[(u64, u64)]) -> Vec<u64> {
        let mut row = row(versions);
        prune(&ContextRow { snapshots: snapshots.to_vec(), ..ContextRow::default() }, &mut row);
        numbers(&row)
    }

    #[test]
    fn the_last_few_are_kept_and_what_snapshots_hold() {
        let many: Vec<(u64, u64)> = (1..=20).map(|number| (number, number)).collect();
        assert_eq!(pruned(&[], &many), (13..=20).collect::<Vec<_>>());
        assert_eq!(pruned(&[3, 5], &many), [3, 5].into_iter().chain(13..=20).collect::<Vec<_>>());
        assert_eq!(pruned(&[25], &many), (13..=20).collect::<Vec<_>>());
    }

    #[test]
    fn of_a_deleted_key_only_what_snapshots_hold() {
        assert_eq!(pruned(&[], &[(1, 1), (2, 2), (3, 0)]), []);
        assert_eq!(pruned(&[1], &[(1, 1), (2, 2), (3, 0)]), [1, 3]);
        assert_eq!(pruned(&[4], &[(1, 1), (2, 2), (3, 0)]), []);
        assert_eq!(pruned(&[1, 3], &[(1, 1), (3, 0), (5, 5), (6, 0)]), [1, 3, 6]);
    }

    #[test]
    fn a_restore_brings_back_what_was_without_writing_it_again() {
        let restore = |to| ContextRow { restore: Some(RestoreRow { version: 9, to, at_ms: 2 }), ..ContextRow::default() };
        let row = row(&[(1, 1), (4, 4)]);
        let back = caught_up(&restore(2), &row);
        assert_eq!(numbers(&back), [1, 4, 9]);
        assert_eq!(present(&back).map(|last| last.value), Some(1));
        assert_eq!(weight("key", &back), 2 * 13, "the value lies there once");
        assert_eq!(caught_up(&restore(2), &back), back);
        assert_eq!(caught_up(&restore(5), &row), row, "nothing changed since");
        assert_eq!(present(&caught_up(&restore(0), &row)), None, "it did not exist");
        assert_eq!(at(&back, 8).map(|then| then.value), Some(4));
    }
}
