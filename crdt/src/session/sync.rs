//! Automerge's synchronisation protocol for each epoch that both sides have.

use std::collections::{BTreeMap, VecDeque};

use automerge::sync::{self, SyncDoc};
use automerge::{Automerge, Change, ChangeHash};

use crate::codec::Malformed;
use crate::id::ClusterId;
use crate::layer::Layer;
use crate::limits::FRAME_BYTES_SENT;
use crate::replica::Replica;
use crate::session::SessionError;
use crate::session::message::{self, Message, Status, encode_snapshot, encode_sync};
use crate::session::pending::Pending;
use crate::session::snapshot::Incoming;

/// What nobody asked for could be made up at leisure.
const UNASKED: Malformed = Malformed("a base that was not asked for");

#[derive(Default)]
pub(super) struct Sync {
    told: Option<Status>,
    theirs: Option<Status>,
    epochs: BTreeMap<u64, Epoch>,
    /// What is to be sent, in order; before automerge is asked again.
    out: VecDeque<Out>,
    /// The peer has asked for the base, and was not sent it yet.
    wanted: bool,
    /// This side has asked for the peer's base, and has not got it yet.
    asked: bool,
    incoming: Option<Incoming>,
    pending: Pending,
    /// Change sets came, and automerge's message that always follows them has not: to answer each frame of a backlog would cost as much as
    /// to answer all of it.
    midstream: bool,
}

enum Out {
    Change(u64, ChangeHash),
    Message(Vec<u8>),
}

/// Automerge's state for one epoch.
#[derive(Default)]
struct Epoch {
    state: sync::State,
    /// Something came since automerge was asked last.
    news: bool,
    /// The heads at that time: while they are the same and nothing came, there is nothing to say, and asking is not free.
    heads: Option<Vec<ChangeHash>>,
    /// What was said last. Where two sides differ for a while (one holds back what the other has), automerge would say it for ever.
    said: Vec<u8>,
}

impl Sync {
    /// The next message.
    pub fn next(&mut self, replica: &mut Replica) -> Option<Vec<u8>> {
        let ours = status(replica);
        if self.told != Some(ours) {
            self.told = Some(ours);
            return Some(ours.encode());
        }
        let theirs = self.theirs?;
        if ours.base < theirs.low && !self.asked {
            self.asked = true;
            return Some(message::wanted());
        }
        if self.wanted && theirs.base < ours.low && self.out.is_empty() {
            self.send_snapshot(replica);
        }
        if self.out.is_empty() && !self.midstream {
            let (low, high) = shared(&ours, &theirs);
            self.epochs.retain(|epoch, _| *epoch >= low);
            (low..=high).find(|epoch| self.ask(replica, *epoch));
        }
        self.flush(replica)
    }

    pub fn receive(&mut self, replica: &mut Replica, from: ClusterId, message: Message, now_ms: u64) -> Result<(), SessionError> {
        match &message {
            Message::Changes(_) => self.midstream = true,
            Message::Sync(..) => self.midstream = false,
            _ => {}
        }
        match message {
            Message::Status(theirs) if theirs.federation != replica.federation => {
                return Err(SessionError::WrongFederation(theirs.federation));
            }
            Message::Status(theirs) => self.theirs = Some(theirs),
            Message::Changes(changes) => changes.into_iter().for_each(|signed| self.pending.push(signed)),
            Message::Sync(epoch, message) => self.hear(replica, epoch, message),
            Message::SnapshotWanted => self.wanted = true,
            Message::SnapshotHead(head) => {
                let offered = self.theirs.is_some_and(|theirs| head.epoch <= theirs.base);
                if !self.asked || !offered || self.incoming.is_some() {
                    return Err(UNASKED.into());
                }
                self.incoming = Some(Incoming::new(head));
            }
            Message::SnapshotEntries(entries) => {
                if !self.incoming.as_mut().ok_or(UNASKED)?.take(entries) {
                    return Err(SessionError::TooLarge);
                }
            }
            Message::SnapshotEnd => {
                self.asked = false;
                self.incoming.take().ok_or(UNASKED)?.finish(replica, from, now_ms)?;
            }
        }
        if !self.pending.is_empty() {
            self.pending.settle(replica, from, now_ms)?;
        }
        match self.pending.is_too_much() {
            true => Err(SessionError::TooMuchPending),
            false => Ok(()),
        }
    }

