//! The kernel under openraft: applies committed entries, and builds and installs snapshots of the state.
//!
//! An entry's effects, the raft position that goes with them and the digest are one batch of the engine, so that a crash
//! leaves the state before an entry or after it. The batch is not flushed: the log is, and after a power cut the entries
//! are applied again. Before the log is purged, the state that replaces it *is* flushed: that is what a snapshot is.

use std::collections::VecDeque;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, TryLockError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use prost::Message;
use tarn_invariants::{debug_holds, raft};
use tarn_machine::{Machine, ReadyGroup, Versions};
use tarn_proto::v1;
use tarn_storage::{Batch, Engine, Keyspace};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{broadcast, watch};

use crate::convert;
use crate::crash;
use crate::disk::{self, Disk};
use crate::snapshot::{SnapshotDir, SnapshotStore, StateLabel};
use crate::state_dirs::StateDirs;
use crate::types::{Entry, EntryPayload, FatalFlag, LogId, Membership, NodeId, Reply, SnapshotMeta, StoredMembership, TypeConfig};
use crate::watched::Watched;
use crate::wire;

/// Where the state's engine keeps what belongs to raft and not to the kernel.
pub(crate) const RAFT: Keyspace = Keyspace::new("raft");

const APPLIED: &[u8] = b"applied";
const MEMBERSHIP: &[u8] = b"membership";
const NODE_ID_MAX: &[u8] = b"node_id_max";
/// Before the id of a node that was a member and is none any more. One key for each: ids are never used again, and a cluster removes few nodes.
const REMOVED: &[u8] = b"removed/";

/// Entries handed to one blocking task. Bounds how long a shutdown waits.
const APPLY_ENTRIES: usize = 64;

/// An entry of at most so many bytes that comes alone is applied where it arrives. It takes a fraction of a millisecond, and waking a thread for
/// it and being woken by that costs every node of a busy machine more; and a node to which entries come one by one has a disk that keeps up.
const IN_PLACE_BYTES_MAX: usize = 32 << 10;

/// Revisions kept for subscribers that are behind. When full, the oldest go, and whoever needed them is told so and
/// reads them from the state.
const EVENT_BATCHES: usize = 1_024;

const PANICKED: &str = "the kernel panicked; its message is in the log";

/// Every so many entries the digest is remembered, for comparison with other nodes.
const DIGEST_EVERY: u64 = 64;

/// Digests remembered: a node may be this many times [`DIGEST_EVERY`] entries behind and still be compared.
const DIGESTS_KEPT: usize = 128;

/// What one log entry brought about, for whoever waits for it.
#[derive(Clone, Debug)]
pub struct EventBatch {
    /// The entry's index.
    pub revision: u64,
    /// In their order.
    pub events: Arc<[v1::Event]>,
    /// Where tasks became ready, for whoever hands them to waiting workers.
    pub ready: Arc<[ReadyGroup]>,
}

/// Where the state stands, for whoever waits for it to move on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// The last applied log index; 0 before the first.
    pub index: u64,
    /// The machine's time, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The machine version in force.
    pub version: u32,
    /// When the machine has something to do by itself, in the same time.
    pub next_wake_ms: Option<u64>,
    /// The highest id that a member ever had, whether it still is one or not.
    pub node_id_max: NodeId,
}

type OnApplied = Arc<dyn Fn(usize, Duration) + Send + Sync>;

