//! The journal: the suite that every engine passes, and what is its own: what a crash may leave, damage, files that come and go.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tarn_storage::conformance::{self, Bench};
use tarn_storage::{Batch, Durability, Engine, JournalEngine, Keyspace, MemoryEngine, Range, StorageError};

const KS: Keyspace = Keyspace::new("ks");
const META: Keyspace = Keyspace::new("meta");

struct JournalBench {
    home: tempfile::TempDir,
}

impl Bench for JournalBench {
    fn open(&mut self) -> Result<Arc<dyn Engine>, StorageError> {
        Ok(Arc::new(JournalEngine::open(&self.home.path().join("data"), conformance::KEYSPACES)?))
    }

    fn open_checkpoint(&self, dir: &Path) -> Result<Arc<dyn Engine>, StorageError> {
        Ok(Arc::new(JournalEngine::open(dir, conformance::KEYSPACES)?))
    }

    fn scratch(&self) -> &Path {
        self.home.path()
    }
}

#[test]
fn a_journal_conforms() {
    conformance::run(|| Box::new(JournalBench { home: tempfile::tempdir().unwrap() }));
}

fn open(path: &Path) -> Result<JournalEngine, StorageError> {
    JournalEngine::open(path, &[KS, META])
}

fn put(engine: &JournalEngine, number: u32, durability: Durability) {
    let mut batch = Batch::new();
    batch.put(KS, number.to_be_bytes(), vec![number as u8; 5 + number as usize % 40]);
    engine.write(batch, durability).unwrap();
}

fn numbers(engine: &JournalEngine) -> Vec<u32> {
    let numbers = engine.scan(KS, Range::all()).map(|entry| {
        let (key, value) = entry.unwrap();
        let number = u32::from_be_bytes(key.try_into().unwrap());
        assert_eq!(value, vec![number as u8; 5 + number as usize % 40]);
        number
    });
    numbers.collect()
}

fn files(path: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    files.sort();
    files
}

/// A journal with so many flushed records and so many that were not, closed. Its file, and where in it the flushed ones end.
fn written(path: &Path, synced: u32, buffered: u32) -> (PathBuf, usize) {
    let engine = open(path).unwrap();
    (0..synced).for_each(|number| put(&engine, number, Durability::Synced));
    let end = end_of_records(&files(path)[0]);
    (synced..synced + buffered).for_each(|number| put(&engine, number, Durability::Buffered));
    drop(engine);
    (files(path).remove(0), end)
}

/// Behind the last byte that is not zero, rounded up to where a record may begin.
fn end_of_records(file: &Path) -> usize {
    let content = fs::read(file).unwrap();
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).next_multiple_of(8))
}

#[track_caller]
fn refused(path: &Path) {
    let before: Vec<Vec<u8>> = files(path).iter().map(|file| fs::read(file).unwrap()).collect();
    // It stays refused: opening it must not make it whole, and what is left is for whoever looks into it.
    for _ in 0..2 {
        let error = open(path).unwrap_err();
        assert!(matches!(error, StorageError::Corruption { .. }), "{error:?}");
    }
    let after: Vec<Vec<u8>> = files(path).iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(before == after, "the files were changed");
}

#[test]
fn a_directory_is_open_once_and_no_strangers_is_touched() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let engine = open(&path).unwrap();
    assert!(matches!(open(&path).unwrap_err(), StorageError::Locked { .. }));
    drop(engine);
    drop(open(&path).unwrap());
    assert!(JournalEngine::is_for(&path).unwrap());

    let other = home.path().join("other");
    MemoryEngine::new().checkpoint(&other).unwrap();
    assert!(!JournalEngine::is_for(&other).unwrap());
    assert!(matches!(open(&other).unwrap_err(), StorageError::NotADataDirectory { .. }));
    fs::write(path.join("FORMAT"), "tarn-storage journal 2\n").unwrap();
    assert!(matches!(open(&path).unwrap_err(), StorageError::UnknownFormat { found: 2, .. }));
    assert!(matches!(JournalEngine::is_for(&path).unwrap_err(), StorageError::UnknownFormat { found: 2, .. }));
}

#[test]
fn wherever_a_power_cut_ends_the_file_what_was_flushed_is_there_and_writing_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let origin = home.path().join("origin");
    let (file, flushed) = written(&origin, 4, 3);
    let whole = fs::read(&file).unwrap();
    for len in flushed..end_of_records(&file) + 1 {
        let path = home.path().join("copy");
        fs::create_dir(&path).unwrap();
        for name in ["FORMAT", "SYNCED"] {
            fs::copy(origin.join(name), path.join(name)).unwrap();
        }
        fs::write(path.join(file.file_name().unwrap()), &whole[..len]).unwrap();
        let engine = open(&path).unwrap();
        let found = numbers(&engine);
        assert!(found.len() >= 4 && found == (0..found.len() as u32).collect::<Vec<_>>(), "cut at {len}: {found:?}");
        put(&engine, 100, Durability::Synced);
        drop(engine);
        let again = numbers(&open(&path).unwrap());
        assert_eq!((again.len(), again.last()), (found.len() + 1, Some(&100)), "cut at {len}");
        fs::remove_dir_all(&path).unwrap();
    }
}

#[test]
fn a_changed_byte_among_what_was_flushed_is_found_or_means_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (file, flushed) = written(home.path(), 5, 0);
    let whole = fs::read(&file).unwrap();
    let mut meant_nothing = 0;
    for at in 0..flushed {
        let mut content = whole.clone();
        content[at] ^= 0x10;
        fs::write(&file, &content).unwrap();
        match open(home.path()) {
            Ok(engine) => {
                assert_eq!(numbers(&engine), [0, 1, 2, 3, 4], "at {at}");
                meant_nothing += 1;
            }
            Err(error) => {
                assert!(matches!(error, StorageError::Corruption { .. }), "at {at}: {error:?}");
                assert!(content == fs::read(&file).unwrap(), "at {at}");
            }
        }
    }
    // What fills up the head and the records.
    assert!(meant_nothing < 28 + 5 * 8, "{meant_nothing}");
}

