//! Quotas, isolation and environments. What is stored, and how a namespace drains, another test models.

use std::collections::BTreeSet;

use tarn_proto::v1::{self, Event, EventKind, Isolation, NamespaceState, Quotas, TaskState};
use tarn_proto::v1::{UpdateNamespaceRequest, UpdateNamespaceResponse, WorkerCapabilities};

use super::leasing::matches;
use super::{Flaw, Model, Namespace, Task};

/// What a namespace may have, and how it is set apart.
#[derive(Clone, Default)]
pub struct Tenancy {
    pub quotas: Quotas,
    pub isolation: Isolation,
    pub environment: String,
}

impl Tenancy {
    /// Sets the quotas that are named.
    pub fn limit(&mut self, quotas: Option<&Quotas>) {
        let named = quotas.copied().unwrap_or_default();
        let own = &mut self.quotas;
        own.max_running = named.max_running.or(own.max_running);
        own.max_queued = named.max_queued.or(own.max_queued);
        own.max_stored_bytes = named.max_stored_bytes.or(own.max_stored_bytes);
        own.requests_per_minute = named.requests_per_minute.or(own.requests_per_minute);
    }
}

/// A limit of 0 is none.
fn limit(quota: Option<u64>) -> u64 {
    quota.filter(|limit| *limit != 0).unwrap_or(u64::MAX)
}

impl Namespace {
    /// Whether a worker that can do this may have its tasks.
    pub fn admits(&self, able: &WorkerCapabilities) -> bool {
        self.tenancy.isolation != Isolation::Strict
            || (!able.namespaces.is_empty() && able.namespaces.iter().all(|name| *name == self.name))
    }
}

impl Model {
    pub(super) fn update_namespace(&mut self, request: UpdateNamespaceRequest) -> Result<UpdateNamespaceResponse, &'static str> {
        let ns = self.namespace(&request.name)?;
        let namespace = self.namespaces.get_mut(&ns).expect("it was just found");
        namespace.weight = request.weight.unwrap_or(namespace.weight);
        let tenancy = &mut namespace.tenancy;
        tenancy.limit(request.quotas.as_ref());
        if request.isolation.is_some() {
            tenancy.isolation = request.isolation();
        }
        if let Some(environment) = request.environment {
            tenancy.environment = environment;
        }
        self.freed.insert(ns);
        let event = Event { namespace: request.name.clone(), subject: request.name, ..Event::default() };
        self.tell(EventKind::NamespaceUpdated, event);
        Ok(UpdateNamespaceResponse { namespace: Some(self.view_namespace(&self.namespaces[&ns])) })
    }

    /// A namespace as it is told.
    pub(super) fn view_namespace(&self, namespace: &Namespace) -> v1::Namespace {
        let mut view = v1::Namespace {
            name: namespace.name.clone(),
            weight: namespace.weight,
            created_at_ms: namespace.created_at_ms,
            ..Default::default()
        };
        if self.version >= 2 {
            let Tenancy { quotas, isolation, environment } = &namespace.tenancy;
            view.quotas = Some(Quotas {
                max_running: quotas.max_running.or(Some(0)),
                max_queued: quotas.max_queued.or(Some(0)),
                max_stored_bytes: quotas.max_stored_bytes.or(Some(0)),
                requests_per_minute: quotas.requests_per_minute.or(Some(0)),
            });
            view.set_isolation(match isolation {
                Isolation::Unspecified => Isolation::Shared,
                isolation => *isolation,
            });
            view.environment = match environment.as_str() {
                "" => "prod".to_owned(),
                name => name.to_owned(),
            };
            view.set_state(NamespaceState::Active);
        }
        view
    }

    /// Whether a worker that can do this may be given this task.
    pub fn serves(&self, able: &WorkerCapabilities, task: &Task) -> bool {
        let namespace = &self.namespaces[&task.ns];
        matches(able, &namespace.name, task) && (namespace.admits(able) || self.has(Flaw::IsolationIgnored))
    }

    fn count(&self, ns: u64, counts: impl Fn(TaskState) -> bool) -> u64 {
        self.tasks.values().filter(|task| task.ns == ns && counts(task.state)).count() as u64
    }

    /// How many more tasks that have not ended a namespace may have.
    pub(super) fn room(&self, ns: u64) -> u64 {
        let ended = |state| matches!(state, TaskState::Dead | TaskState::Succeeded | TaskState::Cancelled);
        match self.has(Flaw::QueueQuotaIgnored) {
            true => u64::MAX,
            false => limit(self.namespaces[&ns].tenancy.quotas.max_queued).saturating_sub(self.count(ns, |state| !ended(state))),
        }
    }

    pub(super) fn check_room(&self, ns: u64, more: usize) -> Result<(), &'static str> {
        match more == 0 || more as u64 <= self.room(ns) {
            true => Ok(()),
            false => Err("QUOTA_QUEUED"),
        }
    }

    /// Whether as many attempts run in a namespace as may.
    pub fn is_full(&self, ns: u64) -> bool {
        let most = limit(self.namespaces[&ns].tenancy.quotas.max_running);
        !self.has(Flaw::RunningQuotaIgnored) && self.count(ns, |state| state == TaskState::Running) >= most
    }

    /// An attempt has ended: where as many ran as may, whatever is ready has another chance.
    pub(super) fn attempt_ended(&mut self, ns: u64) {
        let most = limit(self.namespaces[&ns].tenancy.quotas.max_running);
        let ready = self.count(ns, |state| state == TaskState::Ready) > 0;
        if ready && self.count(ns, |state| state == TaskState::Running) + 1 == most {
            self.freed.insert(ns);
        }
    }

    /// Where waiting workers may get what they could not get before.
    pub(super) fn second_chances(&mut self) {
        for ns in std::mem::take(&mut self.freed) {
            if self.namespaces.contains_key(&ns) && !self.is_full(ns) {
                let ready = self.tasks.values().filter(|task| task.ns == ns && task.state == TaskState::Ready);
                let places: Vec<_> = ready.map(|task| (ns, task.queue, task.class())).collect();
                self.ready.extend(places);
            }
        }
    }

    /// Where the lane of a namespace stands: all without isolation that meet share one.
    pub(super) fn lane(&self, ns: u64, meeting: &BTreeSet<u64>) -> (u64, u64) {
        let of_none = |ns: &&u64| self.namespaces[*ns].tenancy.isolation == Isolation::None;
        if !of_none(&&ns) {
            return (self.namespaces[&ns].pass, ns);
        }
        let highest = meeting.iter().filter(of_none).map(|ns| self.namespaces[ns].pass).max();
        (highest.unwrap_or(0), 0)
    }

    /// Bindings that name a namespace alone go with it.
    pub(super) fn unbind_namespace(&mut self, name: &str) {
        for binding in self.bindings.clone() {
            if binding.2 == name {
                self.bindings.remove(&binding);
                self.tell_access(format!("binding/{}", binding.0), &format!("no {} in {name}", binding.1));
            }
        }
    }
}
