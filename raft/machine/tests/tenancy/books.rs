//! After every step of a random history, what is counted equals what a full count of everything that can be read finds, no quota is
//! exceeded by what it can refuse, and each refusal was due.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tarn_proto::v1::*;

use crate::support::{Rig, spec};
use crate::{complete, lease, rig, usage, worker};

const SPACES: [&str; 2] = ["a", "b"];

#[derive(Clone, Debug)]
enum Step {
    Enqueue { space: usize, sizes: Vec<usize>, chained: bool, retention_ms: u64, deadline_ms: u64 },
    Lease { max: u32 },
    Complete { pick: usize, result: usize, logs: usize },
    Fail { pick: usize, kind: i32, logs: usize },
    Cancel { pick: usize, force: bool },
    Requeue { space: usize },
    Purge { space: usize, state: i32 },
    Timer { space: usize, size: usize, delay_ms: u64 },
    CancelTimer { pick: usize },
    Pass { ms: u64 },
    Update { space: usize, quotas: Quotas },
    Restart,
    Drain { space: usize, cancel: bool },
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![0..50usize, 900..1_200usize, 2_000..4_000usize]
}

fn limit(most: u64) -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), Just(Some(0)), (0..most).prop_map(Some)]
}

fn step() -> impl Strategy<Value = Step> {
    let space = 0..SPACES.len();
    prop_oneof![
        6 => (space.clone(), prop::collection::vec(size(), 1..5), any::<bool>(), 0..3u64, 0..4u64).prop_map(
            |(space, sizes, chained, retention, deadline)| Step::Enqueue {
                space,
                sizes,
                chained,
                retention_ms: retention * 400_000,
                deadline_ms: if deadline == 0 { 30_000 } else { 0 },
            }
        ),
        5 => (1..6u32).prop_map(|max| Step::Lease { max }),
        5 => (any::<usize>(), size(), size()).prop_map(|(pick, result, logs)| Step::Complete { pick, result, logs }),
        5 => (any::<usize>(), 0..5i32, size()).prop_map(|(pick, kind, logs)| Step::Fail { pick, kind, logs }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(pick, force)| Step::Cancel { pick, force }),
        2 => space.clone().prop_map(|space| Step::Requeue { space }),
        1 => (space.clone(), prop_oneof![Just(1), Just(2), Just(3), Just(6)]).prop_map(|(space, state)| Step::Purge { space, state }),
        3 => (space.clone(), size(), 0..60_000u64).prop_map(|(space, size, delay_ms)| Step::Timer { space, size, delay_ms }),
        1 => any::<usize>().prop_map(|pick| Step::CancelTimer { pick }),
        4 => prop_oneof![0..2_000u64, 10_000..100_000u64, 500_000..2_000_000u64].prop_map(|ms| Step::Pass { ms }),
        3 => (space.clone(), limit(5), limit(12), limit(30_000)).prop_map(|(space, running, queued, stored)| Step::Update {
            space,
            quotas: Quotas {
                max_running: running,
                max_queued: queued,
                max_stored_bytes: stored,
                requests_per_minute: None,
            },
        }),
        1 => Just(Step::Restart),
        1 => (space, any::<bool>()).prop_map(|(space, cancel)| Step::Drain { space, cancel }),
    ]
}

/// What a namespace has, counted from everything that can be read of it.
#[derive(Default, PartialEq, Debug)]
struct Count {
    unended: u64,
    running: u64,
    dead: u64,
    ended: u64,
    stored_bytes: u64,
    pending_timers: u64,
}

fn count(rig: &Rig, namespace: &str) -> Count {
    let mut count = Count::default();
    let tasks = rig.machine.list_tasks(&ListTasksRequest { namespace: namespace.into(), page_size: 1_000, ..Default::default() });
    for task in tasks.expect("the namespace exists").tasks {
        match task.state() {
            TaskState::Dead => count.dead += 1,
            TaskState::Succeeded | TaskState::Cancelled => count.ended += 1,
            state => {
                count.unended += 1;
                count.running += u64::from(state == TaskState::Running);
            }
        }
        let (namespace, task_id) = (namespace.to_owned(), task.task_id);
        let logs = rig.machine.task_logs(&GetTaskLogsRequest { namespace: namespace.clone(), task_id: task_id.clone() });
        let whole = rig.machine.get_task(&GetTaskRequest { namespace, task_id, ..Default::default() });
        let whole = whole.expect("it was listed").task.expect("an answer has a task");
        let logs = logs.expect("it was listed").logs.iter().map(|log| log.text.len()).sum::<usize>();
        let spec = whole.spec.map_or(0, |spec| prost::Message::encoded_len(&spec));
        count.stored_bytes += (spec + whole.result.len() + logs) as u64;
    }
    for timer in timers(rig, namespace) {
        count.pending_timers += 1;
        count.stored_bytes += match timer.action.and_then(|action| action.action) {
            Some(timer_action::Action::Enqueue(spec)) => prost::Message::encoded_len(&spec) as u64,
            Some(timer_action::Action::Mark(text)) => text.len() as u64,
            None => 0,
        };
    }
    count
}

