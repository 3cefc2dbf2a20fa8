//! Deterministic simulation: whole clusters of the shipped consensus and kernel in one thread, where one seed decides everything.
//!
//! ```text
//!   users:  clients, workers ─────────────┐
//!                                         ▼
//!   Net ◄── Link (Transport) ◄── Consensus ── Host: one runtime per node ── SimClock
//!    │  delay, loss, duplicates,          │
//!    │  cuts in one or both directions    ▼
//!    └────────────────────────────►   NodeDisk ── memory engines, real files; power cuts, faults
//!                                         │ Tap: what is written
//!                                         ▼
//!   Faults ─► World ─► Watcher, Ledger ─► tarn_invariants ─► a violation, with the seed
//! ```
//!
//! The code under test is `tarn-raft` with `tarn-machine`, as shipped. Four things are replaced, each where the shipped code has a place for
//! it: the network (`Transport`), the clock (`Clock`), the disk (`Disk`), and, in the binary, the C library's `getrandom` and `fsync`.
//!
//! # Why the same seed gives the same run
//!
//! * One thread. Each node has a runtime of its own with a clock that only [`host::step`] moves; work that would block is done in place.
//! * Randomness comes from one stream ([`entropy`]); the simulation's own dice ([`dice`]) are apart from it.
//! * Nothing reads the real time, and nothing that the trace shows depends on a path, an address or an inode.
//!
//! A test runs one seed in two processes and compares the traces byte for byte.
//!
//! # How time passes
//!
//! [`world::World`] moves by one millisecond at a time. A node's process is a runtime: dropping it is a crash in the middle of everything, not
//! stepping it is a pause, stepping it by more or less is a clock that runs wrong. The disk counts durable steps, so that the power can also
//! go *between* two of them, inside of work that no await interrupts ([`disk`]).
//!
//! # What is checked
//!
//! All of `tarn_invariants`, in every millisecond ([`watch`]), in every answer that a client gets ([`work::ledger`]), and in the state at
//! the end ([`verdict`]). The run has two phases: faults, under which nothing may ever be wrong; then healing, after which everything must
//! come right in time.
//!
//! # Beyond reach
//!
//! RocksDB, gRPC and TLS are not in it: `jepsen/` has them. A write to a file that is not flushed may be torn, a batch of an engine may not:
//! atomic batches are what an engine promises.

pub mod cli;
pub mod clock;
pub mod dice;
pub mod disk;
pub mod entropy;
pub mod faults;
pub mod host;
pub mod net;
mod panics;
pub mod plan;
mod single;
mod sweep;
pub mod tap;
pub mod trace;
pub mod verdict;
pub mod watch;
pub mod work;
pub mod world;
