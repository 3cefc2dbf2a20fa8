//! The order in which tasks are assigned, judged by the log of events: it says what was ready when, and what was leased.
//!
//! The moment of assignment is the position of `TASK_LEASED` in the log. What workers see, and when, is blurred by the network; the log is
//! not. Both checks need a watcher that saw the whole log, and prove nothing without one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::facts::Facts;
use super::watch::{is_whole, log};
use super::{Check, Findings};
use crate::history::Event;

/// A task that waited this long counts as one priority higher: what tarn documents, `AGE_STEP_MS` of its limits.
const AGE_STEP_MS: u64 = 60_000;

/// First in, first out: of one producer's tasks of one priority, each acknowledged before the next was sent, none is first leased before one
/// that was submitted earlier.
pub fn first_in_first_out(history: &[Event]) -> Check {
    let mut findings = Findings::new("first in first out");
    if !is_whole(history) {
        findings.doubt("no watcher saw the whole log");
        return findings.finish("");
    }
    findings.needs("tasks");
    let facts = Facts::of(history);
    let mut leased: HashMap<&str, (usize, (u64, u32))> = HashMap::new();
    let log = log(history);
    for (at, (place, sight)) in log.iter().enumerate() {
        if sight.kind == "TASK_LEASED" {
            leased.entry(&sight.subject).or_insert((at, *place));
        }
    }
    let mut lines: BTreeMap<(u32, u32), Vec<(u64, &str)>> = BTreeMap::new();
    for submitted in facts.submitted.values().filter(|s| s.item.after.is_empty()) {
        if let Some(task) = &submitted.task {
            let item = &submitted.item;
            let line = lines.entry((item.producer, item.priority)).or_default();
            line.push((item.place, task));
        }
    }
    for ((producer, priority), mut line) in lines {
        line.sort_unstable();
        let mut before: Option<(usize, (u64, u32), &str)> = None;
        for (_, task) in line {
            let Some((at, place)) = leased.get(task).copied() else {
                continue;
            };
            findings.count("tasks", 1);
            if let Some((_, earlier, other)) = before.filter(|(last, _, _)| at < *last) {
                findings.violation(format!(
                    "producer {producer}, priority {priority}: task {task} was leased at {place:?}, before {other} at {earlier:?}, which was submitted before it"
                ));
            }
            before = before.filter(|(last, _, _)| *last > at).or(Some((at, place, task)));
        }
    }
    findings.finish("tasks of one producer and priority were assigned in the order of their submission")
}

/// The order of leasing: aged priority, then the time since which the task is ready, then its id.
type Rank<'a> = (u64, u64, &'a str);

/// Tasks that are ready, in five lists, each in the order in which its tasks became ready.
#[derive(Default)]
struct Ready<'a> {
    levels: [BTreeSet<(u64, &'a str)>; 5],
    /// Where a task is that is ready, and since when.
    of: HashMap<&'a str, (usize, u64)>,
}

impl<'a> Ready<'a> {
    fn insert(&mut self, task: &'a str, priority: u32, since_ms: u64) {
        let level = priority.clamp(1, 5) as usize - 1;
        self.levels[level].insert((since_ms, task));
        self.of.insert(task, (level, since_ms));
    }

    fn remove(&mut self, task: &'a str) -> Option<(usize, u64)> {
        let (level, since_ms) = self.of.remove(task)?;
        self.levels[level].remove(&(since_ms, task));
        Some((level, since_ms))
    }

    fn best(&self, now: u64) -> Option<Rank<'a>> {
        let heads = self.levels.iter().enumerate().filter_map(|(level, list)| {
            let (since_ms, task) = *list.first()?;
            Some(rank(level, since_ms, task, now))
        });
        heads.min()
    }
}

fn rank(level: usize, since_ms: u64, task: &str, now: u64) -> Rank<'_> {
    let steps = now.saturating_sub(since_ms) / AGE_STEP_MS;
    ((level as u64 + 1).saturating_sub(steps).max(1), since_ms, task)
}

