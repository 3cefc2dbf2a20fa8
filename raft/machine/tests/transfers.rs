//! Tasks of other clusters under any order of offers, confirmations, extensions, ends, time and restarts, against a small model: at most one
//! task for each transfer, none before it is confirmed, none that runs beyond its time, and no result that goes before it is fetched.

#[allow(dead_code, reason = "shared with the test of the model, which throws in more ways")]
#[path = "model/dice.rs"]
mod dice;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dice::Dice;
use support::{Rig, answer, spec};
use tarn_machine::limits;
use tarn_proto::CommandBody;
use tarn_proto::v1::*;

const IDS: [&str; 4] = ["a", "b", "c", "d"];

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.ok(RaiseVersion { version: 5, ..Default::default() });
    let card = ClusterCard {
        cluster_id: vec![1; limits::CLUSTER_ID_BYTES].into(),
        name: "south".to_owned(),
        public_key: vec![1; limits::PUBLIC_KEY_BYTES].into(),
        ..Default::default()
    };
    let identity = FederationIdentity {
        federation_id: vec![7; 32].into(),
        card: Some(card),
        secret_seed: vec![1; 32].into(),
        ..FederationIdentity::default()
    };
    rig.ok(StartFederation { identity: Some(identity), ..Default::default() });
    rig
}

/// As the leader's node says it.
fn tell<R: CommandBody>(rig: &mut Rig, request: R) -> Result<R::Response, Rejection> {
    let mut command = support::command(request);
    command.principal = "node/1".to_owned();
    answer::<R>(rig.apply(vec![command]).outcomes.remove(0))
}

fn transfer(id: &str, token: u64) -> Transfer {
    Transfer {
        transfer_id: id.to_owned(),
        origin_cluster: vec![2; limits::CLUSTER_ID_BYTES].into(),
        origin_name: "north".to_owned(),
        namespace: "default".to_owned(),
        origin_task_id: "0000000000001".to_owned(),
        origin_token: token,
        spec: Some(TaskSpec { retention_ms: 1, payload: id.to_owned().into(), ..spec("q") }),
    }
}

fn accept(id: &str, token: u64, hold_until_ms: u64) -> AcceptTransfer {
    AcceptTransfer { transfer: Some(Box::new(transfer(id, token))), hold_until_ms }
}

fn confirm(id: &str, run_until_ms: u64) -> ConfirmTransfer {
    ConfirmTransfer { transfer_id: id.to_owned(), run_until_ms }
}

fn close(id: &str) -> CloseTransfer {
    CloseTransfer { transfer_id: id.to_owned() }
}

fn get(rig: &Rig, task_id: &str) -> Option<Task> {
    let request = GetTaskRequest { namespace: "default".to_owned(), task_id: task_id.to_owned(), ..Default::default() };
    rig.machine.get_task(&request).ok().and_then(|answer| answer.task)
}

/// What the model knows of a transfer.
#[derive(Clone, Debug)]
struct Known {
    token: u64,
    hold_until: u64,
    closed: bool,
    task: Option<Work>,
}

/// And of its task.
#[derive(Clone, Debug)]
struct Work {
    id: String,
    run_until: u64,
    /// None while it is live.
    end: Option<(TaskState, Bytes)>,
}

