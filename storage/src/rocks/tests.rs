use super::*;

const KS: Keyspace = Keyspace::new("ks");

#[test]
fn nothing_is_written_after_a_failed_write() {
    let home = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open(home.path(), RocksOptions { keyspaces: &[KS], profile: Profile::Log }).unwrap();
    let mut batch = Batch::new();
    batch.put(KS, b"before", b"v");
    engine.write(batch, Durability::Synced).unwrap();
    engine.note_failure(StorageError::Full { doing: "writing a batch".into(), detail: "for the test".into() });

    let mut batch = Batch::new();
    batch.put(KS, b"k", b"v");
    for attempt in [
        engine.write(batch, Durability::Buffered),
        engine.write(Batch::new(), Durability::Buffered),
        engine.write(Batch::new(), Durability::Synced),
        engine.sync(),
    ] {
        let error = attempt.unwrap_err();
        assert!(error.to_string().contains("for the test"), "{error}");
        assert!(error.must_stop_node());
    }
    assert_eq!(engine.scan(KS, Range::all()).count(), 1, "reads go on");
}

/// What the block cache holds after one read from a large file of a newly opened state.
#[test]
fn a_read_from_a_large_file_needs_a_small_part_of_its_index() {
    let home = tempfile::tempdir().unwrap();
    let open = || {
        let options = RocksOptions { keyspaces: &[KS], profile: Profile::State };
        RocksEngine::open(home.path(), options).unwrap()
    };
    let key = |number: u64| number.to_be_bytes();
    let engine = open();
    for part in 0..20 {
        let mut batch = Batch::new();
        for number in part * 10_000..(part + 1) * 10_000 {
            batch.put(KS, key(number), [7; 64]);
        }
        engine.write(batch, Durability::Buffered).unwrap();
    }
    let family = engine.family(KS).unwrap();
    engine.db.flush_cf(family).unwrap();
    // Files of level 0, into which memory is flushed, keep all of their indices in the cache.
    engine.db.compact_range_cf::<&[u8], &[u8]>(family, None, None);
    drop(engine);

    let engine = open();
    let used = || {
        let family = engine.family(KS).unwrap();
        let used = engine.db.property_int_value_cf(family, "rocksdb.block-cache-usage").unwrap();
        used.unwrap()
    };
    let before = used();
    assert_eq!(engine.get(KS, &key(123_456)).unwrap().unwrap().as_ref(), [7; 64]);
    let read = used() - before;
    assert!((1..64 << 10).contains(&read), "{read} bytes were read for one row");
}
