//! The machine: opened over an engine, it applies entries in the order of the log.

use std::sync::Arc;

use prost::Message;
use tarn_proto::v1::{Entry, Event, Outcome};
use tarn_storage::{Batch, Durability, Engine};

use crate::advance::advance;
use crate::apply;
use crate::domain::{audit, namespace};
use crate::error::Fatal;
use crate::index::{Indices, matches_class, may_serve, rebuild, serves};
use crate::keys::Key;
use crate::limits;
use crate::overlay::{Overlay, Rows, STATE};
use crate::requests;
use crate::rows::{Class, EventsRow, MetaRow, NamespaceRow};
use crate::txn::{Kept, Txn};
use crate::wire;

/// The machine versions that a build can read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// Lowest.
    pub min: u32,
    /// Highest.
    pub max: u32,
}

impl Versions {
    /// The versions that this build reads.
    pub const CURRENT: Versions = Versions { min: 1, max: 6 };
    /// The version of a new cluster.
    pub const FIRST: u32 = 1;

    /// Refuses what is outside.
    fn check(self, what: &'static str, found: u32) -> Result<(), Fatal> {
        if (self.min..=self.max).contains(&found) {
            return Ok(());
        }
        Err(Fatal::UnknownVersion { what, found, min: self.min, max: self.max })
    }
}

/// The replicated state machine of one node.
pub struct Machine {
    pub(crate) engine: Arc<dyn Engine>,
    versions: Versions,
    pub(crate) meta: MetaRow,
    digest: [u8; 32],
    pub(crate) ix: Indices,
    kept: Kept,
}

/// What an entry did.
#[derive(Clone, PartialEq, Debug)]
pub struct Applied {
    /// One per command, in order.
    pub outcomes: Vec<Outcome>,
    /// What happened, in order: first what time did, then what the commands did.
    pub events: Vec<Event>,
    /// The digest of everything applied so far, this entry included: equal on every replica.
    pub digest: [u8; 32],
    /// The machine's time, Unix epoch, milliseconds.
    pub now_ms: u64,
    /// Where tasks became ready, for whoever hands them to waiting workers. Some may be leased again already.
    pub ready: Vec<ReadyGroup>,
}

/// Tasks of one queue that the same workers can run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadyGroup {
    /// The namespace's name.
    pub namespace: Arc<str>,
    /// The queue's name.
    pub queue: Arc<str>,
    /// Whether only workers of the namespace's own may serve it.
    pub strict: bool,
    /// What a worker must be able to do.
    pub class: Arc<Class>,
}

impl ReadyGroup {
    /// Whether a worker with these capabilities can run the tasks.
    pub fn suits(&self, capabilities: &tarn_proto::v1::WorkerCapabilities) -> bool {
        may_serve(&self.namespace, self.strict, capabilities)
            && serves(&capabilities.queues, &self.queue)
            && matches_class(capabilities, &self.class)
    }
}

impl Machine {
    /// Opens the machine over an engine that has the keyspace [`STATE`]: an empty one becomes a new cluster, any other continues where it
    /// stopped. Reads everything that lives, to fill the indices.
    ///
    /// # Errors
    ///
    /// [`Fatal::UnknownVersion`] if the state needs another build; [`Fatal::Storage`] and [`Fatal::Assertion`] if it cannot be read.
    pub fn open(engine: Arc<dyn Engine>, versions: Versions) -> Result<Machine, Fatal> {
        let rows: &dyn Engine = &*engine;
        let Some(meta) = rows.row::<MetaRow>(Key::Meta)? else {
            return Machine::create(engine, versions);
        };
        versions.check("the state", meta.version)?;
        let digest = rows.bytes(Key::Digest)?.and_then(|bytes| bytes.as_ref().try_into().ok());
        let digest = digest.ok_or_else(|| Fatal::assertion("the state has no digest"))?;
        let ix = rebuild(rows)?;
        Ok(Machine { engine, versions, meta, digest, ix, kept: Kept::default() })
    }