struct Run {
    rig: Rig,
    dice: Dice,
    worker: String,
    known: BTreeMap<&'static str, Known>,
    /// Every task that ever was.
    tasks: BTreeSet<String>,
    leased: Vec<LeasedTask>,
    seen: BTreeMap<String, u64>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rig = rig();
        let worker = rig.ok(RegisterWorkerRequest { ttl_ms: limits::WORKER_TTL_MS.1, ..Default::default() }).worker_id;
        let (known, tasks, seen) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Run { rig, dice: Dice::new(seed), worker, known, tasks, leased: Vec::new(), seen }
    }

    fn say<R: CommandBody>(&mut self, request: R) -> Result<R::Response, String> {
        let said = tell(&mut self.rig, request).map_err(|rejection| rejection.reason);
        *self.seen.entry(said.as_ref().err().cloned().unwrap_or_else(|| "ok".to_owned())).or_default() += 1;
        said
    }

    /// What has not gone by itself.
    fn known(&self, id: &str) -> Option<Known> {
        self.known.get(id).filter(|known| known.task.is_some() || known.hold_until > self.rig.now_ms).cloned()
    }

    fn until(&mut self) -> u64 {
        (self.rig.now_ms + self.dice.pick(&[500, 5_000, 20_000, 60_000])).saturating_sub(self.dice.pick(&[0, 0, 0, 2_000])).max(1)
    }

    fn step(&mut self) {
        let id = self.dice.pick(&IDS);
        match self.dice.weighted(&[20, 20, 8, 7, 15, 12, 3, 3, 3, 12, 4, 3]) {
            0 => self.accept(id),
            1 => self.confirm(id),
            2 => self.extend(id),
            3 => self.close(id),
            4 => self.lease(),
            5 => self.report(),
            6 => self.cancel(id),
            7 => self.requeue(),
            8 => self.heartbeat(),
            9 => self.pass(&[1, 400, 3_000, 10_000]),
            10 => self.rig.restart(),
            // Long enough for the sweep of what is kept no longer.
            _ => self.pass(&[30_000, 5_000_000]),
        }
        self.check();
    }

    fn accept(&mut self, id: &'static str) {
        let (token, hold_until, now) = (self.dice.pick(&[7, 7, 7, 8]), self.until(), self.rig.now_ms);
        let known = self.known(id);
        let said = self.say(accept(id, token, hold_until));
        match known {
            Some(known) if known.token != token => assert_eq!(said.unwrap_err(), "TRANSFER_CONFLICT"),
            Some(known) if known.closed => assert_eq!(said.unwrap_err(), "TRANSFER_CLOSED"),
            Some(_) => assert!(said.unwrap().repeated),
            None if hold_until <= now => assert_eq!(said.unwrap_err(), "OUT_OF_RANGE"),
            None => {
                assert!(!said.unwrap().repeated);
                self.known.insert(id, Known { token, hold_until, closed: false, task: None });
            }
        }
    }

    fn confirm(&mut self, id: &'static str) {
        let (until, now) = (self.until(), self.rig.now_ms);
        let known = self.known(id).filter(|known| !known.closed);
        let said = self.say(confirm(id, until));
        match known {
            None => assert_eq!(said.unwrap_err(), "TRANSFER_NOT_FOUND"),
            Some(Known { task: Some(task), .. }) => assert_eq!(said.unwrap().task_id, task.id),
            Some(_) if until <= now => assert_eq!(said.unwrap_err(), "DEADLINE_PASSED"),
            Some(known) => {
                let task_id = said.unwrap().task_id;
                assert!(self.tasks.insert(task_id.clone()), "it is a new one");
                let task = Some(Work { id: task_id, run_until: until, end: None });
                self.known.insert(id, Known { task, ..known });
            }
        }
    }

    fn extend(&mut self, id: &'static str) {
        let until = self.until();
        let known = self.known(id).filter(|known| !known.closed);
        let said = self.say(ExtendTransfer { transfer_id: id.to_owned(), run_until_ms: until });
        match known.map(|known| known.task) {
            None => assert_eq!(said.unwrap_err(), "TRANSFER_NOT_FOUND"),
            Some(None) => assert_eq!(said.unwrap_err(), "TRANSFER_NOT_CONFIRMED"),
            Some(Some(Work { end: Some(_), .. })) => assert_eq!(said.unwrap_err(), "TRANSFER_ENDED"),
            Some(Some(task)) => {
                let later = task.run_until.max(until);
                assert_eq!(said.unwrap().run_until_ms, later);
                self.of_task(&task.id).unwrap().run_until = later;
            }
        }
    }

    fn close(&mut self, id: &'static str) {
        let known = self.known(id).filter(|known| !known.closed);
        let said = self.say(close(id)).expect("it is never refused");
        let Some(known) = known else { return assert!(said.task_id.is_empty()) };
        if let Some(task) = &known.task {
            assert!(get(&self.rig, &task.id).is_none_or(|task| matches!(task.state(), TaskState::Succeeded | TaskState::Cancelled)));
        }
        self.known.insert(id, Known { closed: true, task: None, ..known });
    }

    fn lease(&mut self) {
        let request = LeaseTasksRequest { worker_id: self.worker.clone(), max_tasks: 2, lease_ms: 30_000, ..Default::default() };
        for task in self.say(request).expect("it may lease").tasks {
            let of = self.of_task(&task.task_id).expect("only what is confirmed and not closed is leased");
            assert!(of.end.is_none() && task.lease_expires_at_ms <= of.run_until, "{of:?}");
            assert_eq!(task.attempt, 1);
            self.leased.push(task);
        }
    }

    fn heartbeat(&mut self) {
        let lease = |task: &LeasedTask| {
            let (namespace, task_id) = ("default".to_owned(), task.task_id.clone());
            TaskLease { namespace, task_id, token: task.token, progress: None }
        };
        let leases: Vec<TaskLease> = self.leased.iter().map(lease).collect();
        let request = HeartbeatTasksRequest { worker_id: self.worker.clone(), leases, lease_ms: 30_000 };
        for report in self.say(request).expect("it is the worker").leases {
            let of = self.of_task(&report.task_id).filter(|of| of.end.is_none()).map(|of| of.run_until);
            if report.status() != LeaseStatus::Lost {
                assert!(report.lease_expires_at_ms <= of.expect("what is held has not ended"));
            }
        }
    }

    fn report(&mut self) {
        if self.leased.is_empty() {
            return;
        }
        let (place, kind) = (self.dice.below(self.leased.len() as u64) as usize, self.dice.below(4));
        let LeasedTask { namespace, task_id, token, .. } = self.leased.swap_remove(place);
        let running = get(&self.rig, &task_id).is_some_and(|task| task.state() == TaskState::Running);
        let result = Bytes::from(format!("{task_id} by {token}"));
        let (said, end) = match kind {
            0..2 => {
                let request =
                    CompleteTaskRequest { namespace, task_id: task_id.clone(), token, result: result.clone(), ..Default::default() };
                (self.say(request).map(drop), (TaskState::Succeeded, result))
            }
            _ => {
                let request = FailTaskRequest { namespace, task_id: task_id.clone(), token, kind: kind as i32 - 1, ..Default::default() };
                (self.say(request).map(drop), (TaskState::Dead, Bytes::new()))
            }
        };
        assert_eq!(said.is_ok(), running);
        if running {
            self.of_task(&task_id).expect("what runs is confirmed and not closed").end = Some(end);
        }
    }

    fn cancel(&mut self, id: &'static str) {
        let Some(task) = self.known(id).and_then(|known| known.task).filter(|task| task.end.is_none()) else { return };
        let request = CancelTaskRequest { namespace: "default".to_owned(), task_id: task.id.clone(), force: true, ..Default::default() };
        self.say(request).expect("it has not ended");
        self.of_task(&task.id).unwrap().end = Some((TaskState::Cancelled, Bytes::new()));
    }

    /// Nobody here decides that it is tried again.
    fn requeue(&mut self) {
        let said = self.say(RequeueDeadRequest { namespace: "default".to_owned(), queue: "q".to_owned(), ..Default::default() });
        assert!(said.is_err() || said.unwrap().requeued == 0);
    }

    fn pass(&mut self, times: &[u64]) {
        // The worker is heard of, so that leases end by their own time.
        let to = self.rig.now_ms + self.dice.pick(times);
        while self.rig.now_ms < to {
            self.rig.pass_to(to.min(self.rig.now_ms + limits::WORKER_TTL_MS.1 - 1));
            self.rig.ok(HeartbeatWorkerRequest { worker_id: self.worker.clone(), resources: None });
        }
        for known in self.known.values_mut() {
            let Some(task) = known.task.as_mut().filter(|task| task.end.is_none()) else { continue };
            // Its time is up, or its only attempt was not renewed.
            if get(&self.rig, &task.id).is_some_and(|task| task.state() == TaskState::Dead) {
                task.end = Some((TaskState::Dead, Bytes::new()));
            }
        }
    }

    fn of_task(&mut self, id: &str) -> Option<&mut Work> {
        let mut tasks = self.known.values_mut().filter(|known| !known.closed).filter_map(|known| known.task.as_mut());
        tasks.find(|task| task.id == id)
    }

    fn check(&mut self) {
        let now = self.rig.now_ms;
        let mut open = BTreeMap::new();
        for id in IDS {
            let status = self.rig.machine.transfer(id).expect("it can be read");
            let Some(known) = self.known(id).filter(|known| !known.closed) else {
                // What is over may lie there until somebody lets time pass.
                assert!(status.is_none_or(|status| status.task_id.is_empty() && status.hold_until_ms <= now));
                continue;
            };
            let status = status.expect("it is there");
            let Some(task) = &known.task else {
                assert!(status.task_id.is_empty() && !status.ended && status.transfer.as_ref().unwrap().spec.is_some());
                open.insert(id, status);
                continue;
            };
            assert_eq!((&status.task_id, status.ended), (&task.id, task.end.is_some()));
            let found = get(&self.rig, &task.id).expect("it is kept until the transfer is closed");
            assert_eq!(found.spec.as_ref().unwrap().payload, id);
            match &task.end {
                Some((state, result)) => assert_eq!((found.state(), &found.result), (*state, result)),
                None => {
                    assert!(matches!(found.state(), TaskState::Ready | TaskState::Running), "{found:?}");
                    assert!(task.run_until > now && status.run_until_ms == task.run_until, "nothing is live beyond its time");
                }
            }
            open.insert(id, status);
        }
        let listed = self.rig.machine.transfers("", 10).expect("they can be listed");
        let listed = listed.into_iter().filter(|status| !status.task_id.is_empty() || status.hold_until_ms > now);
        assert!(listed.eq(open.into_values()), "the list says the same");
        let request = ListTasksRequest { namespace: "default".to_owned(), page_size: 1_000, ..Default::default() };
        let all = self.rig.machine.list_tasks(&request).expect("tasks are listed").tasks;
        assert!(all.iter().all(|task| self.tasks.contains(&task.task_id)), "no task without a confirmation");
    }
}

