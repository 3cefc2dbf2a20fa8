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
//! come right in time. On most seeds only a majority is healed at first, and must do without the rest ([`aftermath`]).
//!
//! # What can go wrong, exactly
//!
//! * The **network** ([`net`]) delays, loses, and cuts every message in each direction by itself, between nodes and between users and nodes
//!   ([`cuts`]). Calls overtake each other, and those that their sender would send again arrive twice. Streams do neither: the real one is a TCP
//!   connection, which breaks and does nothing worse.
//! * A **power cut** ([`disk`]) takes any number of the last batches of an engine that were not synced, each as a whole, and tears the ends of
//!   files that were not flushed anywhere. The batch that is being written when the power goes is there or not, as a whole.
//! * A **disk** fails at the writes, syncs and checkpoints of an engine and at the flushes of files, or takes long for a log's writes. A failed write
//!   may be there later.
//! * A **clock** ([`clock`]) is off, jumps, and runs up to a third too fast or too slow, and the process's timers with it.
//! * A **process** ([`host`]) is killed, stopped in good order, or stands still.
//! * An **operator** moves the leadership, adds, replaces and removes nodes, and asks for snapshots.
//!
//! # Beyond reach
//!
//! RocksDB, gRPC and TLS are not in it: `jepsen/` has them. A batch of an engine is never torn, and no byte on a disk ever changes by itself: that
//! a batch is atomic is what an engine promises, and what RocksDB makes of a real power cut and of damaged bytes, `jepsen/` and `storage`'s own tests
//! ask.

pub mod aftermath;
pub mod cli;
pub mod clock;
pub mod cuts;
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
