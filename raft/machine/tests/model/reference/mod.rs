//! The reference model: what the kernel must do, said as plainly as possible.
//!
//! Everything is a value in a map, every question is a scan over all of them. There are no rows, no batches, no indices and no caches, and
//! nothing is remembered that could be worked out again. It shares the contract's messages, the limits and the text form of ids with the
//! kernel, and no other line.
//!
//! Two things it does not decide: what can be refused without the state (the generator knows, because it spoils commands on purpose and says
//! how), and limits too high for a random run to reach.

mod access;
mod leasing;
mod moves;
mod objects;
mod tasks;
mod tenancy;
mod time;
mod view;

use std::collections::{BTreeMap, BTreeSet};

use tarn_machine::ids::Id;
use tarn_machine::limits;
use tarn_proto::v1::{
    AuditSettings, Command, DecisionsRecorded, Event, EventKind, LeaseTasksRequest, LeaseTasksResponse, PutAuditSettingsRequest,
    PutAuditSettingsResponse, Revocation, Rule, TaskSpec, command, outcome, timer_action,
};

pub use access::ApiToken;
pub use objects::{JoinToken, NamedLease, Namespace, Queue, Timer, Worker};
pub use tasks::Task;
pub use tenancy::Tenancy;

/// What a command must give: its answer, or the reason of its refusal.
pub type Answer = Result<outcome::Body, &'static str>;

/// A command, and the reason for which it is refused whatever the state, if it was spoilt on purpose.
#[derive(Clone, PartialEq, Debug)]
pub struct Line {
    pub command: Command,
    pub refused_as: Option<&'static str>,
}

/// What an entry must do.
pub struct Told {
    pub answers: Vec<Answer>,
    pub events: Vec<Event>,
    /// Where tasks became ready: namespace, queue, class.
    pub ready: BTreeSet<(String, String, Class)>,
}

/// What decides who can run a task: runtime, handler, required labels.
pub type Class = (String, String, BTreeSet<String>);

/// A mistake that the model makes on purpose, to prove that the comparison would see the kernel make it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Any token will do while the task runs.
    TokensIgnored,
    /// Leases on tasks last as long as the attempt may.
    LeasesNeverExpire,
    /// Waiting does not raise a task's priority.
    NothingAges,
    /// The oldest namespace is served first.
    NamespacesUnfair,
    /// A repeated request is a new one.
    RequestIdsForgotten,
    /// A request id is never forgotten.
    RequestIdsKeptForever,
    /// A failed dependency is as good as one that succeeded.
    DependencyFailureIgnored,
    /// Deadlines count only while a task runs.
    DeadlinesIgnored,
    /// Retries come at once.
    NoBackoff,
    /// A worker that vanishes keeps what it holds until the leases end.
    VanishedWorkersKeepTasks,
    /// A timer that is due fires one entry late.
    TimersLate,
    /// Draining workers get tasks.
    DrainIgnored,
    /// A role goes although somebody has it.
    HeldRolesGo,
    /// Taking a role from somebody takes it in all namespaces.
    NamespaceOfBindingIgnored,
    /// A token counts until it is revoked.
    TokensNeverExpire,
    /// A revoked certificate is remembered for ever.
    RevocationsKeptForever,
    /// What needs a higher version is carried out all the same.
    VersionIgnored,
    /// A namespace may have any number of tasks that have not ended.
    QueueQuotaIgnored,
    /// Any number of attempts may run in a namespace.
    RunningQuotaIgnored,
    /// Any worker gets the tasks of a namespace that is strictly isolated.
    IsolationIgnored,
    /// Anybody may work as any worker.
    MakersIgnored,
}

impl Flaw {
    pub const ALL: [Flaw; 21] = [
        Flaw::TokensIgnored,
        Flaw::LeasesNeverExpire,
        Flaw::NothingAges,
        Flaw::NamespacesUnfair,
        Flaw::RequestIdsForgotten,
        Flaw::RequestIdsKeptForever,
        Flaw::DependencyFailureIgnored,
        Flaw::DeadlinesIgnored,
        Flaw::NoBackoff,
        Flaw::VanishedWorkersKeepTasks,
        Flaw::TimersLate,
        Flaw::DrainIgnored,
        Flaw::HeldRolesGo,
        Flaw::NamespaceOfBindingIgnored,
        Flaw::TokensNeverExpire,
        Flaw::RevocationsKeptForever,
        Flaw::VersionIgnored,
        Flaw::QueueQuotaIgnored,
        Flaw::RunningQuotaIgnored,
        Flaw::IsolationIgnored,
        Flaw::MakersIgnored,
    ];
}