#[test]
fn whatever_comes_in_whatever_order_there_is_one_task_in_its_time() {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut tasks = 0;
    for seed in 0..150 {
        let mut run = Run::new(seed);
        for step in 0..250 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.step()));
            assert!(result.is_ok(), "seed {seed} fails in step {step}");
        }
        tasks += run.tasks.len();
        for (what, count) in run.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    println!("{tasks} tasks; {seen:?}");
    assert!(tasks > 500, "only {tasks} tasks: that shows little");
    for reason in
        ["TRANSFER_CONFLICT", "TRANSFER_CLOSED", "TRANSFER_NOT_FOUND", "TRANSFER_NOT_CONFIRMED", "TRANSFER_ENDED", "DEADLINE_PASSED"]
    {
        assert!(seen.contains_key(reason), "{reason} never came about: {seen:?}");
    }
}

#[test]
fn what_is_held_is_bounded_and_goes_with_its_time() {
    let mut rig = rig();
    let mut held = 0;
    let reason = loop {
        let mut offer = accept(&format!("t{held}"), 7, 50_000);
        offer.transfer.as_mut().unwrap().spec.as_mut().unwrap().payload = vec![0; limits::PAYLOAD_BYTES_MAX].into();
        let mut command = support::command(offer);
        command.principal = "node/1".to_owned();
        match answer::<AcceptTransfer>(rig.apply_unchecked(vec![command]).outcomes.remove(0)) {
            Ok(_) => held += 1,
            Err(rejection) => break rejection.reason,
        }
    };
    assert_eq!(reason, "TOO_MANY_TRANSFERS");
    assert_eq!(held, (limits::TRANSFERS_HELD_BYTES_MAX / (limits::PAYLOAD_BYTES_MAX as u64 + 1)), "as many as there is room for");
    let page = rig.machine.transfers("", 1_000).unwrap();
    assert!(page.len() < 10, "large ones make a short page");
    rig.restart();
    rig.pass_to(50_000);
    assert!(rig.machine.transfers("", 1_000).unwrap().is_empty());
    tell(&mut rig, accept("again", 7, 60_000)).expect("there is room again");
}

