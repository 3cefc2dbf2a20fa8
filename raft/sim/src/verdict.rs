//! The last questions: whether everything that was accepted has ended, and whether the final state is what everybody was told.

use std::collections::BTreeSet;

use tarn_invariants::leases::{Holding, no_overlaps};
use tarn_invariants::tasks::{EVERY_TASK_ENDS, every_task_ends, no_task_lost};
use tarn_invariants::timers::never_early;
use tarn_invariants::{Invariant, Violation};
use tarn_machine::ids::Id;
use tarn_proto::v1::{EventKind, GetTaskRequest, ListTasksRequest, ListTimersRequest, Task, TaskState, Timer, TimerState};
use tarn_raft::{Machine, NodeId};

use crate::work::NAMESPACE;
use crate::work::ledger::Held;
use crate::world::{Failure, World};

/// A node that has only lost what it was never promised starts, and goes on.
pub const SOUND: Invariant = Invariant {
    name: "sound recovery",
    rule: "after any crash a node whose disk works starts again, and no node stops by itself",
    source: "design, storage; README: the kernel stops only at what it does not understand or cannot write",
};

/// The cluster works once a majority does.
pub const LIVE: Invariant = Invariant {
    name: "liveness",
    rule: "once a majority runs and its nodes reach each other, the cluster has a leader and takes writes; once all do, all come to the same state",
    source: "anchors, test 35; Raft paper, section 5.6",
};

/// The index and the digest that all members have, if they have the same.
pub fn agreed(world: &World) -> Option<(u64, [u8; 32])> {
    let leader = world.leader()?;
    let status = |id: &NodeId| world.hosts.get(id)?.look(|node| node.status().ok())?;
    let members: Vec<NodeId> = status(&leader)?.members.iter().map(|member| member.peer.id).collect();
    let mut agreed = None;
    for id in &members {
        let status = status(id)?;
        let this = (status.applied.index, status.digest);
        if status.last_log_index != status.applied.index || agreed.is_some_and(|agreed| agreed != this) {
            return None;
        }
        agreed = Some(this);
    }
    agreed
}

/// Whether all tasks have ended and all timers have fired, as the leader's state has it.
pub fn drained(world: &World) -> bool {
    let Some(open) = look(world, |machine| tasks(machine).iter().any(|task| !ended(task))) else {
        return false;
    };
    !open && open_timer(world).is_none()
}

/// A timer that somebody was told is scheduled, and that has not fired, as the leader's state has it.
fn open_timer(world: &World) -> Option<String> {
    let fired: BTreeSet<String> =
        look(world, timers)?.into_iter().filter(|timer| timer.state() == TimerState::Fired).map(|timer| timer.timer_id).collect();
    let ledger = world.ledger.lock();
    let open = |timer: &&String| !ledger.no_longer_due.contains(*timer) && !fired.contains(*timer);
    ledger.timers.keys().find(open).cloned()
}

