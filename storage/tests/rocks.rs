//! The RocksDB engine: the suite that every engine passes, in both profiles, and what is its own: locks, formats,
//! damage and checkpoints.

#![cfg(feature = "rocksdb")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tarn_storage::conformance::{self, Bench};
use tarn_storage::{Batch, Durability, Engine, Keyspace, MemoryEngine, Profile, Range, RocksEngine, RocksOptions, StorageError, format};

const KS: Keyspace = Keyspace::new("ks");
const OTHER: Keyspace = Keyspace::new("other");
const BOTH: &[Keyspace] = &[KS, OTHER];
const PROFILES: [Profile; 2] = [Profile::Log, Profile::State];

struct RocksBench {
    profile: Profile,
    home: tempfile::TempDir,
}

impl RocksBench {
    fn open_at(&self, path: &Path) -> Result<Arc<dyn Engine>, StorageError> {
        let options = RocksOptions { keyspaces: conformance::KEYSPACES, profile: self.profile };
        Ok(Arc::new(RocksEngine::open(path, options)?))
    }
}

impl Bench for RocksBench {
    fn open(&mut self) -> Result<Arc<dyn Engine>, StorageError> {
        self.open_at(&self.home.path().join("data"))
    }

    fn open_checkpoint(&self, dir: &Path) -> Result<Arc<dyn Engine>, StorageError> {
        self.open_at(dir)
    }

    fn scratch(&self) -> &Path {
        self.home.path()
    }
}

#[test]
fn rocksdb_conforms_as_a_log() {
    conformance::run(|| Box::new(RocksBench { profile: Profile::Log, home: tempfile::tempdir().unwrap() }));
}

#[test]
fn rocksdb_conforms_as_a_state() {
    conformance::run(|| Box::new(RocksBench { profile: Profile::State, home: tempfile::tempdir().unwrap() }));
}

fn open(path: &Path, profile: Profile) -> Result<RocksEngine, StorageError> {
    RocksEngine::open(path, RocksOptions { keyspaces: BOTH, profile })
}

fn put(engine: &RocksEngine, number: u32, durability: Durability) {
    let mut batch = Batch::new();
    batch.put(KS, number.to_be_bytes(), [0x5a; 100]);
    batch.put(OTHER, number.to_be_bytes(), b"");
    engine.write(batch, durability).unwrap();
}

/// The numbers that were put, checked to be the same in both keyspaces.
fn numbers(engine: &RocksEngine) -> Vec<u32> {
    let read = |keyspace| -> Vec<u32> {
        engine.scan(keyspace, Range::all()).map(|entry| u32::from_be_bytes(entry.unwrap().0.try_into().unwrap())).collect()
    };
    let numbers = read(KS);
    assert_eq!(numbers, read(OTHER), "batches are whole");
    numbers
}

fn files(path: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    found.sort();
    found
}

/// The write-ahead log of an engine that wrote a hundred batches and was closed.
fn log_of_a_hundred(path: &Path, profile: Profile) -> PathBuf {
    let engine = open(path, profile).unwrap();
    for number in 0..100 {
        put(&engine, number, Durability::Synced);
    }
    drop(engine);
    let logs = files(path, "log");
    logs.into_iter().max_by_key(|log| log.metadata().unwrap().len()).expect("there is a write-ahead log")
}

fn cut(file: &Path, len: u64) {
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.set_len(len).unwrap();
}

fn flip_a_byte(file: &Path, at: impl FnOnce(usize) -> usize) {
    let mut content = fs::read(file).unwrap();
    let at = at(content.len());
    content[at] ^= 0x10;
    fs::write(file, content).unwrap();
}

#[test]
fn a_directory_is_open_once() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    let engine = open(&path, Profile::Log).unwrap();
    let error = open(&path, Profile::Log).unwrap_err();
    assert!(matches!(error, StorageError::Locked { .. }), "{error:?}");
    drop(engine);
    open(&path, Profile::Log).unwrap();
}

