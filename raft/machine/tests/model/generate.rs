//! Random scripts of commands, clock jumps, restarts and power cuts, from one seed.
//!
//! Names are few, so that commands meet each other; tokens, ids and request ids are mostly right and sometimes stale, of another object, or
//! made up. What a command refers to is drawn from the model's state, and the result is written down as it is, so that a failing script can
//! be run and shortened without the generator.

mod access;
mod audit;
mod tasks;
mod tenancy;
mod words;

use bytes::Bytes;
use tarn_machine::ids::Id;
use tarn_machine::{Versions, limits};
use tarn_proto::v1::*;

use crate::dice::Dice;
use crate::reference::{Line, Model};
use crate::spoil::spoil;

/// One step of a script.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// An entry of the log, with the leader's clock.
    Entry { now_ms: u64, lines: Vec<Line> },
    /// An entry that is none of the machine's business.
    Note,
    /// The node stops and starts again.
    Restart,
    /// The engine makes everything durable that was written so far.
    Sync,
    /// The power fails: a prefix of what was not durable survives, drawn from this number, and the log gives the rest again.
    Crash(u64),
}

/// How often each command is drawn, in the order of [`Generator::body`].
type Weights = [u64; 29];

/// What a run is about.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    pub name: &'static str,
    weights: Weights,
    /// How many percent of tasks depend on others, and of entries the clock stands still before.
    depends: u64,
    still: u64,
    /// Whether most tasks are tried again and again.
    stubborn: bool,
}

impl Theme {
    pub const ALL: [Theme; 6] = [
        Theme {
            name: "of everything a little",
            weights: [20, 5, 4, 3, 22, 6, 14, 12, 6, 6, 2, 5, 4, 4, 5, 2, 3, 3, 1, 2, 3, 2, 1, 3, 1, 2, 1, 3, 1],
            depends: 25,
            still: 35,
            stubborn: false,
        },
        Theme {
            name: "attempts that fail",
            weights: [2, 1, 8, 0, 30, 4, 4, 36, 4, 6, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            depends: 5,
            still: 20,
            stubborn: true,
        },
        Theme {
            name: "tasks that wait for tasks",
            weights: [26, 9, 9, 5, 22, 1, 20, 8, 4, 4, 0, 0, 0, 0, 4, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0],
            depends: 75,
            still: 45,
            stubborn: false,
        },
        Theme {
            name: "locks, timers and tokens",
            weights: [4, 1, 1, 1, 4, 1, 2, 1, 3, 2, 1, 20, 14, 12, 18, 8, 4, 5, 1, 4, 6, 0, 0, 0, 0, 0, 0, 1, 0],
            depends: 20,
            still: 30,
            stubborn: false,
        },
        Theme {
            name: "tenants that share workers",
            weights: [26, 2, 2, 2, 40, 4, 14, 6, 5, 8, 1, 0, 0, 0, 1, 0, 6, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0],
            depends: 5,
            still: 55,
            stubborn: false,
        },
        Theme {
            name: "who may do what",
            weights: [3, 1, 0, 0, 3, 0, 2, 1, 1, 1, 0, 1, 0, 1, 2, 0, 1, 1, 4, 1, 1, 14, 9, 20, 12, 14, 7, 1, 10],
            depends: 5,
            still: 40,
            stubborn: false,
        },
    ];
}

/// Draws a script step by step.
pub struct Generator {
    dice: Dice,
    pub theme: Theme,
    /// Commands of late, to be sent again.
    recent: Vec<Command>,
    /// If the first step raises the cluster to what this build can do: whether everybody keeps their rights. Otherwise it stays at the first
    /// version, unless a command says otherwise.
    raises: Option<bool>,
}

const NAMESPACES: [&str; 4] = ["default", "blue", "red", "green"];
const QUEUES: [&str; 3] = ["fast", "mail", "slow"];
const HANDLERS: [&str; 3] = ["", "resize", "index"];
const LABELS: [&str; 2] = ["gpu", "zone=a"];
/// Tasks in a batch that has each with another handler: two of them fill a queue's classes.
const CLASSES: u64 = 40;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

impl Generator {
    /// A script for this seed. The theme follows from the seed too.
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let theme = dice.pick(&Theme::ALL);
        let raises = dice.chance(60).then(|| dice.chance(50));
        Generator { dice, theme, recent: Vec::new(), raises }
    }

    /// The next step, for a cluster in this state.
    pub fn step(&mut self, model: &Model) -> Step {
        if let Some(keep_access) = self.raises.take() {
            return raise(Versions::CURRENT.max, keep_access);
        }
        match self.dice.below(200) {
            0..4 => Step::Restart,
            4..7 => Step::Crash(self.dice.next()),
            7..12 => Step::Sync,
            12..14 => Step::Note,
            _ => {
                let now_ms = self.clock(model);
                let count = self.dice.weighted(&[6, 24, 12, 6, 4, 2, 1, 1, 1]);
                Step::Entry { now_ms, lines: (0..count).map(|_| self.line(model)).collect() }
            }
        }
    }

