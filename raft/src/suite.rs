//! openraft's own conformance suite, on our log and our state machine.

use std::io;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::SnapshotOf;
use openraft::{OptionalSend, StorageError};
use tarn_machine::Versions;
use tempfile::TempDir;

use crate::disk::{self, RealDisk};
use crate::log_store::{LogLimits, LogStore};
use crate::snapshot::SnapshotDir;
use crate::state_machine::StateMachine;
use crate::types::{Entry, EntryPayload, FatalFlag, LogId, SnapshotMeta, StoredMembership, TypeConfig};

/// The suite applies entries with gaps between them, which no log has and our kernel refuses. Fills the gaps.
struct Gapless(StateMachine);

impl RaftStateMachine<TypeConfig> for Gapless {
    type SnapshotData = Arc<SnapshotDir>;
    type SnapshotBuilder = StateMachine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        self.0.applied_state().await
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let (applied, _) = self.0.applied_state().await?;
        let mut next = applied.map_or(0, |id| id.index + 1);
        let mut work = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            for index in next..entry.log_id.index {
                let log_id = LogId::new(entry.log_id.leader_id, index);
                let payload = EntryPayload::Blank;
                work.push(Ok((Entry { log_id, payload }, None)));
            }
            next = entry.log_id.index + 1;
            work.push(Ok((entry, responder)));
        }
        self.0.apply(futures::stream::iter(work)).await
    }

    async fn get_snapshot_builder(&mut self) -> StateMachine {
        self.0.get_snapshot_builder().await
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Arc<SnapshotDir>) -> Result<(), io::Error> {
        self.0.install_snapshot(meta, snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, Arc<SnapshotDir>>>, io::Error> {
        self.0.get_current_snapshot().await
    }
}

/// Closes what the suite opened.
struct Guard {
    _temp: TempDir,
    log: LogStore,
    machine: StateMachine,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.log.close();
        self.machine.close();
    }
}

struct Builder {
    limits: LogLimits,
}

impl StoreBuilder<TypeConfig, LogStore, Gapless, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Gapless), StorageError<TypeConfig>> {
        let temp = tempfile::tempdir().unwrap();
        let fatal = FatalFlag::new();
        let disk: Arc<dyn disk::Disk> = Arc::new(RealDisk);
        let engine = disk::open_log(disk.as_ref(), &temp.path().join("log")).unwrap();
        let log = LogStore::open(engine, 1, self.limits, &disk, fatal.clone()).unwrap();
        let machine = StateMachine::open(temp.path(), Versions::CURRENT, Arc::new(|_, _| {}), disk, fatal).unwrap();
        let guard = Guard { _temp: temp, log: log.clone(), machine: machine.clone() };
        Ok((guard, log, Gapless(machine)))
    }
}

fn run(limits: LogLimits) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        Suite::test_all(Builder { limits }).await.unwrap();
    });
}

#[test]
fn the_suite_passes() {
    run(LogLimits { cache_bytes: 1 << 20, batch_bytes: 1 << 20 });
}

#[test]
fn the_suite_passes_without_a_cache_and_with_the_smallest_batches() {
    run(LogLimits { cache_bytes: 0, batch_bytes: 1 });
}