#[test]
fn an_open_checkpoint_does_not_lock_its_origin() {
    let home = tempfile::tempdir().unwrap();
    let engine = open(&home.path().join("data"), Profile::State).unwrap();
    engine.checkpoint(&home.path().join("copy")).unwrap();
    let _copy = open(&home.path().join("copy"), Profile::State).unwrap();
    drop(engine);
    open(&home.path().join("data"), Profile::State).unwrap();
}

#[test]
fn another_format_is_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("data");
    drop(open(&path, Profile::Log).unwrap());
    fs::write(path.join(format::FILE), "tarn-storage rocksdb 99\n").unwrap();
    let listing = || {
        let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = listing();
    let error = open(&path, Profile::Log).unwrap_err();
    assert!(matches!(error, StorageError::UnknownFormat { found: 99, supported: 1, .. }), "{error:?}");
    assert_eq!(listing(), before);
}

#[test]
fn a_strangers_directory_is_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("diary.txt"), "dear diary").unwrap();
    let error = open(home.path(), Profile::Log).unwrap_err();
    assert!(matches!(error, StorageError::NotADataDirectory { .. }), "{error:?}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn a_memory_checkpoint_is_not_taken_for_ours() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("copy");
    MemoryEngine::new().checkpoint(&path).unwrap();
    let error = open(&path, Profile::State).unwrap_err();
    assert!(matches!(error, StorageError::NotADataDirectory { .. }), "{error:?}");
}

#[test]
fn a_lost_database_is_not_a_new_one() {
    let home = tempfile::tempdir().unwrap();
    drop(log_of_a_hundred(home.path(), Profile::Log));
    fs::remove_file(home.path().join("CURRENT")).unwrap();
    let error = open(home.path(), Profile::Log).unwrap_err();
    assert!(matches!(error, StorageError::Corruption { .. }), "{error:?}");
}

#[test]
fn keyspaces_can_be_added_and_unnamed_ones_are_kept() {
    const NEW: Keyspace = Keyspace::new("new");
    let home = tempfile::tempdir().unwrap();
    let engine = open(home.path(), Profile::State).unwrap();
    put(&engine, 1, Durability::Synced);
    drop(engine);

    let narrow = RocksOptions { keyspaces: &[NEW], profile: Profile::State };
    let engine = RocksEngine::open(home.path(), narrow).unwrap();
    assert!(engine.get(NEW, b"k").unwrap().is_none());
    let error = engine.get(KS, b"k").unwrap_err();
    assert!(matches!(error, StorageError::UnknownKeyspace { .. }), "{error:?}");
    drop(engine);

    assert_eq!(numbers(&open(home.path(), Profile::State).unwrap()), [1]);
}

#[test]
fn a_torn_tail_costs_only_what_was_not_acknowledged() {
    let home = tempfile::tempdir().unwrap();
    let log = log_of_a_hundred(home.path(), Profile::Log);
    let engine = open(home.path(), Profile::Log).unwrap();
    put(&engine, 100, Durability::Buffered);
    drop(engine);
    let log = files(home.path(), "log").pop().unwrap_or(log);
    // The last batch's record ends where the file ends, as if its write had been cut off.
    cut(&log, log.metadata().unwrap().len() - 7);

    let engine = open(home.path(), Profile::Log).unwrap();
    assert_eq!(numbers(&engine), (0..100).collect::<Vec<_>>());
    put(&engine, 200, Durability::Synced);
    drop(engine);
    assert_eq!(numbers(&open(home.path(), Profile::Log).unwrap()).last(), Some(&200));
}

/// Between two records or within one: what is left looks like a log that never was longer.
#[test]
fn a_log_that_lost_its_synced_end_is_refused() {
    for left in [0, 100, 2_000, u64::MAX] {
        let home = tempfile::tempdir().unwrap();
        let log = log_of_a_hundred(home.path(), Profile::Log);
        let whole = log.metadata().unwrap().len();
        cut(&log, left.min(whole - 7));
        // It stays refused: opening it must not make it whole.
        for _ in 0..2 {
            let error = open(home.path(), Profile::Log).unwrap_err();
            assert!(matches!(error, StorageError::Corruption { .. }), "{left} of {whole}: {error:?}");
            assert!(error.must_stop_node());
        }
    }
}

