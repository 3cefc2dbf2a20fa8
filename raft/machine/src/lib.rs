//! The kernel: a pure, deterministic state machine.
//!
//! The replicated log holds entries; an entry holds the leader's clock and some commands. Every node feeds the same entries to its
//! [`Machine`] and so arrives at the same state, the same answers and the same events. Nothing else takes part: no clock, no randomness, no
//! thread, no network.
//!
//! ```text
//!   log entry ──► check ──► advance: what time alone does ──► commands, one after another ──► one batch ──► engine
//!  (index, now_ms,  │        due wakes, expired rows,           check, repeat?, domain,         effects,
//!   commands)       │        dependencies still to settle       settle dependencies             events, meta, digest
//!                   ▼                                                  │                            │
//!         unknown version or field:                        outcome or rejection, events        digest chain
//!         this node stops
//! ```
//!
//! * **Rows** (`rows`) under **keys** ([`keys`]) are the state. An entry's changes collect in an overlay, where later commands of the entry
//!   see them, and go to the engine in one batch.
//! * **Indices** (`index`) live in memory, follow from the rows, and are rebuilt when a node starts. Beside them, lately saved tasks are
//!   remembered as they stand (`task::recent`), so that most need not be read again.
//! * **Domains** hold what commands mean: tasks in `domain::queue`, named leases, timers, workers, namespaces, join tokens, the version.
//! * **Limits** are all in [`limits`]; what can be refused without the state is in [`check`], which the gate calls before the log.
//!
//! # Invariants
//!
//! * A command checks first and changes afterwards: a refused one leaves no trace, and `apply` asserts it.
//! * A task is in exactly one state, under one key and in one place of the indices; only `Task::save` moves it.
//! * Ids and fencing tokens come from the log position, so they only grow, and whoever holds a lower token is late.
//! * What a client sends gives an outcome or a rejection. [`Fatal`] means that this node cannot go on: another build's entry, a failed disk, a
//!   state that contradicts itself.
//! * No unordered map, no floating point, no clock (`clippy.toml` forbids them).

#![deny(clippy::float_arithmetic, clippy::disallowed_types, clippy::disallowed_methods)]

mod advance;
mod apply;
pub mod check;
mod domain;
mod error;
pub mod ids;
mod index;
mod key_bytes;
pub mod keys;
pub mod limits;
mod machine;
mod overlay;
mod read;
mod reject;
mod requests;
mod rows;
mod task;
mod txn;
mod wire;

pub use domain::access::BUILT_IN_ROLES;
pub use domain::placement::{AUTO, may_go, runtimes};
pub use domain::version::{BATCHES, FEDERATION, ROUTER};
pub use error::{Fatal, Refusal};
pub use index::{Access, ActiveBundle, Indices, Policies, RoleIn, Tenant, Tenants};
pub use machine::{Applied, Machine, ReadyGroup, Versions};
pub use overlay::STATE;
pub use read::{ChainWalk, Compacted, DriverStanding, Escalations, Federation, OpenTask, ReplicaPair, WorkerLoad};
pub use rows::Class;
