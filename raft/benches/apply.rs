//! What one command costs each node of a cluster once it is in the log: decoding, the kernel, and the state's engine on disk.
//! `cargo bench --profile dev -p tarn-raft --bench apply`, with a number of tasks behind `--`.
//!
//! Entries hold 40 commands, as many as a busy cluster's do with 64 clients. A round enqueues, leases and completes so many tasks, then
//! puts as many keys, and enqueues as many tasks in batches of 20 commands; times are of the thread that applies, so the engine's own
//! threads are counted only in the last column. The last line is the digest of everything that was applied: two builds with the same rules
//! have the same. Each step is a function of its own, which a profiler finds by its name.

#![allow(clippy::disallowed_types, reason = "a bench measures time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message;
use tarn_machine::{Applied, Machine, Versions};
use tarn_proto::CommandBody;
use tarn_proto::v1::{
    Command, CommandBatch, CompleteTaskRequest, EnqueueRequest, Entry, LeaseTasksRequest, LeasedTask, PutKeyRequest, RaiseVersion,
    RegisterWorkerRequest, TaskSpec, WorkerCapabilities, outcome,
};
use tarn_storage::{Batch, Engine, Keyspace, MemoryEngine, Profile, RocksEngine, RocksOptions};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Commands in an entry.
const GROUP: usize = 40;
/// Commands in a batch.
const BATCH: usize = 20;
const PAYLOAD_BYTES: usize = 256;
const RAFT: Keyspace = Keyspace::new("raft");

fn main() {
    let tasks = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(40_000);
    println!("µs of each step      enqueue   lease   complete   put   batched   all CPU of the process for two tasks and a put");
    for round in 1..=3 {
        report(&format!("RocksDB, round {round}"), tasks, |dir| {
            let keyspaces = &[tarn_machine::STATE, RAFT];
            Arc::new(RocksEngine::open(dir, RocksOptions { keyspaces, profile: Profile::State }).expect("the engine opens"))
        });
    }
    report("in memory", tasks, |_| Arc::new(MemoryEngine::with_keyspaces(&[tarn_machine::STATE, RAFT])));
}

fn report(name: &str, tasks: usize, open: impl FnOnce(&std::path::Path) -> Arc<dyn Engine>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut bench = Bench::new(open(dir.path()));
    let cpu = cpu_time();
    let mut times = [Duration::ZERO; 5];
    for _ in 0..tasks.div_ceil(GROUP) {
        times[0] += bench.enqueue();
        let (took, leased) = bench.lease();
        times[1] += took;
        times[2] += bench.complete(leased);
        times[3] += bench.put();
        times[4] += bench.batched();
    }
    let count = (tasks.div_ceil(GROUP) * GROUP) as f64;
    let [enqueue, lease, complete, put, batched] = times.map(|time| time.as_secs_f64() * 1e6 / count);
    let all = (cpu_time() - cpu).as_secs_f64() * 1e6 / count;
    println!("{name:<20} {enqueue:>7.2} {lease:>7.2} {complete:>10.2} {put:>5.2} {batched:>9.2} {all:>6.2}");
    println!("digest {}", blake3::Hash::from_bytes(bench.machine.digest()));
}

struct Bench {
    machine: Machine,
    index: u64,
    now_ms: u64,
    worker: String,
    number: usize,
}

impl Bench {
    fn new(engine: Arc<dyn Engine>) -> Self {
        let machine = Machine::open(engine, Versions::CURRENT).expect("an empty engine opens");
        let mut bench = Bench { machine, index: 0, now_ms: 1_000, worker: String::new(), number: 0 };
        for version in 2..=Versions::CURRENT.max {
            bench.apply(vec![command(RaiseVersion { version, ..RaiseVersion::default() })]);
        }
        let capabilities =
            WorkerCapabilities { namespaces: vec!["default".into()], queues: vec!["bench".into()], ..WorkerCapabilities::default() };
        let register = RegisterWorkerRequest { ttl_ms: 3_600_000, capabilities: Some(capabilities), ..RegisterWorkerRequest::default() };
        let (_, applied) = bench.apply(vec![command(register)]);
        let Some(outcome::Body::RegisterWorker(registered)) = &applied.outcomes[0].body else { panic!("{applied:?}") };
        bench.worker = registered.worker_id.clone();
        bench
    }