    fn clock(&mut self, model: &Model) -> u64 {
        let (now, dice) = (model.now.max(1_000_000), &mut self.dice);
        if dice.chance(self.theme.still) {
            return now;
        }
        let wake = model.next_wake_ms().unwrap_or(now).max(now);
        match dice.below(1_000) {
            0..200 => now + dice.between(1, 500),
            200..400 => now + dice.between(1, 5) * SECOND,
            400..500 => now + dice.between(10, 90) * SECOND,
            500..560 => now + dice.between(2, 20) * MINUTE,
            560..580 => now + dice.between(1, 30) * HOUR,
            580..680 => now.saturating_sub(dice.below(2 * MINUTE)),
            680..780 => wake.saturating_sub(1).max(now),
            780..900 => wake,
            900..998 => wake + dice.between(0, 2_000),
            _ => limits::TIME_MS_MAX + 5,
        }
    }

    fn line(&mut self, model: &Model) -> Line {
        if self.dice.chance(8)
            && let Some(command) = self.dice.one(&self.recent).cloned()
        {
            return Line { command: self.again(command), refused_as: None };
        }
        let mut command = match self.dice.chance(2) {
            true => self.audit(model),
            false => {
                let kind = self.dice.weighted(&self.theme.weights);
                let body = self.body(kind, model);
                Command { principal: self.principal(model, &body), gate: self.gate(model).map(Box::new), body: Some(body) }
            }
        };
        if self.dice.chance(4) {
            let refused_as = spoil(&mut self.dice, &mut command);
            return Line { command, refused_as: Some(refused_as) };
        }
        self.recent.push(command.clone());
        if self.recent.len() > 30 {
            self.recent.remove(0);
        }
        Line { command, refused_as: None }
    }

    /// Who asks: as a worker mostly whoever registered it.
    fn principal(&mut self, model: &Model, body: &command::Body) -> String {
        use command::Body as B;
        let number = |text: &str| text.parse::<Id>().map_or(0, |id| id.0);
        let holder = |task: &str| model.tasks.get(&number(task)).map_or(0, |task| task.worker);
        let worker = match body {
            B::LeaseTasks(r) => number(&r.worker_id),
            B::HeartbeatTasks(r) => number(&r.worker_id),
            B::HeartbeatWorker(r) => number(&r.worker_id),
            B::CompleteTask(r) => holder(&r.task_id),
            B::FailTask(r) => holder(&r.task_id),
            _ => 0,
        };
        let maker = model.workers.get(&worker).and_then(|worker| worker.maker.clone());
        match maker {
            Some(maker) if self.dice.chance(90) => maker,
            Some(_) => self.dice.pick(&["ann", "bob", "user/admin", "node/2"]).to_owned(),
            None => self.dice.pick(&["ann", "bob"]).to_owned(),
        }
    }

    /// An earlier command: as it was, from somebody else, or changed under the same request id.
    fn again(&mut self, mut command: Command) -> Command {
        match self.dice.below(10) {
            0 => command.principal = "eve".to_owned(),
            1 => match &mut command.body {
                Some(command::Body::LeaseTasks(r)) => r.wait_ms += 1,
                Some(command::Body::Enqueue(r)) => r.tasks[0].retention_ms ^= 1,
                Some(command::Body::RegisterWorker(r)) => r.name.push('!'),
                Some(command::Body::CompleteTask(r)) => r.result = Bytes::from_static(b"another result"),
                _ => {}
            },
            _ => {}
        }
        command
    }

    fn body(&mut self, kind: usize, model: &Model) -> command::Body {
        use command::Body as B;
        match kind {
            0 => B::Enqueue(self.enqueue(model)),
            1 => B::CancelTask(self.cancel_task(model)),
            2 => B::RequeueDead(self.requeue_dead(model)),
            3 => B::PurgeQueue(self.purge_queue(model)),
            4 if model.workers.is_empty() => B::RegisterWorker(self.register_worker()),
            4 => B::LeaseTasks(self.lease_tasks(model)),
            5 => B::HeartbeatTasks(self.heartbeat_tasks(model)),
            6 => B::CompleteTask(self.complete_task(model)),
            7 => B::FailTask(self.fail_task(model)),
            8 => B::RegisterWorker(self.register_worker()),
            9 => B::HeartbeatWorker(HeartbeatWorkerRequest { worker_id: self.worker(model), resources: None }),
            10 => B::DrainWorker(DrainWorkerRequest { request_id: self.request_id(), worker_id: self.worker(model) }),
            11 => B::AcquireLease(AcquireLeaseRequest {
                request_id: self.request_id(),
                namespace: self.namespace(model),
                name: self.dice.pick(&["door", "key"]).to_owned(),
                holder: self.dice.pick(&["", "ann", "bob"]).to_owned(),
                ttl_ms: self.ttl(),
            }),
            12 => {
                let (namespace, name, token) = self.named_lease(model);
                B::RenewLease(RenewLeaseRequest { request_id: self.request_id(), namespace, name, token, ttl_ms: self.ttl() })
            }
            13 => {
                let (namespace, name, token) = self.named_lease(model);
                B::ReleaseLease(ReleaseLeaseRequest { request_id: self.request_id(), namespace, name, token })
            }
            14 => B::ScheduleTimer(self.schedule_timer(model)),
            15 => B::CancelTimer(self.cancel_timer(model)),
            16 => B::CreateNamespace(self.create_namespace()),
            17 => B::DeleteNamespace(DeleteNamespaceRequest {
                request_id: self.request_id(),
                name: self.namespace(model),
                ..Default::default()
            }),
            18 => {
                let (version, keep_access) = self.dice.pick(&[(1, false), (2, false), (2, true), (3, false), (3, true)]);
                B::RaiseVersion(RaiseVersion { version, keep_access })
            }
            19 => B::PutJoinToken(PutJoinToken { request_id: self.request_id(), key_hash: self.hash(), ttl_ms: self.ttl() }),
            20 => {
                B::ConsumeJoinToken(ConsumeJoinToken { key_hash: self.hash(), node_key_hash: self.hash(), node_id_min: self.dice.below(5) })
            }
            21 => B::PutRole(self.put_role()),
            22 => B::DeleteRole(self.delete_role()),
            23 => B::PutBinding(self.put_binding()),
            24 => B::DeleteBinding(self.delete_binding(model)),
            25 => B::PutToken(self.put_token()),
            26 => B::RevokeToken(self.revoke_token(model)),
            27 => B::UpdateNamespace(self.update_namespace(model)),
            _ => B::RevokeCertificate(self.revoke_certificate(model)),
        }
    }