fn timers(rig: &Rig, namespace: &str) -> Vec<Timer> {
    let request = ListTimersRequest { namespace: namespace.into(), page_size: 1_000, ..Default::default() };
    let mut timers = rig.machine.list_timers(&request).expect("the namespace exists").timers;
    timers.retain(|timer| timer.state() == TimerState::Pending);
    timers
}

fn told(rig: &Rig, namespace: &str) -> Count {
    let usage = usage(rig, namespace);
    Count {
        unended: usage.blocked + usage.delayed + usage.ready + usage.running,
        running: usage.running,
        dead: usage.dead,
        ended: usage.ended,
        stored_bytes: usage.stored_bytes,
        pending_timers: usage.pending_timers,
    }
}

struct History {
    rig: Rig,
    worker: String,
    leased: Vec<LeasedTask>,
    tasks: Vec<(usize, String)>,
}

impl History {
    fn begin() -> Self {
        let mut rig = rig();
        let worker = worker(&mut rig, &[]);
        let mut history = History { rig, worker, leased: Vec::new(), tasks: Vec::new() };
        history.create_missing();
        history
    }

    /// A namespace that has gone comes back, with its history forgotten.
    fn create_missing(&mut self) {
        for name in SPACES {
            if !self.rig.machine.tenants().contains_key(name) {
                crate::create(&mut self.rig, name, Quotas::default());
            }
        }
    }

    fn limits(&self, name: &str) -> (u64, u64, u64) {
        let quotas = crate::get(&self.rig, name).namespace.and_then(|namespace| namespace.quotas).unwrap_or_default();
        let limit = |quota: Option<u64>| quota.filter(|limit| *limit != 0).unwrap_or(u64::MAX);
        (limit(quotas.max_running), limit(quotas.max_queued), limit(quotas.max_stored_bytes))
    }

    fn is_draining(&self, name: &str) -> bool {
        let namespace = crate::get(&self.rig, name).namespace.unwrap_or_default();
        namespace.state() != NamespaceState::Active
    }

    /// A request that adds so much is refused for a quota exactly if it must be.
    fn expect_refusal(&self, name: &str, reason: Option<&str>, tasks: u64, bytes: u64, before: &Count) {
        let (_, queued, stored) = self.limits(name);
        let due = if self.is_draining(name) {
            Some("NAMESPACE_DRAINING")
        } else if tasks > 0 && before.unended + tasks > queued {
            Some("QUOTA_QUEUED")
        } else if before.stored_bytes + bytes > stored {
            Some("QUOTA_STORED_BYTES")
        } else {
            None
        };
        assert_eq!(reason, due, "{name}: {tasks} tasks of {bytes} bytes more than {before:?}");
    }

