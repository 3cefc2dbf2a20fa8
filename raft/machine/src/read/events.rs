//! Events of past revisions.

use tarn_proto::v1::Event;
use tarn_storage::Range;

use crate::error::{Fatal, Refusal};
use crate::keys::{Key, first, prefix};
use crate::limits::{EVENT_PAGE_BYTES, EVENT_REVISIONS_KEPT};
use crate::overlay::{STATE, decode};
use crate::rows::EventsRow;
use crate::{Machine, reject};

/// Events after the revision asked for are gone: list the present state, and go on from the revision of that list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("events up to revision {oldest} are gone")]
pub struct Compacted {
    /// The lowest revision after which all events are still there.
    pub oldest: u64,
}

impl Compacted {
    /// As a client is told.
    pub fn rejection(&self) -> tarn_proto::v1::Rejection {
        let message = format!("{self}: list the present state and watch from the revision of that list");
        reject::out_of_range("COMPACTED", "after_revision", self.oldest, message)
    }
}

impl Machine {
    /// The lowest revision after which all events are still there.
    pub fn oldest_revision(&self) -> u64 {
        self.applied_index().saturating_sub(EVENT_REVISIONS_KEPT)
    }

    /// Events after a revision, oldest first: whole revisions, of at most `max_revisions` that have any, and no more once they have come to
    /// [`EVENT_PAGE_BYTES`](crate::limits::EVENT_PAGE_BYTES).
    ///
    /// # Errors
    ///
    /// The rejection that [`Compacted`] makes if some of them are gone; [`Refusal::Fatal`] if they cannot be read.
    pub fn events_after(&self, revision: u64, max_revisions: usize) -> Result<Vec<Event>, Refusal> {
        let oldest = self.oldest_revision();
        if revision < oldest {
            return Err(Compacted { oldest }.rejection().into());
        }
        let (start, end) = (prefix(first::EVENTS, &[revision.saturating_add(1)]), [first::EVENTS + 1]);
        let mut events = Vec::new();
        let mut bytes = 0;
        for entry in self.engine.scan(STATE, Range::between(&start, &end)).take(max_revisions) {
            let (key, row) = entry?;
            bytes += row.len();
            let key = Key::decode(&key).ok_or_else(|| Fatal::assertion("a key of an event cannot be decoded"))?;
            events.extend(decode::<EventsRow>(&key, &row)?.events);
            if bytes >= EVENT_PAGE_BYTES {
                break;
            }
        }
        Ok(events)
    }
}
