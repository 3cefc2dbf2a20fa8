//! What the router learns from attempts that have ended.

use tarn_machine::Machine;
use tarn_proto::v1::{Event, EventKind, GetTaskRequest};
use tarn_scheduler::{Finished, Scheduler};

use super::view::history_key;

/// How an attempt went, as far as the state still tells.
pub(super) struct Lesson {
    artifact: String,
    runtime: String,
    node: String,
    run_ms: u64,
    succeeded: bool,
}

impl Lesson {
    /// Whether an event may have a lesson: an attempt has ended.
    pub(super) fn is_in(event: &Event) -> bool {
        matches!(event.kind(), EventKind::TaskSucceeded | EventKind::TaskRetried | EventKind::TaskDead)
    }

    /// The lesson of an event, if it is one of an attempt at a worker that has said what it is.
    pub(super) fn of(machine: &Machine, event: &Event) -> Option<Self> {
        if !Self::is_in(event) {
            return None;
        }
        let succeeded = event.kind() == EventKind::TaskSucceeded;
        let (node, runtime) = machine.worker_place(&event.worker)?;
        let question = GetTaskRequest {
            namespace: event.namespace.clone(),
            task_id: event.subject.clone(),
            omit_bytes: true,
            ..GetTaskRequest::default()
        };
        let task = machine.get_task(&question).ok()?.task?;
        let attempt = task.attempts.iter().find(|attempt| attempt.number == event.attempt)?;
        Some(Lesson {
            artifact: history_key(task.spec.as_ref()?),
            runtime,
            node,
            run_ms: attempt.ended_at_ms.saturating_sub(attempt.started_at_ms),
            succeeded,
        })
    }

    /// Tells the scheduler.
    pub(super) fn teach(&self, scheduler: &mut Scheduler) {
        scheduler.record(Finished {
            artifact: &self.artifact,
            runtime: &self.runtime,
            node: &self.node,
            run_ms: self.run_ms,
            succeeded: self.succeeded,
        });
    }
}
