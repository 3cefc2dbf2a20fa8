//! Replicas: the same entries give the same digests, outcomes and events, whatever was restarted in between.

mod support;

use prost::Message;
use support::{Rig, command};
use tarn_machine::ids::Id;
use tarn_machine::{Applied, Machine, Versions};
use tarn_proto::v1::*;
use tarn_storage::{Batch, MemoryEngine};

/// A small source of numbers, so that a failure is found again from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    /// One of the last few, which are the ones that still live.
    fn recent(&mut self, from: &[u64]) -> u64 {
        let skip = from.len().saturating_sub(3);
        self.pick(&from[skip..])
    }

    fn pick(&mut self, from: &[u64]) -> u64 {
        match from.len() {
            0 => 7,
            len => from[self.roll(len as u64) as usize],
        }
    }
}

/// What the commands of a run may refer to.
#[derive(Default)]
struct Known {
    tasks: Vec<u64>,
    workers: Vec<u64>,
    timers: Vec<u64>,
    leases: Vec<(u64, u64)>,
    tokens: Vec<u64>,
}

impl Known {
    fn learn(&mut self, applied: &Applied) {
        let id = |text: &str| text.parse::<Id>().expect("an id").0;
        for outcome in &applied.outcomes {
            match outcome.body.as_ref().expect("an outcome") {
                outcome::Body::Enqueue(answer) => self.tasks.extend(answer.task_ids.iter().map(|text| id(text))),
                outcome::Body::RegisterWorker(answer) => self.workers.push(id(&answer.worker_id)),
                outcome::Body::ScheduleTimer(answer) => self.timers.push(id(&answer.timer_id)),
                outcome::Body::LeaseTasks(answer) => {
                    self.leases.extend(answer.tasks.iter().map(|task| (id(&task.task_id), task.token)));
                }
                outcome::Body::AcquireLease(answer) => self.tokens.extend(answer.lease.iter().map(|lease| lease.token)),
                _ => {}
            }
        }
    }
}

fn some_command(dice: &mut Dice, known: &Known, now: u64) -> Command {
    let ns = || "default".to_owned();
    let text = |id: u64| Id(id).to_string();
    let request_id = match dice.roll(3) {
        0 => format!("r{}", dice.roll(40)),
        _ => String::new(),
    };
    let queue = format!("q{}", dice.roll(3));
    match dice.roll(20) {
        0..=4 => {
            let count = 1 + dice.roll(4);
            let tasks = (0..count).map(|place| some_spec(dice, known, now, place)).collect();
            command(EnqueueRequest { request_id, namespace: ns(), tasks })
        }
        5..=7 => command(LeaseTasksRequest {
            request_id,
            worker_id: text(dice.recent(&known.workers)),
            max_tasks: 1 + dice.roll(5) as u32,
            lease_ms: 1_000 + dice.roll(60_000),
            wait_ms: 0,
        }),
        8..=9 => {
            let (task, token) = some_lease(dice, known);
            let result = vec![b'r'; dice.roll(3_000) as usize].into();
            let logs = vec![b'l'; dice.roll(9) as usize].into();
            command(CompleteTaskRequest { request_id, namespace: ns(), task_id: text(task), token, result, logs })
        }
        10..=11 => {
            let (task, token) = some_lease(dice, known);
            let kind = dice.roll(5) as i32;
            let error = Some(TaskError { reason: "BROKEN".into(), message: String::new() });
            let logs = vec![b'l'; dice.roll(9) as usize].into();
            command(FailTaskRequest { request_id, namespace: ns(), task_id: text(task), token, kind, error, logs })
        }
        12 => {
            let (task, token) = some_lease(dice, known);
            let leases = vec![TaskLease { namespace: ns(), task_id: text(task), token, progress: None }];
            command(HeartbeatTasksRequest { worker_id: text(dice.recent(&known.workers)), leases, lease_ms: 0 })
        }
        13 => {
            let (task_id, force) = (text(dice.pick(&known.tasks)), dice.roll(2) == 0);
            command(CancelTaskRequest { request_id, namespace: ns(), task_id, force })
        }
        14 => command(RequeueDeadRequest { request_id, namespace: ns(), queue, task_ids: vec![] }),
        15 if dice.roll(4) == 0 => {
            let states = vec![[TaskState::Blocked, TaskState::Delayed, TaskState::Ready, TaskState::Dead][dice.roll(4) as usize].into()];
            command(PurgeQueueRequest { request_id, namespace: ns(), queue, states })
        }
        15 => command(HeartbeatWorkerRequest { worker_id: text(dice.recent(&known.workers)), resources: None }),
        16 => match dice.roll(3) {
            0 => command(DrainWorkerRequest { request_id, worker_id: text(dice.recent(&known.workers)) }),
            _ => command(RegisterWorkerRequest { request_id, name: "w".into(), capabilities: None, ttl_ms: 120_000 }),
        },
        17 => {
            let (name, token, ttl_ms) = (format!("l{}", dice.roll(2)), dice.pick(&known.tokens), 0);
            match dice.roll(3) {
                0 => command(AcquireLeaseRequest { request_id, namespace: ns(), name, holder: "h".into(), ttl_ms }),
                1 => command(RenewLeaseRequest { request_id, namespace: ns(), name, token, ttl_ms }),
                _ => command(ReleaseLeaseRequest { request_id, namespace: ns(), name, token }),
            }
        }
        18 => {
            let action = match dice.roll(2) {
                0 => timer_action::Action::Mark("mark".into()),
                _ => timer_action::Action::Enqueue(some_spec(dice, known, now, 0)),
            };
            let action = Some(Box::new(TimerAction { action: Some(action) }));
            let delay_ms = 1 + dice.roll(50_000);
            command(ScheduleTimerRequest { request_id, namespace: ns(), due_at_ms: 0, delay_ms, action })
        }
        _ => match dice.roll(4) {
            0 => command(CancelTimerRequest { request_id, namespace: ns(), timer_id: text(dice.pick(&known.timers)) }),
            1 => command(DeleteNamespaceRequest { request_id, name: "other".into(), ..Default::default() }),
            _ => command(CreateNamespaceRequest { request_id, name: "other".into(), ..Default::default() }),
        },
    }
}