    /// Applies an entry as a node does, and says how long that took.
    fn apply(&mut self, commands: Vec<Command>) -> (Duration, Applied) {
        self.index += 1;
        self.now_ms += 1;
        let entry = Entry { version: self.machine.version(), now_ms: self.now_ms, commands }.encode_to_vec();
        let mut extra = Batch::new();
        extra.put(RAFT, "applied", self.index.to_be_bytes());
        let start = Instant::now();
        let applied = self.machine.apply(self.index, &entry, &extra).expect("the entry applies");
        (start.elapsed(), applied)
    }

    #[inline(never)]
    fn enqueue(&mut self) -> Duration {
        let commands = (0..GROUP).map(|_| {
            let request_id = self.request_id();
            command(EnqueueRequest { request_id, ..one_task("bench") })
        });
        let commands = commands.collect();
        self.apply(commands).0
    }

    /// The same as clients send it that have much to say. Nobody leases from this queue.
    #[inline(never)]
    fn batched(&mut self) -> Duration {
        let commands = (0..GROUP / BATCH).map(|_| {
            let commands = (0..BATCH).map(|_| Command { principal: String::new(), ..command(one_task("batched")) });
            command(CommandBatch { request_id: self.request_id(), commands: commands.collect() })
        });
        let commands = commands.collect();
        self.apply(commands).0
    }

    #[inline(never)]
    fn lease(&mut self) -> (Duration, Vec<LeasedTask>) {
        let (request_id, worker_id) = (self.request_id(), self.worker.clone());
        let lease = LeaseTasksRequest { request_id, worker_id, max_tasks: GROUP as u32, ..LeaseTasksRequest::default() };
        let (took, mut applied) = self.apply(vec![command(lease)]);
        let Some(outcome::Body::LeaseTasks(leased)) = applied.outcomes.remove(0).body else { panic!("{applied:?}") };
        assert_eq!(leased.tasks.len(), GROUP);
        (took, leased.tasks)
    }

    #[inline(never)]
    fn complete(&mut self, tasks: Vec<LeasedTask>) -> Duration {
        let complete = |task: LeasedTask| CompleteTaskRequest {
            namespace: task.namespace,
            task_id: task.task_id,
            token: task.token,
            ..CompleteTaskRequest::default()
        };
        let commands = tasks.into_iter().map(|task| command(complete(task))).collect();
        self.apply(commands).0
    }

    #[inline(never)]
    fn put(&mut self) -> Duration {
        let commands = (0..GROUP).map(|_| {
            let request_id = self.request_id();
            let key = format!("bench/{}/{}", self.number % 64, self.number);
            let (namespace, context, value) = ("default".into(), "bench".into(), vec![7; PAYLOAD_BYTES].into());
            command(PutKeyRequest { request_id, namespace, context, key, value, ..PutKeyRequest::default() })
        });
        let commands = commands.collect();
        self.apply(commands).0
    }

    fn request_id(&mut self) -> String {
        self.number += 1;
        blake3::hash(&self.number.to_le_bytes()).to_hex()[..32].to_owned()
    }
}

fn one_task(queue: &str) -> EnqueueRequest {
    let task = TaskSpec { queue: queue.into(), payload: vec![7; PAYLOAD_BYTES].into(), ..TaskSpec::default() };
    EnqueueRequest { request_id: String::new(), namespace: "default".into(), tasks: vec![task] }
}

fn command<R: CommandBody>(request: R) -> Command {
    Command { principal: "user:bench".to_owned(), gate: None, body: Some(request.into_body()) }
}

/// Processor time of all threads so far.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let after_name = stat.rsplit(')').next().expect("a name in brackets");
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    // A hundred ticks a second, on every Linux that Rust's standard library runs on.
    Duration::from_millis(ticks * 10)
}
