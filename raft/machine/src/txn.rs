//! What a command works with: the rows as they stand within the entry, the indices, the time, and what it has to tell.
//!
//! A command checks first and changes afterwards, so that a refusal leaves no trace; `apply` asserts it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tarn_proto::v1::{Event, EventKind, Rejection};
use tarn_storage::Batch;

use crate::Versions;
use crate::domain::audit::Decisions;
use crate::error::{Fatal, Refusal};
use crate::index::Indices;
use crate::keys::Key;
use crate::limits;
use crate::overlay::Overlay;
use crate::reject;
use crate::rows::{Class, MetaRow, UsageRow};
use crate::task::recent::Recent;

/// What an entry leaves for the next: memory to be used again, empty, and what need not be read again.
#[derive(Default)]
pub struct Kept {
    rows: Vec<u8>,
    decisions: Vec<u8>,
    draft: Vec<u8>,
    recent: Recent,
}

/// Of each piece of memory that is kept.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// One entry being applied.
pub struct Txn<'a> {
    pub rows: Overlay<'a>,
    pub ix: &'a mut Indices,
    pub meta: MetaRow,
    pub versions: Versions,
    /// The entry's log index.
    pub index: u64,
    /// The machine's time.
    pub now: u64,
    pub events: Vec<Event>,
    /// What was decided and why.
    pub decisions: Decisions,
    /// Memory for the next draft of a decision.
    pub draft: Vec<u8>,
    /// Queues, as (namespace, queue, class), in which a task became ready.
    pub became_ready: BTreeSet<(u64, u64, Arc<Class>)>,
    /// Namespaces that may be given more tasks than before, though none became ready.
    pub freed: BTreeSet<u64>,
    /// Namespaces whose use changed.
    pub used: BTreeSet<u64>,
    /// Dependencies that this entry may still settle.
    pub settles_left: usize,
    /// Hashes of the request ids that this entry used, encoded as a [`RequestExpiryRow`](crate::rows::RequestExpiryRow).
    pub request_hashes: Vec<u8>,
    /// The request id of the batch whose commands are being carried out; empty outside of batches.
    pub batch_id: String,
    /// What need not be read again.
    pub recent: Recent,
    next_ordinal: u64,
}

impl<'a> Txn<'a> {
    /// Begins an entry.
    pub fn new(rows: Overlay<'a>, ix: &'a mut Indices, meta: MetaRow, versions: Versions, index: u64) -> Self {
        Txn {
            rows,
            ix,
            meta,
            versions,
            index,
            now: meta.now_ms,
            events: Vec::new(),
            decisions: Decisions::default(),
            draft: Vec::new(),
            became_ready: BTreeSet::new(),
            freed: BTreeSet::new(),
            used: BTreeSet::new(),
            settles_left: limits::SETTLES_PER_ENTRY_MAX,
            request_hashes: Vec::new(),
            batch_id: String::new(),
            recent: Recent::default(),
            // Zero would be an id that no log position has.
            next_ordinal: 1,
        }
    }

    /// Whether enough ids are left for any one command.
    pub fn has_ids(&self) -> bool {
        self.next_ordinal + limits::COMMAND_ORDINALS_MAX < 1 << limits::ORDINAL_BITS
    }

    /// Whether enough ids are left for so many things, and any one command after them. A thing may need two.
    pub fn has_ids_for(&self, things: u64) -> bool {
        self.next_ordinal + 2 * things + limits::COMMAND_ORDINALS_MAX < 1 << limits::ORDINAL_BITS
    }

    /// The next id or token: greater than every one before it.
    pub fn next_id(&mut self) -> u64 {
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        self.index << limits::ORDINAL_BITS | ordinal
    }

    /// The number of the namespace with this name.
    pub fn namespace(&self, name: &str) -> Result<u64, Rejection> {
        self.ix.namespace_ids.get(name).copied().ok_or_else(|| reject::namespace_not_found(name))
    }

    /// The number of the namespace with this name, if it takes anything new.
    pub fn open_namespace(&self, name: &str) -> Result<u64, Rejection> {
        let ns = self.namespace(name)?;
        match self.ix.draining.contains(&ns) {
            true => Err(reject::namespace_draining(name)),
            false => Ok(ns),
        }
    }

    /// The number of a namespace and of a queue in it.
    pub fn queue(&self, namespace: &str, queue: &str) -> Result<(u64, u64), Refusal> {
        let ns = self.namespace(namespace)?;
        let id = self.ix.namespace(ns)?.queue_ids.get(queue).copied();
        Ok((ns, id.ok_or_else(|| reject::queue_not_found(queue))?))
    }

    /// The name of a namespace that a row names.
    pub fn namespace_name(&self, ns: u64) -> Result<String, Fatal> {
        Ok(self.ix.namespace(ns)?.name.to_string())
    }

    /// Tells that something happened; the caller fills in what applies beyond kind and subject.
    pub fn event(&mut self, kind: EventKind, subject: impl Into<String>) -> &mut Event {
        self.events.push(Event {
            revision: self.index,
            ordinal: u32::try_from(self.events.len()).unwrap_or(u32::MAX),
            at_ms: self.now,
            kind: kind.into(),
            subject: subject.into(),
            ..Event::default()
        });
        self.events.last_mut().expect("an event was just pushed")
    }

    /// Uses what the last entry left. To be called before anything else.
    pub fn take_up(&mut self, kept: Kept) {
        self.rows.values = kept.rows;
        self.decisions = Decisions::new(kept.decisions);
        self.draft = kept.draft;
        self.recent = kept.recent;
    }

    /// Ends the entry: all its changes, with where the machine stands after it, and what is left for the next.
    pub fn finish(mut self) -> (Batch, MetaRow, Kept) {
        for ns in std::mem::take(&mut self.used) {
            if let Some(namespace) = self.ix.namespaces.get(&ns) {
                let (stored_bytes, ended) = (namespace.stored_bytes, namespace.ended);
                self.rows.put(Key::Usage { ns }, &UsageRow { stored_bytes, ended });
            }
        }
        self.rows.put(Key::Meta, &self.meta);
        let (batch, rows) = self.rows.into_batch();
        let (decisions, _) = self.decisions.into_parts();
        // A large entry's memory is not kept for small ones.
        let small = |memory: Vec<u8>| if memory.capacity() <= KEPT_BYTES_MAX { memory } else { Vec::new() };
        let kept = Kept { rows: small(rows), decisions: small(decisions), draft: small(self.draft), recent: self.recent };
        (batch, self.meta, kept)
    }
}
