//! Scheduler.

mod batch;
mod bits;
mod books;
mod chain;
mod class;
mod cluster;
mod decision;
mod devices;
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
    Candidate, Closest, Decision, Explanation, LISTED_MAX, Missing, Obstacle, Outcome, PassedOver, Placement, Price,
    Prospect, Shortage, Waiting,
};
pub use history::{Estimate, Finished, HISTORY_ROWS, History, HistoryRow, Record};
pub use place::{Scheduler, compare};
pub use require::{Miss, Reason};
pub use score::{PART_MAX, Parts};
pub use task::{DeviceNeed, Isolation, Priority, Requirements, Runtimes, Task, Weighed};
pub use tuning::{CANDIDATES_MAX, MOVES_MAX, PRIORS_MAX, TIME_MS_MAX, Tuning, TuningError, WEIGHT_MAX, Weights};
pub use worker::{Device, Worker};