/// A power cut may take any of the blocks of a write that was under way.
#[test]
fn holes_in_what_was_never_synced_cost_nothing_else() {
    for hole in [4_096, 20_000, 60_000] {
        let home = tempfile::tempdir().unwrap();
        log_of_a_hundred(home.path(), Profile::Log);
        let engine = open(home.path(), Profile::Log).unwrap();
        put(&engine, 100, Durability::Synced);
        let mut large = Batch::new();
        large.put(KS, b"large", [7; 100_000]);
        engine.write(large, Durability::Buffered).unwrap();
        drop(engine);
        let log = files(home.path(), "log").pop().unwrap();
        let mut content = fs::read(&log).unwrap();
        let at = content.len() - 100_000 + hole;
        content[at..at + 4_096].fill(0);
        fs::write(&log, content).unwrap();
        let engine = open(home.path(), Profile::Log).unwrap();
        assert_eq!(engine.get(KS, b"large").unwrap(), None);
        assert_eq!(numbers(&engine), (0..=100).collect::<Vec<_>>());
        put(&engine, 200, Durability::Synced);
        drop(engine);
        assert_eq!(numbers(&open(home.path(), Profile::Log).unwrap()).last(), Some(&200));
    }
}

#[test]
fn damage_in_a_log_is_not_passed_over() {
    for place in ["front", "middle", "last record"] {
        let home = tempfile::tempdir().unwrap();
        let log = log_of_a_hundred(home.path(), Profile::Log);
        flip_a_byte(&log, |len| match place {
            "front" => 40,
            "middle" => len / 2,
            _ => len - 3,
        });
        let damaged = fs::read(&log).unwrap();
        let error = open(home.path(), Profile::Log).unwrap_err();
        assert!(matches!(error, StorageError::Corruption { .. }), "{place}: {error:?}");
        assert!(damaged == fs::read(&log).unwrap(), "{place}: what is left is for whoever looks into it");
    }
}

/// A build before this one kept a log beside a state. What it left there is read once more.
#[test]
fn a_state_with_a_log_of_its_own_is_taken_over() {
    let home = tempfile::tempdir().unwrap();
    log_of_a_hundred(home.path(), Profile::Log);
    let engine = open(home.path(), Profile::State).unwrap();
    assert_eq!(numbers(&engine), (0..100).collect::<Vec<_>>());
    put(&engine, 100, Durability::Buffered);
    drop(engine);
    assert!(files(home.path(), "log").iter().all(|log| log.metadata().unwrap().len() == 0), "nothing is written to logs any more");
    assert_eq!(numbers(&open(home.path(), Profile::State).unwrap()).len(), 101);
}

/// As a process that dies leaves it: a copy of the files while the engine is open.
#[test]
fn what_a_state_has_flushed_is_there_in_all_keyspaces_and_nothing_else_in_any() {
    let home = tempfile::tempdir().unwrap();
    let (path, copy) = (home.path().join("data"), home.path().join("copy"));
    let engine = open(&path, Profile::State).unwrap();
    let write = |number: u32, durability| {
        let mut batch = Batch::new();
        batch.put(KS, number.to_be_bytes(), [1; 40]);
        batch.put(OTHER, "count", number.to_be_bytes());
        engine.write(batch, durability).unwrap();
    };
    (0..10).for_each(|number| write(number, Durability::Buffered));
    write(10, Durability::Synced);
    (11..20).for_each(|number| write(number, Durability::Buffered));
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&path).unwrap() {
        let from = entry.unwrap().path();
        if from.is_file() {
            fs::copy(&from, copy.join(from.file_name().unwrap())).unwrap();
        }
    }
    let left = open(&copy, Profile::State).unwrap();
    assert_eq!(left.scan(KS, Range::all()).count(), 11);
    assert_eq!(left.get(OTHER, b"count").unwrap().as_deref(), Some(&10_u32.to_be_bytes()[..]));
    drop(engine);
    assert_eq!(open(&path, Profile::State).unwrap().scan(KS, Range::all()).count(), 20, "closing leaves nothing behind");
}