    fn register_worker(&mut self) -> RegisterWorkerRequest {
        let mut list = |percent: u64, of: &[&str]| -> Vec<String> {
            let given = self.dice.chance(percent);
            let count = if given { self.dice.between(1, 2) } else { 0 };
            (0..count).map(|_| self.dice.pick(of).to_owned()).collect()
        };
        let capabilities = WorkerCapabilities {
            runtimes: list(15, &["wasm", ""]),
            handlers: list(20, &HANDLERS),
            labels: list(50, &LABELS),
            namespaces: list(15, &NAMESPACES),
            queues: list(15, &QUEUES),
            resources: None,
        };
        RegisterWorkerRequest {
            request_id: self.request_id(),
            name: self.dice.pick(&["", "node-1/wasm"]).to_owned(),
            capabilities: self.dice.chance(90).then_some(capabilities),
            ttl_ms: self.dice.pick(&[0, SECOND, 5 * MINUTE, HOUR, HOUR]),
        }
    }

    fn schedule_timer(&mut self, model: &Model) -> ScheduleTimerRequest {
        let namespace = self.namespace(model);
        let action = match self.dice.chance(60) {
            true => {
                let simple = self.dice.chance(50);
                let mut spec = self.spec(model, &namespace, simple);
                if self.dice.chance(10) {
                    // Sometimes one that the queue has no room for.
                    spec.handler = format!("h{}", self.dice.below(90));
                }
                timer_action::Action::Enqueue(spec)
            }
            false => timer_action::Action::Mark("tea".to_owned()),
        };
        let (due_at_ms, delay_ms) = match self.dice.below(4) {
            0 => (model.now.saturating_sub(SECOND), 0),
            1 => (nameable(model.now + self.dice.below(2 * HOUR)), 0),
            _ => (0, self.dice.pick(&[0, 1, 2 * SECOND, 5 * MINUTE])),
        };
        let action = Some(Box::new(TimerAction { action: Some(action) }));
        ScheduleTimerRequest { request_id: self.request_id(), namespace, due_at_ms, delay_ms, action }
    }

    fn cancel_timer(&mut self, model: &Model) -> CancelTimerRequest {
        let timers: Vec<(u64, u64)> = model.timers.iter().map(|(id, timer)| (*id, timer.ns)).collect();
        let (namespace, timer_id) = match self.dice.one(&timers).copied() {
            Some((id, ns)) if self.dice.chance(90) => (self.named(model, ns), Id(id).to_string()),
            _ => (self.namespace(model), Id(self.dice.below(1 << 30)).to_string()),
        };
        CancelTimerRequest { request_id: self.request_id(), namespace, timer_id }
    }

    fn named_lease(&mut self, model: &Model) -> (String, String, u64) {
        let held: Vec<_> = model.named_leases.iter().collect();
        match self.dice.one(&held).copied() {
            Some(((ns, name), lease)) if self.dice.chance(90) => {
                let token = if self.dice.chance(80) { lease.token } else { self.dice.between(1, lease.token) };
                (self.named(model, *ns), name.clone(), token)
            }
            _ => (self.namespace(model), "door".to_owned(), self.dice.between(1, 1 << 24)),
        }
    }
}

/// An entry with which the cluster's version rises.
fn raise(version: u32, keep_access: bool) -> Step {
    let command = Command {
        principal: "user/admin".to_owned(),
        body: Some(command::Body::RaiseVersion(RaiseVersion { version, keep_access })),
        ..Command::default()
    };
    Step::Entry { now_ms: 1_000_000, lines: vec![Line { command, refused_as: None }] }
}

/// A time that a command may name.
fn nameable(at_ms: u64) -> u64 {
    at_ms.min(limits::TIME_MS_MAX)
}
