//! A peer that says whatever a test wants: it spells frames, messages and change sets by itself, from their documented form, and shares no
//! code with the room. So it is also a second writer of the format: a change of the format that was not meant fails here.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;

use automerge::legacy::{Key, ObjectId, Op, OpType, SortedVec};
use automerge::{ActorId, ChangeHash, ExpandedChange, ScalarValue};
use tarn_crdt::{ClusterId, FederationId, Identity, Received};

use super::world::World;

pub const STATUS: u8 = 1;
pub const CHANGES: u8 = 2;
pub const SYNC: u8 = 3;

pub fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn read_number(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn read<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (head, rest) = bytes.split_at(count);
    *bytes = rest;
    head
}

/// A change set.
#[derive(Clone, Debug)]
pub struct Forged {
    pub author: ClusterId,
    pub epoch: u64,
    pub seq: u64,
    pub time_ms: u64,
    pub deps: Vec<[u8; 32]>,
    pub puts: Vec<(String, Option<Vec<u8>>)>,
    /// Automerge's number of its first operation.
    pub start_op: u64,
}

impl Forged {
    pub fn body(&self) -> Vec<u8> {
        let mut out = self.author.0.to_vec();
        [self.epoch, self.seq, self.time_ms, self.deps.len() as u64].into_iter().for_each(|value| number(&mut out, value));
        self.deps.iter().for_each(|dep| out.extend_from_slice(dep));
        number(&mut out, self.puts.len() as u64);
        for (key, value) in &self.puts {
            bytes(&mut out, key.as_bytes());
            out.push(u8::from(value.is_some()));
            value.iter().for_each(|value| bytes(&mut out, value));
        }
        out
    }

    /// Automerge's hash of the change, whose keys nobody may have written before.
    pub fn hash(&self) -> [u8; 32] {
        let operations = self.puts.iter().map(|(key, value)| Op {
            action: OpType::Put(value.clone().map_or(ScalarValue::Null, ScalarValue::Bytes)),
            obj: ObjectId::Root,
            key: Key::Map(key.as_str().into()),
            pred: SortedVec::new(),
            insert: false,
        });
        let change = automerge::Change::from(ExpandedChange {
            operations: operations.collect(),
            actor_id: ActorId::from(self.author.0),
            author: None,
            hash: None,
            seq: self.seq,
            start_op: NonZeroU64::new(self.start_op).expect("operations are numbered from 1"),
            time: self.time_ms as i64,
            message: None,
            deps: self.deps.iter().map(|dep| ChangeHash(*dep)).collect(),
            extra_bytes: Vec::new(),
        });
        change.hash().0
    }

    /// The change set as it travels, signed with that identity.
    pub fn signed(&self, federation: &FederationId, identity: &Identity) -> Vec<u8> {
        let hash = self.hash();
        let message = [b"tarn federation 1: change set\0".as_slice(), &federation.0, &self.epoch.to_be_bytes(), &hash].concat();
        [self.body(), hash.to_vec(), identity.sign(&message)].concat()
    }

    fn read(mut row: &[u8]) -> (Self, [u8; 32]) {
        let bytes = &mut row;
        let author = ClusterId(read(bytes, 16).try_into().unwrap());
        let (epoch, seq, time_ms) = (read_number(bytes), read_number(bytes), read_number(bytes));
        let deps = (0..read_number(bytes)).map(|_| read(bytes, 32).try_into().unwrap()).collect();
        let puts = (0..read_number(bytes)).map(|_| {
            let length = read_number(bytes) as usize;
            let key = String::from_utf8(read(bytes, length).to_vec()).unwrap();
            let value = (read(bytes, 1)[0] == 1).then(|| {
                let length = read_number(bytes) as usize;
                read(bytes, length).to_vec()
            });
            (key, value)
        });
        let puts = puts.collect();
        (Self { author, epoch, seq, time_ms, deps, puts, start_op: 0 }, read(bytes, 32).try_into().unwrap())
    }
}

