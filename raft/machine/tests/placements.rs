//! Tasks of the runtime `auto` under any order of placements, leases, failures, lost workers and restarts: none is leased unplaced, each
//! runs where it was placed and may run, and none is lost. Workers that stand for other clusters get what was placed at them, and only tasks
//! that may leave.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use support::Rig;
use tarn_machine::AUTO;
use tarn_proto::v1::*;

/// A small source of numbers, so that a failure is found again from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

const RUNTIMES: [&str; 3] = ["wasm", "native", "microvm"];
const NODES: [&str; 3] = ["1", "2", "3"];

/// A run: what was submitted, who works, what is leased.
struct Run {
    rig: Rig,
    dice: Dice,
    tasks: Vec<String>,
    /// By id, as (runtime, node, isolation).
    workers: BTreeMap<String, (&'static str, &'static str, i32)>,
    /// Those of them that stand for another cluster.
    elsewhere: BTreeSet<String>,
    leased: Vec<LeasedTask>,
    succeeded: BTreeSet<String>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rig = Rig::new();
        rig.ok(RaiseVersion { version: tarn_machine::FEDERATION, ..Default::default() });
        let (workers, succeeded, elsewhere) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Run { rig, dice: Dice(seed), tasks: Vec::new(), workers, elsewhere, leased: Vec::new(), succeeded }
    }

    fn step(&mut self) {
        match self.dice.roll(16) {
            0..=1 => self.submit(),
            2 => self.register(),
            3..=7 => self.place(),
            8..=11 => self.lease(),
            12..=14 => self.report(),
            _ => self.disturb(),
        }
    }

    fn submit(&mut self) {
        let part = |_| WasmSpec { artifact: "abc".into(), ..Default::default() };
        let chain = match self.dice.roll(3) {
            0 => vec![],
            1 => vec!["native".to_owned(), "wasm".to_owned()],
            _ => vec!["wasm".to_owned()],
        };
        let spec = TaskSpec {
            queue: format!("q{}", self.dice.roll(2)),
            runtime: AUTO.into(),
            wasm: Some(part(())),
            native: Some(NativeSpec { artifact: "def".into(), ..Default::default() }),
            requires: if self.dice.roll(4) == 0 { vec![format!("node={}", NODES[self.dice.roll(3)])] } else { vec![] },
            placement: Some(Placement {
                runtimes: chain,
                isolation: self.dice.roll(4) as i32,
                any_cluster: self.dice.roll(2) == 0,
                ..Default::default()
            }),
            retry: Some(RetryPolicy { max_attempts: 1 + self.dice.roll(3) as u32, ..Default::default() }),
            ..Default::default()
        };
        let request = EnqueueRequest { namespace: "default".into(), tasks: vec![spec], ..Default::default() };
        self.tasks.extend(self.rig.ok(request).task_ids);
    }

    fn register(&mut self) {
        let (runtime, node) = (RUNTIMES[self.dice.roll(3)], NODES[self.dice.roll(3)]);
        let isolation = self.dice.roll(4) as i32;
        let cluster = if self.dice.roll(3) == 0 { "south" } else { "" };
        let resources = WorkerResources { node: node.into(), slots: 2, isolation, cluster: cluster.into(), ..Default::default() };
        let resources = (self.dice.roll(8) > 0).then_some(resources);
        let is_elsewhere = resources.is_some() && !cluster.is_empty();
        let capabilities = WorkerCapabilities { runtimes: vec![runtime.into()], resources, ..Default::default() };
        let request = RegisterWorkerRequest {
            name: "w".into(),
            capabilities: Some(capabilities),
            ttl_ms: 30_000 + 1_000 * self.dice.roll(60) as u64,
            ..Default::default()
        };
        let id = self.rig.ok(request).worker_id;
        if is_elsewhere {
            self.elsewhere.insert(id.clone());
        }
        self.workers.insert(id, (runtime, node, isolation));
    }

    /// The router, as wrong as it can be: any task at any worker on any runtime.
    fn place(&mut self) {
        let workers: Vec<String> = self.workers.keys().cloned().collect();
        if self.tasks.is_empty() || workers.is_empty() {
            return;
        }
        let placements = (0..1 + self.dice.roll(6))
            .map(|_| {
                let worker = &workers[self.dice.roll(workers.len())];
                let any = RUNTIMES[self.dice.roll(3)];
                TaskPlacement {
                    namespace: "default".into(),
                    task_id: self.tasks[self.dice.roll(self.tasks.len())].clone(),
                    worker_id: if self.dice.roll(6) == 0 { String::new() } else { worker.clone() },
                    runtime: if self.dice.roll(4) == 0 { any } else { self.workers[worker].0 }.into(),
                    scores: None,
                }
            })
            .collect();
        let mut command = support::command(PlaceTasks { placements });
        command.principal = "node/1".into();
        let outcome = self.rig.apply(vec![command]).outcomes.remove(0);
        assert!(matches!(outcome.body, Some(outcome::Body::PlaceTasks(_))), "{outcome:?}");
    }

    fn lease(&mut self) {
        let Some(worker) = self.workers.keys().nth(self.dice.roll(self.workers.len().max(1))).cloned() else { return };
        let request = LeaseTasksRequest { worker_id: worker.clone(), max_tasks: 3, ..Default::default() };
        let ready = self.rig.machine.has_ready_task_for(&worker);
        let Ok(answer) = self.rig.tell(request).0 else { return };
        assert_eq!(ready, !answer.tasks.is_empty(), "a lease was worth its while");
        for task in answer.tasks {
            self.leased_rightly(&task, &worker);
            self.leased.push(task);
        }
    }

    /// It was placed at a worker of this runtime and node, which may run it; and it has the part for this runtime alone.
    fn leased_rightly(&self, task: &LeasedTask, worker: &str) {
        let (runtime, node, isolation) = self.workers[worker];
        let submitted = self.get(&task.task_id);
        let (spec, whole) = (task.spec.clone().unwrap(), submitted.spec.unwrap());
        assert_eq!(spec.runtime, runtime);
        assert_eq!((spec.wasm.is_some(), spec.native.is_some()), (runtime != "native", runtime == "native"));
        let placement = whole.placement.unwrap();
        assert!(placement.runtimes.is_empty() || placement.runtimes.contains(&spec.runtime), "{placement:?}");
        assert!(whole.requires.iter().all(|label| *label == format!("node={node}")), "{:?}", whole.requires);
        let placed = &submitted.placed_worker;
        assert!(placement.any_cluster || !self.elsewhere.contains(placed), "only what may leave leaves");
        assert!(placed == worker || !self.elsewhere.contains(worker), "it was placed at this very worker");
        assert_eq!((self.workers[placed].0, self.workers[placed].1), (runtime, node), "it was placed here");
        assert!(self.workers[placed].2.max(1) >= placement.isolation.max(1), "{isolation}");
    }

    fn get(&self, id: &str) -> Task {
        let request = GetTaskRequest { namespace: "default".into(), task_id: id.into(), ..Default::default() };
        self.rig.machine.get_task(&request).unwrap().task.unwrap()
    }

    fn report(&mut self) {
        if self.leased.is_empty() {
            return;
        }
        let task = self.leased.swap_remove(self.dice.roll(self.leased.len()));
        let (namespace, task_id, token) = ("default".to_owned(), task.task_id.clone(), task.token);
        if self.dice.roll(2) == 0 {
            let request = CompleteTaskRequest { namespace, task_id, token, ..Default::default() };
            if self.rig.tell(request).0.is_ok() {
                assert!(self.succeeded.insert(task.task_id), "it succeeds once");
            }
            return;
        }
        let kind = 1 + self.dice.roll(4) as i32;
        let request = FailTaskRequest { namespace, task_id, token, kind, ..Default::default() };
        if self.rig.tell(request).0.is_ok() {
            let task = self.get(&task.task_id);
            let again = matches!(task.state(), TaskState::Ready | TaskState::Delayed);
            assert!(!again || task.placed_worker.is_empty(), "it is open again");
        }
    }

    /// So many attempts at once; 0: any.
    fn allow(&mut self, max_running: u64) {
        let quotas = Some(Quotas { max_running: Some(max_running), ..Default::default() });
        self.rig.ok(UpdateNamespaceRequest { name: "default".into(), quotas, ..Default::default() });
    }

    fn disturb(&mut self) {
        match self.dice.roll(7) {
            0 => self.rig.restart(),
            5 => {
                let max = [0, 0, 2][self.dice.roll(3)];
                self.allow(max);
            }
            1 => drop(self.rig.pass_to(self.rig.now_ms + 40_000)),
            2 => {
                let queue = format!("q{}", self.dice.roll(2));
                let _ = self.rig.tell(RequeueDeadRequest { namespace: "default".into(), queue, ..Default::default() });
            }
            3 if !self.tasks.is_empty() => {
                let task_id = self.tasks[self.dice.roll(self.tasks.len())].clone();
                let request = CancelTaskRequest { namespace: "default".into(), task_id, ..Default::default() };
                let _ = self.rig.tell(request);
            }
            4 => {
                if let Some(worker_id) = self.workers.keys().nth(self.dice.roll(self.workers.len().max(1))).cloned() {
                    let _ = self.rig.tell(DrainWorkerRequest { worker_id, ..Default::default() });
                }
            }
            _ => drop(self.rig.pass_to(self.rig.now_ms + 1_000)),
        }
    }

    /// Every task is somewhere; what waits for the router is what the router is told of.
    fn check(&self) {
        let open: BTreeSet<String> = self.rig.machine.open_tasks(10_000).unwrap().into_iter().map(|task| task.id).collect();
        let (mut waiting, mut placed) = (BTreeSet::new(), BTreeSet::new());
        for id in &self.tasks {
            let task = self.get(id);
            if task.state() == TaskState::Ready {
                match task.placed_worker.is_empty() {
                    true => waiting.insert(id.clone()),
                    false => placed.insert(id.clone()),
                };
            }
            assert_eq!(task.state() == TaskState::Succeeded, self.succeeded.contains(id));
        }
        assert_eq!(open, waiting);
        let loads = self.rig.machine.worker_loads();
        let told = loads.into_iter().flat_map(|load| load.placed).chain(self.rig.machine.stranded_tasks());
        assert_eq!(told.map(|(_, id)| id).collect::<BTreeSet<_>>(), placed);
        assert_eq!(self.rig.machine.has_routed_tasks(), !(waiting.is_empty() && placed.is_empty()));
    }
}

#[test]
fn whatever_the_router_proposes_nothing_runs_where_it_may_not_and_nothing_is_lost() {
    let mut succeeded = 0;
    for seed in 0..80 {
        let mut run = Run::new(seed);
        for _ in 0..300 {
            run.step();
        }
        eprintln!("seed {seed}: {} tasks, {} succeeded", run.tasks.len(), run.succeeded.len());
        run.allow(0);
        run.check();
        succeeded += run.succeeded.len();
    }
    assert!(succeeded > 200, "only {succeeded} tasks came through: that shows little");
}