fn timers(machine: &Machine) -> Vec<Timer> {
    let mut all = Vec::new();
    let mut request = ListTimersRequest { namespace: NAMESPACE.into(), page_size: 1_000, ..ListTimersRequest::default() };
    while let Ok(mut page) = machine.list_timers(&request) {
        all.append(&mut page.timers);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    all
}

/// What has not ended in time.
pub fn undrained(world: &World) -> Violation {
    let open = look(world, |machine| {
        let tasks = tasks(machine);
        let open = tasks.into_iter().find(|task| !ended(task));
        open.map(|task| format!("{} is {:?}, {} attempts", task.task_id, task.state(), task.attempts_begun))
    });
    EVERY_TASK_ENDS.violated(match (open.flatten(), open_timer(world)) {
        (Some(task), _) => format!("nothing is wrong any more, and task {task}"),
        (None, Some(timer)) => {
            let known = look(world, timers).and_then(|all| all.into_iter().find(|found| found.timer_id == timer));
            let now_ms = look(world, Machine::now_ms).unwrap_or(0);
            let due_ms = world.ledger.lock().timers.get(&timer).copied().unwrap_or(0);
            let found = known.map_or("not found", |known| known.state().as_str_name());
            format!("nothing is wrong any more, and timer {timer} is {found}, due at {due_ms}, and it is {now_ms}")
        }
        (None, None) => "nothing is wrong any more, and nobody leads".to_owned(),
    })
}

fn look<T>(world: &World, look: impl FnOnce(&Machine) -> T) -> Option<T> {
    let host = &world.hosts[&world.leader()?];
    host.look(|node| node.read(look).ok())?
}

fn ended(task: &Task) -> bool {
    matches!(task.state(), TaskState::Succeeded | TaskState::Dead | TaskState::Cancelled)
}

fn tasks(machine: &Machine) -> Vec<Task> {
    let mut all = Vec::new();
    let mut request = ListTasksRequest { namespace: NAMESPACE.into(), page_size: 1_000, ..ListTasksRequest::default() };
    while let Ok(mut page) = machine.list_tasks(&request) {
        all.append(&mut page.tasks);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    all
}

/// Compares the final state with what everybody was told.
///
/// # Errors
///
/// The first difference.
pub fn judge(world: &mut World) -> Result<(), Failure> {
    let all = look(world, |machine| {
        let complete = |task: &Task| {
            let request = GetTaskRequest { namespace: NAMESPACE.into(), task_id: task.task_id.clone(), ..GetTaskRequest::default() };
            machine.get_task(&request).ok().and_then(|response| response.task)
        };
        tasks(machine).iter().filter_map(complete).collect::<Vec<Task>>()
    });
    let all = all.ok_or_else(|| LIVE.violated("nobody leads at the end"))?;
    let ledger = world.ledger.clone();
    {
        let inner = ledger.lock();
        let accepted = || inner.accepted.keys().map(String::as_str);
        let found: BTreeSet<&str> = all.iter().map(|task| task.task_id.as_str()).collect();
        no_task_lost(accepted(), &found)?;
        let ended: BTreeSet<&str> = all.iter().filter(|task| ended(task)).map(|task| task.task_id.as_str()).collect();
        every_task_ends(accepted(), &ended)?;
        // What somebody completed has succeeded.
        let not_succeeded = |task: &&Task| task.state() != TaskState::Succeeded && inner.completions.token(&task.task_id).is_some();
        if let Some(task) = all.iter().find(not_succeeded) {
            let detail = format!("task {} was completed, and is {:?}", task.task_id, task.state());
            return Err(tarn_invariants::tasks::COMPLETED_ONCE.violated(detail).into());
        }
    }
    for task in all.iter().filter(|task| task.state() == TaskState::Succeeded) {
        let token = task.attempts.last().map_or(0, |attempt| attempt.token);
        ledger.succeeded(&task.task_id, token, &task.result)?;
    }
    for timer in look(world, timers).into_iter().flatten() {
        if timer.state() == TimerState::Fired {
            never_early(&timer.timer_id, timer.due_at_ms, timer.fired_at_ms)?;
        }
    }
    named_leases(world)?;
    Ok(())
}

/// No two holders of one name at a time, by the cluster's time.
fn named_leases(world: &World) -> Result<(), Failure> {
    let ledger = world.ledger.lock();
    let until = |held: &Held| match held.may_have_ended {
        false => held.until_ms,
        true => ended_at(world, held).unwrap_or(held.until_ms),
    };
    let holdings = ledger.held.iter().map(|held| Holding {
        name: &held.name,
        holder: &held.holder,
        token: held.token,
        from: held.from_ms,
        until: until(held),
    });
    no_overlaps(holdings)?;
    Ok(())
}

/// When the lease that was acquired so came to its end: by a release, or by its time as the last renewal gave it. The token says at which
/// entry it was acquired.
fn ended_at(world: &World, held: &Held) -> Option<u64> {
    let acquired_at = Id(held.token).index();
    let later = world.watcher.events().range(acquired_at + 1..).flat_map(|(_, events)| events);
    let mut ends = later.filter(|event| {
        let end = matches!(event.kind(), EventKind::LeaseReleased | EventKind::LeaseExpired);
        end && event.subject == held.name
    });
    ends.next().map(|event| event.at_ms)
}
