//! The power goes: what was not synced is lost, or most of it.

use std::ops::Range;
use std::path::PathBuf;

use anyhow::Result;
use rand::Rng;
use rand::rngs::StdRng;
use serde::Serialize;

use super::content::Dirty;
use super::extents::Ranges;
use super::volume::Volume;

/// What a disk writes as a whole.
const SECTOR: u64 = 512;
/// Scattered sectors reach the disk in runs of up to so many, as pages do.
const RUN_MAX: u64 = 16;

/// What of the unsynced data reached the disk before the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survival {
    /// Nothing: the worst that may happen to a program that forgets a sync.
    Nothing,
    /// Of the file that was written last, all writes in order, and the last of them torn: a prefix of whole sectors of 512 bytes. Of other
    /// files nothing. The worst for logs.
    Torn,
    /// Some sectors of each file and not others, in no order, as a page cache writes back; and all changes of names or none.
    Scattered,
}

/// What a power cut took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Files with unsynced data.
    pub files: u64,
    /// Unsynced bytes, those that reached the disk included.
    pub bytes: u64,
    /// Unsynced bytes that reached the disk nevertheless.
    pub kept: u64,
    /// Names that were made, changed or removed, and whose folder was not synced.
    pub names: u64,
    /// The file whose last write was torn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torn: Option<PathBuf>,
}

/// Cuts the power. Nobody may have files open, or open any until this is done.
pub(super) fn cut(volume: &Volume, survival: Survival, rng: &mut StdRng) -> Result<Loss> {
    let contents = volume.names().contents();
    let dirty: Vec<(u64, Vec<Dirty>)> = contents.iter().map(|(id, content)| (*id, content.dirty())).collect();
    let last = dirty.iter().filter_map(|(id, writes)| Some((writes.last()?.serial, *id))).max().map(|(_, id)| id);
    let mut loss = Loss::default();
    for ((id, content), (_, writes)) in contents.iter().zip(&dirty) {
        let keep = match survival {
            Survival::Torn if last == Some(*id) => torn(writes, rng),
            Survival::Scattered => scattered(writes, rng),
            Survival::Nothing | Survival::Torn => Ranges::default(),
        };
        let lost = content.cut(&keep)?;
        loss.files += u64::from(lost.unsynced > 0);
        loss.bytes += lost.unsynced;
        loss.kept += lost.kept;
        if survival == Survival::Torn && lost.kept > 0 {
            loss.torn = Some(volume.names().path(*id));
        }
    }
    if survival == Survival::Scattered && rng.random() {
        volume.names().sync_all().map_err(super::names::sentence)?;
    } else {
        loss.names = volume.names().cut();
    }
    Ok(loss)
}

/// All writes but the last, and of that a prefix that ends where a sector does, and not with it.
fn torn(writes: &[Dirty], rng: &mut StdRng) -> Ranges {
    let mut keep = Ranges::default();
    let Some((last, before)) = writes.split_last() else {
        return keep;
    };
    for write in before {
        keep.insert(write.range.clone());
    }
    let Range { start, end } = last.range;
    let (first, after) = (start / SECTOR + 1, end.div_ceil(SECTOR));
    if first < after {
        keep.insert(start..rng.random_range(first..after) * SECTOR);
    }
    keep
}

/// Each run of sectors with even chances, whatever the writes were by which it came: the page cache does not remember.
fn scattered(writes: &[Dirty], rng: &mut StdRng) -> Ranges {
    let mut dirty = Ranges::default();
    for write in writes {
        dirty.insert(write.range.clone());
    }
    let mut keep = Ranges::default();
    for Range { start, end } in dirty.iter() {
        let mut at = start;
        while at < end {
            let until = ((at / SECTOR + rng.random_range(1..=RUN_MAX)) * SECTOR).min(end);
            if rng.random() {
                keep.insert(at..until);
            }
            at = until;
        }
    }
    keep
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn write(serial: u64, range: Range<u64>) -> Dirty {
        Dirty { serial, range }
    }

    #[test]
    fn a_torn_write_ends_with_a_whole_sector() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..200 {
            let writes = [write(1, 0..700), write(2, 700..4000)];
            let keep: Vec<Range<u64>> = torn(&writes, &mut rng).iter().collect();
            assert_eq!((keep.len(), keep[0].start), (1, 0));
            let end = keep[0].end;
            assert!(end.is_multiple_of(SECTOR) && (1024..4000).contains(&end), "{end}");
        }
    }

    #[test]
    fn a_sector_is_not_torn() {
        let mut rng = StdRng::seed_from_u64(1);
        assert!(torn(&[write(1, 10..500)], &mut rng).is_empty());
        assert!(torn(&[], &mut rng).is_empty());
    }

    #[test]
    fn scattered_sectors_are_whole_and_some() {
        let mut rng = StdRng::seed_from_u64(1);
        let total = 100_000;
        let keep = scattered(&[write(1, 100..5000), write(2, 5000..total)], &mut rng);
        assert!(keep.total() > total / 5 && keep.total() < total - total / 5);
        for range in keep.iter() {
            assert!(range.start == 100 || range.start.is_multiple_of(SECTOR), "{range:?}");
            assert!(range.end == total || range.end.is_multiple_of(SECTOR), "{range:?}");
        }
    }
}
