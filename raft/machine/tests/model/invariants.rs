//! What must hold after every entry, whatever the model thinks. Each is a function with a name, and beside it where the promise was made.
//! More of them, about what the machine has told, are in [`history`](crate::history).

use std::collections::{BTreeMap, BTreeSet};

use tarn_machine::ids::Id;
use tarn_machine::keys::Key;
use tarn_machine::{Applied, Machine, STATE, limits};
use tarn_proto::v1::{Event, EventKind, TaskState};
use tarn_storage::{Engine, Keyspace, MemoryEngine, Range};

use crate::reference::Model;

/// What a check finds wrong is its error.
pub type Check = Result<(), String>;

/// "Provable: replicas compare digests at the same index" (design, The kernel's rules).
pub fn replicas_agree(who: &str, a: &Machine, b: &Machine) -> Check {
    let stand = |machine: &Machine| (machine.applied_index(), machine.now_ms(), machine.digest());
    match stand(a) == stand(b) {
        true => Ok(()),
        false => Err(format!("{who} has another digest at index {} than at {}", b.applied_index(), a.applied_index())),
    }
}

/// "Rebuild of in-memory indices on start is tested against the live ones (same content, to the entry)".
pub fn indices_are_what_the_rows_say(machine: &Machine) -> Check {
    let rebuilt = machine.rebuilt_indices().map_err(|fatal| fatal.to_string())?;
    match machine.indices() == &rebuilt {
        true => Ok(()),
        false => {
            let (live, rebuilt) = (format!("{:#?}", machine.indices()), format!("{rebuilt:#?}"));
            let first = live.lines().zip(rebuilt.lines()).find(|(a, b)| a != b);
            Err(format!("live and rebuilt indices differ, first in {first:?}"))
        }
    }
}

/// "Effects, `last_applied` and the digest commit in one batch": after a power cut, what the caller wrote with an entry is there exactly if
/// the entry's own effects are.
pub fn callers_part_is_in_the_same_batch(engine: &MemoryEngine, keyspace: Keyspace, machine: &Machine) -> Check {
    let bytes = engine.get(keyspace, b"applied").map_err(|error| error.to_string())?;
    let caller = bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
    match caller == machine.applied_index() {
        true => Ok(()),
        false => Err(format!("the caller's part stands at {caller}, the machine at {}", machine.applied_index())),
    }
}

/// "Starved": among the tasks of a namespace that a worker could be given, one that has aged to critical is not passed over for one that
/// became ready after it. With the namespaces' shares this bounds every wait; `starvation` computes the bound and tries it.
///
/// Looks at the entry's leases from the end of the entry: a task that is still ready was ready, and passed over, when they were granted,
/// unless it became ready within the entry.
pub fn nobody_who_waited_long_is_passed_over(model: &Model, applied: &Applied) -> Check {
    for event in applied.events.iter().filter(|event| event.kind() == EventKind::TaskLeased) {
        let Ok(Id(leased)) = event.subject.parse::<Id>() else {
            continue;
        };
        let worker = event.worker.parse::<Id>().ok().and_then(|id| model.workers.get(&id.0));
        let (Some(taken), Some(worker)) = (model.tasks.get(&leased), worker) else {
            continue;
        };
        // One that failed within the entry has begun to wait anew.
        if taken.state != TaskState::Running {
            continue;
        }
        let able = worker.capabilities.clone().unwrap_or_default();
        for (id, waiting) in &model.tasks {
            let old = applied.now_ms.saturating_sub(waiting.eligible_at_ms) >= 4 * limits::AGE_STEP_MS;
            let earlier = (waiting.eligible_at_ms, *id) < (taken.eligible_at_ms, leased);
            let given_back = applied.events.iter().any(|event| event.subject == Id(*id).to_string());
            if waiting.state == TaskState::Ready && waiting.ns == taken.ns && old && earlier && !given_back && model.serves(&able, waiting)
            {
                return Err(format!(
                    "task {} has waited since {} and was passed over for task {}",
                    Id(*id),
                    waiting.eligible_at_ms,
                    Id(leased)
                ));
            }
        }
    }
    Ok(())
}

/// "Streams can resume from a revision" (design, The way of one request).
pub fn events_can_be_read_again(machine: &Machine, index: u64, events: &[Event]) -> Check {
    let again = machine.events_after(index - 1, 2).map_err(|refusal| refusal.to_string())?;
    match again == events {
        true => Ok(()),
        false => Err(format!("the events of revision {index} read differently afterwards: {again:?}")),
    }
}

