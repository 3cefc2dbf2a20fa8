//! Classes match as they should; and whoever leases gets what it would get if every namespace were looked at.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tarn_proto::v1::{Isolation, TaskState};

use super::*;
use crate::index::{Facts, QueueIndex};
use crate::limits::AGE_STEP_MS;
use crate::rows::NamespaceRow;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| s.to_string()).collect()
}

#[test]
fn a_class_matches_by_runtime_handler_and_labels() {
    let class = |runtime: &str, handler: &str, requires: &[&str]| Class {
        runtime: runtime.into(),
        handler: handler.into(),
        requires: strings(requires),
    };
    let sdk = WorkerCapabilities { handlers: strings(&["resize"]), labels: strings(&["gpu"]), ..Default::default() };
    assert!(matches_class(&sdk, &class("", "resize", &["gpu"])));
    assert!(!matches_class(&sdk, &class("", "resize", &["gpu", "zone=a"])));
    assert!(!matches_class(&sdk, &class("", "other", &[])));
    assert!(!matches_class(&sdk, &class("", "", &[])), "it announced handlers, and this task names none of them");
    assert!(!matches_class(&sdk, &class("wasm", "resize", &[])));
    let wasm = WorkerCapabilities { runtimes: strings(&["wasm"]), ..Default::default() };
    assert!(matches_class(&wasm, &class("wasm", "", &[])));
    assert!(!matches_class(&wasm, &class("", "", &[])));
    assert!(matches_class(&WorkerCapabilities::default(), &class("", "anything", &[])));
}

/// Namespaces at first: their bits fill more than one word, and few of them ever have tasks.
const SPACES: u64 = 140;
const BUSY: [u64; 8] = [10, 20, 30, 640, 650, 660, 1_280, 1_400];
const QUEUES: [&str; 2] = ["q0", "q1"];

#[derive(Clone, Debug)]
enum Step {
    Enqueue { space: usize, queue: u64, class: usize, priority: u32, age_ms: u64 },
    Lease { worker: Box<WorkerCapabilities>, max: usize, dies: Vec<bool> },
    End { pick: usize },
    Update { space: usize, weight: u32, isolation: Isolation, max_running: u64 },
    Pass { space: usize, pass: u64 },
    Wait { ms: u64 },
    Come { ns: u64 },
    Go { ns: u64 },
}

fn some(names: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    prop_oneof![2 => Just(Vec::new()), 1 => prop::sample::subsequence(names, 1..=names.len()).prop_map(|list| strings(&list))]
}