/// What a request id was used for.
struct Remembered {
    body: command::Body,
    answer: outcome::Body,
    forget_at_ms: u64,
}

/// The model's whole state.
pub struct Model {
    flaw: Option<Flaw>,
    /// The machine version.
    pub version: u32,
    pub index: u64,
    pub now: u64,
    next_ordinal: u64,
    last_node_id: u64,
    pub namespaces: BTreeMap<u64, Namespace>,
    pub queues: BTreeMap<u64, Queue>,
    pub tasks: BTreeMap<u64, Task>,
    pub workers: BTreeMap<u64, Worker>,
    pub named_leases: BTreeMap<(u64, String), NamedLease>,
    pub timers: BTreeMap<u64, Timer>,
    pub join_tokens: BTreeMap<Vec<u8>, JoinToken>,
    pub roles: BTreeMap<String, Vec<Rule>>,
    /// Principal, role, pattern of namespaces.
    pub bindings: BTreeSet<(String, String, String)>,
    pub tokens: BTreeMap<u64, ApiToken>,
    pub revocations: BTreeMap<String, Revocation>,
    /// By principal and request id.
    requests: BTreeMap<(String, String), Remembered>,
    /// Ended tasks, as (namespace, task), whose dependents may not all know yet, and whether they succeeded.
    settling: BTreeMap<(u64, u64), bool>,
    settles_left: usize,
    events: Vec<Event>,
    ready: BTreeSet<(u64, u64, Class)>,
    /// Namespaces whose ready tasks may be given away though they could not before.
    freed: BTreeSet<u64>,
}

impl Model {
    /// A new cluster.
    pub fn new(flaw: Option<Flaw>) -> Self {
        let default = Namespace {
            name: "default".to_owned(),
            weight: limits::WEIGHT_DEFAULT,
            created_at_ms: 0,
            pass: 0,
            tenancy: Tenancy::default(),
        };
        Model {
            flaw,
            version: 1,
            index: 0,
            now: 0,
            next_ordinal: 1,
            last_node_id: 0,
            namespaces: BTreeMap::from([(1, default)]),
            queues: BTreeMap::new(),
            tasks: BTreeMap::new(),
            workers: BTreeMap::new(),
            named_leases: BTreeMap::new(),
            timers: BTreeMap::new(),
            join_tokens: BTreeMap::new(),
            roles: BTreeMap::new(),
            bindings: BTreeSet::new(),
            tokens: BTreeMap::new(),
            revocations: BTreeMap::new(),
            requests: BTreeMap::new(),
            settling: BTreeMap::new(),
            settles_left: 0,
            events: Vec::new(),
            ready: BTreeSet::new(),
            freed: BTreeSet::new(),
        }
    }

    /// An entry of the log.
    pub fn apply(&mut self, index: u64, now_ms: u64, lines: &[Line]) -> Told {
        self.index = index;
        self.now = self.now.max(now_ms.min(limits::TIME_MS_MAX));
        self.next_ordinal = 1;
        self.settles_left = limits::SETTLES_PER_ENTRY_MAX;
        self.pass_time();
        let answers = lines.iter().map(|line| self.command(line)).collect();
        self.second_chances();
        // What went in the same entry is left out.
        let named = std::mem::take(&mut self.ready)
            .into_iter()
            .filter_map(|(ns, queue, class)| Some((self.namespaces.get(&ns)?.name.clone(), self.queues.get(&queue)?.name.clone(), class)));
        Told { answers, ready: named.collect(), events: std::mem::take(&mut self.events) }
    }

