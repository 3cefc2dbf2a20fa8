//! Everything but tasks: workers, named leases, timers, namespaces, join tokens, the version.

use bytes::Bytes;
use tarn_machine::ids::Id;
use tarn_machine::limits;
use tarn_proto::v1::{
    self, AcquireLeaseRequest, AcquireLeaseResponse, Binding, CancelTimerRequest, CancelTimerResponse, ConsumeJoinToken,
    CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest, DeleteNamespaceResponse, DrainWorkerRequest,
    DrainWorkerResponse, Event, EventKind, HeartbeatWorkerRequest, HeartbeatWorkerResponse, JoinTokenConsumed, JoinTokenPut,
    PutBindingRequest, PutJoinToken, RaiseVersion, RegisterWorkerRequest, RegisterWorkerResponse, ReleaseLeaseRequest,
    ReleaseLeaseResponse, RenewLeaseRequest, RenewLeaseResponse, ScheduleTimerRequest, ScheduleTimerResponse, TimerAction, VersionRaised,
    WorkerCapabilities, WorkerState, timer_action,
};

use super::tasks::{Task, failure};
use super::{Flaw, Model, Tenancy, number, or_default};

/// A namespace.
pub struct Namespace {
    pub name: String,
    pub weight: u32,
    pub created_at_ms: u64,
    /// Grows with every lease; the namespace with the lowest is served next.
    pub pass: u64,
    pub tenancy: Tenancy,
}

impl Namespace {
    /// What one lease costs: the less the greater the weight.
    pub fn stride(&self) -> u64 {
        (1 << 20) / u64::from(self.weight)
    }
}

/// A queue; its tasks name it.
pub struct Queue {
    pub ns: u64,
    pub name: String,
    /// When it was used last, to the hour.
    pub used_at_ms: u64,
}

/// A worker; the tasks that it holds name it.
pub struct Worker {
    pub name: String,
    pub capabilities: Option<WorkerCapabilities>,
    pub draining: bool,
    pub registered_at_ms: u64,
    pub heartbeat_at_ms: u64,
    pub expires_at_ms: u64,
    pub ttl_ms: u64,
    /// Who registered it, if that was written down at the time.
    pub maker: Option<String>,
}

impl Worker {
    /// A namespace is gone: nobody serves what bears its name next, unless they say so anew.
    fn forget(&mut self, name: &str) {
        let Some(given) = &mut self.capabilities else { return };
        if !given.namespaces.iter().any(|one| one == name) {
            return;
        }
        if given.namespaces.iter().all(|one| one == name) {
            self.draining = true;
        } else {
            given.namespaces.retain(|one| one != name);
        }
    }

    pub fn state(&self) -> WorkerState {
        if self.draining { WorkerState::Draining } else { WorkerState::Active }
    }
}

/// A named lease that somebody holds.
pub struct NamedLease {
    pub holder: String,
    pub token: u64,
    pub acquired_at_ms: u64,
    pub expires_at_ms: u64,
}

/// A timer, pending or fired.
pub struct Timer {
    pub ns: u64,
    pub due_at_ms: u64,
    /// When it fires, or tries again to.
    pub try_at_ms: u64,
    /// 0 while pending.
    pub fired_at_ms: u64,
    pub task: Option<u64>,
    pub action: TimerAction,
}

/// A join token.
pub struct JoinToken {
    pub expires_at_ms: u64,
    /// The node that used it: its id, and the hash of its key.
    pub used_by: Option<(u64, Bytes)>,
}

impl Model {
    // --- Workers ------------------------------------------------------------------------------------------------------------------------

    pub(super) fn register_worker(&mut self, who: &str, request: RegisterWorkerRequest) -> RegisterWorkerResponse {
        let (id, now) = (self.next_id(), self.now);
        let ttl_ms = or_default(request.ttl_ms, limits::LEASE_MS_DEFAULT);
        let worker = Worker {
            name: request.name,
            capabilities: request.capabilities,
            draining: false,
            registered_at_ms: now,
            heartbeat_at_ms: now,
            expires_at_ms: now + ttl_ms,
            ttl_ms,
            maker: (self.version >= 2).then(|| who.to_owned()),
        };
        self.workers.insert(id, worker);
        self.tell_worker(id, EventKind::WorkerRegistered);
        RegisterWorkerResponse { worker_id: Id(id).to_string(), expires_at_ms: now + ttl_ms }
    }