    /// A new cluster: the same bytes on every node.
    fn create(engine: Arc<dyn Engine>, versions: Versions) -> Result<Machine, Fatal> {
        versions.check("a new cluster", Versions::FIRST)?;
        let meta = MetaRow { version: Versions::FIRST, ..MetaRow::default() };
        let (ix, kept) = (Indices::default(), Kept::default());
        let mut machine = Machine { engine: engine.clone(), versions, meta, digest: [0; 32], ix, kept };
        let mut txn = Txn::new(Overlay::new(&*engine), &mut machine.ix, meta, versions, 0);
        let row = NamespaceRow { id: namespace::DEFAULT_ID, weight: limits::WEIGHT_DEFAULT, ..NamespaceRow::default() };
        namespace::create(&mut txn, namespace::DEFAULT, row);
        let (batch, meta, _) = txn.finish();
        machine.commit(batch, meta, &Batch::new())?;
        Ok(machine)
    }

    /// Applies an entry of the log: lets time pass, then carries out its commands in order. Everything it changes is written in one batch,
    /// together with `extra`, which holds what the caller keeps about the log in keyspaces of its own. The batch is not synced: after a
    /// crash the log, which is, gives the entry again.
    ///
    /// # Errors
    ///
    /// Any error means that this node must stop and answer nothing: what is in memory may be ahead of what is on disk.
    /// [`Fatal::UnknownVersion`] and [`Fatal::Malformed`] ask for another build and leave the state on disk as it was.
    pub fn apply(&mut self, index: u64, entry: &[u8], extra: &Batch) -> Result<Applied, Fatal> {
        self.check_next(index)?;
        let said: Vec<&[u8]> = wire::commands_of_entry(entry).collect();
        let entry = self.decode(index, entry, said.len())?;
        let mut meta = self.meta;
        meta.applied = Some(index);
        meta.now_ms = meta.now_ms.max(entry.now_ms.min(limits::TIME_MS_MAX));

        let engine = self.engine.clone();
        let mut txn = Txn::new(Overlay::new(&*engine), &mut self.ix, meta, self.versions, index);
        txn.take_up(std::mem::take(&mut self.kept));
        txn.events.reserve(entry.commands.len());
        advance(&mut txn)?;
        let mut outcomes = Vec::with_capacity(entry.commands.len());
        for (command, said) in entry.commands.into_iter().zip(said) {
            outcomes.push(apply::command(&mut txn, command, said)?);
        }
        requests::seal(&mut txn);
        audit::seal(&mut txn)?;
        let ready = ready_groups(&txn);
        let events = keep_events(&mut txn);
        let (batch, meta, kept) = txn.finish();
        self.commit(batch, meta, extra)?;
        self.kept = kept;
        Ok(Applied { outcomes, events, digest: self.digest, now_ms: meta.now_ms, ready })
    }

    /// Notes an entry that carries nothing for the machine: only the applied index moves. Of a change of membership, `members` says for the
    /// records what it came to.
    ///
    /// # Errors
    ///
    /// As [`Machine::apply`].
    pub fn note(&mut self, index: u64, members: Option<String>, extra: &Batch) -> Result<(), Fatal> {
        self.check_next(index)?;
        let mut meta = self.meta;
        meta.applied = Some(index);
        let engine = self.engine.clone();
        let mut txn = Txn::new(Overlay::new(&*engine), &mut self.ix, meta, self.versions, index);
        if let Some(members) = members {
            audit::members(&mut txn, members)?;
        }
        keep_events(&mut txn);
        let (batch, meta, _) = txn.finish();
        self.commit(batch, meta, extra)
    }

    /// Entries come in order, without a gap. A log may begin at 0 or at 1.
    fn check_next(&self, index: u64) -> Result<(), Fatal> {
        let next = match self.meta.applied {
            None => index <= 1,
            Some(applied) => index == applied + 1,
        };
        if next && index >> (u64::BITS - limits::ORDINAL_BITS) == 0 {
            return Ok(());
        }
        Err(Fatal::assertion(format!("log entry {index} cannot follow {:?}", self.meta.applied)))
    }

