//! An in-order stream over a link that may lose, repeat and reorder frames: automerge's protocol assumes one.
//!
//! Each side has an incarnation, a number that the caller raises for each new session with that peer. Data flows once both know the
//! other's. Frames are numbered; the receiver takes the next one alone and acknowledges it; the sender keeps a window of unacknowledged
//! ones, and sends it again when told that time has passed ("go back N"). An idle link is silent.

use std::collections::VecDeque;

use crate::codec::{Malformed, Reader, Writer};
use crate::limits::WINDOW;

const VERSION: u8 = 1;

pub(super) struct Link {
    incarnation: u64,
    peer: Option<u64>,
    next: u64,
    window: VecDeque<(u64, Vec<u8>)>,
    /// How many of the window have been sent since the last retry.
    sent: usize,
    received: u64,
    owes_ack: bool,
    greets: bool,
}

/// What a frame brought.
#[derive(Default)]
pub(super) struct Delivery<'a> {
    /// The peer began anew: nothing that was said before holds.
    pub restarted: bool,
    /// The next message.
    pub message: Option<&'a [u8]>,
}

impl Link {
    pub fn new(incarnation: u64) -> Self {
        let window = VecDeque::new();
        Self { incarnation, peer: None, next: 1, window, sent: 0, received: 0, owes_ack: false, greets: true }
    }

    /// May a message be pushed?
    pub fn has_room(&self) -> bool {
        self.peer.is_some() && self.window.len() < WINDOW
    }

    pub fn push(&mut self, message: Vec<u8>) {
        self.window.push_back((self.next, message));
        self.next += 1;
    }

    /// The next frame of the window that has not been sent.
    pub fn poll_message(&mut self) -> Option<Vec<u8>> {
        let (seq, message) = self.window.get(self.sent)?;
        let frame = self.frame(*seq, message);
        self.sent += 1;
        self.owes_ack = false;
        Some(frame)
    }

    /// A frame without a message, if the peer waits for one.
    pub fn poll_bare(&mut self) -> Option<Vec<u8>> {
        let due = if self.peer.is_none() { &mut self.greets } else { &mut self.owes_ack };
        std::mem::take(due).then(|| self.frame(0, &[]))
    }

    /// Time has passed: what is unacknowledged may be lost.
    pub fn retry(&mut self) {
        self.sent = 0;
        self.greets = true;
    }

    /// Have both sides met, and is everything acknowledged?
    pub fn is_quiet(&self) -> bool {
        self.peer.is_some() && self.window.is_empty()
    }

    pub fn receive<'a>(&mut self, frame: &'a [u8]) -> Result<Delivery<'a>, Malformed> {
        let mut r = Reader(frame);
        if r.byte()? != VERSION {
            return Err(Malformed("a frame has an unknown version"));
        }
        let (from, to) = (u64::from_be_bytes(r.array()?), u64::from_be_bytes(r.array()?));
        let (ack, seq) = (r.number()?, r.number()?);
        let mut delivery = Delivery { restarted: self.meet(from)?, message: None };
        if self.peer != Some(from) || to != self.incarnation {
            // From before a restart, or from somebody who does not know this side yet.
            self.owes_ack |= to == 0;
            return Ok(delivery);
        }
        if ack >= self.next {
            return Err(Malformed("a frame acknowledges what was never sent"));
        }
        while self.window.front().is_some_and(|(seq, _)| *seq <= ack) {
            self.window.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
        if seq > 0 {
            self.owes_ack = true;
            if seq == self.received + 1 {
                self.received = seq;
                delivery.message = Some(r.0);
            }
        }
        Ok(delivery)
    }

    fn meet(&mut self, from: u64) -> Result<bool, Malformed> {
        match self.peer {
            _ if from == 0 => Err(Malformed("a frame has no incarnation")),
            None => {
                self.peer = Some(from);
                self.owes_ack = true;
                Ok(false)
            }
            Some(peer) if from > peer => {
                *self = Self { peer: Some(from), owes_ack: true, ..Self::new(self.incarnation) };
                Ok(true)
            }
            Some(_) => Ok(false),
        }
    }

    fn frame(&self, seq: u64, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(message.len() + 40);
        out.push(VERSION);
        out.extend_from_slice(&self.incarnation.to_be_bytes());
        out.extend_from_slice(&self.peer.unwrap_or(0).to_be_bytes());
        out.number(self.received);
        out.number(seq);
        out.extend_from_slice(message);
        out
    }
}
