//! Random scripts of commands, clock jumps, restarts and power cuts, from one seed.
//!
//! Names are few, so that commands meet each other; tokens, ids and request ids are mostly right and sometimes stale, of another object, or
//! made up. What a command refers to is drawn from the model's state, and the result is written down as it is, so that a failing script can
//! be run and shortened without the generator.

use bytes::Bytes;
use tarn_machine::ids::Id;
use tarn_machine::limits;
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
type Weights = [u64; 21];

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
    pub const ALL: [Theme; 5] = [
        Theme {
            name: "of everything a little",
            weights: [20, 5, 4, 3, 22, 6, 14, 12, 6, 6, 2, 5, 4, 4, 5, 2, 3, 3, 1, 2, 3],
            depends: 25,
            still: 35,
            stubborn: false,
        },
        Theme {
            name: "attempts that fail",
            weights: [2, 1, 8, 0, 28, 5, 6, 30, 5, 6, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0],
            depends: 5,
            still: 20,
            stubborn: true,
        },
        Theme {
            name: "tasks that wait for tasks",
            weights: [26, 9, 9, 5, 22, 1, 20, 8, 4, 4, 0, 0, 0, 0, 4, 1, 1, 0, 0, 0, 0],
            depends: 75,
            still: 45,
            stubborn: false,
        },
        Theme {
            name: "locks, timers and tokens",
            weights: [4, 1, 1, 1, 4, 1, 2, 1, 3, 2, 1, 20, 14, 12, 18, 8, 4, 5, 1, 4, 6],
            depends: 20,
            still: 30,
            stubborn: false,
        },
        Theme {
            name: "tenants that share workers",
            weights: [26, 2, 2, 2, 40, 4, 14, 6, 5, 8, 1, 0, 0, 0, 1, 0, 6, 3, 0, 0, 0],
            depends: 5,
            still: 55,
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
        Generator {
            dice,
            theme,
            recent: Vec::new(),
        }
    }

    /// The next step, for a cluster in this state.
    pub fn step(&mut self, model: &Model) -> Step {
        match self.dice.below(200) {
            0..4 => Step::Restart,
            4..7 => Step::Crash(self.dice.next()),
            7..12 => Step::Sync,
            12..14 => Step::Note,
            _ => {
                let now_ms = self.clock(model);
                let count = self.dice.weighted(&[6, 24, 12, 6, 4, 2, 1, 1, 1]);
                Step::Entry {
                    now_ms,
                    lines: (0..count).map(|_| self.line(model)).collect(),
                }
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
            return Line {
                command: self.again(command),
                refused_as: None,
            };
        }
        let kind = self.dice.weighted(&self.theme.weights);
        let principal = self.dice.pick(&["ann", "bob"]).to_owned();
        let mut command = Command {
            principal,
            body: Some(self.body(kind, model)),
        };
        if self.dice.chance(4) {
            let refused_as = spoil(&mut self.dice, &mut command);
            return Line {
                command,
                refused_as: Some(refused_as),
            };
        }
        self.recent.push(command.clone());
        if self.recent.len() > 30 {
            self.recent.remove(0);
        }
        Line {
            command,
            refused_as: None,
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
            9 => B::HeartbeatWorker(HeartbeatWorkerRequest {
                worker_id: self.worker(model),
            }),
            10 => B::DrainWorker(DrainWorkerRequest {
                request_id: self.request_id(),
                worker_id: self.worker(model),
            }),
            11 => B::AcquireLease(AcquireLeaseRequest {
                request_id: self.request_id(),
                namespace: self.namespace(model),
                name: self.dice.pick(&["door", "key"]).to_owned(),
                holder: self.dice.pick(&["", "ann", "bob"]).to_owned(),
                ttl_ms: self.ttl(),
            }),
            12 => {
                let (namespace, name, token) = self.named_lease(model);
                B::RenewLease(RenewLeaseRequest {
                    request_id: self.request_id(),
                    namespace,
                    name,
                    token,
                    ttl_ms: self.ttl(),
                })
            }
            13 => {
                let (namespace, name, token) = self.named_lease(model);
                B::ReleaseLease(ReleaseLeaseRequest {
                    request_id: self.request_id(),
                    namespace,
                    name,
                    token,
                })
            }
            14 => B::ScheduleTimer(self.schedule_timer(model)),
            15 => B::CancelTimer(self.cancel_timer(model)),
            16 => B::CreateNamespace(CreateNamespaceRequest {
                request_id: self.request_id(),
                name: self.some_namespace(),
                weight: self.dice.pick(&[0, 1, 50, 100, 300, 1_000]),
            }),
            17 => B::DeleteNamespace(DeleteNamespaceRequest {
                request_id: self.request_id(),
                name: self.namespace(model),
            }),
            18 => B::RaiseVersion(RaiseVersion { version: 1 }),
            19 => B::PutJoinToken(PutJoinToken {
                request_id: self.request_id(),
                key_hash: self.hash(),
                ttl_ms: self.ttl(),
            }),
            _ => B::ConsumeJoinToken(ConsumeJoinToken {
                key_hash: self.hash(),
                node_key_hash: self.hash(),
                node_id_min: self.dice.below(5),
            }),
        }
    }

    // --- Tasks --------------------------------------------------------------------------------------------------------------------------

    fn enqueue(&mut self, model: &Model) -> EnqueueRequest {
        let namespace = self.namespace(model);
        let count = match self.dice.below(100) {
            0 => self.dice.between(20, 120),
            1 => CLASSES,
            _ => self.dice.between(1, 4),
        };
        let mut tasks: Vec<TaskSpec> = (0..count).map(|_| self.spec(model, &namespace, count > 4)).collect();
        if count == CLASSES {
            let (queue, first) = (self.queue(), self.dice.below(50));
            for (task, number) in tasks.iter_mut().zip(first..) {
                (task.queue, task.handler) = (queue.clone(), format!("h{number}"));
            }
        }
        let backward = self.dice.chance(80);
        for place in 0..count {
            if self.dice.chance(self.theme.depends / 2) {
                // All arrows point the same way, so that there is no circle.
                let (low, high) = if backward { (0, place) } else { (place + 1, count) };
                for _ in 0..self.dice.between(1, 2) {
                    if low < high {
                        tasks[place as usize]
                            .after_in_batch
                            .push(self.dice.between(low, high - 1) as u32);
                    }
                }
            }
        }
        EnqueueRequest {
            request_id: self.request_id(),
            namespace,
            tasks,
        }
    }

    fn spec(&mut self, model: &Model, namespace: &str, simple: bool) -> TaskSpec {
        let queue = self.dice.pick(&QUEUES).to_owned();
        let mut spec = TaskSpec {
            queue,
            priority: self.dice.below(6) as i32,
            ..TaskSpec::default()
        };
        if simple {
            return spec;
        }
        let now = model.now;
        if self.dice.chance(10) {
            spec.runtime = "wasm".to_owned();
            spec.wasm = Some(WasmSpec {
                artifact: "a".repeat(64),
                ..WasmSpec::default()
            });
        }
        if self.dice.chance(30) {
            spec.handler = self.dice.pick(&HANDLERS).to_owned();
        }
        let size = match self.dice.below(1_000) {
            0 => limits::PAYLOAD_BYTES_MAX,
            1..60 => limits::INLINE_BYTES_MAX + self.dice.below(2) as usize,
            _ => self.dice.below(6) as usize,
        };
        spec.payload = Bytes::from(vec![b'p'; size]);
        if self.dice.chance(15) {
            spec.not_before_at_ms = nameable(now + self.dice.below(2 * MINUTE)).saturating_sub(20 * SECOND);
        }
        if self.dice.chance(12) {
            spec.deadline_at_ms = match self.dice.below(8) {
                0 => now.saturating_sub(SECOND).max(1),
                1 if spec.not_before_at_ms != 0 => spec.not_before_at_ms,
                _ => nameable(now + self.dice.between(1, 5 * MINUTE)),
            };
        }
        if self.dice.chance(15) {
            spec.attempt_timeout_ms = self.dice.between(1, 40 * SECOND);
        }
        if self.theme.stubborn && self.dice.chance(60) {
            spec.retry = Some(RetryPolicy {
                max_attempts: 40,
                initial_backoff_ms: 1,
                max_backoff_ms: 1,
                ..RetryPolicy::default()
            });
        } else if self.dice.chance(50) {
            spec.retry = Some(RetryPolicy {
                max_attempts: self.dice.pick(&[0, 1, 2, 3, 40]),
                initial_backoff_ms: self.dice.pick(&[0, 1, 500, 10_000]),
                multiplier_percent: self.dice.pick(&[0, 100, 150, 1_000]),
                max_backoff_ms: self.dice.pick(&[0, 1, 20_000]),
                jitter_percent: self.dice.pick(&[0, 1, 100]),
                no_jitter: self.dice.chance(30),
            });
        }
        if self.dice.chance(self.theme.depends) {
            let ns = model.namespace(namespace).unwrap_or(0);
            let mine = model.tasks_of(ns);
            for _ in 0..self.dice.between(1, 3) {
                // The latest tasks are the ones that are likely to be alive.
                let recent = &mine[mine.len().saturating_sub(12)..];
                match self.dice.one(recent) {
                    Some(id) if self.dice.chance(97) => spec.after.push(Id(*id).to_string()),
                    None if self.dice.chance(97) => {}
                    _ => spec.after.push(self.some_task(model)),
                }
            }
        }
        spec.on_dependency_failure = self.dice.below(3) as i32;
        if self.dice.chance(15) {
            spec.requires = (0..self.dice.between(1, 3))
                .map(|_| self.dice.pick(&LABELS).to_owned())
                .collect();
        }
        if self.dice.chance(30) {
            spec.retention_ms = self.dice.pick(&[1, 15 * MINUTE, 2 * HOUR]);
        }
        if self.dice.chance(5) {
            spec.annotations = (0..3).map(|n| (format!("key{n}"), "value".to_owned())).collect();
        }
        spec
    }

    fn cancel_task(&mut self, model: &Model) -> CancelTaskRequest {
        let (namespace, task_id) = self.task_in(model, &[TaskState::Running, TaskState::Blocked, TaskState::Ready]);
        CancelTaskRequest {
            request_id: self.request_id(),
            namespace,
            task_id,
            force: self.dice.chance(30),
        }
    }

    fn requeue_dead(&mut self, model: &Model) -> RequeueDeadRequest {
        let (namespace, task_id) = self.task_in(model, &[TaskState::Dead]);
        let dead = model.tasks.values().filter(|task| task.state == TaskState::Dead);
        let queues: Vec<String> = dead.map(|task| task.spec.queue.clone()).collect();
        let queue = self
            .dice
            .one(&queues)
            .cloned()
            .filter(|_| self.dice.chance(90))
            .unwrap_or_else(|| self.queue());
        let task_ids = match self.dice.below(4) {
            0 => vec![task_id],
            1 => vec![task_id.clone(), self.task_in(model, &[TaskState::Dead]).1, task_id],
            _ => Vec::new(),
        };
        RequeueDeadRequest {
            request_id: self.request_id(),
            namespace,
            queue,
            task_ids,
        }
    }

    fn purge_queue(&mut self, model: &Model) -> PurgeQueueRequest {
        let all = [
            TaskState::Dead,
            TaskState::Blocked,
            TaskState::Ready,
            TaskState::Delayed,
        ];
        let states = (0..self.dice.between(1, 3))
            .map(|_| self.dice.pick(&all).into())
            .collect();
        PurgeQueueRequest {
            request_id: self.request_id(),
            namespace: self.namespace(model),
            queue: self.queue(),
            states,
        }
    }

    fn lease_tasks(&mut self, model: &Model) -> LeaseTasksRequest {
        LeaseTasksRequest {
            request_id: self.request_id(),
            worker_id: self.worker(model),
            max_tasks: self.dice.pick(&[1, 1, 2, 3, 7, 256]),
            lease_ms: self.dice.pick(&[0, SECOND, 5 * SECOND, HOUR]),
            wait_ms: self.dice.below(3) * 20_000,
        }
    }

    fn heartbeat_tasks(&mut self, model: &Model) -> HeartbeatTasksRequest {
        let leases = (0..self.dice.below(5)).map(|_| {
            let (namespace, task_id, token) = self.task_lease(model);
            TaskLease {
                namespace,
                task_id,
                token,
            }
        });
        let leases: Vec<TaskLease> = leases.collect();
        // Mostly by the worker that holds the first of them.
        let holder = leases
            .first()
            .and_then(|lease| Some(model.tasks.get(&lease.task_id.parse::<Id>().ok()?.0)?.worker));
        let worker_id = match holder.filter(|worker| *worker != 0 && self.dice.chance(85)) {
            Some(worker) => Id(worker).to_string(),
            None => self.worker(model),
        };
        HeartbeatTasksRequest {
            worker_id,
            leases,
            lease_ms: self.dice.pick(&[0, SECOND, MINUTE, HOUR]),
        }
    }

    fn complete_task(&mut self, model: &Model) -> CompleteTaskRequest {
        let (namespace, task_id, token) = self.task_lease(model);
        let size = if self.dice.chance(8) {
            limits::INLINE_BYTES_MAX + 1
        } else {
            self.dice.below(3) as usize
        };
        let result = Bytes::from(vec![b'r'; size]);
        CompleteTaskRequest {
            request_id: self.request_id(),
            namespace,
            task_id,
            token,
            result,
            logs: self.logs(),
        }
    }

    fn fail_task(&mut self, model: &Model) -> FailTaskRequest {
        let (namespace, task_id, token) = self.task_lease(model);
        let cancelled = task_id.parse::<Id>().ok().and_then(|id| model.tasks.get(&id.0));
        let kind = match cancelled.is_some_and(|task| task.cancel_requested) {
            true => FailureKind::Cancelled as usize,
            false => self.dice.weighted(&[10, 50, 8, 5, 20]),
        };
        let error = match self.dice.below(3) {
            0 => None,
            1 => Some(TaskError::default()),
            _ => Some(TaskError {
                reason: "NO_SUCH_FILE".to_owned(),
                message: "It is not there.".to_owned(),
            }),
        };
        let request_id = self.request_id();
        FailTaskRequest {
            request_id,
            namespace,
            task_id,
            token,
            kind: kind as i32,
            error,
            logs: self.logs(),
        }
    }

    fn logs(&mut self) -> Bytes {
        if self.dice.chance(30) {
            Bytes::from_static(b"a line\n")
        } else {
            Bytes::new()
        }
    }

    // --- The rest -----------------------------------------------------------------------------------------------------------------------

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
        let action = Some(TimerAction { action: Some(action) });
        ScheduleTimerRequest {
            request_id: self.request_id(),
            namespace,
            due_at_ms,
            delay_ms,
            action,
        }
    }

    fn cancel_timer(&mut self, model: &Model) -> CancelTimerRequest {
        let timers: Vec<(u64, u64)> = model.timers.iter().map(|(id, timer)| (*id, timer.ns)).collect();
        let (namespace, timer_id) = match self.dice.one(&timers).copied() {
            Some((id, ns)) if self.dice.chance(90) => (self.named(model, ns), Id(id).to_string()),
            _ => (self.namespace(model), Id(self.dice.below(1 << 30)).to_string()),
        };
        CancelTimerRequest {
            request_id: self.request_id(),
            namespace,
            timer_id,
        }
    }

    fn named_lease(&mut self, model: &Model) -> (String, String, u64) {
        let held: Vec<_> = model.named_leases.iter().collect();
        match self.dice.one(&held).copied() {
            Some(((ns, name), lease)) if self.dice.chance(90) => {
                let token = if self.dice.chance(80) {
                    lease.token
                } else {
                    self.dice.between(1, lease.token)
                };
                (self.named(model, *ns), name.clone(), token)
            }
            _ => (self.namespace(model), "door".to_owned(), self.dice.between(1, 1 << 24)),
        }
    }

    // --- Words --------------------------------------------------------------------------------------------------------------------------

    fn request_id(&mut self) -> String {
        if self.dice.chance(25) {
            format!("request-{}", self.dice.below(12))
        } else {
            String::new()
        }
    }

    /// Mostly one that exists.
    fn namespace(&mut self, model: &Model) -> String {
        let names: Vec<String> = model
            .namespaces
            .values()
            .map(|namespace| namespace.name.clone())
            .collect();
        match self.dice.below(100) {
            0..90 => self.dice.pick(&names),
            90..97 => self.some_namespace(),
            _ => "nowhere".to_owned(),
        }
    }

    fn some_namespace(&mut self) -> String {
        self.dice.pick(&NAMESPACES).to_owned()
    }

    /// The name of a namespace, mostly the one that is asked for.
    fn named(&mut self, model: &Model, ns: u64) -> String {
        let name = model.namespaces.get(&ns).map(|namespace| namespace.name.clone());
        name.filter(|_| self.dice.chance(95))
            .unwrap_or_else(|| self.namespace(model))
    }

    fn queue(&mut self) -> String {
        if self.dice.chance(97) {
            self.dice.pick(&QUEUES).to_owned()
        } else {
            "none".to_owned()
        }
    }

    fn worker(&mut self, model: &Model) -> String {
        let workers: Vec<u64> = model.workers.keys().copied().collect();
        match self.dice.one(&workers) {
            Some(id) if self.dice.chance(95) => Id(*id).to_string(),
            _ => Id(self.dice.below(1 << 30)).to_string(),
        }
    }

    /// Any task's id, or one that nobody has.
    fn some_task(&mut self, model: &Model) -> String {
        let ids: Vec<u64> = model.tasks.keys().copied().collect();
        match self.dice.one(&ids) {
            Some(id) if self.dice.chance(70) => Id(*id).to_string(),
            _ => Id(self.dice.below(1 << 30)).to_string(),
        }
    }

    /// A task's namespace and id, mostly one in these states.
    fn task_in(&mut self, model: &Model, states: &[TaskState]) -> (String, String) {
        let fitting = model.tasks.iter().filter(|(_, task)| states.contains(&task.state));
        let fitting: Vec<(u64, u64)> = fitting.map(|(id, task)| (*id, task.ns)).collect();
        match self.dice.one(&fitting).copied() {
            Some((id, ns)) if self.dice.chance(92) => (self.named(model, ns), Id(id).to_string()),
            _ => (self.namespace(model), self.some_task(model)),
        }
    }

    /// A task's namespace, id and token, mostly of an attempt that runs.
    fn task_lease(&mut self, model: &Model) -> (String, String, u64) {
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

    fn ttl(&mut self) -> u64 {
        self.dice.pick(&[0, SECOND, 10 * SECOND, HOUR])
    }

    fn hash(&mut self) -> Bytes {
        Bytes::from(vec![self.dice.below(4) as u8; 32])
    }
}

/// A time that a command may name.
fn nameable(at_ms: u64) -> u64 {
    at_ms.min(limits::TIME_MS_MAX)
}
