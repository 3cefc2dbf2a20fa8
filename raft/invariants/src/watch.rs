//! Events as a watcher sees them.

use std::fmt;

use crate::{Invariant, Verdict};

/// See [`continuous`].
pub const CONTINUOUS: Invariant = Invariant {
    name: "continuous watch",
    rule: "a watcher sees every event after the revision it named, once, in the order of the log",
    source: "design, the way of one request, step 7; event.proto: without gap or repeat; anchors, test 25",
};

/// An event's place: the log index, and its position among the events of that index, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The log index.
    pub revision: u64,
    /// The position within it.
    pub ordinal: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {} of revision {}", self.ordinal, self.revision)
    }
}

/// A place in words, where there may be none.
fn or_nothing(place: Option<&Place>) -> String {
    place.map_or("nothing".to_owned(), Place::to_string)
}

/// `place` reaches a watcher that asked for events after a revision.
///
/// # Errors
///
/// It is not after it ([`CONTINUOUS`]).
pub fn after(revision: u64, place: Place) -> Verdict {
    CONTINUOUS.require(place.revision > revision, || format!("{place} is seen by who asked for what comes after revision {revision}"))
}

/// `next` reaches a watcher after `last`. With filters, by a namespace or a queue, places may be left out.
///
/// # Errors
///
/// A repeat or a step back ([`CONTINUOUS`]).
pub fn ordered(last: Option<Place>, next: Place) -> Verdict {
    CONTINUOUS.require(last.is_none_or(|last| next > last), || format!("{next} is seen after {}", or_nothing(last.as_ref())))
}

/// `next` reaches a watcher after `last`. Without filters the events of a revision come with positions without a gap.
///
/// # Errors
///
/// A repeat, a step back, or a gap within a revision ([`CONTINUOUS`]).
pub fn continuous(last: Option<Place>, next: Place) -> Verdict {
    ordered(last, next)?;
    let follows = match last {
        Some(last) if last.revision == next.revision => next.ordinal == last.ordinal + 1,
        Some(last) => next.revision > last.revision && next.ordinal == 0,
        None => next.ordinal == 0,
    };
    CONTINUOUS.require(follows, || format!("{next} is seen after {}", or_nothing(last.as_ref())))
}

/// What one watcher saw, compared with what happened: `seen` must be all of `happened` after `after_revision`, in order.
///
/// # Errors
///
/// The first difference ([`CONTINUOUS`]).
pub fn complete(after_revision: u64, seen: &[Place], happened: &[Place]) -> Verdict {
    let expected = happened.iter().filter(|place| place.revision > after_revision);
    let mut seen = seen.iter();
    for place in expected {
        let next = seen.next();
        CONTINUOUS.require(next == Some(place), || format!("{place} happened next, and {} was seen", or_nothing(next)))?;
    }
    match seen.next() {
        None => Ok(()),
        Some(extra) => Err(CONTINUOUS.violated(format!("{extra} was seen and did not happen"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64, ordinal: u32) -> Place {
        Place { revision, ordinal }
    }

    #[test]
    fn places_follow_each_other() {
        continuous(None, at(5, 0)).unwrap();
        continuous(Some(at(5, 0)), at(5, 1)).unwrap();
        continuous(Some(at(5, 1)), at(9, 0)).unwrap();
        for next in [at(5, 1), at(5, 3), at(4, 0), at(9, 1)] {
            assert_eq!(continuous(Some(at(5, 1)), next).unwrap_err().invariant, CONTINUOUS);
        }
    }

    #[test]
    fn with_filters_places_may_be_left_out_but_not_turned_round() {
        ordered(None, at(5, 3)).unwrap();
        after(4, at(5, 3)).unwrap();
        assert_eq!(after(5, at(5, 3)).unwrap_err().invariant, CONTINUOUS);
        ordered(Some(at(5, 1)), at(5, 3)).unwrap();
        for next in [at(5, 1), at(5, 0), at(4, 9)] {
            assert_eq!(ordered(Some(at(5, 1)), next).unwrap_err().invariant, CONTINUOUS);
        }
    }

    #[test]
    fn what_happened_is_seen_and_nothing_else() {
        let happened = [at(1, 0), at(3, 0), at(3, 1), at(7, 0)];
        complete(1, &[at(3, 0), at(3, 1), at(7, 0)], &happened).unwrap();
        assert!(complete(1, &[at(3, 0), at(7, 0)], &happened).is_err(), "a gap");
        assert!(complete(1, &[at(3, 0), at(3, 1)], &happened).is_err(), "the end is missing");
        assert!(complete(3, &[at(7, 0), at(7, 0)], &happened).is_err(), "a repeat");
    }
}
