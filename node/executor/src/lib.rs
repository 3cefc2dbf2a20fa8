//! Executors run the attempts of tasks, under limits.
//!
//! A node leases a task from the cluster and hands it to the [`Executor`] of the task's runtime. The executor knows
//! nothing of tasks, leases, Raft or the network: it gets an [`Attempt`] (an artifact, what to do with it, limits),
//! and gives back a [`Report`] or a [`Failure`].
//!
//! ```text
//!            node
//!     put │         │ attempt, cancel          ▲ report or failure
//!         ▼         ▼                          │
//!   ArtifactStore   Executor ── wasm ── cache of compiled modules ── slots ── guest
//!     by hash  ▲        │                in memory and on disk       threads  sandbox
//!              └────────┘ only when not yet compiled
//! ```
//!
//! What runs is an **artifact**: bytes whose name is their BLAKE3 [`struct@Hash`]. The [`ArtifactStore`] keeps them on disk and
//! verifies them on every read; a file that was damaged is set aside and treated as missing, so that the node fetches it
//! again from a peer.
//!
//! Each runtime is one file behind the trait. [`CudaExecutor`] runs kernels and built-in transforms on CUDA devices, in processes of
//! their own. [`WasmExecutor`] runs WASI preview 1 commands (input on standard input, output on standard output, standard error kept as
//! logs) and plain exported functions on numbers. Its guests have no ambient authority: no files, no network, no inherited environment.
//!
//! Every way in which an attempt can end badly is a distinct [`ExecutionError`] with a stable
//! [`reason`](ExecutionError::reason) and a verdict: [`retryable`](ExecutionError::retryable) or final.
//!
//! ```
//! use tarn_executor::{Attempt, Executor, Hash, Kind, Limits, Source, WasmConfig, WasmExecutor};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let module = r#"(module (func (export "add") (param i32 i32) (result i32)
//!     local.get 0 local.get 1 i32.add))"#;
//! let executor = WasmExecutor::new(WasmConfig { slots: 2, ..WasmConfig::default() })?;
//! let attempt = Attempt {
//!     artifact: Hash::of(module.as_bytes()),
//!     source: Source::Bytes(module.into()),
//!     kind: Kind::Export { name: "add".into(), params: vec!["40".into(), "2".into()] },
//!     limits: Limits::default(),
//! };
//! let report = executor.run(attempt, CancellationToken::new()).await?;
//! assert_eq!(report.output, "42");
//! # Ok(())
//! # }
//! ```

mod artifact;
pub mod cuda;
mod durable;
mod error;
mod executor;
mod hash;
mod limits;
mod value;
mod wasm;

pub use artifact::{
    ARTIFACT_BYTES_MAX, ArtifactInfo, ArtifactSource, ArtifactStore, ArtifactWriter, DAMAGED_FILES_MAX, SourceError,
    StoreError,
};
pub use cuda::{CudaConfig, CudaExecutor, KernelCall, TransformCall};
pub use error::ExecutionError;
pub use executor::{Attempt, Capabilities, Command, Executor, Failure, Kind, Report, Source, Usage};
pub use hash::{Hash, HashParseError};
pub use limits::{
    ARGUMENTS_BYTES_MAX, FUEL_MAX, LOG_BYTES_DEFAULT, LOG_BYTES_MAX, Limits, MEMORY_BYTES_DEFAULT, MEMORY_BYTES_MAX,
    OUTPUT_BYTES_DEFAULT, OUTPUT_BYTES_MAX, TIME_MS_DEFAULT, TIME_MS_MAX,
};
pub use value::{Argument, Value};
pub use wasm::{Allocation, SLOTS_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX, WasmCacheStats, WasmConfig, WasmExecutor};
