//! What a task will be to workers, told before it is accepted.

use tarn_proto::v1::{TaskSpec, WorkerCapabilities};

use crate::domain::placement::AUTO;
use crate::domain::worker;
use crate::machine::ReadyGroup;
use crate::task::spec;
use crate::{Machine, limits};

impl Machine {
    /// Where a task would be ready at once, if it were accepted now. `None` where it would wait for something, or nobody could be given it.
    pub fn expected(&self, namespace: &str, task: &TaskSpec) -> Option<ReadyGroup> {
        let id = self.ix.namespace_ids.get(namespace)?;
        let present = self.ix.namespaces.get(id).filter(|present| !present.is_full())?;
        let waits = !task.after.is_empty() || !task.after_in_batch.is_empty() || task.not_before_at_ms > self.meta.now_ms;
        if waits || task.runtime == AUTO {
            return None;
        }
        let (namespace, strict, class) = (present.name.clone(), present.is_strict(), spec::class(task).into());
        Some(ReadyGroup { namespace, queue: task.queue.as_str().into(), strict, class })
    }

    /// Whether this worker could be given such a task.
    pub fn could_lease(&self, worker_id: &str, group: &ReadyGroup) -> bool {
        self.leasing(worker_id).is_some_and(|(id, row)| {
            let any = WorkerCapabilities::default();
            let capabilities = row.capabilities.as_ref().unwrap_or(&any);
            !worker::is_elsewhere(capabilities) && group.suits(capabilities) && self.ix.held_by(id) < limits::WORKER_TASKS_MAX
        })
    }
}
