//! The gRPC face: every service of the contract, each method one line over one generic path.
//!
//! ```text
//!   trace     gives every request an id, a span and a count
//!   call      who asks, until when; a refusal as a status
//!   task …    the services
//!   waits     who waits for a task to end
//!   server    all services with their limits, as one router for each listener
//!   doorkeeper  the second listener's: no request without a bearer's credential
//!   patience  a request of one message must arrive within a time
//!   methods   which methods there are
//! ```
//!
//! Invariants: no service proposes or reads but through `Way`; no message of this node's own making (paths, states, causes) reaches a
//! caller.

mod access;
mod artifact;
mod audit;
mod call;
mod cluster;
mod command;
mod context;
mod doorkeeper;
mod driver;
mod event;
mod federation;
mod join;
mod lease;
mod methods;
mod namespace;
mod patience;
mod policy;
mod questions;
mod queue;
mod scheduler;
mod server;
mod status;
mod task;
mod timer;
mod trace;
mod waits;
mod worker;

pub use artifact::ArtifactApi;
pub use audit::AuditApi;
pub use cluster::ClusterApi;
pub(crate) use cluster::administration_refused;
pub use doorkeeper::Doorkeeper;
pub use driver::DriverApi;
pub use federation::FederationApi;
pub(crate) use join::rejection_of;
pub use join::{JoinApi, TokenGate};
pub use server::{Faces, Health, Services, routes, serve, serve_web};
pub use status::status;
pub use trace::{TRACE_HEADER, TraceLayer};

pub use call::Api;
pub(crate) use call::Call;
pub use waits::TaskWaits;
