//! What one entry may do besides its commands is bounded; the rest is left for the next. Larger than random cases get, and the model, with
//! its budgets, must agree all the same: through restarts and power cuts in between.

use tarn_machine::ids::Id;
use tarn_machine::limits;
use tarn_proto::v1::*;

use crate::generate::Step;
use crate::reference::Line;
use crate::run::Run;

const START: u64 = 1_000_000;

fn entry(now_ms: u64, bodies: Vec<command::Body>) -> Step {
    let line = |body| Line { command: Command { principal: String::new(), gate: None, body: Some(body) }, refused_as: None };
    Step::Entry { now_ms, lines: bodies.into_iter().map(line).collect() }
}

fn enqueue(tasks: Vec<TaskSpec>) -> command::Body {
    command::Body::Enqueue(EnqueueRequest { namespace: "default".to_owned(), tasks, ..EnqueueRequest::default() })
}

fn spec() -> TaskSpec {
    TaskSpec { queue: "q".to_owned(), ..TaskSpec::default() }
}

/// Takes the steps, then lets time stand still until nothing more is due: so many entries that takes.
fn settle(steps: &[Step], now_ms: u64) -> (Run, usize) {
    let mut run = Run::new(None);
    for step in steps {
        run.step(step).expect("the kernel does what the model says");
    }
    let mut ticks = 0;
    while run.model.next_wake_ms().is_some_and(|at| at <= now_ms) {
        run.step(&entry(now_ms, Vec::new())).expect("the kernel does what the model says");
        run.step(&if ticks % 2 == 0 { Step::Restart } else { Step::Crash(ticks as u64) }).expect("it comes back");
        ticks += 1;
        assert!(ticks < 20, "time does not get anywhere");
    }
    run.finish().expect("the kernel does what the model says");
    (run, ticks)
}

#[test]
fn wide_fan_out_is_settled_over_several_entries() {
    // The first task of the first entry.
    let root = Id(1 << limits::ORDINAL_BITS | 1).to_string();
    let batches = 5 * limits::SETTLES_PER_ENTRY_MAX / 4 / limits::BATCH_TASKS_MAX;
    let dependent = |place: usize| TaskSpec {
        after: vec![root.clone()],
        on_dependency_failure: if place.is_multiple_of(3) { DependencyFailure::Run } else { DependencyFailure::Die }.into(),
        ..spec()
    };
    let mut steps = vec![entry(START, vec![enqueue(vec![spec()])])];
    steps.extend((0..=batches).map(|_| entry(START, vec![enqueue((0..limits::BATCH_TASKS_MAX).map(dependent).collect())])));
    // The root dies, and cannot be requeued before all know.
    let expire = TaskSpec { deadline_at_ms: START + 1, ..spec() };
    steps[0] = entry(START, vec![enqueue(vec![expire])]);
    let requeue = |task_ids| {
        command::Body::RequeueDead(RequeueDeadRequest {
            namespace: "default".to_owned(),
            queue: "q".to_owned(),
            task_ids,
            ..RequeueDeadRequest::default()
        })
    };
    steps.push(entry(START + 1, vec![requeue(vec![root.clone()]), requeue(Vec::new())]));
    let (run, ticks) = settle(&steps, START + 1);
    assert_eq!(ticks, 1, "two entries were enough, and needed");
    assert_eq!(run.seen.what.get("TASK_SETTLING"), Some(&1));
}

#[test]
fn much_that_is_due_at_once_is_spread_over_entries() {
    let batches = 3 * limits::WAKES_PER_ENTRY_MAX / limits::BATCH_TASKS_MAX;
    let due = |place: usize| match place % 3 {
        0 => TaskSpec { not_before_at_ms: START + 10, deadline_at_ms: START + 20, ..spec() },
        1 => TaskSpec { not_before_at_ms: START + 1 + place as u64 % 30, ..spec() },
        _ => TaskSpec { deadline_at_ms: START + 15, ..spec() },
    };
    let steps = (0..batches).map(|_| entry(START, vec![enqueue((0..limits::BATCH_TASKS_MAX).map(due).collect())]));
    let (_, ticks) = settle(&steps.collect::<Vec<_>>(), START + 100);
    assert!(ticks >= 3, "{ticks}");
}

#[test]
fn ended_tasks_are_swept_in_groups() {
    let batches = 2 * limits::SWEEPS_PER_ENTRY_MAX as u64 / limits::BATCH_TASKS_MAX as u64 + 1;
    let short = TaskSpec { retention_ms: 1, ..spec() };
    let mut steps = Vec::new();
    for batch in 0..batches {
        steps.push(entry(START + batch, vec![enqueue(vec![short.clone(); limits::BATCH_TASKS_MAX])]));
        let cancel = (1..=limits::BATCH_TASKS_MAX as u64).map(|ordinal| {
            let task_id = Id((2 * batch + 1) << limits::ORDINAL_BITS | ordinal).to_string();
            command::Body::CancelTask(CancelTaskRequest { namespace: "default".to_owned(), task_id, ..Default::default() })
        });
        steps.push(entry(START + batch, cancel.collect()));
    }
    let over = START + batches + limits::REQUEST_RETENTION_MS + limits::SWEEP_DELAY_MS;
    let (run, ticks) = settle(&steps, over);
    assert!(ticks >= 3 && run.model.tasks.is_empty(), "{ticks} entries, {} tasks left", run.model.tasks.len());
}