    fn decode(&self, index: u64, bytes: &[u8], commands: usize) -> Result<Entry, Fatal> {
        let malformed = |detail: String| Fatal::Malformed { index, detail };
        let mut entry = Entry { commands: Vec::with_capacity(commands), ..Entry::default() };
        entry.merge(bytes).map_err(|error| malformed(format!("it cannot be decoded: {error}")))?;
        self.versions.check("a log entry", entry.version)?;
        if entry.version > self.meta.version {
            let cluster = self.meta.version;
            return Err(malformed(format!("it has version {}, and the cluster has version {cluster}", entry.version)));
        }
        // The decoder drops fields that it does not know; they are missing when the entry is measured again.
        if entry.encoded_len() != bytes.len() {
            return Err(malformed("it has fields that this build does not know: upgrade this node".to_owned()));
        }
        Ok(entry)
    }

    /// Writes an entry's changes, the digest over them and the caller's part in one batch.
    fn commit(&mut self, mut batch: Batch, meta: MetaRow, extra: &Batch) -> Result<(), Fatal> {
        if extra.keyspaces().contains(&STATE) {
            return Err(Fatal::assertion("the caller's part of the batch names the machine's keyspace"));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest);
        hasher.update(batch.as_bytes());
        let digest = *hasher.finalize().as_bytes();
        batch.put(STATE, Key::Digest.encode(), digest);
        if tarn_storage::canary::planted("index-apart") {
            self.engine.write(std::mem::take(&mut batch), Durability::Buffered)?;
        }
        batch.append(extra);
        self.engine.write(batch, Durability::Buffered)?;
        self.meta = meta;
        self.digest = digest;
        Ok(())
    }

    /// The index of the last entry applied; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.meta.applied.unwrap_or(0)
    }

    /// The machine's time, Unix epoch, milliseconds: the latest that any entry brought.
    pub fn now_ms(&self) -> u64 {
        self.meta.now_ms
    }

    /// The digest of everything applied so far: equal on every replica at the same index.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The cluster's machine version: what entries are to be written in.
    pub fn version(&self) -> u32 {
        self.meta.version
    }

    /// When time alone will change something: an entry without commands is due then. A time that has passed means that more is due than one
    /// entry may do: propose another at once.
    pub fn next_wake_ms(&self) -> Option<u64> {
        self.ix.next_wake_ms()
    }

    /// The engine that holds the state.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The indices in memory. With [`Machine::rebuilt_indices`], for tests.
    pub fn indices(&self) -> &Indices {
        &self.ix
    }

    /// The indices as a start of this node would fill them: always equal to [`Machine::indices`]. Reads everything that lives.
    ///
    /// # Errors
    ///
    /// [`Fatal`] if the state cannot be read.
    pub fn rebuilt_indices(&self) -> Result<Indices, Fatal> {
        rebuild(&*self.engine)
    }
}

/// Where tasks became ready or can now be given away, by name. A queue whose namespace went in the same entry is left out.
fn ready_groups(txn: &Txn<'_>) -> Vec<ReadyGroup> {
    let named = |(ns, queue, class): &(u64, u64, Arc<Class>)| {
        let namespace = txn.ix.namespaces.get(ns)?;
        let queue = namespace.queues.get(queue)?.name.clone();
        Some(ReadyGroup { namespace: namespace.name.clone(), queue, strict: namespace.is_strict(), class: class.clone() })
    };
    let mut places = txn.became_ready.clone();
    for ns in &txn.freed {
        if let Some(namespace) = txn.ix.namespaces.get(ns).filter(|namespace| !namespace.is_full()) {
            places.extend(namespace.ready_groups().map(|(queue, class)| (*ns, queue, class)));
        }
    }
    places.iter().filter_map(named).collect()
}

/// Writes the entry's events, and drops those of the one entry that is too old by now.
fn keep_events(txn: &mut Txn<'_>) -> Vec<Event> {
    if let Some(index) = txn.index.checked_sub(limits::EVENT_REVISIONS_KEPT) {
        txn.rows.delete(Key::Events { index });
    }
    let row = EventsRow { events: std::mem::take(&mut txn.events) };
    if !row.events.is_empty() {
        txn.rows.put(Key::Events { index: txn.index }, &row);
    }
    row.events
}
