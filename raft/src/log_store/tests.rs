use openraft::storage::RaftLogStorageExt;
use openraft::vote::RaftLeaderId;
use tempfile::TempDir;

use super::*;
use crate::disk::{RealDisk, open_log};
use crate::types::{EntryPayload, LeaderId};

fn entry(index: u64) -> Entry {
    Entry { log_id: LogId::new(LeaderId::new(1, 1), index), payload: EntryPayload::Blank }
}

/// A log with the entries from 0 to 9, which keeps in memory as much as `cache_bytes`.
async fn ten(cache_bytes: usize) -> (TempDir, LogStore) {
    let home = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let engine = open_log(disk.as_ref(), home.path()).unwrap();
    let limits = LogLimits { cache_bytes, batch_bytes: usize::MAX };
    let mut log = LogStore::open(engine, 1, limits, &disk, FatalFlag::new()).unwrap();
    log.blocking_append((0..10).map(entry)).await.unwrap();
    (home, log)
}

fn indexes(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(RaftEntry::index).collect()
}

/// openraft sends what it reads as what follows the entry before the first that it asked for, and does not look whether that is true.
#[tokio::test]
async fn who_asks_from_a_purged_entry_on_gets_nothing_and_not_what_lies_behind_it() {
    for cache_bytes in [0, 1 << 20] {
        let (_home, mut log) = ten(cache_bytes).await;
        assert_eq!(indexes(&log.limited_get_log_entries(3, 10).await.unwrap()), [3, 4, 5, 6, 7, 8, 9]);
        log.purge(entry(5).log_id).await.unwrap();
        assert!(log.limited_get_log_entries(3, 10).await.unwrap().is_empty());
        assert!(log.limited_get_log_entries(5, 10).await.unwrap().is_empty());
        assert_eq!(indexes(&log.limited_get_log_entries(6, 10).await.unwrap()), [6, 7, 8, 9]);

        let applied = log.entries_stream(3..10).await.try_collect::<Vec<Entry>>().await;
        let error = applied.unwrap_err().to_string();
        assert!(error.contains("begins at 6") && error.contains("entry 3"), "{error}");
        let applied: Vec<Entry> = log.entries_stream(6..10).await.try_collect().await.unwrap();
        assert_eq!(indexes(&applied), [6, 7, 8, 9]);
        log.close();
    }
}

#[tokio::test]
async fn an_entry_that_would_leave_a_hole_is_not_appended() {
    let (_home, mut log) = ten(1 << 20).await;
    let error = log.blocking_append([entry(12)]).await.unwrap_err();
    assert!(error.to_string().contains("12"), "{error}");
    assert!(log.blocking_append([entry(10), entry(12)]).await.is_err());
    log.close();
}

#[tokio::test]
async fn how_far_it_is_committed_goes_to_the_disk_with_the_next_entries_and_at_the_end() {
    let (home, mut log) = ten(1 << 20).await;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let limits = LogLimits { cache_bytes: 0, batch_bytes: usize::MAX };
    let written = |log: &LogStore| {
        let engine = log.shared.engine.read().unwrap().clone().unwrap();
        records::read_log_id(engine.as_ref(), records::COMMITTED).unwrap()
    };
    log.save_committed(Some(entry(7).log_id)).await.unwrap();
    assert_eq!(log.read_committed().await.unwrap(), Some(entry(7).log_id));
    assert_eq!(written(&log), None);
    log.blocking_append([entry(10)]).await.unwrap();
    assert_eq!(written(&log), Some(entry(7).log_id));
    log.save_committed(Some(entry(10).log_id)).await.unwrap();
    log.close();
    let engine = open_log(disk.as_ref(), home.path()).unwrap();
    let mut log = LogStore::open(engine, 1, limits, &disk, FatalFlag::new()).unwrap();
    assert_eq!(log.read_committed().await.unwrap(), Some(entry(10).log_id));
    log.close();
}

#[tokio::test]
async fn a_log_whose_beginning_is_gone_is_refused() {
    let (home, mut log) = ten(0).await;
    log.purge(entry(5).log_id).await.unwrap();
    log.close();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let limits = LogLimits { cache_bytes: 0, batch_bytes: usize::MAX };
    let engine = open_log(disk.as_ref(), home.path()).unwrap();
    LogStore::open(engine, 1, limits, &disk, FatalFlag::new()).unwrap().close();

    let engine = open_log(disk.as_ref(), home.path()).unwrap();
    let mut batch = Batch::new();
    batch.delete(ENTRIES, records::entry_key(6));
    engine.write(batch, tarn_storage::Durability::Synced).unwrap();
    let error = LogStore::open(engine, 1, limits, &disk, FatalFlag::new()).err().unwrap().to_string();
    assert!(error.contains("begins at 7") && error.contains("at 6"), "{error}");
}

/// A build that knows the journal goes on with a log that an older one began.
#[tokio::test]
async fn a_log_stays_in_the_engine_in_which_it_was_begun() {
    use tarn_storage::{JournalEngine, Profile, RocksEngine, RocksOptions};
    let home = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let limits = LogLimits { cache_bytes: 0, batch_bytes: usize::MAX };
    let engine = RocksEngine::open(home.path(), RocksOptions { keyspaces: KEYSPACES, profile: Profile::Log }).unwrap();
    let mut log = LogStore::open(Arc::new(engine), 1, limits, &disk, FatalFlag::new()).unwrap();
    log.blocking_append((0..3).map(entry)).await.unwrap();
    log.close();

    assert!(!JournalEngine::is_for(home.path()).unwrap());
    let mut log = LogStore::open(open_log(disk.as_ref(), home.path()).unwrap(), 1, limits, &disk, FatalFlag::new()).unwrap();
    log.blocking_append([entry(3)]).await.unwrap();
    assert_eq!(indexes(&log.limited_get_log_entries(0, 10).await.unwrap()), [0, 1, 2, 3]);
    log.close();
}
