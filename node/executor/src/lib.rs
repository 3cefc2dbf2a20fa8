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
//! Each runtime is one file behind the trait. [`WasmExecutor`] runs core modules (WASI preview 1 commands and plain functions on
//! numbers) and components (WASI 0.2 commands, tasks of `tarn:guest`, functions): input on standard input or as the
//! argument of the task, output on standard output or as its result, standard error kept as logs. A guest has no ambient
//! authority: what it may reach beyond computing is named in its [`Grants`], and what they let it do outside of the sandbox the node
//! does for it, as [`HostServices`]. [`MicroVmExecutor`] runs core modules
//! too, each in a virtual machine of its own, so that there is a second wall behind the sandbox. [`native::NativeExecutor`] runs
//! processes behind the walls that the machine's kernel can put up, and [`CudaExecutor`] kernels and built-in transforms on devices.
//!
//! Every way in which an attempt can end badly is a distinct [`ExecutionError`] with a stable
//! [`reason`](ExecutionError::reason) and a verdict: [`retryable`](ExecutionError::retryable) or final.
//!
//! ```
//! use std::sync::Arc;
//! use tarn_executor::{
//!     Attempt, Executor, Grants, Hash, Kind, Limits, NoServices, Source, WasmConfig, WasmExecutor,
//! };
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let module = r#"(module (func (export "add") (param i32 i32) (result i32)
//!     local.get 0 local.get 1 i32.add))"#;
//! let executor = WasmExecutor::new(WasmConfig { slots: 2, ..WasmConfig::default() })?;
//! let attempt = Attempt {
//!     tenant: "default".into(),
//!     artifact: Hash::of(module.as_bytes()),
//!     source: Source::Bytes(module.into()),
//!     kind: Kind::Export { name: "add".into(), params: vec!["40".into(), "2".into()] },
//!     limits: Limits::default(),
//!     grants: Grants::default(),
//!     services: Arc::new(NoServices),
//! };
//! let report = executor.run(attempt, CancellationToken::new()).await?;
//! assert_eq!(report.output, "42");
//! # Ok(())
//! # }
//! ```

mod artifact;
mod child;
pub mod cuda;
mod durable;
mod error;
mod executor;
mod function;
mod grants;
mod hash;
mod limits;
mod microvm;
pub mod native;
mod output;
mod services;
mod slots;
mod value;
mod wasm;

pub use artifact::{
    ARTIFACT_BYTES_MAX, ArtifactInfo, ArtifactSource, ArtifactStore, ArtifactWriter, DAMAGED_FILES_MAX, SourceError, StoreError,
};
pub use child::child_main;
pub use cuda::{CudaConfig, CudaExecutor, KernelCall, TransformCall};
pub use error::ExecutionError;
pub use executor::{Attempt, Capabilities, Command, DeviceState, Executor, Failure, Kind, Report, Source, Usage};
pub use grants::{
    CALL_DEPTH_MAX, CALLS_MAX, CallGrant, ContextAccess, ContextGrant, Grants, HttpOrigin, HttpScheme, ORIGINS_MAX, OriginParseError,
    SCRATCH_BYTES_MAX,
};
pub use hash::{Hash, HashParseError};
pub use limits::{
    ARGUMENTS_BYTES_MAX, FUEL_MAX, LOG_BYTES_DEFAULT, LOG_BYTES_MAX, Limits, MEMORY_BYTES_DEFAULT, MEMORY_BYTES_MAX, OUTPUT_BYTES_DEFAULT,
    OUTPUT_BYTES_MAX, TIME_MS_DEFAULT, TIME_MS_MAX,
};
pub use microvm::{MACHINES_MAX, MicroVmConfig, MicroVmExecutor};
pub use services::{ContextEntry, DriverServices, HostServices, LogLevel, NoServices, NotEnqueued, ServiceError};
pub use value::{Argument, Value};
pub use wasm::{
    Allocation, DriverConfig, DriverEngine, DriverEvent, DriverInstance, DriverStart, SLOTS_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX,
    WasmCacheStats, WasmConfig, WasmExecutor,
};
