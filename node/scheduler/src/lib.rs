//! Which worker, on which runtime, gets a task, and why: the core of the router.
//!
//! It does nothing but decide. Tasks, workers and the time go in, decisions come out; what it remembers is how attempts went, and which
//! runtimes were lost or full. No I/O, no clock, no randomness, no floating point: the same input gives the same answer on every
//! node, whatever the order of the workers.
//!
//! ```text
//!   tasks ──► by level, then as given ──► classes of alike tasks
//!                                             │
//!   workers ──► requirements ── missed? ──► reasons ─────────────────────────► WAITS: what is missing, does waiting help?
//!   (Cluster)       │ met                                                        ▲
//!                   ▼                                                            │
//!              runtimes in order ◄── auto: by expected cost                      │ its patience is not over,
//!                   │                chain: as the task says                     │ or nothing has room
//!                   │ first that is steady and has room ─────────────────────────┘
//!                   ▼
//!              score = Σ weight × part ──► the best worker with room ──────────► PLACED: worker, runtime, devices,
//!                   ▲        ▲                │                                  and the explanation for the decision record
//!   attempts ──► History   Tuning             └──► books: slots, memory, device memory
//! ```
//!
//! **Requirements** come first, and no score makes up for one that is missed: see [`Requirements`] and [`Reason`]. A task that cannot be
//! placed is told what is missing, of how many workers, and its [`Prospect`].
//!
//! **Runtimes** come next. A task names them in its own order ([`Runtimes::Chain`], such as `cuda`, `native`, `wasm`), or leaves the order to
//! the scheduler ([`Runtimes::Auto`]): the cheapest first, see [`Price`]. A runtime that is lost is passed over at once; one that is full
//! only when it was full, or the task has waited, for as long as the task's patience. Later tasks climb back: to a full runtime as slots
//! free, to a lost one once it has been back for [`Tuning::settle_ms`] without a break.
//!
//! **Scores** choose among the workers of the runtime. Each of the eight [`Parts`] is a number from 0 to 1,000 with a documented formula,
//! and counts as much as its [`Weights`] say. Equal workers are told apart by a hash of their ids and the task's.
//!
//! A batch is placed greedily, task by task, and what one takes is gone for the next: nothing is overcommitted within a batch, and devices are
//! shared by their memory. Alike tasks share a heap of workers, in which only what comes to the top is scored again; that is exact, because
//! no score rises as a worker fills up. Where a task finds nothing, one of the same level that was placed may be moved, if that makes room.
//!
//! What it does not do: it gives no leases (the kernel does, and may refuse), it is not fair between namespaces (the kernel orders the tasks),
//! it does not preempt, and it does not place tasks together that want to run together.
//!
//! ```
//! use tarn_scheduler::{Cluster, Finished, History, Isolation, Outcome, Requirements, Runtimes, Scheduler, Task, Tuning, Worker};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let worker = |id: &str, runtime: &str, isolation, cost_per_second| Worker {
//!     id: id.into(),
//!     node: "n1".into(),
//!     runtime: runtime.into(),
//!     isolation,
//!     slots: 4,
//!     slots_free: 4,
//!     quality: 1000,
//!     cost_per_second,
//!     ..Worker::default()
//! };
//! let workers = vec![
//!     worker("w1", "native", Isolation::Process, 10),
//!     worker("w2", "wasm", Isolation::Sandbox, 10),
//!     worker("w3", "microvm", Isolation::Machine, 30),
//! ];
//! let cluster = Cluster::new(workers, &Default::default())?;
//! let task = Task {
//!     id: "t1".into(),
//!     artifact: "resize".into(),
//!     requires: Requirements {
//!         runtimes: Runtimes::Auto(vec!["native".into(), "wasm".into(), "microvm".into()]),
//!         isolation: Isolation::Sandbox,
//!         ..Requirements::default()
//!     },
//!     ..Task::default()
//! };
//! let mut scheduler = Scheduler::new(Tuning::default(), History::default())?;
//! scheduler.record(Finished { artifact: "resize", runtime: "wasm", node: "n1", run_ms: 800, succeeded: true });
//! let decisions = scheduler.place(&[task], &cluster, 1_000);
//! let Outcome::Placed(placement) = &decisions[0].outcome else { panic!("w2 has room") };
//! assert_eq!(placement.worker, "w2");
//! assert_eq!(placement.explanation.prices[0].runtime, "wasm");
//! # Ok(())
//! # }
//! ```
//!
//! # How good, how fast
//!
//! `cargo bench -p tarn-scheduler --bench simulate`, seed 1: 1,000 nodes with 1,938 workers of four runtimes, 6,158 slots and 100,000 tasks of
//! 200 kinds, on a machine with two cores that others used as well.
//!
//! | what | decisions per second | per second of processor time |
//! | --- | --: | --: |
//! | one batch of 100,000, on forty times the room | 75,000 | 138,000 |
//! | the same, three candidates explained | 83,000 | 136,000 |
//! | one batch of 1,000, all unlike | 6,000 | 9,400 |
//!
//! | all arrive at once | makespan | mean time to the end | cost |
//! | --- | --: | --: | --: |
//! | tarn | 55.5 s | 19.9 s | 29.9 M |
//! | least loaded | 60.8 s | 20.5 s | 32.0 M |
//! | random | 63.7 s | 22.5 s | 33.3 M |
//!
//! | arrive over 90 s | makespan | mean time to the end | cost |
//! | --- | --: | --: | --: |
//! | tarn | 100.6 s | 1.8 s | 23.1 M |
//! | least loaded | 109.4 s | 2.3 s | 31.6 M |
//! | random | 115.9 s | 3.2 s | 35.4 M |
//!
//! Next to the best of all assignments, on small cases with too little room for everybody (`tests/regret.rs`, 3,000 cases each, which also
//! asserts bounds): tasks of one runtime and one priority lose 0.9 % of the worth on average, and 9 cases place fewer tasks than could be
//! placed; with chains and `auto` 2.2 % and 56 (without moves 5.1 % and 394); with priorities, which the best assignment ignores, 4.1 %
//! and 294. Single cases can lose half: an urgent task that takes all the room of two others is meant to.

mod batch;
mod bits;
mod books;
mod chain;
mod class;
mod cluster;
mod decision;
mod devices;
mod estimate;
mod history;
mod make_room;
mod place;
mod pool;
mod pressure;
mod require;
mod score;
mod shortage;
mod task;
mod tuning;
mod worker;

pub use cluster::{Cluster, ClusterError, DEVICES_MAX, WORKERS_MAX};
pub use decision::{
    Candidate, Closest, Decision, Explanation, LISTED_MAX, Missing, Obstacle, Outcome, PassedOver, Placement, Price, Prospect, Shortage,
    Waiting,
};
pub use estimate::Estimate;
pub use history::{Finished, HISTORY_ROWS, History, HistoryRow, Record};
pub use place::{Scheduler, compare};
pub use require::{Miss, Reason};
pub use score::{PART_MAX, Parts};
pub use task::{DeviceNeed, Isolation, Priority, Requirements, Runtimes, Task, Weighed};
pub use tuning::{CANDIDATES_MAX, MOVES_MAX, PRIORS_MAX, TIME_MS_MAX, Tuning, TuningError, WEIGHT_MAX, Weights};
pub use worker::{Device, Worker};
