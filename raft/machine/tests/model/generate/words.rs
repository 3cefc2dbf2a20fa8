//! What commands refer to: mostly what exists, sometimes what does not.

use bytes::Bytes;
use tarn_machine::ids::Id;
use tarn_proto::v1::TaskState;

use super::{Generator, HOUR, NAMESPACES, QUEUES, SECOND};
use crate::reference::Model;

impl Generator {
    pub(super) fn request_id(&mut self) -> String {
        if self.dice.chance(25) { format!("request-{}", self.dice.below(12)) } else { String::new() }
    }

    /// Mostly one that exists.
    pub(super) fn namespace(&mut self, model: &Model) -> String {
        let names: Vec<String> = model.namespaces.values().map(|namespace| namespace.name.clone()).collect();
        match self.dice.below(100) {
            0..90 => self.dice.pick(&names),
            90..97 => self.some_namespace(),
            _ => "nowhere".to_owned(),
        }
    }

    pub(super) fn some_namespace(&mut self) -> String {
        self.dice.pick(&NAMESPACES).to_owned()
    }

    /// The name of a namespace, mostly the one that is asked for.
    pub(super) fn named(&mut self, model: &Model, ns: u64) -> String {
        let name = model.namespaces.get(&ns).map(|namespace| namespace.name.clone());
        name.filter(|_| self.dice.chance(95)).unwrap_or_else(|| self.namespace(model))
    }

    pub(super) fn queue(&mut self) -> String {
        if self.dice.chance(97) { self.dice.pick(&QUEUES).to_owned() } else { "none".to_owned() }
    }

    pub(super) fn worker(&mut self, model: &Model) -> String {
        let workers: Vec<u64> = model.workers.keys().copied().collect();
        match self.dice.one(&workers) {
            Some(id) if self.dice.chance(95) => Id(*id).to_string(),
            _ => Id(self.dice.below(1 << 30)).to_string(),
        }
    }

    /// Any task's id, or one that nobody has.
    pub(super) fn some_task(&mut self, model: &Model) -> String {
        let ids: Vec<u64> = model.tasks.keys().copied().collect();
        match self.dice.one(&ids) {
            Some(id) if self.dice.chance(70) => Id(*id).to_string(),
            _ => Id(self.dice.below(1 << 30)).to_string(),
        }
    }

    /// A task's namespace and id, mostly one in these states.
    pub(super) fn task_in(&mut self, model: &Model, states: &[TaskState]) -> (String, String) {
        let fitting = model.tasks.iter().filter(|(_, task)| states.contains(&task.state));
        let fitting: Vec<(u64, u64)> = fitting.map(|(id, task)| (*id, task.ns)).collect();
        match self.dice.one(&fitting).copied() {
            Some((id, ns)) if self.dice.chance(92) => (self.named(model, ns), Id(id).to_string()),
            _ => (self.namespace(model), self.some_task(model)),
        }
    }

    /// A task's namespace, id and token, mostly of an attempt that runs.
    pub(super) fn task_lease(&mut self, model: &Model) -> (String, String, u64) {
        let (namespace, id) = self.task_in(model, &[TaskState::Running]);
        let task = id.parse::<Id>().ok().and_then(|id| model.tasks.get(&id.0));
        let current = task.map_or(0, |task| task.token);
        let earlier: Vec<u64> = task.map_or_else(Vec::new, |task| task.attempts.iter().map(|a| a.token).collect());
        let token = match self.dice.below(20) {
            0 => current.saturating_add(1),
            1..3 => self.dice.one(&earlier).copied().unwrap_or(7),
            _ => current,
        };
        (namespace, id, token.max(1))
    }

    pub(super) fn ttl(&mut self) -> u64 {
        self.dice.pick(&[0, SECOND, 10 * SECOND, HOUR])
    }

    pub(super) fn hash(&mut self) -> Bytes {
        Bytes::from(vec![self.dice.below(4) as u8; 32])
    }
}
