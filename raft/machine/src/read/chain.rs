//! The walk along the chain of decisions: is every row what the next one says it was?
//!
//! Between each row and the next lies a *link*: the hash of the one must be what the other begins with. The first link is that from the
//! last row that was dropped, the last one leads to the head. Changing the records of a row breaks the link behind it. Changing the hash with
//! which a row begins breaks the links on both sides of it. So of a run of broken links, one alone speaks of the row before it, and
//! longer ones of the rows between them.

use std::collections::BTreeMap;

use tarn_proto::v1::{ChainEnds, ChainFault, VerifyDecisionsResponse};
use tarn_storage::Range;

use super::audit::ends;
use crate::Machine;
use crate::domain::audit::{self, HASH_BYTES};
use crate::keys::{Key, first, prefix};
use crate::overlay::STATE;

/// Faults that one walk tells: a chain with more is lost.
const FAULTS_MAX: usize = 1_000;

/// A walk along the chain, a part at a time, so that it holds up nothing.
#[derive(Debug)]
pub struct ChainWalk {
    ends: ChainEnds,
    through: u64,
    last: Step,
    /// The row before a link that is broken, while it is not known whether the next one is broken too.
    suspect: Option<Fault>,
    in_run: bool,
    rows: u64,
    records: u64,
    faults: BTreeMap<u64, Fault>,
}

/// Where the walk stands: a row that was seen, or what was dropped before the first.
#[derive(Clone, Copy, Debug)]
struct Step {
    index: u64,
    number: u64,
    hash: [u8; HASH_BYTES],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Changed(u64),
    Missing(u64),
    Unreadable(u64),
    Head(u64),
    Start(u64),
}

impl Machine {
    /// A walk along what is kept now, up to a log index; 0: to the end.
    pub fn chain_walk(&self, through_index: u64) -> ChainWalk {
        let ends = ends(&self.ix.chain);
        let through = if through_index == 0 { u64::MAX } else { through_index };
        ChainWalk {
            through: through.min(ends.head_index),
            last: Step { index: ends.start_index, number: ends.start_rows, hash: ends.start_hash.as_ref().try_into().unwrap_or_default() },
            ends,
            suspect: None,
            in_run: false,
            rows: 0,
            records: 0,
            faults: BTreeMap::new(),
        }
    }

    /// Walks on over at most so many rows. True: the end is reached. A row that cannot be read is a fault that the walk tells.
    pub fn walk_chain(&self, walk: &mut ChainWalk, rows: usize) -> bool {
        if self.ix.chain.start_index > walk.last.index {
            // What it stands on was dropped meanwhile: it goes on where the chain now begins.
            *walk = self.chain_walk(walk.through);
        }
        let (start, end) = (prefix(first::DECISIONS, &[walk.last.index + 1]), [first::DECISIONS + 1]);
        for entry in self.engine.scan(STATE, Range::between(&start, &end)).take(rows) {
            let Ok((key, row)) = entry else {
                // The engine's own checksum: what lies behind cannot be reached either, so a link that is broken just before it stands alone.
                walk.finish();
                walk.note(Fault::Unreadable(walk.last.index + 1));
                return true;
            };
            let Some(Key::Decisions { index }) = Key::decode(&key) else {
                walk.note(Fault::Unreadable(walk.last.index));
                continue;
            };
            if index > walk.ends.head_index {
                // Came since the walk began.
                break;
            }
            if index > walk.through {
                walk.link(row.get(..HASH_BYTES), audit::head(&row).map_or(0, |head| head.number));
                walk.finish();
                return true;
            }
            walk.row(index, &row);
        }
        let head = walk.ends.head_index;
        if walk.last.index < head && self.has_rows_after(walk.last.index, head) {
            return false;
        }
        walk.reach_head();
        true
    }

    /// One that cannot be read is one too: the walk comes to it next.
    fn has_rows_after(&self, index: u64, through: u64) -> bool {
        let start = prefix(first::DECISIONS, &[index + 1]);
        let end = prefix(first::DECISIONS, &[through.saturating_add(1)]);
        self.engine.scan(STATE, Range::between(&start, &end)).next().is_some()
    }
}

impl ChainWalk {
    /// What the walk found. Whole is a chain without faults.
    pub fn report(&self, node_id: u64) -> VerifyDecisionsResponse {
        VerifyDecisionsResponse {
            node_id,
            chain: Some(self.ends.clone()),
            through_index: self.last.index,
            through_hash: self.last.hash.to_vec().into(),
            rows: self.rows,
            records: self.records,
            faults: self.faults.values().map(|fault| fault.message()).collect(),
        }
    }

    fn row(&mut self, index: u64, row: &[u8]) {
        let records = audit::records(row);
        let number = records.as_ref().map_or(self.last.number + 1, |records| records.number);
        self.link(row.get(..HASH_BYTES), number);
        if records.is_none() {
            self.note(Fault::Unreadable(index));
        }
        self.rows += 1;
        self.records += records.map_or(0, |records| records.records.len() as u64);
        self.last = Step { index, number, hash: audit::hash(index, row) };
    }

    /// Looks at the link from the last row to one that begins with this hash and is the chain's `number`th.
    fn link(&mut self, begins_with: Option<&[u8]>, number: u64) {
        let broken = begins_with != Some(&self.last.hash[..]);
        let before = self.last.index;
        if broken && self.in_run {
            self.suspect = None;
            self.note(Fault::Changed(before));
        } else if broken {
            self.suspect = Some(match number {
                number if number > self.last.number + 1 => Fault::Missing(before),
                _ if self.rows == 0 => Fault::Start(before),
                _ => Fault::Changed(before),
            });
        } else {
            self.finish();
        }
        self.in_run = broken;
    }

    /// The last link, to the head as it was when the walk began.
    fn reach_head(&mut self) {
        let head = self.ends.head_hash.clone();
        let alone = !self.in_run;
        // The next row, if there were one, would be the head's successor.
        self.link(Some(&head), self.ends.head_rows + 1);
        if alone && let Some(Fault::Changed(index)) = self.suspect {
            self.suspect = Some(Fault::Head(index));
        }
        self.finish();
    }

    fn finish(&mut self) {
        if let Some(suspect) = self.suspect.take() {
            self.note(suspect);
        }
    }

    fn note(&mut self, fault: Fault) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.entry(fault.index()).or_insert(fault);
        }
    }
}

impl Fault {
    fn index(self) -> u64 {
        match self {
            Fault::Changed(index) | Fault::Missing(index) | Fault::Unreadable(index) | Fault::Head(index) | Fault::Start(index) => index,
        }
    }

    fn message(self) -> ChainFault {
        let index = self.index();
        let (reason, message) = match self {
            Fault::Changed(_) => ("ROW_CHANGED", format!("the records of log entry {index} were changed")),
            Fault::Missing(_) => ("ROW_MISSING", format!("records that followed those of log entry {index} are gone")),
            Fault::Unreadable(_) => ("ROW_UNREADABLE", format!("the records of log entry {index} cannot be read")),
            Fault::Head(_) => ("HEAD_CHANGED", format!("the last records, of log entry {index}, or the chain's head were changed")),
            Fault::Start(_) => ("START_CHANGED", format!("what is known of the last dropped row, of log entry {index}, was changed")),
        };
        ChainFault { index, reason: reason.to_owned(), message }
    }
}