#[test]
fn a_lost_end_is_told_by_the_mark_and_a_hole_by_what_lies_behind_it() {
    let home = tempfile::tempdir().unwrap();
    let (file, flushed) = written(home.path(), 6, 0);
    let whole = fs::read(&file).unwrap();
    for len in [0, 64, 200, flushed - 9] {
        fs::write(&file, &whole[..len]).unwrap();
        refused(home.path());
    }
    // Without the mark, the end could have been anywhere; but records were flushed one by one, and the last says so of those before it.
    fs::remove_file(home.path().join("SYNCED")).unwrap();
    let mut content = whole.clone();
    content[70..80].fill(0xee);
    fs::write(&file, &content).unwrap();
    refused(home.path());
    // With nothing left of any file, the mark speaks again.
    fs::write(&file, &whole).unwrap();
    put(&open(home.path()).unwrap(), 6, Durability::Synced);
    fs::remove_file(&file).unwrap();
    assert!(matches!(open(home.path()).unwrap_err(), StorageError::Corruption { .. }));
}

/// A power cut may take any block of what was not flushed, and leave what was written after it.
#[test]
fn what_lies_behind_a_hole_never_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let (file, flushed) = written(home.path(), 3, 3);
    let mut content = fs::read(&file).unwrap();
    content[flushed..flushed + 16].fill(0);
    fs::write(&file, &content).unwrap();
    let engine = open(home.path()).unwrap();
    assert_eq!(numbers(&engine), [0, 1, 2]);
    // As long as the record that was lost: those behind it would follow, if they were still there.
    let mut batch = Batch::new();
    batch.put(META, [9; 2], vec![9; 5 + 3 + 4 - 2 - 2]);
    engine.write(batch, Durability::Synced).unwrap();
    drop(engine);
    let engine = open(home.path()).unwrap();
    assert_eq!(numbers(&engine), [0, 1, 2]);
    assert!(engine.get(META, &[9; 2]).unwrap().is_some());
}

#[test]
fn files_go_when_nothing_in_them_is_needed_and_take_nothing_along() {
    let home = tempfile::tempdir().unwrap();
    let engine = open(home.path()).unwrap();
    let mut batch = Batch::new();
    batch.put(META, "vote", "mine");
    engine.write(batch, Durability::Synced).unwrap();
    let value = vec![7; 1 << 20];
    let mut most = 0;
    for number in 0..120_u32 {
        let mut batch = Batch::new();
        batch.put(KS, number.to_be_bytes(), &value);
        batch.delete_range(KS, [], number.saturating_sub(5).to_be_bytes());
        engine.write(batch, Durability::Buffered).unwrap();
        most = most.max(files(home.path()).len());
    }
    assert!(most <= 3, "{most} files");
    // Those that were not needed any more were used again: none grew beyond the first few, and none is much larger than a file is to be.
    let all: Vec<PathBuf> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(all.len() <= 3 + 4 + 2, "{all:?}");
    assert!(all.iter().any(|path| path.extension().is_some_and(|extension| extension == "spare")), "{all:?}");
    assert!(!files(home.path())[0].ends_with("0000000000000001.log"), "the first file is long gone");
    let check = |engine: &JournalEngine| {
        assert_eq!(engine.get(META, b"vote").unwrap().as_deref(), Some(&b"mine"[..]));
        let keys: Vec<Vec<u8>> = engine.scan(KS, Range::all()).map(|entry| entry.unwrap().0).collect();
        assert_eq!(keys, (114..120_u32).map(|number| number.to_be_bytes().to_vec()).collect::<Vec<_>>());
    };
    check(&engine);
    drop(engine);
    check(&open(home.path()).unwrap());
}

/// Long enough for several files, the first of them still needed.
fn of_three_files(path: &Path) -> JournalEngine {
    let engine = open(path).unwrap();
    let value = vec![7; 4 << 20];
    for number in 0..10_u32 {
        let mut batch = Batch::new();
        batch.put(KS, number.to_be_bytes(), &value);
        engine.write(batch, Durability::Buffered).unwrap();
    }
    assert_eq!(files(path).len(), 3);
    engine
}

#[test]
fn a_file_that_is_missing_is_missed() {
    for missing in 0..3 {
        let home = tempfile::tempdir().unwrap();
        of_three_files(home.path()).sync().unwrap();
        fs::remove_file(&files(home.path())[missing]).unwrap();
        refused(home.path());
    }
}

#[test]
fn a_scan_goes_on_when_its_files_go() {
    let home = tempfile::tempdir().unwrap();
    let engine = of_three_files(home.path());
    let mut scan = engine.scan(KS, Range::all());
    assert!(scan.next().unwrap().is_ok());
    let first = files(home.path()).remove(0);
    let mut batch = Batch::new();
    batch.delete_range(KS, [], [0xff]);
    engine.write(batch, Durability::Buffered).unwrap();
    let mut number = 100_u32;
    while first.exists() {
        let mut batch = Batch::new();
        batch.put(META, number.to_be_bytes(), vec![1; 4 << 20]);
        engine.write(batch, Durability::Buffered).unwrap();
        number += 1;
    }
    assert_eq!(scan.map(|entry| entry.unwrap().1.len()).sum::<usize>(), 9 * (4 << 20));
}
