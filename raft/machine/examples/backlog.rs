//! What a tenant's task costs the kernel, and how many others are served before it, beside a neighbour with a backlog.
//!
//! `cargo run -p tarn-machine --example backlog -- 1000000` fills the neighbour's queue with so many tasks. Then the quiet tenant enqueues one
//! task after the other; in between, workers lease one task at a time, as they do when a slot becomes free. The same is done without the
//! neighbour. Both times are medians of the entries' own time in this process: the log and the network are no part of it.

// The kernel has no clock; who measures it from outside needs one.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use tarn_machine::{Machine, STATE, Versions};
use tarn_proto::CommandBody;
use tarn_proto::v1::{
    Command, CreateNamespaceRequest, EnqueueRequest, Entry, LeaseTasksRequest, RaiseVersion, RegisterWorkerRequest, TaskSpec, outcome,
};
use tarn_storage::{Batch, MemoryEngine};

/// Tasks of the quiet tenant that are measured.
const MEASURED: usize = 2_000;
/// Tasks of the backlog in one entry.
const BATCH: usize = 1_000;

struct Log {
    machine: Machine,
    index: u64,
    now_ms: u64,
}

impl Log {
    fn tell<R: CommandBody>(&mut self, request: R) -> (R::Response, Duration) {
        self.index += 1;
        let command = Command { principal: "user/bench".to_owned(), body: Some(request.into_body()), ..Command::default() };
        let entry = Entry { version: 1, now_ms: self.now_ms, commands: vec![command] };
        let bytes = entry.encode_to_vec();
        let begin = Instant::now();
        let mut applied = self.machine.apply(self.index, &bytes, &Batch::new()).expect("the entry applies");
        let took = begin.elapsed();
        match applied.outcomes.remove(0).body.expect("an outcome has a body") {
            outcome::Body::Rejected(rejection) => panic!("{rejection:?}"),
            body => (R::response(body).expect("the outcome answers the command"), took),
        }
    }

    fn enqueue(&mut self, namespace: &str, tasks: usize) -> Duration {
        let task = TaskSpec { queue: "q".to_owned(), payload: vec![7; 32].into(), ..TaskSpec::default() };
        let request = EnqueueRequest { namespace: namespace.to_owned(), tasks: vec![task; tasks], ..EnqueueRequest::default() };
        self.tell(request).1
    }
}

/// Medians: an enqueue, a lease, and how many tasks are leased until the quiet tenant's is, it included.
fn measure(backlog: usize) -> (Duration, Duration, usize) {
    let engine = Arc::new(MemoryEngine::with_keyspaces(&[STATE]));
    let machine = Machine::open(engine, Versions::CURRENT).expect("an empty engine opens");
    let mut log = Log { machine, index: 0, now_ms: 1_000 };
    log.tell(RaiseVersion { version: 2, ..RaiseVersion::default() });
    for name in ["quiet", "noisy"] {
        log.tell(CreateNamespaceRequest { name: name.to_owned(), ..CreateNamespaceRequest::default() });
    }
    let mut left = backlog;
    while left > 0 {
        let tasks = left.min(BATCH);
        log.enqueue("noisy", tasks);
        left -= tasks;
    }
    let (mut enqueues, mut leases, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..MEASURED {
        log.now_ms += 1;
        let register = RegisterWorkerRequest { ttl_ms: 3_600_000, ..RegisterWorkerRequest::default() };
        // A worker with free slots for each: how many one may hold is no part of this.
        let worker_id = log.tell(register).0.worker_id;
        enqueues.push(log.enqueue("quiet", 1));
        for place in 1.. {
            let request = LeaseTasksRequest { worker_id: worker_id.clone(), max_tasks: 1, ..LeaseTasksRequest::default() };
            let (leased, took) = log.tell(request);
            leases.push(took);
            if leased.tasks.iter().any(|task| task.namespace == "quiet") {
                places.push(place);
                break;
            }
        }
    }
    (median(enqueues), median(leases), median(places))
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

fn main() {
    let backlog = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(100_000);
    println!("{:>10}  {:>12}  {:>12}  {:>8}", "backlog", "enqueue", "lease", "served");
    for backlog in [0, backlog] {
        let (enqueue, lease, place) = measure(backlog);
        println!("{backlog:>10}  {enqueue:>12?}  {lease:>12?}  {place:>8}");
    }
}