/// What a cluster has stored of an epoch, read without the room's help.
pub struct History {
    pub epoch: u64,
    pub heads: Vec<[u8; 32]>,
    pub next_op: u64,
    pub seqs: BTreeMap<ClusterId, u64>,
    /// The rows as they are.
    pub rows: Vec<Vec<u8>>,
}

impl History {
    pub fn of(world: &World, at: usize, epoch: u64) -> Self {
        let prefix = [b"c".as_slice(), &epoch.to_be_bytes()].concat();
        let rows: Vec<_> = world.nodes[at].rows.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(_, row)| row.clone()).collect();
        let mut ends: BTreeMap<[u8; 32], u64> = BTreeMap::new();
        let (mut heads, mut seqs) = (BTreeSet::new(), BTreeMap::new());
        for (change, hash) in rows.iter().map(|row| Forged::read(row)) {
            let start = change.deps.iter().map(|dep| ends[dep]).max().unwrap_or(1);
            ends.insert(hash, start + change.puts.len() as u64);
            heads.retain(|head| !change.deps.contains(head));
            heads.insert(hash);
            seqs.insert(change.author, change.seq);
        }
        let next_op = ends.values().copied().max().unwrap_or(1);
        Self { epoch, heads: heads.into_iter().collect(), next_op, seqs, rows }
    }

    /// The next change set of a cluster, on top of everything.
    pub fn next(&self, author: ClusterId, key: &str, value: &[u8]) -> Forged {
        let seq = self.seqs.get(&author).copied().unwrap_or(0) + 1;
        let puts = vec![(key.to_owned(), Some(value.to_vec()))];
        Forged { author, epoch: self.epoch, seq, time_ms: 5, deps: self.heads.clone(), puts, start_op: self.next_op }
    }
}

/// One end of a link to a cluster that takes it for its peer.
pub struct Forger {
    pub victim: usize,
    pub peer: usize,
    theirs: u64,
    seq: u64,
}

const INCARNATION: u64 = 1 << 40;

impl Forger {
    /// Gets in touch with `victim`, as `peer`.
    pub fn new(world: &mut World, victim: usize, peer: usize) -> Self {
        world.begin(victim, peer);
        let node = &mut world.nodes[victim];
        let session = node.sessions.get_mut(&peer).expect("it has begun");
        let hello = session.poll(&mut node.replica).expect("a session begins with a greeting");
        let mut forger = Self { victim, peer, theirs: u64::from_be_bytes(hello[1..9].try_into().unwrap()), seq: 0 };
        forger.send(world, &forger.frame(0, &[])).outcome.expect("a greeting is welcome");
        let mut status = vec![STATUS];
        status.extend_from_slice(&world.nodes[victim].replica.federation().0);
        [0, 0, 0].into_iter().for_each(|value| number(&mut status, value));
        forger.say(world, &status).outcome.expect("so is a status");
        forger
    }

    pub fn frame(&self, seq: u64, message: &[u8]) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&INCARNATION.to_be_bytes());
        out.extend_from_slice(&self.theirs.to_be_bytes());
        number(&mut out, 0);
        number(&mut out, seq);
        out.extend_from_slice(message);
        out
    }

    /// Says something as the next message.
    pub fn say(&mut self, world: &mut World, message: &[u8]) -> Received {
        self.seq += 1;
        let frame = self.frame(self.seq, message);
        self.send(world, &frame)
    }

    /// Says change sets.
    pub fn say_changes(&mut self, world: &mut World, changes: &[Vec<u8>]) -> Received {
        self.say(world, &[vec![CHANGES], changes.concat()].concat())
    }

    /// Sends a frame as it is.
    pub fn send(&mut self, world: &mut World, frame: &[u8]) -> Received {
        let node = &mut world.nodes[self.victim];
        let session = node.sessions.get_mut(&self.peer).expect("it has begun");
        let received = session.receive(&mut node.replica, frame, 77);
        let commit = received.commit.clone();
        world.store(self.victim, commit);
        received
    }
}
