//! Clusters, what each has stored, and links that do to frames what they are told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tarn_crdt::{ClusterId, Commit, FederationId, Identity, Pqcrypto, Replica, Scope, Session, SessionError, Tuning, Write, WriteError};

pub fn identity(number: usize) -> Identity {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    Identity::from_seed(&Pqcrypto, &seed)
}

/// Introduces a cluster, with the card that it signed.
pub fn introduction(federation: &FederationId, new: &Identity, scope: Scope, card: &[u8]) -> Write {
    let signature = new.sign_card(federation, card);
    Write::Introduce { public_key: new.public_key().to_vec(), scope, card: card.to_vec(), signature }
}

/// A tuning under which an epoch ends after a few change sets.
pub const TINY: Tuning = Tuning { history_bytes_min: 30_000, history_multiple: 1, history_bytes_max: u64::MAX };

/// A tuning under which no epoch ends in a test.
pub const LAZY: Tuning = Tuning { history_bytes_min: u64::MAX, history_multiple: 1, history_bytes_max: u64::MAX };

pub struct Node {
    pub identity: Identity,
    pub replica: Replica,
    /// What is stored: what a crash leaves.
    pub rows: BTreeMap<Vec<u8>, Vec<u8>>,
    pub sessions: BTreeMap<usize, Session>,
    /// Everything that the commits told.
    pub told: Vec<Commit>,
    pub ended: Vec<SessionError>,
    /// The most bytes that it ever held: base, history and what is kept for others.
    pub peak: u64,
}

pub struct World {
    pub nodes: Vec<Node>,
    pub tuning: Tuning,
    /// Frames under way, by sender and receiver.
    pub wires: BTreeMap<(usize, usize), VecDeque<Vec<u8>>>,
    pub now_ms: u64,
    pub bytes: u64,
    incarnation: u64,
}

impl World {
    pub fn found(tuning: Tuning) -> Self {
        let identity = identity(1);
        let (replica, commit) = Replica::found(&identity, "test", b"card", tuning, 0).expect("a federation can be founded");
        let mut world = Self { nodes: Vec::new(), tuning, wires: BTreeMap::new(), now_ms: 1, bytes: 0, incarnation: 0 };
        world.add(identity, replica, commit);
        world
    }

    /// Clusters that all know each other, of which each may write everything, linked each to each.
    pub fn of(count: usize, tuning: Tuning) -> Self {
        let mut world = Self::found(tuning);
        for _ in 1..count {
            let new = world.invite(0, Scope::ALL);
            world.link(0, new);
        }
        world.pump();
        for a in 1..count {
            (a + 1..count).for_each(|b| world.link(a, b));
        }
        world.pump();
        world
    }

    fn add(&mut self, identity: Identity, replica: Replica, commit: Commit) -> usize {
        let node =
            Node { identity, replica, rows: BTreeMap::new(), sessions: BTreeMap::new(), told: Vec::new(), ended: Vec::new(), peak: 0 };
        self.nodes.push(node);
        let at = self.nodes.len() - 1;
        self.store(at, commit);
        at
    }

    pub fn id(&self, at: usize) -> ClusterId {
        self.nodes[at].identity.id()
    }

    /// `inviter` introduces a new cluster; they are not linked yet.
    pub fn invite(&mut self, inviter: usize, scope: Scope) -> usize {
        let new = identity(self.nodes.len() + 1);
        let federation = self.nodes[inviter].replica.federation();
        self.write(inviter, vec![introduction(&federation, &new, scope, b"")]).expect("a member can introduce");
        let (replica, commit) = Replica::join(federation, &new, self.id(inviter), self.tuning);
        self.add(new, replica, commit)
    }

    pub fn store(&mut self, at: usize, commit: Commit) {
        let node = &mut self.nodes[at];
        for (key, value) in &commit.rows {
            match value {
                Some(value) => node.rows.insert(key.clone(), value.clone()),
                None => node.rows.remove(key),
            };
        }
        let size = node.replica.size();
        node.peak = node.peak.max(size.base + size.history + size.retired);
        node.told.push(Commit { rows: Vec::new(), ..commit });
    }

    pub fn write(&mut self, at: usize, writes: Vec<Write>) -> Result<(), WriteError> {
        self.now_ms += 1;
        let node = &mut self.nodes[at];
        let commit = node.replica.write(&node.identity, writes, self.now_ms)?;
        self.store(at, commit);
        Ok(())
    }

