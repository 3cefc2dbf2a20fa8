//! Drivers: signed components that extend the cluster, run by the leader's node.
//!
//! ```text
//!   state: drivers ─► Lead: one runner a driver ─► load: signature, bytes ─► instance ─► turns, one after another
//!                                                        ▲                        │  events, ticks, calls
//!                                                        └─ back-off ◄─ broken ◄──┤
//!                                                                                 ▼
//!   state: cursor, saved bytes, tasks ◄────────────── one command ◄────── what the turn changed
//! ```
//!
//! What one call of a driver changed is proposed as **one command**, which the kernel takes only from where the driver stands. So events
//! are handled at least once, and what a driver saves and enqueues has its effect exactly once, whoever leads and whatever crashes; two nodes
//! that both believe to lead do no harm. A new generation is loaded while the old one goes on answering calls; events wait for the new one.
//!
//! Invariants: nothing runs whose bytes do not hash to what a key signed that is trusted now; a driver that breaks holds up nobody else; what
//! a driver asks for beside its grants ends it.

mod ask;
mod backoff;
mod desk;
mod lead;
mod logs;
mod runner;
#[cfg(test)]
mod tests;
mod turn;
mod world;

pub use ask::Drivers;
pub use lead::Lead;

/// A driver's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub namespace: String,
    pub name: String,
}

impl Id {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}
