//! Ordered keyspaces with atomic batches, iterators and checkpoints.
//!
//! This crate is the floor of the house: it keeps bytes and knows nothing of what they mean. Everything above it
//! holds an `Arc<dyn Engine>` and cannot tell which engine it is.
//!
//! ```text
//!            Batch ──write──►┌──────────────────────────────┐──scan──► Scan (ascending or descending)
//!  put, delete,              │ Engine                       │──get───► value
//!  delete_range              │  keyspace "a":  key → value  │
//!  over any keyspaces        │  keyspace "b":  key → value  │──checkpoint──► a new directory that opens by itself
//!                            └───────┬──────────────┬───────┘
//!                              RocksEngine     JournalEngine     MemoryEngine
//!                         (feature `rocksdb`)  (for a log)       (loses what was not synced when told to crash)
//! ```
//!
//! # What an engine promises
//!
//! * A [`Keyspace`] is an ordered map from bytes to bytes, in the order of unsigned bytes. Keys and values may be empty.
//! * A [`Batch`] is applied wholly or not at all, over all keyspaces it names, and so it survives a crash: wholly or
//!   not at all. Its operations take effect in the order in which they were added.
//! * Batches are ordered. What survives a crash is always a prefix of the batches written, never a batch without the
//!   ones before it.
//! * [`Durability::Synced`] returns after the batch, and every batch before it, would survive a power cut.
//!   [`Durability::Buffered`] promises atomicity and order only.
//! * A read sees every write that returned before it. A [`Scan`] sees the state as it was when the scan began,
//!   however long it runs.
//! * A checkpoint is a complete copy of one moment, independent of the engine afterwards, and durable when the call
//!   returns.
//!
//! The `conformance` module (feature `conformance`) states these promises as a suite that both engines pass.
//!
//! ```
//! use tarn_storage::{Batch, Durability, Engine, Keyspace, MemoryEngine, Range};
//!
//! const FRUIT: Keyspace = Keyspace::new("fruit");
//!
//! # fn main() -> Result<(), tarn_storage::StorageError> {
//! let engine = MemoryEngine::new();
//! let mut batch = Batch::new();
//! batch.put(FRUIT, "apple", "red");
//! batch.put(FRUIT, "apricot", "orange");
//! engine.write(batch, Durability::Synced)?;
//!
//! let mut batch = Batch::new();
//! batch.put(FRUIT, "banana", "yellow");
//! engine.write(batch, Durability::Buffered)?;
//! assert_eq!(engine.scan(FRUIT, Range::prefix("ap")).count(), 2);
//!
//! // A power cut takes the banana, which nobody was promised.
//! engine.crash();
//! assert_eq!(engine.get(FRUIT, b"banana")?, None);
//! assert_eq!(engine.get(FRUIT, b"apple")?.as_deref(), Some(&b"red"[..]));
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! An error from an engine is seldom the caller's to mend: nearly all of them mean that this node can no longer keep
//! its promises and must stop before it acknowledges anything else. [`StorageError`] says which are which.
//!
//! # Rooms
//!
//! | module | what lives there |
//! | --- | --- |
//! | `batch`, `range`, `engine`, `error` | the vocabulary, all exported from the root |
//! | `memory` | the engine for tests and simulation |
//! | `rocks` | the engine for the state of real nodes |
//! | `journal` | the engine for their log |
//! | [`dir`] | durable renames and pointer files, for whoever installs a snapshot |
//! | [`mod@format`] | the version number that every data directory carries |
//! | [`crash`] | named points at which a test build aborts |
//! | [`canary`] | bugs planted on purpose in a test build |

mod batch;
pub mod canary;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod crash;
pub mod dir;
mod engine;
mod error;
pub mod format;
mod journal;
mod lock;
mod mark;
mod memory;
mod range;
#[cfg(feature = "rocksdb")]
mod rocks;

pub use batch::{Batch, Op, Ops};
pub use engine::{Durability, Engine, Entry, Keyspace, Scan};
pub use error::StorageError;
pub use journal::JournalEngine;
pub use memory::{Fault, MemoryEngine};
pub use range::{Direction, Range, prefix_end};
#[cfg(feature = "rocksdb")]
pub use rocks::{Profile, RocksEngine, RocksOptions};