    /// Has the peer said what it has?
    pub fn has_met(&self) -> bool {
        self.theirs.is_some()
    }

    /// Time has passed: what was said last may be said again.
    pub fn retry(&mut self) {
        for epoch in self.epochs.values_mut() {
            epoch.news = true;
            epoch.said.clear();
        }
    }

    /// Sends the base; later, if the signatures for it have not come yet: they stand in the epoch above, which this side may have yet to
    /// get.
    fn send_snapshot(&mut self, replica: &Replica) {
        if let Some(attestations) = replica.attestations() {
            self.wanted = false;
            self.out.extend(encode_snapshot(&replica.base, &attestations).into_iter().map(Out::Message));
        }
    }

    /// Asks automerge what to say about an epoch; says whether it is anything.
    fn ask(&mut self, replica: &mut Replica, epoch: u64) -> bool {
        let known = self.epochs.entry(epoch).or_default();
        let heads: Vec<ChangeHash> = replica.layer(epoch).into_iter().flat_map(Layer::heads).copied().collect();
        if !known.news && known.heads.as_ref() == Some(&heads) {
            return false;
        }
        (known.news, known.heads) = (false, Some(heads));
        let Some(message) = with_document(replica, epoch, |document| document.generate_sync_message(&mut known.state)) else {
            return false;
        };
        let sent = message.changes.iter().map(|chunk| Out::Change(epoch, hash_of(chunk)));
        self.out.extend(sent);
        let need = self.pending.missing(replica, epoch, &message.need);
        let said = encode_sync(epoch, &sync::Message { need, ..message });
        if self.out.is_empty() && known.said == said {
            return false;
        }
        known.said.clone_from(&said);
        self.out.push_back(Out::Message(said));
        true
    }

    /// Tells automerge what the peer said about an epoch. Its change sets came before, one by one.
    fn hear(&mut self, replica: &mut Replica, epoch: u64, message: sync::Message) {
        let ours = status(replica);
        if epoch < ours.low || epoch > ours.base + 1 {
            return;
        }
        let known = self.epochs.entry(epoch).or_default();
        known.news = true;
        with_document(replica, epoch, |document| document.receive_sync_message(&mut known.state, message))
            .expect("automerge fails on changes alone, and there are none in it");
    }

    fn flush(&mut self, replica: &Replica) -> Option<Vec<u8>> {
        let mut changes = message::changes();
        while let Some(Out::Change(epoch, hash)) = self.out.front() {
            // What is gone by now is folded: the peer learns of that by the status.
            if let Some(entry) = replica.layer(*epoch).and_then(|layer| layer.entry(hash)) {
                changes.extend(entry.signed.encode());
            }
            self.out.pop_front();
            if changes.len() >= FRAME_BYTES_SENT {
                return Some(changes);
            }
        }
        if changes.len() > 1 {
            return Some(changes);
        }
        match self.out.pop_front()? {
            Out::Message(message) => Some(message),
            Out::Change(..) => unreachable!("the loop above took them"),
        }
    }
}

fn status(replica: &Replica) -> Status {
    let (base, top) = replica.epochs();
    let low = replica.layers.first().map_or(base, |layer| layer.epoch);
    Status { federation: replica.federation, base, low, top }
}

/// The epochs to speak of: whose history both have, that one of them has not folded, and that the other can open.
fn shared(ours: &Status, theirs: &Status) -> (u64, u64) {
    let low = ours.low.max(theirs.low).max(ours.base.min(theirs.base));
    let high = ours.top.max(theirs.top).min(ours.base.saturating_add(1)).min(theirs.base.saturating_add(1));
    (low, high)
}

/// Lends an epoch's document, with all that was taken; an empty one where the epoch is not open yet.
fn with_document<T>(replica: &mut Replica, epoch: u64, use_it: impl FnOnce(&mut Automerge) -> T) -> T {
    match replica.layer_mut(epoch) {
        Some(layer) => {
            layer.settle();
            use_it(&mut layer.doc)
        }
        None => use_it(&mut Automerge::new()),
    }
}

fn hash_of(chunk: &[u8]) -> ChangeHash {
    Change::from_bytes(chunk.to_vec()).expect("automerge reads what it wrote").hash()
}