#[test]
fn damage_in_a_data_file_is_found_when_it_is_read() {
    for profile in PROFILES {
        let home = tempfile::tempdir().unwrap();
        let copy = home.path().join("copy");
        let engine = open(&home.path().join("data"), profile).unwrap();
        for number in 0..100 {
            put(&engine, number, Durability::Buffered);
        }
        // A checkpoint has all its data in data files.
        engine.checkpoint(&copy).unwrap();
        drop(engine);
        for file in files(&copy, "sst") {
            flip_a_byte(&file, |_| 20);
        }
        let found = open(&copy, profile).and_then(|engine| engine.scan(KS, Range::all()).collect::<Result<Vec<_>, _>>());
        let error = found.unwrap_err();
        assert!(matches!(error, StorageError::Corruption { .. }), "{profile:?}: {error:?}");
    }
}

/// Files that were merged go in the end, and no file that the engine or a checkpoint has.
#[test]
fn merged_files_go_and_what_is_needed_stays() {
    let home = tempfile::tempdir().unwrap();
    let (data, copy) = (home.path().join("data"), home.path().join("copy"));
    let engine = open(&data, Profile::State).unwrap();
    let names = |path: &Path| files(path, "sst").into_iter().map(|file| file.file_name().unwrap().to_owned()).collect::<BTreeSet<_>>();
    let until = |what: &dyn Fn() -> bool| {
        let began = std::time::Instant::now();
        while !what() {
            assert!(began.elapsed() < std::time::Duration::from_secs(60), "it does not come to that");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    put(&engine, 0, Durability::Synced);
    engine.checkpoint(&copy).unwrap();
    let kept = names(&copy);
    until(&|| kept.is_subset(&names(&data.join("trash"))));
    // Each of these is a file, and as soon as there are enough of them, they are merged with the first.
    for number in 1..200 {
        put(&engine, 0, Durability::Buffered);
        put(&engine, number, Durability::Synced);
        if kept.is_disjoint(&names(&data)) {
            break;
        }
    }
    until(&|| kept.is_disjoint(&names(&data)));
    until(&|| names(&data.join("trash")).iter().all(|name| names(&data).contains(name) || kept.contains(name)));
    assert!(kept.is_subset(&names(&data.join("trash"))), "the checkpoint has it still");
    assert_eq!(numbers(&open(&copy, Profile::State).unwrap()), [0]);
    fs::remove_dir_all(&copy).unwrap();
    until(&|| names(&data.join("trash")).is_disjoint(&kept));
    assert_eq!(numbers(&engine)[..7], [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_checkpoint_shares_files_and_survives_its_origin() {
    use std::os::unix::fs::MetadataExt;

    let home = tempfile::tempdir().unwrap();
    let (data, copy) = (home.path().join("data"), home.path().join("copy"));
    let engine = open(&data, Profile::State).unwrap();
    for number in 0..50 {
        put(&engine, number, Durability::Buffered);
    }
    engine.checkpoint(&copy).unwrap();
    // A third name, of the engine's own, may be there by now.
    let shared = files(&copy, "sst").iter().all(|file| file.metadata().unwrap().nlink() >= 2);
    assert!(shared, "data files are hard links");
    assert_eq!(fs::metadata(copy.join(format::FILE)).unwrap().nlink(), 1);
    drop(engine);
    fs::remove_dir_all(&data).unwrap();
    assert_eq!(numbers(&open(&copy, Profile::State).unwrap()).len(), 50);
}

#[test]
fn rubbish_of_an_interrupted_checkpoint_does_no_harm() {
    let home = tempfile::tempdir().unwrap();
    let engine = open(&home.path().join("data"), Profile::State).unwrap();
    put(&engine, 1, Durability::Buffered);
    let copy = home.path().join("copy");
    for rubbish in ["copy.partial", "copy.partial.tmp"] {
        fs::create_dir(home.path().join(rubbish)).unwrap();
        fs::write(home.path().join(rubbish).join("000009.sst"), "rubbish").unwrap();
    }
    engine.checkpoint(&copy).unwrap();
    assert_eq!(numbers(&open(&copy, Profile::State).unwrap()), [1]);
    let left: BTreeSet<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, BTreeSet::from(["copy".into(), "data".into()]));
}