/// The state machine as openraft knows it. Clones share it.
#[derive(Clone)]
pub(crate) struct StateMachine {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` once closed. Written by apply and by the installation of a snapshot, read by everybody.
    live: RwLock<Option<Live>>,
    /// Held by whoever changes or copies the state, so that a long copy keeps the next change waiting here and not at `live`, where a waiting
    /// writer would hold up every reader.
    changing: Mutex<()>,
    dirs: StateDirs,
    snapshots: SnapshotStore,
    versions: Versions,
    on_applied: OnApplied,
    disk: Arc<dyn Disk>,
    fatal: FatalFlag,
    applied: watch::Sender<Applied>,
    /// Of `applied` only this, for who need not hear of every entry.
    next_wake_ms: watch::Sender<Option<u64>>,
    events: broadcast::Sender<EventBatch>,
    digests: Mutex<VecDeque<(u64, Bytes)>>,
}

struct Live {
    machine: Machine,
    engine: Arc<dyn Engine>,
    generation: u64,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    node_id_max: NodeId,
}

impl StateMachine {
    /// Opens the state below `data_dir`, or makes an empty one.
    pub fn open(
        data_dir: &Path,
        versions: Versions,
        on_applied: OnApplied,
        disk: Arc<dyn Disk>,
        fatal: FatalFlag,
    ) -> Result<Self, io::Error> {
        let (dirs, current) = StateDirs::open(data_dir.join("state"))?;
        let generation = current.max(1);
        let live = Live::open(disk.as_ref(), dirs.path(generation), generation, versions, &fatal)?;
        if current == 0 {
            dirs.switch(generation)?;
        }
        // A node applies what a majority has, even before its own log has it. Killed then, it starts with a state that is ahead of the log, and
        // openraft begins the log anew behind it: a power cut must not take the state back from now on.
        live.engine.sync().map_err(io::Error::other)?;
        let position = live.position();
        Ok(Self {
            shared: Arc::new(Shared {
                live: RwLock::new(Some(live)),
                changing: Mutex::new(()),
                dirs,
                snapshots: SnapshotStore::open(data_dir.join("snapshots"))?,
                versions,
                on_applied,
                disk,
                fatal,
                applied: watch::Sender::new(position),
                next_wake_ms: watch::Sender::new(position.next_wake_ms),
                events: broadcast::Sender::new(EVENT_BATCHES),
                digests: Mutex::new(VecDeque::new()),
            }),
        })
    }

    /// Reads the state as it is now. `None` if it is closed, and if this node must stop, which it must where the engine cannot read what it holds:
    /// whatever the reader made of that, nothing may come of it.
    pub fn read<T>(&self, read: impl FnOnce(&Machine) -> T) -> Option<T> {
        let live = self.shared.reading()?;
        let value = read(&live.as_ref()?.machine);
        (!self.shared.fatal.is_raised()).then_some(value)
    }

    /// Where the state stands, and its digest there. `None` if it is closed.
    pub fn position(&self) -> Option<(Applied, [u8; 32])> {
        let live = self.shared.reading()?;
        live.as_ref().map(|live| (live.position(), live.machine.digest()))
    }

    /// Whether a node was a member and is none any more. What cannot be read lets nobody in.
    pub fn was_removed(&self, id: NodeId) -> bool {
        let live = self.shared.live.read();
        let removed = |live: &Live| live.engine.get(RAFT, &[REMOVED, &id.to_be_bytes()].concat());
        live.is_ok_and(|live| live.as_ref().is_some_and(|live| !matches!(removed(live), Ok(None))))
    }

    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.shared.applied.subscribe()
    }

    /// When the machine has something to do by itself, in its own time.
    pub fn next_wake_ms(&self) -> watch::Receiver<Option<u64>> {
        self.shared.next_wake_ms.subscribe()
    }

    pub fn events(&self) -> broadcast::Receiver<EventBatch> {
        self.shared.events.subscribe()
    }

    pub fn snapshots(&self) -> &SnapshotStore {
        &self.shared.snapshots
    }

    /// What the data lies on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.shared.disk
    }

    pub fn versions(&self) -> Versions {
        self.shared.versions
    }

    /// Stops the node because of what was found on its disk.
    pub fn fail(&self, reason: impl std::fmt::Display) {
        self.shared.fatal.raise(reason);
    }

    /// Digests of recent states with their indexes, ascending.
    pub fn digests(&self) -> Vec<(u64, Bytes)> {
        let digests = self.shared.digests.lock().expect("no holder of this lock panics");
        digests.iter().cloned().collect()
    }

    /// Closes the engine, so that its directory can be opened again. Blocks.
    pub fn close(&self) {
        let _changing = self.shared.changing.lock();
        if let Ok(mut live) = self.shared.live.write() {
            live.take();
        }
    }
}

impl Live {
    fn open(disk: &dyn Disk, path: PathBuf, generation: u64, versions: Versions, fatal: &FatalFlag) -> Result<Self, io::Error> {
        let engine: Arc<dyn Engine> = Arc::new(Watched::new(disk::open_state(disk, &path)?, fatal.clone()));
        let machine = Machine::open(engine.clone(), versions).map_err(io::Error::other)?;
        let last_applied = match engine.get(RAFT, APPLIED).map_err(io::Error::other)? {
            None => None,
            Some(value) => Some(convert::log_id_from_wire(wire::decode(value.into()).map_err(io::Error::other)?)),
        };
        let membership = match engine.get(RAFT, MEMBERSHIP).map_err(io::Error::other)? {
            None => StoredMembership::default(),
            Some(value) => {
                wire::decode(value.into()).and_then(|stored| convert::stored_from_wire(Some(stored))).map_err(io::Error::other)?
            }
        };
        let node_id_max = match engine.get(RAFT, NODE_ID_MAX).map_err(io::Error::other)? {
            None => highest_id(&membership),
            Some(value) => u64::from_be_bytes(value[..].try_into().map_err(io::Error::other)?),
        };
        let raft_index = last_applied.as_ref().map_or(0, |id: &LogId| id.index);
        if machine.applied_index() != raft_index {
            return Err(io::Error::other(format!(
                "the state is damaged: the kernel stands at {}, raft at {raft_index}",
                machine.applied_index()
            )));
        }
        Ok(Self { machine, engine, generation, last_applied, membership, node_id_max })
    }

    fn position(&self) -> Applied {
        Applied {
            index: self.machine.applied_index(),
            now_ms: self.machine.now_ms(),
            version: self.machine.version(),
            next_wake_ms: self.machine.next_wake_ms(),
            node_id_max: self.node_id_max,
        }
    }
}

type Work = (Entry, Option<ApplyResponder<TypeConfig>>);

impl Shared {
    /// The state for a reader. Whoever would have to wait lets another thread do what this one serves besides: an entry is applied in less than a
    /// millisecond, but not where the engine's disk cannot keep up. `None`: the machine panicked, and nothing it holds can be trusted.
    fn reading(&self) -> Option<RwLockReadGuard<'_, Option<Live>>> {
        match self.live.try_read() {
            Ok(live) => Some(live),
            Err(TryLockError::Poisoned(_)) => None,
            Err(TryLockError::WouldBlock) => match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
                Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| self.live.read().ok()),
                _ => self.live.read().ok(),
            },
        }
    }

    fn moved_to(&self, position: Applied) {
        self.applied.send_replace(position);
        let wake = position.next_wake_ms;
        self.next_wake_ms.send_if_modified(|known| std::mem::replace(known, wake) != wake);
    }

    fn apply_all(&self, work: Vec<Work>) -> Result<(), io::Error> {
        work.into_iter().try_for_each(|(entry, responder)| {
            let began = Instant::now();
            let (outcomes, batch, position) = self.apply_one(&entry)?;
            (self.on_applied)(outcomes.len(), began.elapsed());
            self.moved_to(position);
            if !batch.events.is_empty() || !batch.ready.is_empty() {
                // No subscriber is no error.
                let _ = self.events.send(batch);
            }
            if let Some(responder) = responder {
                responder.send(Reply { outcomes });
            }
            Ok(())
        })
    }

    fn apply_one(&self, entry: &Entry) -> Result<(Vec<v1::Outcome>, EventBatch, Applied), io::Error> {
        let _changing = self.changing.lock().map_err(|_| self.fatal.stop("the kernel panicked"))?;
        let mut guard = self.live.write().map_err(|_| self.fatal.stop("the kernel panicked"))?;
        let live = guard.as_mut().ok_or_else(closed)?;
        let index = entry.log_id.index;
        debug_holds!(raft::applied_in_order(live.last_applied.as_ref().map(convert::entry_id), convert::entry_id(&entry.log_id)));
        let mut extra = Batch::new();
        extra.put(RAFT, APPLIED, convert::log_id_to_wire(&entry.log_id).encode_to_vec());
        let mut batch = EventBatch { revision: index, events: Arc::default(), ready: Arc::default() };
        let mut outcomes = Vec::new();

        crash::point(crash::APPLY_COMMIT_BEFORE);
        let stopped = |error: tarn_machine::Fatal| self.fatal.stop(format!("log entry {index}: {error}"));
        match &entry.payload {
            EntryPayload::Normal(payload) => {
                let applied = live.machine.apply(index, &payload.0, &extra).map_err(stopped)?;
                outcomes = applied.outcomes;
                batch.events = applied.events.into();
                batch.ready = applied.ready.into();
            }
            EntryPayload::Blank => live.machine.note(index, None, &extra).map_err(stopped)?,
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                let node_id_max = live.node_id_max.max(highest_id(&stored));
                extra.put(RAFT, MEMBERSHIP, convert::stored_to_wire(&stored).encode_to_vec());
                extra.put(RAFT, NODE_ID_MAX, node_id_max.to_be_bytes());
                let before = live.membership.nodes().map(|(id, _)| *id);
                let gone = before.filter(|id| membership.get_node(id).is_none());
                gone.for_each(|id| extra.put(RAFT, [REMOVED, &id.to_be_bytes()].concat(), []));
                let members = in_words(membership);
                live.machine.note(index, Some(members), &extra).map_err(stopped)?;
                (live.membership, live.node_id_max) = (stored, node_id_max);
            }
        }
        crash::point(crash::APPLY_COMMIT_AFTER);
        live.last_applied = Some(entry.log_id);
        if index.is_multiple_of(DIGEST_EVERY) {
            self.remember_digest(index, live.machine.digest());
        }
        Ok((outcomes, batch, live.position()))
    }

    fn remember_digest(&self, index: u64, digest: [u8; 32]) {
        let mut digests = self.digests.lock().expect("no holder of this lock panics");
        if digests.len() == DIGESTS_KEPT {
            digests.pop_front();
        }
        digests.push_back((index, Bytes::copy_from_slice(&digest)));
    }

    fn build_snapshot(&self) -> Result<Arc<SnapshotDir>, io::Error> {
        // All nodes come here at the same entry, and while the state is held nothing is applied: most of it goes to the disk before.
        self.labelled()?.0.sync().map_err(io::Error::other)?;
        let snapshot = self.snapshots.build(|files| {
            // Apply waits while the checkpoint is made; reading goes on.
            let _changing = self.changing.lock().map_err(|_| closed())?;
            let (engine, label) = self.labelled()?;
            engine.checkpoint(files).map_err(io::Error::other)?;
            Ok(label)
        })?;
        // The log will be purged up to here, so the state must not fall behind it any more.
        let _changing = self.changing.lock().map_err(|_| closed())?;
        self.labelled()?.0.sync().map_err(io::Error::other)?;
        Ok(snapshot)
    }

    /// The state's engine, and what the state is now.
    fn labelled(&self) -> Result<(Arc<dyn Engine>, StateLabel), io::Error> {
        let guard = self.live.read().map_err(|_| closed())?;
        let live = guard.as_ref().ok_or_else(closed)?;
        let label =
            StateLabel { machine_version: live.machine.version(), last_log_id: live.last_applied, membership: live.membership.clone() };
        Ok((live.engine.clone(), label))
    }

    /// Puts a snapshot in the place of the state: a new generation is filled, opened and checked before it is switched to.
    fn install(&self, snapshot: &Arc<SnapshotDir>) -> Result<(), io::Error> {
        self.refuse_unreadable(&snapshot.manifest).map_err(io::Error::other)?;
        self.snapshots.publish(snapshot)?;

        // openraft never applies meanwhile, so the old state can be read until the new one is ready.
        let generation = {
            let guard = self.live.read().map_err(|_| closed())?;
            guard.as_ref().ok_or_else(closed)?.generation + 1
        };
        snapshot.copy_state(&self.dirs.path(generation))?;
        let live = Live::open(self.disk.as_ref(), self.dirs.path(generation), generation, self.versions, &self.fatal)?;
        let meta = snapshot.meta();
        if live.last_applied != meta.last_log_id {
            return Err(io::Error::other(format!(
                "a snapshot says that it ends at {:?} and ends at {:?}",
                meta.last_log_id, live.last_applied
            )));
        }
        let position = live.position();
        let changing = self.changing.lock().map_err(|_| closed())?;
        {
            let mut guard = self.live.write().map_err(|_| closed())?;
            if guard.is_none() {
                return Err(closed());
            }
            self.dirs.switch(generation)?;
            // Closes the old engine before its directory goes.
            *guard = Some(live);
        }
        drop(changing);
        if let Err(error) = self.dirs.remove_others(generation) {
            // Whoever still has the old engine may write there. It is only rubbish: the next start tries again.
            tracing::warn!(%error, "the state before a snapshot could not be removed");
        }
        crash::point(crash::STATE_CLEANUP_AFTER);
        self.digests.lock().expect("no holder of this lock panics").clear();
        self.moved_to(position);
        Ok(())
    }

    fn refuse_unreadable(&self, manifest: &wire::Manifest) -> Result<(), String> {
        let Versions { min, max } = self.versions;
        let needed = manifest.machine_version;
        if (min..=max).contains(&needed) {
            return Ok(());
        }
        Err(format!("a snapshot needs machine version {needed}, and this build supports {min} to {max}; run a build that supports it"))
    }
}

impl StateMachine {
    /// Stops the node if it cannot read a snapshot, with the reason.
    pub fn check_readable(&self, manifest: &wire::Manifest) -> Result<(), String> {
        self.shared.refuse_unreadable(manifest).inspect_err(|reason| self.shared.fatal.raise(reason))
    }

    /// Runs what may block on the disk away from the threads that serve the network. An error stops the node.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, io::Error> + Send + 'static,
    ) -> Result<T, io::Error> {
        let shared = self.shared.clone();
        let result = match disk::blocking(self.shared.disk.as_ref(), move || work(&shared)).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => Err(io::Error::other(PANICKED)),
            // The runtime is shutting down.
            Err(_) => return Err(closed()),
        };
        result.inspect_err(|error| self.failed(error))
    }

    /// Whether applying an entry is not worth a thread. While the state is copied it would have to wait.
    fn is_quick(&self, entry: &Entry) -> bool {
        let is_small = match &entry.payload {
            EntryPayload::Normal(payload) => payload.0.len() <= IN_PLACE_BYTES_MAX,
            EntryPayload::Blank => true,
            EntryPayload::Membership(_) => false,
        };
        is_small && self.shared.disk.simulated_delay().is_none() && self.shared.changing.try_lock().is_ok()
    }

    /// Applies what is not worth a thread. An error stops the node.
    fn in_place(&self, work: Vec<Work>) -> Result<(), io::Error> {
        let applied = std::panic::catch_unwind(AssertUnwindSafe(|| self.shared.apply_all(work)));
        let applied = applied.unwrap_or_else(|_| Err(io::Error::other(PANICKED)));
        applied.inspect_err(|error| self.failed(error))
    }

    fn failed(&self, error: &io::Error) {
        if !self.shared.live.read().is_ok_and(|live| live.is_none()) {
            self.shared.fatal.raise(error);
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Arc<SnapshotDir>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let guard = self.shared.live.read().map_err(|_| closed())?;
        let live = guard.as_ref().ok_or_else(closed)?;
        Ok((live.last_applied, live.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let mut work = vec![first?];
            while work.len() < APPLY_ENTRIES
                && let Some(Some(next)) = entries.next().now_or_never()
            {
                work.push(next?);
            }
            match &work[..] {
                [(entry, _)] if self.is_quick(entry) => self.in_place(work)?,
                _ => self.blocking(move |shared| shared.apply_all(work)).await?,
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: Arc<SnapshotDir>) -> Result<(), io::Error> {
        self.blocking(move |shared| shared.install(&snapshot)).await
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::type_config::alias::SnapshotOf<TypeConfig, Arc<SnapshotDir>>>, io::Error> {
        Ok(self.shared.snapshots.current().map(into_raft))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = Arc<SnapshotDir>;

    async fn build_snapshot(&mut self) -> Result<openraft::type_config::alias::SnapshotOf<TypeConfig, Arc<SnapshotDir>>, io::Error> {
        self.blocking(Shared::build_snapshot).await.map(into_raft)
    }
}

pub(crate) fn into_raft(snapshot: Arc<SnapshotDir>) -> openraft::type_config::alias::SnapshotOf<TypeConfig, Arc<SnapshotDir>> {
    Snapshot { meta: snapshot.meta().clone(), snapshot }
}

/// Such as "voters 1, 2, 3; learners 4". During a change two groups of voters must agree.
fn in_words(membership: &Membership) -> String {
    let list = |ids: &mut dyn Iterator<Item = NodeId>| {
        let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
        ids.join(", ")
    };
    let groups = membership.get_joint_config().iter();
    let groups: Vec<String> = groups.map(|group| list(&mut group.iter().copied())).collect();
    let learners = list(&mut membership.learner_ids());
    match learners.is_empty() {
        true => format!("voters {}", groups.join(" and ")),
        false => format!("voters {}; learners {learners}", groups.join(" and ")),
    }
}

fn highest_id(membership: &StoredMembership) -> NodeId {
    membership.nodes().map(|(id, _)| *id).max().unwrap_or(0)
}

fn closed() -> io::Error {
    io::Error::other("the state is closed")
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftLeaderId;
    use tarn_storage::Durability;

    use super::*;
    use crate::types::LeaderId;
    use crate::watched::tests::flip_first_blocks;

    /// A state in a folder with rows about members that were removed, of which the first ones cannot be read any more.
    fn damage(folder: &Path) {
        let (dirs, _) = StateDirs::open(folder.join("state")).unwrap();
        dirs.switch(1).unwrap();
        let mut batch = Batch::new();
        (1_u64..=5_000).for_each(|id| batch.put(RAFT, [REMOVED, &id.to_be_bytes()].concat(), []));
        disk::open_state(&disk::RealDisk, &dirs.path(1)).unwrap().write(batch, Durability::Synced).unwrap();
        flip_first_blocks(&dirs.path(1));
    }

    #[test]
    fn nothing_comes_of_a_read_that_met_damage() {
        let temp = tempfile::tempdir().unwrap();
        damage(temp.path());
        let fatal = FatalFlag::new();
        let machine =
            StateMachine::open(temp.path(), Versions::CURRENT, Arc::new(|_, _| {}), Arc::new(disk::RealDisk), fatal.clone()).unwrap();
        assert!(machine.was_removed(5_000) && !machine.was_removed(5_001));
        assert_eq!((machine.read(Machine::applied_index), fatal.reason()), (Some(0), None));
        // Nobody is let in by what cannot be read, and the node stops.
        assert!(machine.was_removed(1));
        assert_eq!(machine.read(Machine::applied_index), None);
        let reason = fatal.reason().unwrap();
        assert!(reason.contains("cannot be read") && reason.contains("corrupt"), "{reason}");
        machine.close();
    }

    #[test]
    fn a_long_checkpoint_keeps_changes_waiting_and_no_reader() {
        let temp = tempfile::tempdir().unwrap();
        let machine =
            StateMachine::open(temp.path(), Versions::CURRENT, Arc::new(|_, _| {}), Arc::new(disk::RealDisk), FatalFlag::new()).unwrap();
        let shared = &machine.shared;
        let entry = |index| Entry { log_id: LogId::new(LeaderId::new(1, 1), index), payload: EntryPayload::Blank };
        shared.apply_one(&entry(1)).unwrap();
        std::thread::scope(|scope| {
            // What a checkpoint holds as long as it copies.
            let checkpoint = shared.changing.lock().unwrap();
            let (begun, begins) = std::sync::mpsc::channel();
            let second = entry(2);
            let apply = scope.spawn(move || {
                begun.send(()).unwrap();
                shared.apply_one(&second).map(drop)
            });
            begins.recv().unwrap();
            // The change has every chance to get as far as it can; a reader never finds the state locked by it.
            for _ in 0..1_000 {
                assert!(shared.live.try_read().is_ok(), "a reader would wait for the checkpoint");
                std::thread::yield_now();
            }
            assert!(!apply.is_finished());
            assert_eq!(machine.read(Machine::applied_index), Some(1));
            drop(checkpoint);
            apply.join().unwrap().unwrap();
        });
        assert_eq!(machine.read(Machine::applied_index), Some(2));
        // Nor does the checkpoint itself hold more than that.
        shared.build_snapshot().unwrap();
        machine.close();
    }
}
