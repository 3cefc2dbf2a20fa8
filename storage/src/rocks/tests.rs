use super::*;

const KS: Keyspace = Keyspace::new("ks");

#[test]
fn nothing_is_written_after_a_failed_write() {
    let home = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open(
        home.path(),
        RocksOptions {
            keyspaces: &[KS],
            profile: Profile::Log,
        },
    )
    .unwrap();
    let mut batch = Batch::new();
    batch.put(KS, b"before", b"v");
    engine.write(batch, Durability::Synced).unwrap();
    engine.note_failure(StorageError::Full {
        doing: "writing a batch".into(),
        detail: "for the test".into(),
    });

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
