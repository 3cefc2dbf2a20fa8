//! Ready tasks of one class, in the order in which they are leased.
//!
//! Five lists, one per priority, each in the order in which its tasks became ready. A task that has waited for
//! [`AGE_STEP_MS`](crate::limits::AGE_STEP_MS) counts as one priority higher, and so on up to critical. Within a list the oldest has aged
//! the most, so the best task of all is the best of five heads, however long the lists are.

use std::collections::BTreeSet;

use crate::limits::AGE_STEP_MS;

/// The order of leasing: lower comes first. Aged priority, then the time since which the task is ready, then its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank {
    pub level: u32,
    pub eligible_at_ms: u64,
    pub id: u64,
}

/// The tasks of one class in one queue.
#[derive(Debug, Default, PartialEq)]
pub struct Group {
    /// All tasks of the class that have not ended, and dead letters: the group lives as long as it has any.
    pub tasks: u64,
    /// Ready ones, by priority, as (ready since, id).
    levels: [BTreeSet<(u64, u64)>; 5],
}

/// The priority, from 1 to 5, as which a task counts that has been ready since then.
pub fn effective_level(priority: u32, eligible_at_ms: u64, now: u64) -> u32 {
    let steps = now.saturating_sub(eligible_at_ms) / AGE_STEP_MS;
    priority.saturating_sub(u32::try_from(steps).unwrap_or(u32::MAX)).max(1)
}

impl Group {
    /// How many are ready.
    pub fn len(&self) -> usize {
        self.levels.iter().map(BTreeSet::len).sum()
    }

    /// Puts a ready task in.
    pub fn insert(&mut self, priority: u32, eligible_at_ms: u64, id: u64) {
        self.levels[slot(priority)].insert((eligible_at_ms, id));
    }

    /// Takes a ready task out; false if it was not there.
    pub fn remove(&mut self, priority: u32, eligible_at_ms: u64, id: u64) -> bool {
        self.levels[slot(priority)].remove(&(eligible_at_ms, id))
    }

    /// The task to lease next.
    pub fn head(&self, now: u64) -> Option<Rank> {
        let heads = self.levels.iter().zip(1..).filter_map(|(level, priority)| {
            let (eligible_at_ms, id) = *level.first()?;
            Some(Rank { level: effective_level(priority, eligible_at_ms, now), eligible_at_ms, id })
        });
        heads.min()
    }

    /// Up to so many ready tasks of each priority, each list in its order.
    pub fn first(&self, max: usize, now: u64) -> impl Iterator<Item = Rank> {
        self.levels.iter().zip(1..).flat_map(move |(level, priority)| {
            level.iter().take(max).map(move |(eligible_at_ms, id)| Rank {
                level: effective_level(priority, *eligible_at_ms, now),
                eligible_at_ms: *eligible_at_ms,
                id: *id,
            })
        })
    }

    /// Ready tasks that are leased before one of this rank.
    pub fn before(&self, rank: Rank, now: u64) -> impl Iterator<Item = Rank> {
        self.levels.iter().zip(1..).flat_map(move |(level, priority)| {
            let ranks = level.iter().map(move |(eligible_at_ms, id)| Rank {
                level: effective_level(priority, *eligible_at_ms, now),
                eligible_at_ms: *eligible_at_ms,
                id: *id,
            });
            // Within a list, ranks only grow: the oldest has aged the most.
            ranks.take_while(move |other| *other < rank)
        })
    }

    /// Since when the oldest ready task is ready.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.levels.iter().filter_map(|level| level.first()).map(|(eligible_at_ms, _)| *eligible_at_ms).min()
    }

    /// The ids of all ready tasks, by priority and age.
    pub fn ready(&self) -> impl Iterator<Item = u64> {
        self.levels.iter().flatten().map(|(_, id)| *id)
    }
}

fn slot(priority: u32) -> usize {
    priority.clamp(1, 5) as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_first_then_age_then_id() {
        let mut group = Group::default();
        group.insert(3, 10, 7);
        group.insert(3, 10, 6);
        group.insert(2, 20, 9);
        group.insert(5, 0, 1);
        let mut order = Vec::new();
        while let Some(rank) = group.head(30) {
            let priority = (1..=5).find(|p| group.remove(*p, rank.eligible_at_ms, rank.id));
            order.push((priority.unwrap(), rank.id));
        }
        assert_eq!(order, [(2, 9), (3, 6), (3, 7), (5, 1)]);
    }

    #[test]
    fn waiting_raises_a_task_and_critical_is_the_ceiling() {
        assert_eq!(effective_level(5, 0, AGE_STEP_MS - 1), 5);
        assert_eq!(effective_level(5, 0, AGE_STEP_MS), 4);
        assert_eq!(effective_level(5, 0, 4 * AGE_STEP_MS), 1);
        assert_eq!(effective_level(5, 0, u64::MAX), 1);
        assert_eq!(effective_level(1, 0, u64::MAX), 1);
        assert_eq!(effective_level(3, 100, 50), 3, "a task that becomes ready later has not aged");
    }

    #[test]
    fn under_a_stream_of_critical_tasks_a_background_task_gets_its_turn() {
        let mut group = Group::default();
        group.insert(5, 0, 1);
        let mut now = 0;
        for id in 2.. {
            now += 1_000;
            group.insert(1, now, id);
            let rank = group.head(now).expect("a task was just put in");
            if rank.id == 1 {
                break;
            }
            group.remove(1, rank.eligible_at_ms, rank.id);
        }
        assert_eq!(now, 4 * AGE_STEP_MS);
    }
}
