//! A real exchange between two clusters, recorded, and what may become of it when bytes are made up or changed: nothing that the sender did
//! not sign, no panic, and no replica that contradicts itself.
//!
//! Needs nothing but the room: the fuzz targets in `fuzz/` include this file, and so does `tests/arbitrary.rs`.

use std::collections::BTreeMap;

use tarn_crdt::{Identity, Pqcrypto, Replica, Scope, Session, Tuning, Write};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

const TINY: Tuning = Tuning { history_bytes_min: 20_000, history_multiple: 1, history_bytes_max: u64::MAX };

/// Incarnations of the sender's and the receiver's sessions.
const SENDER: u64 = 1;
const RECEIVER: u64 = 2;

/// A cluster that joins, and all that its inviter sends it: status, base, change sets, automerge's messages.
pub struct Exchange {
    inviter: Identity,
    joiner: Rows,
    frames: Vec<Vec<u8>>,
    content: BTreeMap<String, Vec<u8>>,
}

impl Exchange {
    pub fn record() -> Self {
        let (inviter, joiner) = (Identity::from_seed(&Pqcrypto, &[1; 32]), Identity::from_seed(&Pqcrypto, &[2; 32]));
        let (mut a, _) = Replica::found(&inviter, "fuzz", b"card", TINY, 0).expect("a federation can be founded");
        for number in 0..20u8 {
            let write = Write::Agent { name: format!("a{}", number % 5), value: Some(vec![number; 50]) };
            a.write(&inviter, vec![write], 0).expect("the founder writes");
            a.tend(&inviter, 0).expect("the founder tends");
        }
        let signature = joiner.sign_card(&a.federation(), b"");
        let introduce = Write::Introduce { public_key: joiner.public_key().to_vec(), scope: Scope::ALL, card: Vec::new(), signature };
        a.write(&inviter, vec![introduce], 0).expect("the founder introduces");
        assert!(a.epochs().0 > 0, "there is a base to send");
        let (mut b, commit) = Replica::join(a.federation(), &joiner, inviter.id(), TINY);
        let mut rows = Rows::new();
        rows.extend(commit.rows.into_iter().filter_map(|(key, value)| Some((key, value?))));
        let frames = Self::carry(&mut a, &joiner, &mut b, &inviter);
        assert_eq!(a.digest(), b.digest(), "the exchange was whole");
        Self { inviter, joiner: rows, frames, content: a.range("").collect() }
    }

    fn carry(a: &mut Replica, joiner: &Identity, b: &mut Replica, inviter: &Identity) -> Vec<Vec<u8>> {
        let (mut at_a, mut at_b) = (Session::new(joiner.id(), SENDER), Session::new(inviter.id(), RECEIVER));
        let mut frames = Vec::new();
        loop {
            let before = frames.len();
            while let Some(frame) = at_a.poll(a) {
                at_b.receive(b, &frame, 0).outcome.expect("nothing is wrong with it");
                frames.push(frame);
            }
            while let Some(frame) = at_b.poll(b) {
                at_a.receive(a, &frame, 0).outcome.expect("nothing is wrong with it");
            }
            if frames.len() == before {
                return frames;
            }
        }
    }

    fn receiver(&self) -> (Replica, Session) {
        let replica = Replica::load(&Pqcrypto, TINY, self.joiner.clone()).expect("what was stored can be loaded");
        (replica, Session::new(self.inviter.id(), RECEIVER))
    }

    /// The frames as they were: all that was sent is there.
    pub fn unchanged(&self) {
        let replica = self.feed(self.frames.iter().map(Vec::as_slice));
        assert!(replica.range("").eq(self.content.clone()), "an exchange that nobody changed is taken whole");
    }

    /// Bytes as a frame.
    pub fn any_frame(&self, bytes: &[u8]) {
        self.feed([bytes]);
    }

    /// Bytes as a message in a frame that is right.
    pub fn any_message(&self, bytes: &[u8]) {
        let frame = |seq: u8, message: &[u8]| {
            let head = [[1].as_slice(), &SENDER.to_be_bytes(), &RECEIVER.to_be_bytes(), &[0, seq]];
            [head.concat().as_slice(), message].concat()
        };
        // As the first message, and as one behind a status.
        self.feed([frame(1, bytes).as_slice()]);
        let status = self.frames.iter().find(|frame| frame.get(19) == Some(&1)).expect("an exchange begins with it");
        self.feed([frame(1, &status[19..]).as_slice(), &frame(2, bytes)]);
    }

    /// The recorded frames, of which one is changed as the bytes say: which one, then where, by what, and how often.
    pub fn any_change_of_a_real_frame(&self, bytes: &[u8]) {
        let [which, rest @ ..] = bytes else { return };
        let mut frames = self.frames.clone();
        let at = usize::from(*which) % frames.len();
        for edit in rest.chunks_exact(4) {
            Self::edit(&mut frames[at], edit);
        }
        self.feed(frames.iter().map(Vec::as_slice));
    }

    fn edit(frame: &mut Vec<u8>, edit: &[u8]) {
        let place = usize::from(u16::from_be_bytes([edit[0], edit[1]]));
        // Half of all edits go where the structure is: to the front.
        let place = if place % 2 == 0 { place % 64 } else { place } % frame.len().max(1);
        match edit[2] % 4 {
            0 if !frame.is_empty() => frame[place] = edit[3],
            1 if !frame.is_empty() => frame[place] ^= 1 << (edit[3] % 8),
            2 => frame.truncate(place),
            _ => frame.insert(place, edit[3]),
        }
    }

    fn feed<'a>(&self, frames: impl IntoIterator<Item = &'a [u8]>) -> Replica {
        let (mut replica, mut session) = self.receiver();
        for frame in frames {
            let before = replica.refusals().count();
            let received = session.receive(&mut replica, frame, 1);
            let recorded = replica.refusals().count() > before;
            assert_eq!(recorded, !received.commit.refusals.is_empty(), "what is recorded is told");
            while session.poll(&mut replica).is_some() {}
            if received.outcome.is_err() {
                break;
            }
        }
        replica.verify().expect("a replica never contradicts itself");
        for (key, value) in replica.range("") {
            let sent = self.content.get(&key);
            // An older value of the sender's own is what a cut exchange may leave.
            assert!(sent.is_some_and(|sent| *sent == value || key.starts_with("agent/")), "{key} was never signed");
        }
        replica
    }
}
