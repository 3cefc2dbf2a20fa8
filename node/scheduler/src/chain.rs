//! What is remembered of a chain's runtimes from batch to batch, so that tasks neither wait too long for a busy one nor flap between two.
//!
//! ```text
//!                  no eligible worker
//!         ┌────────────────────────────────┐
//!         │                                ▼
//!      STEADY ◄──── for settle_ms ──── RETURNING ◄──── eligible again ──── LOST
//!         ▲           without a break      │                                ▲
//!         │                                └────────────────────────────────┘
//!         │
//!    full ├── until the task's patience is over: tasks that find no room wait
//!         ├── after it: they take the next runtime at once
//!         └── room at the end of every batch for settle_ms: forgotten
//! ```
//!
//! A task that could go elsewhere does not go to a runtime that is only returning. A slot that a full runtime has free is always used.

use std::collections::BTreeMap;

use crate::Requirements;

/// Chains that are remembered. Beyond it the half that was met least lately is forgotten; their tasks then wait out a patience again.
pub const CHAINS_MAX: usize = 4096;

/// How a runtime stands with what a task requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Some worker could run the task.
    Steady,
    /// The same, but not long enough to rely on.
    Returning,
    /// No worker could run it, not even an idle one.
    Lost,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    seen_ms: u64,
    lost: bool,
    back_since_ms: Option<u64>,
    full_since_ms: Option<u64>,
    free_since_ms: Option<u64>,
}

/// The memory. Each pair of requirements and runtime has its own, for one task's idle device is another's full one.
#[derive(Debug, Clone, Default)]
pub struct Chains {
    states: BTreeMap<(Requirements, String), State>,
}

/// What tells a chain's runtimes apart, and the times that rule it.
pub struct Watch<'a> {
    pub requires: &'a Requirements,
    pub now_ms: u64,
    pub settle_ms: u64,
    /// What was not met for this long is met anew.
    pub horizon_ms: u64,
}

impl Chains {
    /// At the beginning of a batch: how the runtime stands, and since when it has been full, if it is.
    pub fn meet(&mut self, watch: &Watch<'_>, runtime: &str, eligible: bool) -> (Standing, Option<u64>) {
        let now_ms = watch.now_ms;
        let state = self.state(watch, runtime);
        if !eligible {
            *state = State { seen_ms: now_ms, lost: true, ..State::default() };
            return (Standing::Lost, None);
        }
        if state.lost {
            let since = *state.back_since_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since) < watch.settle_ms {
                return (Standing::Returning, state.full_since_ms);
            }
            state.lost = false;
            state.back_since_ms = None;
        }
        (Standing::Steady, state.full_since_ms)
    }

    /// At the end of a batch: whether a runtime that has eligible workers is full.
    pub fn leave(&mut self, watch: &Watch<'_>, runtime: &str, full: bool) {
        let state = self.state(watch, runtime);
        if full {
            state.full_since_ms.get_or_insert(watch.now_ms);
            state.free_since_ms = None;
            return;
        }
        let since = *state.free_since_ms.get_or_insert(watch.now_ms);
        if watch.now_ms.saturating_sub(since) >= watch.settle_ms {
            state.full_since_ms = None;
        }
    }

    fn state(&mut self, watch: &Watch<'_>, runtime: &str) -> &mut State {
        self.make_room();
        let state = self.states.entry((watch.requires.clone(), runtime.to_owned())).or_default();
        if watch.now_ms.saturating_sub(state.seen_ms) > watch.horizon_ms {
            *state = State::default();
        }
        state.seen_ms = watch.now_ms;
        state
    }

    fn make_room(&mut self) {
        if self.states.len() < CHAINS_MAX {
            return;
        }
        let mut seen: Vec<u64> = self.states.values().map(|state| state.seen_ms).collect();
        seen.sort_unstable();
        let middle = seen[seen.len() / 2];
        self.states.retain(|_, state| state.seen_ms > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: u64 = 100;

    fn watch(requires: &Requirements, now_ms: u64) -> Watch<'_> {
        Watch { requires, now_ms, settle_ms: SETTLE, horizon_ms: 1_000 }
    }

    #[test]
    fn what_was_lost_must_be_back_without_a_break() {
        let requires = Requirements::default();
        let mut chains = Chains::default();
        let mut meet = |now, eligible| chains.meet(&watch(&requires, now), "cuda", eligible).0;
        assert_eq!(meet(0, true), Standing::Steady);
        assert_eq!(meet(10, false), Standing::Lost);
        assert_eq!(meet(20, true), Standing::Returning);
        assert_eq!(meet(119, true), Standing::Returning);
        assert_eq!(meet(119, false), Standing::Lost);
        assert_eq!(meet(130, true), Standing::Returning);
        assert_eq!(meet(229, true), Standing::Returning);
        assert_eq!(meet(230, true), Standing::Steady);
        assert_eq!(meet(231, true), Standing::Steady);
    }

    #[test]
    fn full_is_forgotten_once_there_was_room_for_long_enough() {
        let requires = Requirements::default();
        let mut chains = Chains::default();
        let mut batch = |now, full| {
            let since = chains.meet(&watch(&requires, now), "cuda", true).1;
            chains.leave(&watch(&requires, now), "cuda", full);
            since
        };
        assert_eq!(batch(1, true), None);
        assert_eq!(batch(50, false), Some(1));
        assert_eq!(batch(149, false), Some(1));
        assert_eq!(batch(149, true), Some(1), "a breath of room was not enough");
        assert_eq!(batch(160, false), Some(1));
        assert_eq!(batch(260, false), Some(1));
        assert_eq!(batch(261, false), None);
    }

    #[test]
    fn what_was_not_met_for_long_is_met_anew() {
        let requires = Requirements::default();
        let mut chains = Chains::default();
        chains.meet(&watch(&requires, 0), "cuda", false);
        assert_eq!(chains.meet(&watch(&requires, 1_001), "cuda", true).0, Standing::Steady);
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut chains = Chains::default();
        for number in 0..3 * CHAINS_MAX as u64 {
            let requires = Requirements { memory_bytes: number, ..Requirements::default() };
            chains.meet(&watch(&requires, number), "cuda", false);
        }
        assert!(chains.states.len() <= CHAINS_MAX, "{}", chains.states.len());
    }
}
