//! That a batch does what its commands would do one by one, with any commands in any order.

use std::collections::BTreeMap;

use tarn_machine::{Refusal, limits};
use tarn_proto::v1::command::Body as B;
use tarn_proto::v1::outcome::Body as O;
use tarn_proto::v1::*;

use crate::dice::Dice;
use crate::support::{Rig, spec};
use crate::{batch, ns, rig, rows};

/// One of two machines that are told the same. Numbers differ between them, as they come from the log: the test calls them by the order in
/// which they came.
struct Side {
    rig: Rig,
    worker: String,
    tasks: Vec<String>,
    /// Tokens and versions.
    numbers: Vec<u64>,
    /// Attempts, as task and token.
    attempts: Vec<(String, u64)>,
    /// What came out so far.
    said: Vec<String>,
}

/// A command before it is known which numbers it names.
#[derive(Clone, Copy, Debug)]
struct Plan {
    kind: usize,
    dice: [u64; 4],
}

impl Side {
    fn new() -> Self {
        let mut rig = rig();
        let quotas = Some(Quotas { max_queued: Some(25), ..Default::default() });
        rig.ok(UpdateNamespaceRequest { name: ns(), quotas, ..Default::default() });
        let worker = rig.ok(RegisterWorkerRequest { ttl_ms: limits::WORKER_TTL_MS.1, ..Default::default() }).worker_id;
        Side { rig, worker, tasks: vec!["0000000000zzz".to_owned()], numbers: vec![0], attempts: Vec::new(), said: Vec::new() }
    }

    fn body(&self, Plan { kind, dice: [a, b, c, d] }: Plan) -> B {
        let pick = |list: &[&str], number: u64| list[number as usize % list.len()].to_owned();
        let namespace = if a % 40 == 0 { "nowhere".to_owned() } else { ns() };
        // Mostly one of the last, as those before have ended.
        let task_id = self.tasks[self.tasks.len().saturating_sub(1 + b as usize % 20)].clone();
        let (of, token) = self.attempts.iter().rev().nth(b as usize % 6).cloned().unwrap_or_else(|| (task_id.clone(), 7));
        let (name, holder, key) = (pick(&["a", "b", "No"], c), "h".to_owned(), pick(&["k", "l", "m"], c));
        let number = self.numbers[self.numbers.len().saturating_sub(1 + d as usize % 8)];
        let expected_version = [None, None, Some(0), Some(number)][b as usize % 4];
        let context = "memory".to_owned();
        match kind {
            0 => {
                // So short that no jitter fits in, which comes from the id.
                let retry = Some(RetryPolicy { max_attempts: 2, initial_backoff_ms: 1, ..RetryPolicy::default() });
                let after = if d % 3 == 0 { vec![task_id] } else { Vec::new() };
                let first = TaskSpec { after, retry, ..spec(&pick(&["q", "r", "s"], c)) };
                let waits = TaskSpec { after_in_batch: vec![0], retry, ..spec("q") };
                let tasks = if b % 2 == 0 { vec![first] } else { vec![first, waits] };
                B::Enqueue(EnqueueRequest { namespace, tasks, ..Default::default() })
            }
            1 => B::CancelTask(CancelTaskRequest { namespace, task_id, force: c % 2 == 0, ..Default::default() }),
            2 => {
                let result = pick(&["one", "two"], c).into();
                B::CompleteTask(CompleteTaskRequest { namespace, task_id: of, token, result, ..Default::default() })
            }
            3 => B::FailTask(FailTaskRequest { namespace, task_id: of, token, kind: 1 + (c % 4) as i32, ..Default::default() }),
            4 => B::AcquireLease(AcquireLeaseRequest { namespace, name, holder, ttl_ms: 3_000, ..Default::default() }),
            5 => B::RenewLease(RenewLeaseRequest { namespace, name, token: number.max(1), ttl_ms: 3_000, ..Default::default() }),
            6 => B::ReleaseLease(ReleaseLeaseRequest { namespace, name, token: number.max(1), ..Default::default() }),
            7 => B::PutKey(PutKeyRequest { namespace, context, key, value: holder.into(), expected_version, ..Default::default() }),
            _ => B::DeleteKey(DeleteKeyRequest { namespace, context, key, expected_version, ..Default::default() }),
        }
    }

    fn number(&mut self, number: u64) -> usize {
        self.numbers.iter().position(|known| *known == number).unwrap_or_else(|| {
            self.numbers.push(number);
            self.numbers.len() - 1
        })
    }

    fn hear(&mut self, outcome: Outcome) {
        let plain = match outcome.body.expect("an outcome has a body") {
            O::Enqueue(answer) => {
                self.tasks.extend_from_slice(&answer.task_ids);
                format!("ok: {} tasks", answer.task_ids.len())
            }
            O::AcquireLease(AcquireLeaseResponse { lease }) | O::RenewLease(RenewLeaseResponse { lease }) => {
                let lease = lease.expect("there is one");
                format!("ok: {} by {} until {}", self.number(lease.token), lease.holder, lease.expires_at_ms)
            }
            O::PutKey(answer) => format!("ok: {}", self.number(answer.version)),
            O::Rejected(no) => {
                assert!(!no.message.is_empty());
                format!("{}: {} {} {} {}", no.reason, no.code, no.field, no.limit, self.number(no.actual_version))
            }
            other => format!("ok: {other:?}"),
        };
        self.said.push(plain);
    }