fn some_lease(dice: &mut Dice, known: &Known) -> (u64, u64) {
    match known.leases.len() {
        0 => (7, 7),
        len => known.leases[len - 1 - dice.roll(len.min(8) as u64) as usize],
    }
}

fn some_spec(dice: &mut Dice, known: &Known, now: u64, place: u64) -> TaskSpec {
    let picked: Vec<u64> = (0..dice.roll(3)).map(|_| dice.pick(&known.tasks)).collect();
    let after = picked.into_iter().filter(|id| *id != 7).map(|id| Id(id).to_string());
    TaskSpec {
        queue: format!("q{}", dice.roll(3)),
        payload: vec![b'p'; dice.roll(2_000) as usize].into(),
        priority: dice.roll(6) as i32,
        not_before_at_ms: if dice.roll(4) == 0 { now + dice.roll(20_000) } else { 0 },
        deadline_at_ms: if dice.roll(5) == 0 { now + dice.roll(90_000) } else { 0 },
        retention_ms: if dice.roll(2) == 0 { 1 } else { 0 },
        after: if dice.roll(3) == 0 { after.collect() } else { vec![] },
        after_in_batch: if place > 0 && dice.roll(3) == 0 { vec![0] } else { vec![] },
        on_dependency_failure: dice.roll(3) as i32,
        retry: Some(RetryPolicy { max_attempts: 1 + dice.roll(3) as u32, ..Default::default() }),
        ..Default::default()
    }
}

/// Feeds a run to a machine that is never restarted and to one that often is.
fn run(seed: u64, entries: u64) -> [u8; 32] {
    let mut dice = Dice(seed);
    let mut known = Known::default();
    let mut rig = Rig::new();
    let engine = std::sync::Arc::new(MemoryEngine::new());
    let mut other = Machine::open(engine.clone(), Versions::CURRENT).expect("it opens");
    for index in 1..=entries {
        rig.now_ms = match dice.roll(90) {
            0 => rig.now_ms + dice.roll(700_000),
            1..=3 => rig.now_ms.saturating_sub(dice.roll(5_000)),
            4 => rig.now_ms + 60_000,
            _ => rig.now_ms + dice.roll(500),
        };
        if dice.roll(20) == 0 {
            rig.index += 1;
            rig.machine.note(index, None, &Batch::new()).expect("it notes");
            other.note(index, None, &Batch::new()).expect("it notes");
            continue;
        }
        let commands: Vec<Command> = (0..dice.roll(4)).map(|_| some_command(&mut dice, &known, rig.now_ms)).collect();
        let entry = Entry { version: 1, now_ms: rig.now_ms, commands: commands.clone() }.encode_to_vec();
        let here = rig.apply_unchecked(commands);
        let there = other.apply(index, &entry, &Batch::new()).expect("it applies");
        assert_eq!(here, there, "seed {seed}, entry {index}");
        known.learn(&here);
        if index % 16 == 0 {
            rig.check();
        }
        if dice.roll(25) == 0 {
            other = Machine::open(engine.clone(), Versions::CURRENT).expect("it opens again");
            assert_eq!(other.indices(), rig.machine.indices(), "seed {seed}, entry {index}");
        }
    }
    rig.check();
    assert_eq!(rig.machine.digest(), other.digest());
    rig.machine.digest()
}

#[test]
fn replicas_agree_through_restarts() {
    for seed in 0..24 {
        run(seed, 400);
    }
}

#[test]
fn the_same_run_twice_is_the_same_to_the_byte() {
    assert_eq!(run(4_711, 300), run(4_711, 300));
    assert_ne!(run(4_711, 300), run(4_712, 300), "the digest sees a difference");
}

/// What is not synced may be lost: the log, which is, gives it again.
#[test]
fn a_crash_between_entries_loses_nothing_that_the_log_gives_again() {
    let mut rig = Rig::new();
    let mut log = Vec::new();
    for place in 0..20 {
        let tasks = vec![support::spec(&format!("q{}", place % 3))];
        let commands = vec![command(EnqueueRequest { request_id: String::new(), namespace: "default".into(), tasks })];
        log.push(Entry { version: 1, now_ms: rig.now_ms, commands: commands.clone() }.encode_to_vec());
        rig.apply(commands);
    }
    // Nothing was synced: a power cut may take any suffix of the batches, and the log brings it back.
    for seed in 0..10 {
        let engine = std::sync::Arc::new(rig.engine.crashed_keeping(seed));
        let mut machine = Machine::open(engine, Versions::CURRENT).expect("a prefix of the batches opens");
        for index in machine.applied_index() + 1..=20 {
            machine.apply(index, &log[index as usize - 1], &Batch::new()).expect("the log goes on");
        }
        assert_eq!(machine.digest(), rig.machine.digest());
        assert_eq!(machine.indices(), rig.machine.indices());
    }
}