/// Strict priorities: each time a task of this queue is leased, no task of the queue that is certainly ready should have come first. A task
/// that comes back after a failed attempt is left out, because the log does not say since when it counts as ready.
pub fn priorities(history: &[Event], queue: &str) -> Check {
    let mut findings = Findings::new("strict priorities");
    if !is_whole(history) {
        findings.doubt("no watcher saw the whole log");
        return findings.finish("");
    }
    findings.needs("assignments");
    let facts = Facts::of(history);
    let mut priority: HashMap<&str, u32> = HashMap::new();
    for task in facts.finals.values() {
        if let Some(submitted) = facts.submitted.get(&task.item) {
            priority.insert(&task.task, submitted.item.priority);
        }
    }
    let log = log(history);
    let (mut ready, mut returned) = (Ready::default(), HashMap::new());
    for (place, sight) in log.iter().filter(|(_, sight)| sight.queue == queue) {
        let task = sight.subject.as_str();
        let Some(level) = priority.get(task).copied() else {
            continue;
        };
        match sight.kind.as_str() {
            "TASK_ENQUEUED" => ready.insert(task, level, sight.at_ms),
            "TASK_RETURNED" => {
                if let Some(since_ms) = returned.remove(task) {
                    ready.insert(task, level, since_ms);
                }
            }
            "TASK_LEASED" => {
                let Some((level, since_ms)) = ready.remove(task) else {
                    continue;
                };
                returned.insert(task, since_ms);
                findings.count("assignments", 1);
                let own = rank(level, since_ms, task, sight.at_ms);
                if let Some(better) = ready.best(sight.at_ms).filter(|better| *better < own) {
                    findings.violation(format!("at {place:?} task {task} was leased with rank {own:?}, while {better:?} was ready"));
                }
            }
            "TASK_DEAD" | "TASK_CANCELLED" | "TASK_PURGED" => {
                ready.remove(task);
            }
            _ => {}
        }
    }
    findings.finish("at each assignment the best task of the whole queue was taken")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checker::Outcome;
    use crate::checker::facts::{ENQUEUE, FINAL, Final, Item};
    use crate::checker::testing::{Script, told};
    use crate::checker::watch::{REACHED, SIGHT, STRETCH, Sight, Stretch};

    fn event(script: &mut Script, revision: u64, kind: &str, task: &str, at_ms: u64) {
        script.info(
            SIGHT,
            Sight { revision, at_ms, kind: kind.to_owned(), queue: "q".to_owned(), subject: task.to_owned(), ..Sight::default() },
        );
    }

    /// Three tasks of one producer, the last of a higher priority, in this order of assignment.
    fn script(order: [&str; 3], at_ms: u64) -> Script {
        let mut script = Script::new("watcher");
        script.info(STRETCH, Stretch::default());
        for (place, (task, priority)) in [("t1", 3), ("t2", 3), ("t3", 1)].into_iter().enumerate() {
            let item = Item { name: format!("item of {task}"), place: place as u64, priority, ..Item::default() };
            script.ok(ENQUEUE, [item.clone()], [task]);
            script.info(FINAL, Final { task: task.to_owned(), item: item.name, ..Final::default() });
            event(&mut script, place as u64 + 1, "TASK_ENQUEUED", task, 1_000);
        }
        for (at, task) in order.into_iter().enumerate() {
            event(&mut script, at as u64 + 10, "TASK_LEASED", task, at_ms);
        }
        script.info(REACHED, json!({"revision": 20}));
        script
    }

    #[test]
    fn the_order_that_tarn_promises_is_valid_and_others_are_not() {
        let good = script(["t3", "t1", "t2"], 1_000);
        assert_eq!(told(first_in_first_out(good.events())), Outcome::Valid);
        assert_eq!(told(priorities(good.events(), "q")), Outcome::Valid);
        let overtaken = script(["t3", "t2", "t1"], 1_000);
        assert_eq!(told(first_in_first_out(overtaken.events())), Outcome::Invalid);
        assert_eq!(told(priorities(overtaken.events(), "q")), Outcome::Invalid);
        let inverted = script(["t1", "t3", "t2"], 1_000);
        assert_eq!(told(first_in_first_out(inverted.events())), Outcome::Valid);
        assert_eq!(told(priorities(inverted.events(), "q")), Outcome::Invalid);
    }

    #[test]
    fn a_task_that_waited_long_counts_as_more_urgent() {
        let aged = script(["t1", "t2", "t3"], 1_000 + 2 * AGE_STEP_MS);
        assert_eq!(told(priorities(aged.events(), "q")), Outcome::Valid, "equal after two steps, and older by id");
    }

    #[test]
    fn without_the_whole_log_nothing_is_proven() {
        let mut partial = script(["t1", "t3", "t2"], 1_000);
        partial.events_mut().pop();
        assert_eq!(told(priorities(partial.events(), "q")), Outcome::Unknown);
        assert_eq!(told(first_in_first_out(partial.events())), Outcome::Unknown);
    }
}
