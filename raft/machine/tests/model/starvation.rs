//! How long a ready task can wait at most, computed and tried.
//!
//! Three namespaces are flooded with critical tasks, more than the one worker can take. Into the one with the least weight somebody puts a
//! background task. It waits no longer than this:
//!
//! * four steps of ageing, until it counts as critical itself; from then on only those are before it that were ready earlier: as many as
//!   its namespace had ready when it came;
//! * for each lease that its namespace gets, another namespace gets at most as many as its weight is greater, and one more.

use std::sync::Arc;

use prost::Message;
use tarn_machine::{Machine, STATE, Versions, limits};
use tarn_proto::v1::*;
use tarn_storage::{Batch, MemoryEngine};

use crate::dice::Dice;

const SECOND: u64 = 1_000;
/// How long the queues fill up before the background task comes, in seconds.
const WARM_UP: u64 = 20;

struct Flood {
    machine: Machine,
    index: u64,
    now_ms: u64,
}

impl Flood {
    fn apply(&mut self, bodies: Vec<command::Body>) -> Vec<outcome::Body> {
        self.index += 1;
        let commands = bodies.into_iter().map(|body| Command { principal: String::new(), gate: None, body: Some(body) }).collect();
        let entry = Entry { version: 1, now_ms: self.now_ms, commands }.encode_to_vec();
        let applied = self.machine.apply(self.index, &entry, &Batch::new()).expect("the entry applies");
        applied.outcomes.into_iter().filter_map(|outcome| outcome.body).collect()
    }

    fn ready_in(&self, namespace: &str) -> u64 {
        let request = GetQueueRequest { namespace: namespace.to_owned(), queue: "q".to_owned() };
        self.machine.get_queue(&request).expect("the queue is there").stats.map_or(0, |stats| stats.ready)
    }
}

fn enqueue(namespace: &str, priority: Priority, count: u64) -> command::Body {
    let spec = TaskSpec { queue: "q".to_owned(), priority: priority.into(), ..TaskSpec::default() };
    let tasks = vec![spec; count as usize];
    command::Body::Enqueue(EnqueueRequest { request_id: String::new(), namespace: namespace.to_owned(), tasks })
}

#[test]
fn a_background_task_under_a_flood_waits_no_longer_than_computed() {
    for seed in 0..4 {
        let mut dice = Dice::new(seed);
        let weights = [("default", limits::WEIGHT_DEFAULT), ("red", 100 * dice.between(1, 4) as u32), ("blue", 50)];
        let arriving = dice.between(4, 8);
        let leased_each_second = dice.between(3, 2 * arriving) as u32;
        let engine = Arc::new(MemoryEngine::with_keyspaces(&[STATE]));
        let machine = Machine::open(engine, Versions::CURRENT).expect("an empty engine opens");
        let mut flood = Flood { machine, index: 0, now_ms: 1_000_000 };
        let create = |(name, weight): &(&str, u32)| {
            let request = CreateNamespaceRequest { name: (*name).to_owned(), weight: *weight, ..Default::default() };
            command::Body::CreateNamespace(request)
        };
        flood.apply(weights[1..].iter().map(create).collect());
        let worker = RegisterWorkerRequest { ttl_ms: limits::WORKER_TTL_MS.1, ..Default::default() };
        let answers = flood.apply(vec![command::Body::RegisterWorker(worker)]);
        let [outcome::Body::RegisterWorker(worker)] = &answers[..] else { panic!("{answers:?}") };

        let (mut background, mut bound) = (None, u64::MAX);
        for second in 0.. {
            flood.now_ms += SECOND;
            if second == WARM_UP {
                let ahead = flood.ready_in("blue");
                let answers = flood.apply(vec![enqueue("blue", Priority::Background, 1)]);
                let [outcome::Body::Enqueue(answer)] = &answers[..] else { panic!("{answers:?}") };
                background = answer.task_ids.first().cloned();
                let others = weights[..2].iter().map(|(_, weight)| u64::from(weight.div_ceil(50)) + 1);
                let leases = (ahead + 1) * (1 + others.sum::<u64>());
                bound = WARM_UP + 4 * limits::AGE_STEP_MS / SECOND + leases.div_ceil(leased_each_second.into());
            }
            assert!(second <= bound, "seed {seed}: it has waited for more than {bound} seconds");
            let mut bodies: Vec<_> = weights.iter().map(|(name, _)| enqueue(name, Priority::Critical, arriving)).collect();
            bodies.push(command::Body::LeaseTasks(LeaseTasksRequest {
                worker_id: worker.worker_id.clone(),
                max_tasks: leased_each_second,
                ..LeaseTasksRequest::default()
            }));
            let answers = flood.apply(bodies);
            let Some(outcome::Body::LeaseTasks(leased)) = answers.last() else { panic!("{answers:?}") };
            assert_eq!(leased.tasks.len(), leased_each_second as usize, "there is always more than the worker takes");
            if leased.tasks.iter().any(|task| Some(&task.task_id) == background.as_ref()) {
                println!("seed {seed}: leased after {second} seconds, at most {bound}");
                assert!(second > WARM_UP + 3 * limits::AGE_STEP_MS / SECOND, "without a flood nothing is shown");
                break;
            }
            let complete = leased.tasks.iter().map(|task| {
                command::Body::CompleteTask(CompleteTaskRequest {
                    namespace: task.namespace.clone(),
                    task_id: task.task_id.clone(),
                    token: task.token,
                    ..CompleteTaskRequest::default()
                })
            });
            let complete = complete.collect();
            flood.apply(complete);
        }
    }
}