/// Nothing outlives what it belongs to: every row beside a task, every edge, every expiry has its owner, and the other way round.
pub fn rows_belong_together(engine: &MemoryEngine) -> Check {
    let mut tasks: BTreeMap<(u64, u64), (u64, bool)> = BTreeMap::new();
    let mut namespaces = BTreeSet::new();
    let (mut specs, mut expiries, mut queues) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    let (mut fired, mut fired_expiries) = (BTreeSet::new(), BTreeSet::new());
    let (mut owned, mut in_namespaces) = (Vec::new(), Vec::new());
    each_row(engine, |key, value| {
        match key {
            Key::Namespace { .. } => drop(namespaces.insert(first_number(value)?)),
            Key::LiveTask { ns, id } | Key::DeadTask { ns, id } => {
                tasks.insert((ns, id), (first_number(value)?, false));
                in_namespaces.push(ns);
            }
            Key::EndedTask { ns, id } => drop(tasks.insert((ns, id), (first_number(value)?, true))),
            Key::Spec { ns, id } => drop(specs.insert((ns, id))),
            Key::Payload { ns, id } | Key::Result { ns, id } | Key::Log { ns, id, .. } => owned.push((ns, id, false)),
            Key::Edge { ns, dependent, .. } => owned.push((ns, dependent, true)),
            Key::EndedExpiry { ns, id, .. } => *expiries.entry((ns, id)).or_insert(0) += 1,
            Key::Queue { ns, .. } => {
                queues.insert(first_number(value)?);
                in_namespaces.push(ns);
            }
            Key::Pass { ns } | Key::NamedLease { ns, .. } | Key::PendingTimer { ns, .. } => in_namespaces.push(ns),
            Key::FiredTimer { ns, id } => drop(fired.insert((ns, id))),
            Key::FiredTimerExpiry { ns, id, .. } => drop(fired_expiries.insert((ns, id))),
            _ => {}
        }
        Ok(())
    })?;
    if let Some(ns) = in_namespaces.iter().find(|ns| !namespaces.contains(ns)) {
        return Err(format!("something lies in namespace {ns}, which does not exist"));
    }
    if specs != tasks.keys().copied().collect() {
        return Err("tasks and specifications are not the same".to_owned());
    }
    if fired != fired_expiries {
        return Err("fired timers and their expiries are not the same".to_owned());
    }
    for (ns, id, by_edge) in owned {
        match tasks.get(&(ns, id)) {
            Some((_, ended)) if !(by_edge && *ended) => {}
            _ => return Err(format!("a row belongs to task {}, which has no use for it", Id(id))),
        }
    }
    for ((ns, id), (queue, ended)) in &tasks {
        let expiries = expiries.remove(&(*ns, *id)).unwrap_or(0);
        if expiries != usize::from(*ended) {
            return Err(format!("task {} has {expiries} expiries; that it has ended is {ended}", Id(*id)));
        }
        if !ended && !queues.contains(queue) {
            return Err(format!("task {} is in a queue that does not exist", Id(*id)));
        }
    }
    match expiries.keys().next() {
        Some((_, id)) => Err(format!("an expiry names task {}, which does not exist", Id(*id))),
        None => Ok(()),
    }
}

/// The first field of a row. Of a namespace and of a queue it is the number, of a task its queue's, of a pass the pass: rows are the
/// kernel's own, and this is all that is to be known of them here.
pub fn first_number(row: &[u8]) -> Result<u64, String> {
    #[derive(Clone, Copy, prost::Message)]
    struct Row {
        #[prost(uint64, tag = "1")]
        number: u64,
    }
    prost::Message::decode(row).map(|row: Row| row.number).map_err(|error| error.to_string())
}

/// Shows every row of the state.
pub fn each_row(engine: &MemoryEngine, mut see: impl FnMut(Key<'_>, &[u8]) -> Check) -> Check {
    for entry in engine.scan(STATE, Range::all()) {
        let (key, value) = entry.map_err(|error| error.to_string())?;
        let key = Key::decode(&key).ok_or_else(|| format!("what is the key {key:02x?}?"))?;
        see(key, &value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_an_owner_are_seen() {
        let lone = [
            Key::Spec { ns: 1, id: 2 },
            Key::Log { ns: 1, id: 2, attempt: 1 },
            Key::Edge { ns: 1, dependency: 2, dependent: 3 },
            Key::EndedExpiry { at: 5, ns: 1, id: 2 },
            Key::FiredTimer { ns: 1, id: 2 },
            Key::Pass { ns: 9 },
        ];
        for key in lone {
            let engine = MemoryEngine::new();
            let mut batch = tarn_storage::Batch::new();
            batch.put(STATE, key.encode(), []);
            engine.write(batch, tarn_storage::Durability::Buffered).unwrap();
            assert!(rows_belong_together(&engine).is_err(), "{key:?}");
        }
    }
}
