//! Leases for tasks that are still on their way into the log.
//!
//! A task that is submitted while a worker waits for it would be applied, heard of, and only then asked for: two log entries one after the
//! other. So whoever waits on this node asks as soon as the task is proposed, behind it, and mostly in the same entry. Should the task not come, or
//! somebody else get it, the answer is empty, and the waiter waits on as before.

use std::sync::{Arc, OnceLock, Weak};

use tarn_proto::v1::{self, command::Body};

use super::pump::Waiter;
use super::{Dispatcher, Shared};

/// The way to the dispatcher for those who propose, once there is one. Clones share it.
#[derive(Clone, Default)]
pub struct Foresight(Arc<OnceLock<Weak<Shared>>>);

/// Who waits for tasks that are about to be proposed. Dropped without [`Coming::ask`], they wait on.
pub struct Coming {
    dispatcher: Dispatcher,
    waiters: Vec<Waiter>,
}

impl Foresight {
    pub(super) fn begin(&self, shared: &Arc<Shared>) {
        // One dispatcher for each way: a second would be told nothing.
        let _ = self.0.set(Arc::downgrade(shared));
    }

    /// Who waits for what a command brings, if anybody does. Of a batch, for tasks that are like its first: what else it brings is heard of
    /// later.
    #[must_use]
    pub fn foresee(&self, command: &v1::Command) -> Option<Coming> {
        let dispatcher = Dispatcher { shared: self.0.get()?.upgrade()? };
        if dispatcher.waiting().is_empty() {
            return None;
        }
        let body = command.body.as_ref()?;
        let first = enqueues(body).next()?;
        let task = first.tasks.first()?;
        let like = |request: &&v1::EnqueueRequest| {
            let queue = request.tasks.first().map(|other| (&other.queue, &other.handler));
            request.namespace == first.namespace && queue == Some((&task.queue, &task.handler))
        };
        let tasks = enqueues(body).filter(like).map(|request| request.tasks.len() as u64).sum();
        let waiters = dispatcher.shared.way.consensus().read(|machine| {
            let group = machine.expected(&first.namespace, task)?;
            Some(dispatcher.choose_for(machine, &group, tasks)).filter(|waiters| !waiters.is_empty())
        });
        Some(Coming { waiters: waiters.ok()??, dispatcher })
    }
}

impl Coming {
    /// Has them ask for the tasks, which have just been proposed.
    pub fn ask(mut self) {
        for waiter in std::mem::take(&mut self.waiters) {
            tokio::spawn(self.dispatcher.clone().serve(waiter));
        }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if !self.waiters.is_empty() {
            self.dispatcher.put_back(std::mem::take(&mut self.waiters));
        }
    }
}

fn enqueues(body: &Body) -> impl Iterator<Item = &v1::EnqueueRequest> {
    let (alone, batch) = match body {
        Body::Enqueue(request) => (Some(request), &[][..]),
        Body::Batch(batch) => (None, &batch.commands[..]),
        _ => (None, &[][..]),
    };
    let of_batch = batch.iter().filter_map(|command| match command.body.as_ref()? {
        Body::Enqueue(request) => Some(request),
        _ => None,
    });
    alone.into_iter().chain(of_batch)
}