    /// An entry that is none of the machine's business.
    pub fn note(&mut self, index: u64) {
        self.index = index;
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn next_id(&mut self) -> u64 {
        let id = self.index << limits::ORDINAL_BITS | self.next_ordinal;
        self.next_ordinal += 1;
        id
    }

    fn command(&mut self, line: &Line) -> Answer {
        if let Some(reason) = line.refused_as {
            return Err(reason);
        }
        let body = line.command.body.clone().ok_or("NO_COMMAND")?;
        let gate = if line.command.gate.is_some() { 2 } else { 1 };
        if since(&body).max(gate) > self.version && !self.has(Flaw::VersionIgnored) {
            return Err("CLUSTER_VERSION_TOO_LOW");
        }
        let key = (line.command.principal.clone(), body.request_id().to_owned());
        let has_id = !key.1.is_empty() && !self.has(Flaw::RequestIdsForgotten);
        if has_id && let Some(before) = self.requests.get(&key) {
            if before.body != without_wait(&body) {
                return Err("REQUEST_ID_REUSED");
            }
            return Ok(self.answer_again(&before.answer));
        }
        let answer = self.carry_out(&line.command.principal, body.clone())?;
        self.settle();
        let nothing_leased = matches!(&answer, outcome::Body::LeaseTasks(answer) if answer.tasks.is_empty());
        if has_id && !nothing_leased {
            let forget_at_ms = self.now + limits::REQUEST_RETENTION_MS;
            let remembered = Remembered { body: without_wait(&body), answer: answer.clone(), forget_at_ms };
            self.requests.insert(key, remembered);
        }
        Ok(answer)
    }

    /// The first answer; of leases only those that are still current, as they stand now.
    fn answer_again(&self, answer: &outcome::Body) -> outcome::Body {
        let outcome::Body::LeaseTasks(leased) = answer else {
            return answer.clone();
        };
        let current = leased.tasks.iter().filter_map(|leased| {
            let id = number(&leased.task_id);
            let task = self.tasks.get(&id).filter(|task| self.namespaces.contains_key(&task.ns))?;
            self.holds(task, leased.token).then(|| self.leased(id))
        });
        outcome::Body::LeaseTasks(LeaseTasksResponse { tasks: current.collect() })
    }

    fn carry_out(&mut self, principal: &str, body: command::Body) -> Answer {
        use command::Body as C;
        use outcome::Body as O;
        Ok(match body {
            C::Enqueue(r) => O::Enqueue(self.enqueue(r)?),
            C::CancelTask(r) => O::CancelTask(self.cancel_task(r)?),
            C::RequeueDead(r) => O::RequeueDead(self.requeue_dead(r)?),
            C::PurgeQueue(r) => O::PurgeQueue(self.purge_queue(r)?),
            C::LeaseTasks(r) => O::LeaseTasks(self.lease_tasks(principal, r)?),
            C::HeartbeatTasks(r) => O::HeartbeatTasks(self.heartbeat_tasks(principal, r)?),
            C::CompleteTask(r) => O::CompleteTask(self.complete_task(principal, r)?),
            C::FailTask(r) => O::FailTask(self.fail_task(principal, r)?),
            C::RegisterWorker(r) => O::RegisterWorker(self.register_worker(principal, r)),
            C::HeartbeatWorker(r) => O::HeartbeatWorker(self.heartbeat_worker(principal, r)?),
            C::DrainWorker(r) => O::DrainWorker(self.drain_worker(r)?),
            C::AcquireLease(r) => O::AcquireLease(self.acquire_lease(r)?),
            C::RenewLease(r) => O::RenewLease(self.renew_lease(r)?),
            C::ReleaseLease(r) => O::ReleaseLease(self.release_lease(r)?),
            C::ScheduleTimer(r) => O::ScheduleTimer(self.schedule_timer(r)?),
            C::CancelTimer(r) => O::CancelTimer(self.cancel_timer(r)?),
            C::CreateNamespace(r) => O::CreateNamespace(self.create_namespace(r)?),
            C::DeleteNamespace(r) => O::DeleteNamespace(self.delete_namespace(r)?),
            C::UpdateNamespace(r) => O::UpdateNamespace(self.update_namespace(r)?),
            C::RaiseVersion(r) => O::RaiseVersion(self.raise_version(r)),
            C::PutJoinToken(r) => O::PutJoinToken(self.put_join_token(r)?),
            C::ConsumeJoinToken(r) => O::ConsumeJoinToken(self.consume_join_token(r)?),
            C::PutRole(r) => O::PutRole(self.put_role(r)?),
            C::DeleteRole(r) => O::DeleteRole(self.delete_role(r)?),
            C::PutBinding(r) => O::PutBinding(self.put_binding(r)?),
            C::DeleteBinding(r) => O::DeleteBinding(self.delete_binding(r)?),
            C::PutToken(r) => O::PutToken(self.put_token(principal, r)?),
            C::RevokeToken(r) => O::RevokeToken(self.revoke_token(r)?),
            C::RevokeCertificate(r) => O::RevokeCertificate(self.revoke_certificate(principal, r)),
            C::RecordDecisions(_) if !principal.starts_with("node/") => return Err("NODES_ONLY"),
            C::RecordDecisions(_) => O::RecordDecisions(DecisionsRecorded {}),
            C::PutAuditSettings(r) => O::PutAuditSettings(audit_settings(r)),
            C::PutBundle(_)
            | C::ActivateBundle(_)
            | C::RollbackBundle(_)
            | C::DeactivateBundle(_)
            | C::DeleteBundle(_)
            | C::PutPolicyHandler(_)
            | C::DeletePolicyHandler(_)
            | C::PutPolicySettings(_)
            | C::RecordViolations(_)
            | C::AcknowledgeEscalations(_) => unreachable!("policies have a model of their own, in tests/policies"),
            C::PlaceTasks(_) | C::PutSchedulerSettings(_) => unreachable!("placements have tests of their own"),
            C::PutKey(_) | C::DeleteKey(_) | C::SnapshotContext(_) | C::RestoreContext(_) | C::DeleteSnapshot(_) | C::DeleteContext(_) => {
                unreachable!("contexts have a model of their own, in tests/contexts")
            }
            C::InstallDriver(_) | C::UpgradeDriver(_) | C::RemoveDriver(_) | C::AdvanceDriver(_) | C::PutDriverSettings(_) => {
                unreachable!("drivers have a model of their own, in tests/drivers.rs")
            }
            C::StartFederation(_)
            | C::LeaveFederation(_)
            | C::WriteShared(_)
            | C::CommitReplica(_)
            | C::PutInvitation(_)
            | C::ConsumeInvitation(_)
            | C::ShareContext(_) => unreachable!("the federation has a model of its own, in tests/federation.rs"),
            C::Batch(_) => unreachable!("batches have tests of their own, in tests/batches"),
            C::AcceptTransfer(_) | C::ConfirmTransfer(_) | C::ExtendTransfer(_) | C::CloseTransfer(_) => {
                unreachable!("transfers have a model of their own, in tests/transfers.rs")
            }
        })
    }

    fn tell(&mut self, kind: EventKind, event: Event) {
        let ordinal = self.events.len() as u32;
        self.events.push(Event { revision: self.index, ordinal, at_ms: self.now, kind: kind.into(), ..event });
    }

    /// The number of the namespace with this name.
    pub fn namespace(&self, name: &str) -> Result<u64, &'static str> {
        let found = self.namespaces.iter().find(|(_, namespace)| namespace.name == name);
        found.map(|(ns, _)| *ns).ok_or("NAMESPACE_NOT_FOUND")
    }