fn worker() -> impl Strategy<Value = WorkerCapabilities> {
    let wide = || Just(Vec::new());
    let namespaces = prop_oneof![6 => wide(), 1 => some(&["n10", "n30", "n650", "nowhere"]), 1 => Just(strings(&["n20"]))];
    let queues = prop_oneof![3 => wide(), 1 => some(&["q1", "other"]), 1 => some(&["q0", "q1"])];
    (some(&["", "wasm"]), some(&["h0", "h1", "h2"]), some(&["gpu"]), namespaces, queues).prop_map(
        |(runtimes, handlers, labels, namespaces, queues)| WorkerCapabilities {
            runtimes,
            handlers,
            labels,
            namespaces,
            queues,
            ..Default::default()
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let space = 0..BUSY.len();
    let isolation = prop_oneof![
        3 => Just(Isolation::Unspecified), 1 => Just(Isolation::Shared), 2 => Just(Isolation::None), 1 => Just(Isolation::Strict)
    ];
    prop_oneof![
        12 => (space.clone(), 0..2u64, 0..5usize, 1..=5u32, 0..3 * AGE_STEP_MS)
            .prop_map(|(space, queue, class, priority, age_ms)| Step::Enqueue { space, queue, class, priority, age_ms }),
        8 => (worker(), 1..12usize, prop::collection::vec(prop::bool::weighted(0.1), 12))
            .prop_map(|(worker, max, dies)| Step::Lease { worker: worker.into(), max, dies }),
        4 => any::<usize>().prop_map(|pick| Step::End { pick }),
        3 => (space.clone(), prop_oneof![Just(0), Just(1), Just(100), Just(1_000)], isolation, 0..4u64)
            .prop_map(|(space, weight, isolation, max_running)| Step::Update { space, weight, isolation, max_running }),
        2 => (space, prop_oneof![0..60_000u64, Just(u64::MAX), Just(u64::MAX - 5_000)])
            .prop_map(|(space, pass)| Step::Pass { space, pass }),
        1 => (0..2 * AGE_STEP_MS).prop_map(|ms| Step::Wait { ms }),
        1 => (1..1_500u64).prop_map(|ns| Step::Come { ns }),
        1 => (1..=SPACES).prop_map(|place| Step::Go { ns: place * 10 }),
    ]
}

/// What the indices are a function of, and what they have become step by step.
struct World {
    live: Indices,
    spaces: BTreeMap<u64, (NamespaceRow, u64)>,
    tasks: BTreeMap<u64, (u64, Facts, Class)>,
    now: u64,
    last: u64,
}

fn enter(indices: &mut Indices, ns: u64, row: &NamespaceRow, pass: u64) {
    indices.insert_namespace(ns, NamespaceIndex::new(format!("n{ns}").into(), row.clone(), pass));
    for (number, name) in (0..).zip(QUEUES) {
        indices.insert_queue(ns, number, QueueIndex::new(name.into(), 0)).unwrap();
    }
}

fn class(number: usize) -> Class {
    let classes = [("", "h0", false), ("", "h1", false), ("", "h2", false), ("", "h0", true), ("wasm", "h1", false)];
    let (runtime, handler, gpu) = classes[number];
    Class { runtime: runtime.into(), handler: handler.into(), requires: if gpu { strings(&["gpu"]) } else { Vec::new() } }
}

impl World {
    fn begin() -> Self {
        let mut world = World { live: Indices::default(), spaces: BTreeMap::new(), tasks: BTreeMap::new(), now: 10 * AGE_STEP_MS, last: 0 };
        (1..=SPACES).for_each(|place| world.come(place * 10));
        world
    }

    fn come(&mut self, ns: u64) {
        if !self.spaces.contains_key(&ns) {
            let row = NamespaceRow { id: ns, weight: 100, ..Default::default() };
            enter(&mut self.live, ns, &row, 0);
            self.spaces.insert(ns, (row, 0));
        }
    }

    /// The indices as a start would fill them.
    fn rebuilt(&self) -> Indices {
        let mut indices = Indices::default();
        self.spaces.iter().rev().for_each(|(ns, (row, pass))| enter(&mut indices, *ns, row, *pass));
        for (id, (ns, facts, class)) in self.tasks.iter().rev() {
            indices.insert_task(*ns, *id, facts, class).unwrap();
        }
        indices
    }

    fn enqueue(&mut self, slow: Option<&mut Indices>, ns: u64, class: Class, queue: u64, priority: u32, age_ms: u64) {
        self.last += 1;
        let facts = Facts { queue, state: TaskState::Ready, priority, eligible_at_ms: self.now - age_ms, ..NOTHING };
        for indices in [Some(&mut self.live), slow].into_iter().flatten() {
            indices.insert_task(ns, self.last, &facts, &class).unwrap();
        }
        self.tasks.insert(self.last, (ns, facts, class));
    }

    fn set_pass(&mut self, slow: &mut Indices, ns: u64, pass: u64) {
        for indices in [&mut self.live, slow] {
            indices.move_namespace(ns, |namespace| namespace.pass = pass).unwrap();
        }
        self.spaces.get_mut(&ns).unwrap().1 = pass;
    }

    /// The task runs from here on, or is dead.
    fn change(&mut self, slow: &mut Indices, id: u64, state: TaskState) {
        let (ns, facts, class) = self.tasks.get_mut(&id).unwrap();
        for indices in [&mut self.live, slow] {
            indices.remove_task(*ns, id, facts, class).unwrap();
            indices.insert_task(*ns, id, &Facts { state, worker: 7, ..*facts }, class).unwrap();
        }
        (facts.state, facts.worker) = (state, 7);
    }

    fn lease(&mut self, worker: &WorkerCapabilities, max: usize, dies: &[bool]) {
        let mut slow = self.rebuilt();
        let (mut expected, expected_lowered) = Pick::looking_at(&slow, self.spaces.keys().copied().collect(), worker, self.now);
        assert_eq!(self.live.has_ready_for(worker), expected.peek().is_some());
        let (mut pick, lowered) = Pick::new(&self.live, worker, self.now);
        assert_eq!(lowered, expected_lowered);
        for (ns, pass) in lowered {
            self.set_pass(&mut slow, ns, pass);
        }
        for (number, dies) in dies.iter().enumerate().take(max + 1) {
            let told = (pick.peek(), pick.pass(), pick.namespaces());
            assert_eq!(told, (expected.peek(), expected.pass(), expected.namespaces()));
            let Some((ns, id)) = pick.peek().filter(|_| number < max) else { break };
            if *dies {
                self.change(&mut slow, id, TaskState::Dead);
                // What waited for it is ready while the command goes on: not for this command, unless it stands behind others that are.
                self.enqueue(Some(&mut slow), ns, class(number % 5), number as u64 % 2, 3, 0);
            } else {
                self.change(&mut slow, id, TaskState::Running);
                let pass = pick.pass().saturating_add(self.live.namespaces[&ns].stride());
                self.set_pass(&mut slow, ns, pass);
            }
            pick.advance(&self.live);
            expected.advance(&slow);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Enqueue { space, queue, class: number, priority, age_ms } if self.spaces.contains_key(&BUSY[space]) => {
                self.enqueue(None, BUSY[space], class(number), queue, priority, age_ms);
            }
            Step::Lease { worker, max, dies } => self.lease(&worker, max, &dies),
            Step::End { pick } => {
                let ended = self.tasks.iter().filter(|(_, (_, facts, _))| facts.state != TaskState::Ready);
                let ended: Vec<u64> = ended.map(|(id, _)| *id).collect();
                if let Some(id) = ended.get(pick % ended.len().max(1)) {
                    let (ns, facts, class) = self.tasks.remove(id).unwrap();
                    self.live.remove_task(ns, *id, &facts, &class).unwrap();
                }
            }
            Step::Update { space, weight, isolation, max_running } => {
                if let Some((row, _)) = self.spaces.get_mut(&BUSY[space]) {
                    (row.weight, row.isolation, row.max_running) = (weight, isolation.into(), max_running);
                    self.live.move_namespace(BUSY[space], |namespace| namespace.row = row.clone()).unwrap();
                }
            }
            Step::Pass { space, pass } if self.spaces.contains_key(&BUSY[space]) => {
                let mut slow = self.rebuilt();
                self.set_pass(&mut slow, BUSY[space], pass);
            }
            Step::Wait { ms } => self.now += ms,
            Step::Come { ns } => self.come(ns),
            Step::Go { ns } if self.tasks.values().all(|(of, _, _)| *of != ns) => {
                self.live.remove_namespace(ns);
                self.spaces.remove(&ns);
            }
            _ => {}
        }
        assert_eq!(self.live, self.rebuilt());
    }
}

const NOTHING: Facts =
    Facts { queue: 0, state: TaskState::Ready, priority: 3, eligible_at_ms: 0, deadline_at_ms: 0, attempt_due_ms: 0, worker: 0, placed: 0 };

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_leases_gets_what_looking_at_every_namespace_would_give(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::begin();
        for step in steps {
            world.step(step);
        }
    }
}