    fn step(&mut self, step: Step) {
        let before: Vec<Count> = SPACES.iter().map(|name| told(&self.rig, name)).collect();
        // Results and logs are taken above the quota, and time may move them only down.
        let free = matches!(step, Step::Complete { .. } | Step::Fail { .. });
        match step {
            Step::Enqueue { space, sizes, chained, retention_ms, deadline_ms } => {
                let tasks: Vec<_> = sizes
                    .iter()
                    .enumerate()
                    .map(|(place, size)| TaskSpec {
                        payload: vec![3; *size].into(),
                        retention_ms,
                        deadline_at_ms: if deadline_ms == 0 { 0 } else { self.rig.now_ms + deadline_ms },
                        after_in_batch: (place as u32).checked_sub(1).filter(|_| chained).into_iter().collect(),
                        retry: Some(RetryPolicy { max_attempts: 20, max_backoff_ms: 1, initial_backoff_ms: 1, ..Default::default() }),
                        ..spec("q")
                    })
                    .collect();
                let bytes = tasks.iter().map(|task| prost::Message::encoded_len(task) as u64).sum();
                let count = tasks.len() as u64;
                let request = EnqueueRequest { namespace: SPACES[space].into(), tasks, ..Default::default() };
                // Time first, so that what is due cannot come between the count and the request.
                self.rig.pass_to(self.rig.now_ms);
                self.create_missing();
                let present = told(&self.rig, SPACES[space]);
                let answer = self.rig.tell(request).0;
                let reason = answer.as_ref().err().map(|rejection| rejection.reason.as_str());
                self.expect_refusal(SPACES[space], reason, count, bytes, &present);
                self.tasks.extend(answer.unwrap_or_default().task_ids.into_iter().map(|id| (space, id)));
            }
            Step::Timer { space, size, delay_ms } => {
                let task = TaskSpec { payload: vec![4; size].into(), ..spec("timed") };
                let bytes = prost::Message::encoded_len(&task) as u64;
                let request = ScheduleTimerRequest {
                    namespace: SPACES[space].into(),
                    delay_ms: delay_ms + 1,
                    action: Some(Box::new(TimerAction { action: Some(timer_action::Action::Enqueue(task)) })),
                    ..Default::default()
                };
                self.rig.pass_to(self.rig.now_ms);
                self.create_missing();
                let present = told(&self.rig, SPACES[space]);
                let answer = self.rig.tell(request).0;
                self.expect_refusal(SPACES[space], answer.err().map(|r| r.reason).as_deref(), 0, bytes, &present);
            }
            Step::Lease { max } => {
                let request = lease(&self.worker, max);
                self.leased.extend(self.rig.ok(request).tasks);
            }
            Step::Complete { pick, result, logs } => {
                if let Some(task) = self.take_leased(pick) {
                    let mut request = complete(&task, result);
                    request.logs = vec![1; logs].into();
                    let _ = self.rig.tell(request);
                }
            }
            Step::Fail { pick, kind, logs } => {
                if let Some(task) = self.take_leased(pick) {
                    let _ = self.rig.tell(FailTaskRequest {
                        namespace: task.namespace,
                        task_id: task.task_id,
                        token: task.token,
                        kind,
                        logs: vec![2; logs].into(),
                        ..Default::default()
                    });
                }
            }
            Step::Cancel { pick, force } => {
                if !self.tasks.is_empty() {
                    let (space, id) = self.tasks[pick % self.tasks.len()].clone();
                    let _ = self.rig.tell(CancelTaskRequest { namespace: SPACES[space].into(), task_id: id, force, ..Default::default() });
                }
            }
            Step::Requeue { space } => {
                let _ = self.rig.tell(RequeueDeadRequest { namespace: SPACES[space].into(), queue: "q".into(), ..Default::default() });
            }
            Step::Purge { space, state } => {
                let _ = self.rig.tell(PurgeQueueRequest {
                    namespace: SPACES[space].into(),
                    queue: "q".into(),
                    states: vec![state],
                    ..Default::default()
                });
            }
            Step::CancelTimer { pick } => {
                let all: Vec<_> = SPACES.iter().flat_map(|name| timers(&self.rig, name)).collect();
                if !all.is_empty() {
                    let timer = &all[pick % all.len()];
                    let _ = self.rig.tell(CancelTimerRequest {
                        namespace: timer.namespace.clone(),
                        timer_id: timer.timer_id.clone(),
                        ..Default::default()
                    });
                }
            }
            Step::Pass { ms } => self.rig.now_ms += ms,
            Step::Update { space, quotas } => {
                let request = UpdateNamespaceRequest { name: SPACES[space].into(), quotas: Some(quotas), ..Default::default() };
                let _ = self.rig.tell(request);
            }
            Step::Restart => self.rig.restart(),
            Step::Drain { space, cancel } => {
                let request = DeleteNamespaceRequest { name: SPACES[space].into(), drain: true, cancel, ..Default::default() };
                let _ = self.rig.tell(request);
            }
        }
        let _ = self.rig.tell(HeartbeatWorkerRequest { worker_id: self.worker.clone(), resources: None });
        if self.rig.machine.list_workers(&ListWorkersRequest {}).expect("it lists").workers.is_empty() {
            self.worker = worker(&mut self.rig, &[]);
        }
        self.create_missing();
        for (name, before) in SPACES.iter().zip(before) {
            self.audit(name, &before, free);
        }
    }

    fn take_leased(&mut self, pick: usize) -> Option<LeasedTask> {
        (!self.leased.is_empty()).then(|| self.leased.swap_remove(pick % self.leased.len()))
    }

    fn audit(&self, name: &str, before: &Count, free: bool) {
        let now = told(&self.rig, name);
        assert_eq!(now, count(&self.rig, name), "{name}: what is told, and what is there");
        let (running, queued, stored) = self.limits(name);
        assert!(now.running <= running.max(before.running), "{name}: {now:?} after {before:?}");
        assert!(now.unended <= queued.max(before.unended), "{name}: {now:?} after {before:?}");
        assert!(free || now.stored_bytes <= stored.max(before.stored_bytes), "{name}: {now:?} after {before:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, rng_seed: RngSeed::Fixed(4), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_books_are_right_after_every_step(steps in prop::collection::vec(step(), 1..60)) {
        let mut history = History::begin();
        for step in steps {
            history.step(step);
        }
    }
}
