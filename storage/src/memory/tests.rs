use std::fs;
use std::sync::Arc;

use super::*;
use crate::conformance::{self, Bench};

const KS: Keyspace = Keyspace::new("ks");

fn put(engine: &MemoryEngine, key: &str, durability: Durability) {
    let mut batch = Batch::new();
    batch.put(KS, key, "1");
    // A second entry shows that batches survive whole.
    batch.put(KS, format!("{key}'"), "2");
    engine.write(batch, durability).unwrap();
}

fn keys(engine: &MemoryEngine) -> Vec<String> {
    engine.scan(KS, Range::all()).map(|entry| String::from_utf8(entry.unwrap().0).unwrap()).collect()
}

struct MemoryBench {
    engine: MemoryEngine,
    scratch: tempfile::TempDir,
}

impl Bench for MemoryBench {
    fn open(&mut self) -> Result<Arc<dyn Engine>, StorageError> {
        Ok(Arc::new(self.engine.clone()))
    }

    fn open_checkpoint(&self, dir: &Path) -> Result<Arc<dyn Engine>, StorageError> {
        Ok(Arc::new(MemoryEngine::open_checkpoint(dir)?))
    }

    fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

#[test]
fn the_memory_engine_conforms() {
    conformance::run(|| {
        Box::new(MemoryBench { engine: MemoryEngine::with_keyspaces(conformance::KEYSPACES), scratch: tempfile::tempdir().unwrap() })
    });
}

#[test]
fn a_crash_takes_what_was_not_synced_and_no_more() {
    let engine = MemoryEngine::new();
    put(&engine, "a", Durability::Buffered);
    put(&engine, "b", Durability::Synced);
    put(&engine, "c", Durability::Buffered);
    assert_eq!(engine.unsynced_batches(), 1);

    let remains = engine.crashed();
    assert_eq!(keys(&remains), ["a", "a'", "b", "b'"]);
    assert_eq!(keys(&engine).len(), 6, "the engine that crashed elsewhere goes on here");

    let other_handle = engine.clone();
    engine.crash();
    assert_eq!(keys(&other_handle), keys(&remains));
    assert_eq!(engine.unsynced_batches(), 0);
}

#[test]
fn sync_saves_everything_written_before() {
    let engine = MemoryEngine::new();
    put(&engine, "a", Durability::Buffered);
    engine.sync().unwrap();
    put(&engine, "b", Durability::Buffered);
    engine.write(Batch::new(), Durability::Synced).unwrap();
    assert_eq!(keys(&engine.crashed()).len(), 4);
}

#[test]
fn an_unlucky_crash_keeps_a_prefix_of_whole_batches() {
    let engine = MemoryEngine::new();
    put(&engine, "0", Durability::Synced);
    for number in 1..=4 {
        put(&engine, &number.to_string(), Durability::Buffered);
    }
    let all = keys(&engine);
    let mut lengths = BTreeSet::new();
    for seed in 0..64 {
        let remains = engine.crashed_keeping(seed);
        let kept = keys(&remains);
        assert_eq!(kept, all[..kept.len()], "what is kept is a prefix");
        assert_eq!(kept.len() % 2, 0, "batches are kept whole");
        assert_eq!(keys(&engine.crashed_keeping(seed)), kept, "the seed decides");
        assert_eq!(keys(&remains.crashed()), kept, "what is kept is durable");
        lengths.insert(kept.len() / 2);
    }
    assert_eq!(lengths, BTreeSet::from([1, 2, 3, 4, 5]), "every length occurs");

    engine.crash_keeping(3);
    assert!(keys(&engine).len() >= 2);
}

#[test]
fn a_deletion_that_was_not_synced_comes_back() {
    let engine = MemoryEngine::new();
    put(&engine, "a", Durability::Synced);
    let mut batch = Batch::new();
    batch.delete_range(KS, "", "z");
    engine.write(batch, Durability::Buffered).unwrap();
    assert!(keys(&engine).is_empty());
    engine.crash();
    assert_eq!(keys(&engine), ["a", "a'"]);
}

#[test]
fn a_scan_outlives_a_crash() {
    let engine = MemoryEngine::new();
    put(&engine, "a", Durability::Buffered);
    let scan = engine.scan(KS, Range::all());
    engine.crash();
    assert_eq!(scan.count(), 2);
    assert!(keys(&engine).is_empty());
}

#[test]
fn a_faulty_disk_refuses_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = MemoryEngine::new();
    put(&engine, "a", Durability::Synced);
    let mut batch = Batch::new();
    batch.put(KS, "b", "1");

    engine.fail_with(Some(Fault::Full));
    let error = engine.write(batch.clone(), Durability::Synced).unwrap_err();
    assert!(matches!(error, StorageError::Full { .. }), "{error:?}");
    engine.fail_with(Some(Fault::Io));
    let error = engine.sync().unwrap_err();
    assert!(matches!(error, StorageError::Io { .. }), "{error:?}");
    assert!(engine.checkpoint(&dir.path().join("c")).is_err());
    assert_eq!(keys(&engine), ["a", "a'"]);

    engine.fail_with(None);
    engine.write(batch, Durability::Synced).unwrap();
    assert_eq!(keys(&engine), ["a", "a'", "b"]);
}

#[test]
fn a_damaged_checkpoint_is_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let engine = MemoryEngine::new();
    put(&engine, "a", Durability::Buffered);
    let path = dir.path().join("c");
    engine.checkpoint(&path).unwrap();
    let file = path.join("CONTENT");
    let good = fs::read(&file).unwrap();

    let mut flipped = good.clone();
    flipped[9] ^= 1;
    for damaged in [&good[..good.len() - 1], &good[..3], &flipped[..], b""] {
        fs::write(&file, damaged).unwrap();
        let error = MemoryEngine::open_checkpoint(&path).unwrap_err();
        assert!(matches!(error, StorageError::Corruption { .. }), "{error:?}");
    }
    fs::write(&file, &good).unwrap();
    assert_eq!(keys(&MemoryEngine::open_checkpoint(&path).unwrap()), keys(&engine));
}

#[test]
fn a_directory_without_a_checkpoint_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = MemoryEngine::open_checkpoint(dir.path()).unwrap_err();
    assert!(matches!(error, StorageError::NotADataDirectory { .. }), "{error:?}");
}
