//! The gRPC face: every service of the contract, each method one line over one generic path.
//!
//! ```text
//!   trace     gives every request an id, a span and a count
//!   call      who asks, until when; a refusal as a status
//!   task …    the services
//!   waits     who waits for a task to end
//!   server    all services with their limits, as one router
//! ```
//!
//! Invariants: no service proposes or reads but through `Way`; no message of this node's own making (paths, states, causes) reaches a
//! caller.

mod access;
mod artifact;
mod call;
mod cluster;
mod command;
mod event;
mod join;
mod lease;
mod namespace;
mod queue;
mod server;
mod status;
mod task;
mod timer;
mod trace;
mod waits;
mod worker;

pub use artifact::ArtifactApi;
pub use cluster::ClusterApi;
pub use join::{JoinApi, TokenGate};
pub use server::{Health, Services, routes, serve};
pub use status::status;
pub use trace::{TRACE_HEADER, TraceLayer};

pub use call::Api;
pub(crate) use call::Call;
pub use waits::TaskWaits;