    pub(super) fn heartbeat_worker(&mut self, who: &str, request: HeartbeatWorkerRequest) -> Result<HeartbeatWorkerResponse, &'static str> {
        self.as_worker(who, number(&request.worker_id))?;
        let worker = self.workers.get_mut(&number(&request.worker_id)).ok_or("WORKER_NOT_FOUND")?;
        worker.heartbeat_at_ms = self.now;
        worker.expires_at_ms = self.now + worker.ttl_ms;
        Ok(HeartbeatWorkerResponse { expires_at_ms: worker.expires_at_ms, state: worker.state().into() })
    }

    /// Whether there is this worker, and who asks may speak for it.
    pub(super) fn as_worker(&self, who: &str, id: u64) -> Result<&Worker, &'static str> {
        let worker = self.workers.get(&id).ok_or("WORKER_NOT_FOUND")?;
        let maker = worker.maker.as_deref().unwrap_or(who);
        let anybodys = who == "user/admin" || who.starts_with("node/") || self.has(Flaw::MakersIgnored);
        match maker == who || anybodys {
            true => Ok(worker),
            false => Err("WORKER_NOT_YOURS"),
        }
    }

    pub(super) fn drain_worker(&mut self, request: DrainWorkerRequest) -> Result<DrainWorkerResponse, &'static str> {
        let id = number(&request.worker_id);
        let worker = self.workers.get_mut(&id).ok_or("WORKER_NOT_FOUND")?;
        let news = !std::mem::replace(&mut worker.draining, true);
        if news {
            self.tell_worker(id, EventKind::WorkerDraining);
        }
        Ok(DrainWorkerResponse { running: self.held_by(id).len() as u32 })
    }

    pub(super) fn worker_gone(&mut self, id: u64) {
        self.tell_worker(id, EventKind::WorkerGone);
        self.workers.remove(&id);
        if self.has(Flaw::VanishedWorkersKeepTasks) {
            return;
        }
        for task in self.held_by(id) {
            self.fail_attempt(task, failure("LEASE_EXPIRED"), None, false);
        }
    }

    fn tell_worker(&mut self, id: u64, kind: EventKind) {
        let detail = self.workers[&id].name.clone();
        self.tell(kind, Event { subject: Id(id).to_string(), worker: Id(id).to_string(), detail, ..Event::default() });
    }

    // --- Named leases -------------------------------------------------------------------------------------------------------------------

    pub(super) fn acquire_lease(&mut self, request: AcquireLeaseRequest) -> Result<AcquireLeaseResponse, &'static str> {
        let key = (self.namespace(&request.namespace)?, request.name);
        if let Some(lease) = self.named_leases.get(&key) {
            if lease.expires_at_ms > self.now {
                return Err("LEASE_HELD");
            }
            self.named_lease_over(key.0, &key.1);
        }
        let token = self.next_id();
        let expires_at_ms = self.now + or_default(request.ttl_ms, limits::LEASE_MS_DEFAULT);
        let lease = NamedLease { holder: request.holder, token, acquired_at_ms: self.now, expires_at_ms };
        self.named_leases.insert(key.clone(), lease);
        self.tell_lease(&key, EventKind::LeaseAcquired);
        Ok(AcquireLeaseResponse { lease: Some(self.named_lease(&key)) })
    }

    pub(super) fn renew_lease(&mut self, request: RenewLeaseRequest) -> Result<RenewLeaseResponse, &'static str> {
        let key = self.held_lease(&request.namespace, request.name, request.token)?;
        let expires_at_ms = self.now + or_default(request.ttl_ms, limits::LEASE_MS_DEFAULT);
        self.named_leases.get_mut(&key).expect("the lease was just found").expires_at_ms = expires_at_ms;
        Ok(RenewLeaseResponse { lease: Some(self.named_lease(&key)) })
    }

    pub(super) fn release_lease(&mut self, request: ReleaseLeaseRequest) -> Result<ReleaseLeaseResponse, &'static str> {
        let key = self.held_lease(&request.namespace, request.name, request.token)?;
        self.tell_lease(&key, EventKind::LeaseReleased);
        self.named_leases.remove(&key);
        Ok(ReleaseLeaseResponse {})
    }

    pub(super) fn named_lease_over(&mut self, ns: u64, name: &str) {
        let key = (ns, name.to_owned());
        self.tell_lease(&key, EventKind::LeaseExpired);
        self.named_leases.remove(&key);
    }

    fn held_lease(&self, namespace: &str, name: String, token: u64) -> Result<(u64, String), &'static str> {
        let key = (self.namespace(namespace)?, name);
        let lease = self.named_leases.get(&key).filter(|lease| lease.expires_at_ms > self.now);
        let any_token = self.has(Flaw::TokensIgnored);
        lease.filter(|lease| lease.token == token || any_token).map(|_| key).ok_or("STALE_TOKEN")
    }

    /// A named lease as clients see it.
    pub fn named_lease(&self, key: &(u64, String)) -> v1::NamedLease {
        let lease = &self.named_leases[key];
        v1::NamedLease {
            namespace: self.namespaces[&key.0].name.clone(),
            name: key.1.clone(),
            holder: lease.holder.clone(),
            token: lease.token,
            acquired_at_ms: lease.acquired_at_ms,
            expires_at_ms: lease.expires_at_ms,
        }
    }

    fn tell_lease(&mut self, key: &(u64, String), kind: EventKind) {
        let lease = self.named_lease(key);
        self.tell(kind, Event { namespace: lease.namespace, subject: lease.name, detail: lease.holder, ..Event::default() });
    }

    // --- Timers -------------------------------------------------------------------------------------------------------------------------

    pub(super) fn schedule_timer(&mut self, request: ScheduleTimerRequest) -> Result<ScheduleTimerResponse, &'static str> {
        let ns = self.namespace(&request.namespace)?;
        let due_at_ms = if request.delay_ms == 0 { request.due_at_ms } else { self.now + request.delay_ms };
        let id = self.next_id();
        let action = *request.action.unwrap_or_default();
        let timer = Timer { ns, due_at_ms, try_at_ms: due_at_ms, fired_at_ms: 0, task: None, action };
        self.timers.insert(id, timer);
        self.tell_timer(id, EventKind::TimerScheduled, "");
        Ok(ScheduleTimerResponse { timer_id: Id(id).to_string(), due_at_ms })
    }

    pub(super) fn cancel_timer(&mut self, request: CancelTimerRequest) -> Result<CancelTimerResponse, &'static str> {
        let ns = self.namespace(&request.namespace)?;
        let id = number(&request.timer_id);
        let timer = self.timers.get(&id).filter(|timer| timer.ns == ns).ok_or("TIMER_NOT_FOUND")?;
        if timer.fired_at_ms != 0 {
            return Err("TIMER_FIRED");
        }
        self.tell_timer(id, EventKind::TimerCancelled, "");
        self.timers.remove(&id);
        Ok(CancelTimerResponse {})
    }

    pub(super) fn fire_timer(&mut self, id: u64) {
        let (ns, now) = (self.timers[&id].ns, self.now);
        let (mut task, mut text) = (None, String::new());
        match self.timers[&id].action.action.clone() {
            Some(timer_action::Action::Enqueue(spec)) => match self.admit(ns, vec![spec], true) {
                Ok(ids) => {
                    task = ids.first().copied();
                    text = task.map_or_else(String::new, |id| Id(id).to_string());
                }
                Err(_) => {
                    // There is no room: it tries again.
                    self.timers.get_mut(&id).expect("the timer is there").try_at_ms = now + limits::TIMER_RETRY_MS;
                    return;
                }
            },
            Some(timer_action::Action::Mark(mark)) => text = mark,
            None => {}
        }
        self.tell_timer(id, EventKind::TimerFired, &text);
        let timer = self.timers.get_mut(&id).expect("the timer is there");
        timer.fired_at_ms = now;
        timer.task = task;
        if let Some(timer_action::Action::Enqueue(spec)) = &mut timer.action.action {
            spec.payload = Bytes::new();
        }
    }

    fn tell_timer(&mut self, id: u64, kind: EventKind, detail: &str) {
        let namespace = self.namespaces[&self.timers[&id].ns].name.clone();
        self.tell(kind, Event { namespace, subject: Id(id).to_string(), detail: detail.to_owned(), ..Event::default() });
    }

    // --- Namespaces ---------------------------------------------------------------------------------------------------------------------

    pub(super) fn create_namespace(&mut self, request: CreateNamespaceRequest) -> Result<CreateNamespaceResponse, &'static str> {
        if self.namespace(&request.name).is_ok() {
            return Err("NAMESPACE_EXISTS");
        }
        let weight = if request.weight == 0 { limits::WEIGHT_DEFAULT } else { request.weight };
        let mut tenancy = Tenancy { isolation: request.isolation(), environment: request.environment.clone(), ..Tenancy::default() };
        tenancy.limit(request.quotas.as_ref());
        let id = self.next_id();
        let name = request.name;
        // Behind all others: it has no claim on the time before it existed.
        let pass = self.namespaces.values().map(|namespace| namespace.pass).max().unwrap_or(0);
        let new = Namespace { name: name.clone(), weight, created_at_ms: self.now, pass, tenancy };
        let namespace = self.view_namespace(&new);
        self.namespaces.insert(id, new);
        let event = Event { namespace: name.clone(), subject: name, ..Event::default() };
        self.tell(EventKind::NamespaceCreated, event);
        Ok(CreateNamespaceResponse { namespace: Some(namespace) })
    }

    pub(super) fn delete_namespace(&mut self, request: DeleteNamespaceRequest) -> Result<DeleteNamespaceResponse, &'static str> {
        let ns = self.namespace(&request.name)?;
        if request.name == "default" {
            return Err("NAMESPACE_PROTECTED");
        }
        let tasks = self.tasks.values().filter(|task| task.ns == ns).any(Task::in_queue);
        let leases = self.named_leases.keys().any(|(found, _)| *found == ns);
        let timers = self.timers.values().any(|timer| timer.ns == ns && timer.fired_at_ms == 0);
        if tasks || leases || timers {
            return Err("NAMESPACE_NOT_EMPTY");
        }
        self.unbind_namespace(&request.name);
        self.queues.retain(|_, queue| queue.ns != ns);
        self.namespaces.remove(&ns);
        let name = request.name;
        if self.version >= 2 {
            self.workers.values_mut().for_each(|worker| worker.forget(&name));
        }
        self.tell(EventKind::NamespaceDeleted, Event { namespace: name.clone(), subject: name, ..Event::default() });
        Ok(DeleteNamespaceResponse::default())
    }

    // --- The cluster --------------------------------------------------------------------------------------------------------------------

    /// Only versions that the build knows are ever proposed here: a higher one stops the machine.
    pub(super) fn raise_version(&mut self, request: RaiseVersion) -> VersionRaised {
        let before = self.version;
        if request.version > before {
            self.version = request.version;
            let event = Event { detail: self.version.to_string(), ..Event::default() };
            self.tell(EventKind::VersionRaised, event);
            if request.keep_access && before < 2 {
                let binding = Some(Binding { principal: "user/*".to_owned(), role: "admin".to_owned(), namespace: "*".to_owned() });
                let everybody = PutBindingRequest { binding, ..PutBindingRequest::default() };
                self.put_binding(everybody).expect("nobody has a role before there are roles");
            }
        }
        VersionRaised { version: self.version }
    }

    pub(super) fn put_join_token(&mut self, request: PutJoinToken) -> Result<JoinTokenPut, &'static str> {
        let hash = request.key_hash.to_vec();
        if self.join_tokens.contains_key(&hash) {
            return Err("JOIN_TOKEN_EXISTS");
        }
        let expires_at_ms = self.now + or_default(request.ttl_ms, limits::JOIN_TOKEN_MS_DEFAULT);
        self.join_tokens.insert(hash, JoinToken { expires_at_ms, used_by: None });
        Ok(JoinTokenPut { expires_at_ms })
    }

    pub(super) fn consume_join_token(&mut self, request: ConsumeJoinToken) -> Result<JoinTokenConsumed, &'static str> {
        let now = self.now;
        let token = self.join_tokens.get_mut(&request.key_hash.to_vec()).filter(|token| token.expires_at_ms > now);
        let token = token.ok_or("JOIN_TOKEN_INVALID")?;
        if let Some((node_id, key_hash)) = &token.used_by {
            let same = *key_hash == request.node_key_hash;
            return if same { Ok(JoinTokenConsumed { node_id: *node_id }) } else { Err("JOIN_TOKEN_USED") };
        }
        let node_id = self.last_node_id.max(request.node_id_min) + 1;
        self.last_node_id = node_id;
        token.used_by = Some((node_id, request.node_key_hash));
        Ok(JoinTokenConsumed { node_id })
    }
}