#[test]
fn what_is_too_late_is_too_late_although_more_is_due_than_one_entry_does() {
    let mut rig = rig();
    let ids: Vec<String> = (0..limits::WAKES_PER_ENTRY_MAX + 2).map(|number| format!("t{number:05}")).collect();
    for id in &ids {
        tell(&mut rig, accept(id, 7, 9_000)).unwrap();
    }
    rig.now_ms = 9_000;
    let [.., before, last] = &ids[..] else { panic!() };
    let said = |request: command::Body| Command { principal: "node/1".to_owned(), gate: None, body: Some(request) };
    let applied = rig.apply(vec![
        said(command::Body::ConfirmTransfer(confirm(last, 50_000))),
        said(command::Body::AcceptTransfer(accept(last, 8, 20_000))),
        said(command::Body::ConfirmTransfer(confirm(last, 50_000))),
    ]);
    assert!(rig.machine.transfer(before).unwrap().is_some(), "one is left for the next entry");
    let late = matches!(&applied.outcomes[0].body, Some(outcome::Body::Rejected(rejection)) if rejection.reason == "TRANSFER_NOT_FOUND");
    let anew = matches!(&applied.outcomes[1].body, Some(outcome::Body::AcceptTransfer(TransferAccepted { repeated: false })));
    let confirmed = matches!(&applied.outcomes[2].body, Some(outcome::Body::ConfirmTransfer(_)));
    assert!(late && anew && confirmed, "{:?}", applied.outcomes);
    let dropped = applied.events.iter().filter(|event| event.kind() == EventKind::TransferDropped);
    assert_eq!(dropped.count(), limits::WAKES_PER_ENTRY_MAX + 1);
    rig.pass_to(9_001);
    assert_eq!(rig.machine.transfers("", 10).unwrap().len(), 1);
}