    pub fn put(&mut self, at: usize, key: &str, value: Option<&[u8]>) -> Result<(), WriteError> {
        self.now_ms += 1;
        let node = &mut self.nodes[at];
        let commit = node.replica.resolve(&node.identity, key, value.map(<[u8]>::to_vec), self.now_ms)?;
        self.store(at, commit);
        Ok(())
    }

    pub fn tend(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let commit = node.replica.tend(&node.identity, self.now_ms).expect("a cluster can tend to its own replica");
        self.store(at, commit);
    }

    pub fn link(&mut self, a: usize, b: usize) {
        for (here, there) in [(a, b), (b, a)] {
            self.begin(here, there);
        }
    }

    /// A new session on one side.
    pub fn begin(&mut self, here: usize, there: usize) {
        self.incarnation += 1;
        let session = Session::new(self.id(there), self.incarnation);
        self.nodes[here].sessions.insert(there, session);
    }

    pub fn cut(&mut self, a: usize, b: usize) {
        for (here, there) in [(a, b), (b, a)] {
            self.nodes[here].sessions.remove(&there);
            self.wires.remove(&(here, there));
        }
    }

    pub fn is_linked(&self, a: usize, b: usize) -> bool {
        self.nodes[a].sessions.contains_key(&b) && self.nodes[b].sessions.contains_key(&a)
    }

    /// Loses all that is in memory, and loads what was stored.
    pub fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.replica = Replica::load(&Pqcrypto, self.tuning, node.rows.clone()).expect("what was stored can be loaded");
        let peers: Vec<usize> = std::mem::take(&mut node.sessions).into_keys().collect();
        peers.into_iter().for_each(|peer| self.begin(at, peer));
    }

    /// Puts on the wires whatever a cluster has to say; says whether that was anything.
    pub fn poll(&mut self, at: usize) -> bool {
        let mut any = false;
        let node = &mut self.nodes[at];
        for (peer, session) in &mut node.sessions {
            while let Some(frame) = session.poll(&mut node.replica) {
                assert!(frame.len() <= 1 << 20, "a frame of {} bytes", frame.len());
                self.bytes += frame.len() as u64;
                self.wires.entry((at, *peer)).or_default().push_back(frame);
                any = true;
            }
        }
        any
    }

    /// Hands a frame to its receiver, which then does what is due.
    pub fn deliver(&mut self, from: usize, to: usize, frame: &[u8]) {
        let node = &mut self.nodes[to];
        let Some(session) = node.sessions.get_mut(&from) else { return };
        let received = session.receive(&mut node.replica, frame, self.now_ms);
        if let Err(error) = received.outcome {
            node.ended.push(error);
            node.sessions.remove(&from);
        }
        self.store(to, received.commit);
        self.tend(to);
    }

    /// Carries frames, in order and without loss, until nobody has anything to say. More rounds than any exchange needs are a failure.
    pub fn pump(&mut self) {
        for _ in 0..5_000 {
            let mut any = false;
            for at in 0..self.nodes.len() {
                self.tend(at);
                any |= self.poll(at);
            }
            for ((from, to), frames) in std::mem::take(&mut self.wires) {
                frames.iter().for_each(|frame| self.deliver(from, to, frame));
            }
            if !any {
                return;
            }
        }
        for node in &self.nodes {
            let replica = &node.replica;
            eprintln!("{} {:?} {:?} {:02x?}", replica.cluster(), replica.epochs(), replica.size(), &replica.digest()[..4]);
        }
        panic!("the clusters never come to rest");
    }

    /// The same content everywhere among these?
    pub fn assert_same(&self, among: &BTreeSet<usize>) {
        let first = *among.first().expect("there is somebody");
        let canonical = self.nodes[first].replica.canonical();
        for at in among {
            let replica = &self.nodes[*at].replica;
            assert_eq!(replica.epochs(), self.nodes[first].replica.epochs(), "{at} and {first} are in other epochs");
            assert!(replica.canonical() == canonical, "{at} and {first} hold other bytes");
            assert_eq!(replica.digest(), self.nodes[first].replica.digest(), "{at} and {first} have other digests");
        }
    }

    pub fn all(&self) -> BTreeSet<usize> {
        (0..self.nodes.len()).collect()
    }
}