    fn happened(&mut self, events: Vec<Event>) {
        self.said.extend(events.iter().map(|event| format!("* {:?} {} {}", event.kind(), event.queue, event.detail)));
    }

    fn lease(&mut self) {
        let request = LeaseTasksRequest { worker_id: self.worker.clone(), max_tasks: 4, lease_ms: 2_000, ..Default::default() };
        for task in self.rig.ok(request).tasks {
            self.said.push(format!("leased: {:?}", self.tasks.iter().position(|id| *id == task.task_id)));
            self.attempts.push((task.task_id, task.token));
        }
    }

    /// What everybody can read.
    fn view(&mut self) -> Vec<String> {
        let mut view = Vec::new();
        for task_id in self.tasks.clone() {
            let request = GetTaskRequest { namespace: ns(), task_id, ..Default::default() };
            let task = self.rig.machine.get_task(&request).map(|answer| answer.task.expect("it is there"));
            view.push(task.map_or_else(|no| said(&no), |task| format!("{:?} {} {:?}", task.state(), task.attempts_begun, task.result)));
        }
        for key in ["k", "l", "m"] {
            let request = GetKeyRequest { namespace: ns(), context: "memory".to_owned(), key: key.to_owned(), ..Default::default() };
            let found = self.rig.machine.get_key(&request);
            view.push(found.map_or_else(|no| said(&no), |found| format!("{}", self.number(found.version))));
        }
        for name in ["a", "b"] {
            let found = self.rig.machine.get_lease(&GetLeaseRequest { namespace: ns(), name: name.to_owned() });
            view.push(found.map_or_else(|no| said(&no), |found| format!("{}", self.number(found.lease.expect("it is there").token))));
        }
        view
    }
}

fn said(refusal: &Refusal) -> String {
    refusal.to_string().split(':').next().unwrap_or_default().to_owned()
}

#[test]
fn a_batch_does_what_its_commands_do_one_by_one() {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..60 {
        let (mut dice, mut together, mut single) = (Dice::new(seed), Side::new(), Side::new());
        for step in 0..40 {
            let kinds = &[5, 2, 5, 3, 3, 2, 2, 4, 2];
            let plan = |_| Plan { kind: dice.weighted(kinds), dice: [(); 4].map(|()| dice.next() >> 8) };
            let plans: Vec<Plan> = (0..1 + step % 9).map(plan).collect();
            let request_id = dice.pick(&["", "r"]).repeat(step + 1);
            let bodies: Vec<B> = plans.iter().map(|plan| together.body(*plan)).collect();
            // One machine is told all at once, and half of the time again; the other in as many entries as there are commands.
            let names: Vec<&str> = bodies.iter().map(B::name).collect();
            let (outcomes, events) = together.rig.tell(batch(&request_id, bodies.clone()));
            outcomes.expect("it is well formed").outcomes.into_iter().for_each(|outcome| together.hear(outcome));
            let singles: Vec<B> = plans.iter().map(|plan| single.body(*plan)).collect();
            let mut happened = Vec::new();
            for body in singles {
                let mut applied = single.rig.apply(vec![Command { principal: "tester".into(), body: Some(body), ..Command::default() }]);
                single.hear(applied.outcomes.remove(0));
                happened.extend(applied.events);
            }
            for (name, said) in names.iter().zip(&together.said[together.said.len() - names.len()..]) {
                *seen.entry(format!("{name} {}", said.split(':').next().unwrap_or_default())).or_default() += 1;
            }
            together.happened(events);
            single.happened(happened);
            if !request_id.is_empty() && dice.chance(50) {
                let before = rows(&together.rig);
                together.rig.ok(batch(&request_id, bodies));
                assert_eq!(rows(&together.rig), before, "a repeat changes nothing");
            }
            let (to, restart) = (together.rig.now_ms + dice.pick(&[0, 0, 300, 2_500]), dice.chance(5));
            for side in [&mut together, &mut single] {
                let events = side.rig.pass_to(to);
                side.happened(events);
                side.lease();
                if restart {
                    side.rig.restart();
                }
            }
            assert_eq!(together.said, single.said, "seed {seed}, step {step}: {plans:?}");
            together.said.clear();
            single.said.clear();
            assert_eq!(together.view(), single.view(), "seed {seed}, step {step}");
        }
    }
    println!("{seen:?}");
    let kinds = ["Enqueue", "CancelTask", "CompleteTask", "FailTask", "AcquireLease", "RenewLease", "ReleaseLease", "PutKey", "DeleteKey"];
    let wanted = kinds.map(|kind| format!("{kind} ok")).into_iter().chain(kinds.map(|kind| format!("{kind} NAMESPACE_NOT_FOUND")));
    let no = ["Enqueue DEPENDENCY_NOT_FOUND", "Enqueue QUOTA_QUEUED", "CancelTask TASK_NOT_FOUND", "CancelTask TASK_ENDED"];
    let stale = ["CompleteTask STALE_TOKEN", "FailTask STALE_TOKEN", "AcquireLease LEASE_HELD", "AcquireLease INVALID_NAME"];
    let others = [no, stale].concat().into_iter().chain(["RenewLease STALE_TOKEN", "PutKey VERSION_CONFLICT"]).map(str::to_owned);
    wanted.chain(others).for_each(|what| assert!(seen.contains_key(&what), "{what} never came about"));
}