#[test]
fn a_task_of_another_cluster_does_not_leave_again() {
    let mut rig = rig();
    let mut offer = accept("a", 7, 9_000);
    let placed = offer.transfer.as_mut().unwrap().spec.as_mut().unwrap();
    placed.runtime = "auto".to_owned();
    placed.wasm = Some(WasmSpec { artifact: "abc".to_owned(), ..Default::default() });
    placed.placement = Some(Placement { any_cluster: true, ..Default::default() });
    tell(&mut rig, offer).unwrap();
    let task = tell(&mut rig, confirm("a", 50_000)).unwrap().task_id;
    let resources = WorkerResources { node: "n".to_owned(), slots: 1, cluster: "east".to_owned(), ..Default::default() };
    let capabilities = WorkerCapabilities { runtimes: vec!["wasm".to_owned()], resources: Some(resources), ..Default::default() };
    let worker = rig.ok(RegisterWorkerRequest { capabilities: Some(capabilities), ..Default::default() }).worker_id;
    let placement =
        TaskPlacement { namespace: "default".to_owned(), task_id: task, worker_id: worker, runtime: "wasm".to_owned(), scores: None };
    assert_eq!(tell(&mut rig, PlaceTasks { placements: vec![placement] }).unwrap().placed, 0);
}

#[test]
fn a_namespace_that_goes_takes_its_tasks_with_it_and_the_transfer_says_so() {
    let mut rig = rig();
    rig.ok(CreateNamespaceRequest { name: "team".to_owned(), ..Default::default() });
    for id in ["a", "b"] {
        let mut offer = accept(id, 7, 900_000);
        offer.transfer.as_mut().unwrap().namespace = "team".to_owned();
        tell(&mut rig, offer).unwrap();
    }
    tell(&mut rig, confirm("a", 800_000)).unwrap();
    rig.ok(DeleteNamespaceRequest { name: "team".to_owned(), drain: true, cancel: true, ..Default::default() });
    rig.pass_to(20_000);
    assert!(rig.machine.transfer("a").unwrap().unwrap().ended);
    assert_eq!(tell(&mut rig, confirm("b", 800_000)).unwrap_err().reason, "NAMESPACE_NOT_FOUND");
    rig.restart();
    for id in ["a", "b"] {
        tell(&mut rig, close(id)).unwrap();
    }
    assert!(rig.machine.transfers("", 10).unwrap().is_empty());
    rig.ok(LeaveFederationRequest::default());
}
