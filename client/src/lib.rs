//! The Rust SDK of tarn: submit tasks to a cluster, and run them in a worker of your own.
//!
//! ```no_run
#![doc = include_str!("../examples/greetings.rs")]
//! ```
//!
//! # What a call promises
//! A [`Client`] speaks to one node and goes on to the next when it fails; any node takes any request. Every call is repeated by itself, after
//! pauses that grow, until it is answered or the client's deadline has passed. That is safe because a call that changes something carries a
//! random request id, the same in each repeat, by which the cluster knows it again: it takes effect once, however many answers were lost.
//! A refusal with a reason is never repeated. [`Error`] tells what to do next, and tells apart a call that had no effect from one whose
//! outcome is unknown.
//!
//! # What is here
//! ```text
//!   client        how a client is made, and how a call is made          retry       which failures are repeated, and when
//!   nodes         the nodes that are known, and the one in use          error       what can go wrong, by what the caller does next
//!   tls           post-quantum mutual TLS and identities                page        lists in pages, as streams
//!   token         API tokens, for those without a certificate
//!
//!   task, queue, timer, namespace, cluster, artifact, worker_api        one service each, as methods of Client
//!   lock          named leases that renew themselves                    watch       events, resumed by itself
//!   context       versioned key-value memory, with snapshots
//!   batch         many small submissions as few large ones              worker      handlers, leases, heartbeats, graceful end
//! ```
//!
//! Tasks are described with [`Task`]; what the cluster answers are the contract's own messages, in [`proto`].
//!
//! # Connections
//! There is no insecure mode: a client has a certificate of its cluster, and both ends prove who they are; see [`tls`]. [`Client::from_env`]
//! reads where the cluster is and which files to use from the environment.
//!
//! Invariants: no server code lives here; every wait has a bound, and every queue in memory has one too, as a named constant.

mod access;
mod artifact;
mod audit;
mod batch;
mod client;
mod cluster;
mod context;
mod driver;
mod error;
mod federation;
mod gather;
mod lock;
mod namespace;
mod nodes;
mod page;
mod pipeline;
mod policy;
mod questions;
mod queue;
mod retry;
mod scheduler;
mod task;
mod time;
mod timer;
pub mod tls;
mod together;
mod token;
mod watch;
mod worker;
mod worker_api;

pub use artifact::artifact_address;
pub use batch::{BatchOptions, Batcher};
pub use client::{Client, ClientBuilder};
pub use context::Context;
pub use driver::DriverLogs;
pub use error::{Error, Fate, Refusal};
pub use lock::{Lock, LockBuilder};
pub use proto::{Priority, TaskState};
pub use tarn_proto::v1 as proto;
pub use task::{Task, has_ended};
pub use timer::When;
pub use tls::Credentials;
pub use token::{API_TOKEN_CHARS, API_TOKEN_PREFIX, ApiToken, ApiTokenError};
pub use tonic::Code;
pub use watch::{Watch, Watcher};
pub use worker::{Job, JobError, Worker, WorkerBuilder};