    /// The number of the queue with this name.
    pub fn queue(&self, ns: u64, name: &str) -> Option<u64> {
        self.queues.iter().find(|(_, queue)| queue.ns == ns && queue.name == name).map(|(id, _)| *id)
    }
}

/// The machine version with which a command came.
fn since(body: &command::Body) -> u32 {
    use command::Body as C;
    match body {
        C::PutRole(_) | C::DeleteRole(_) | C::PutBinding(_) | C::DeleteBinding(_) => 2,
        C::PutToken(_) | C::RevokeToken(_) | C::RevokeCertificate(_) => 2,
        C::UpdateNamespace(_) => 2,
        C::CreateNamespace(r) if r.quotas.is_some() || r.isolation != 0 || !r.environment.is_empty() => 2,
        C::RecordDecisions(_) | C::PutAuditSettings(_) => 2,
        C::Enqueue(r) if r.tasks.iter().any(for_executors) => 3,
        C::ScheduleTimer(r) => match r.action.as_ref().and_then(|action| action.action.as_ref()) {
            Some(timer_action::Action::Enqueue(spec)) if for_executors(spec) => 3,
            _ => 1,
        },
        C::HeartbeatTasks(r) if r.leases.iter().any(|lease| lease.progress.is_some()) => 3,
        _ => 1,
    }
}

/// Whether it says anything that came with executors besides WASM.
fn for_executors(spec: &TaskSpec) -> bool {
    let parts = [spec.native.is_some(), spec.cuda.is_some(), spec.transform.is_some(), spec.grants.is_some()];
    spec.runtime == "microvm" || parts.contains(&true)
}

/// How long decisions are kept from here on. They answer no other question that the model knows.
fn audit_settings(request: PutAuditSettingsRequest) -> PutAuditSettingsResponse {
    let asked = request.settings.unwrap_or_default();
    let or = |value, default| if value == 0 { default } else { value };
    let settings = AuditSettings {
        retention_ms: or(asked.retention_ms, 30 * 24 * 3_600_000),
        records_max: or(asked.records_max, 10_000_000),
        bytes_max: or(asked.bytes_max, 4 << 30),
    };
    PutAuditSettingsResponse { settings: Some(settings) }
}

/// A client that repeats a lease has less time left to wait: the same request all the same.
fn without_wait(body: &command::Body) -> command::Body {
    match body {
        command::Body::LeaseTasks(r) => command::Body::LeaseTasks(LeaseTasksRequest { wait_ms: 0, ..r.clone() }),
        body => body.clone(),
    }
}

/// The number behind an id, which the generator only spoils where it says so.
pub fn number(id: &str) -> u64 {
    id.parse::<Id>().expect("an id that was not spoilt can be read").0
}

/// The value, or its default where the client says zero.
fn or_default(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}
