//! The `cuda` runtime: kernels and built-in transforms on CUDA devices.
//!
//! ```text
//! node process                                            worker process (the node's own binary in a hidden mode)
//! run ─► check ─► ledger: a share of a device's memory     child_main ─► Backend ─► context, streams, kernels, cuFFT
//!                 └─► worker ◄──── frames over a socket ────► one thread and stream for each attempt
//! ```
//!
//! - **The node never touches a device.** No CUDA library is loaded into it; all work is done in worker processes. A kernel
//!   that hangs, faults or takes the driver with it costs its worker, which is killed and replaced.
//! - Built-in transforms share one worker for each device and run there side by side on streams of their own. A stranger's kernel
//!   gets a worker for itself, used once, so that it neither sees nor spoils what others have on the device.
//! - A share of memory is set aside for each attempt before it starts ([`Ledger`]), and given back when the device is free of it.
//! - A machine without CUDA builds and runs the same binary: the executor announces no devices there, and refuses every attempt
//!   with `NO_CUDA_DEVICE`.
//!
//! What runs on a device was written from the documentation of CUDA and compiled, and is **untested on a device** so far: everything
//! in `cuda/device` but the compiler. The kernels in `cuda/kernels` compile, and their arithmetic is tested on the processor.
//! `deploy/cuda` tests all of it where there is a device. What surrounds it (ledger, workers, frames) is tested with workers
//! that compute on the processor.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::limits::{OUTPUT_BYTES_MAX, TIME_MS_MAX};
use crate::{Attempt, Capabilities, DeviceState, ExecutionError, Executor, Failure, Hash, Kind, Limits, Report, Usage};

mod attempt;
mod backend;
mod child;
pub mod device;
mod frame;
mod ledger;
mod message;
mod request;
mod source;
mod worker;

pub use backend::{Backend, Backends, Mirror, Processor};
pub use child::child_main;
pub use device::Cuda;
pub use ledger::{Grant, Ledger, Refusal};
pub use message::{DeviceInfo, JobError, Launch};
pub use request::{ARGUMENTS_MAX, DeviceShare, INPUT_BYTES_MAX, KernelArgument, KernelCall, Language, SOURCE_BYTES_MAX, TransformCall};
pub use worker::WorkerCommand;

use attempt::{Ended, Shared, Work, carry_out};
use message::Job;
use source::Sources;

/// How a [`CudaExecutor`] is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaConfig {
    /// How a worker is started.
    pub command: WorkerCommand,
    /// Where compiled kernels are kept; `None` compiles them anew in each worker.
    pub cache_dir: Option<PathBuf>,
    /// How many attempts may run at once on one device.
    pub slots_per_device: usize,
    /// How much memory of each device is left to CUDA itself (contexts, libraries, its heap), in bytes.
    pub reserved_bytes: u64,
    /// How long a worker may take to list devices or to open one. A driver that was not in use takes seconds.
    pub patience: Duration,
    /// How long to wait between two probes of a device that failed.
    pub probe_pause: Duration,
}

impl CudaConfig {
    /// The usual settings with this worker.
    #[must_use]
    pub fn new(command: WorkerCommand) -> Self {
        Self {
            command,
            cache_dir: None,
            slots_per_device: 4,
            reserved_bytes: 2 << 30,
            patience: Duration::from_secs(30),
            probe_pause: Duration::from_secs(30),
        }
    }
}

/// Runs kernels and transforms on the devices that were there when it was made. Dropping it kills its workers.
pub struct CudaExecutor {
    shared: Arc<Shared>,
    devices: Vec<DeviceInfo>,
    /// Why there are no devices.
    absence: String,
    sources: Sources,
}

impl CudaExecutor {
    /// Lists the devices. Without any this is an executor that refuses every attempt, not an error: the reason is in
    /// [`absence`](Self::absence).
    pub async fn new(config: CudaConfig) -> Self {
        let (devices, absence) = match config.command.probe(config.patience).await {
            Ok(devices) if devices.is_empty() => (devices, "the driver lists none".to_owned()),
            Ok(devices) => (devices, String::new()),
            Err(detail) => (Vec::new(), detail),
        };
        let mut ledger = Ledger::default();
        for device in &devices {
            let usable_bytes = device.memory_bytes.saturating_sub(config.reserved_bytes);
            ledger.add(device.ordinal, usable_bytes, config.slots_per_device);
        }
        let ordinals: Vec<u32> = devices.iter().map(|device| device.ordinal).collect();
        Self { shared: Arc::new(Shared::new(config, ledger, ordinals.into_iter())), devices, absence, sources: Sources::default() }
    }

    /// The devices there are.
    #[must_use]
    pub fn devices(&self) -> &[DeviceInfo] {
        &self.devices
    }

    /// Why there are no devices; empty when there are some.
    #[must_use]
    pub fn absence(&self) -> &str {
        &self.absence
    }

    /// How much memory is set aside on a device now, in bytes.
    #[must_use]
    pub fn held_bytes(&self, device: u32) -> u64 {
        self.shared.ledger().held_bytes(device)
    }

    /// Does all that comes before a share is asked for.
    async fn make_ready(&self, attempt: Attempt) -> Result<Work, ExecutionError> {
        attempt.limits.check()?;
        attempt.grants.check_offered("cuda", &[])?;
        if self.devices.is_empty() {
            let detail = self.absence.clone();
            return Err(ExecutionError::NoCudaDevice { detail });
        }
        let limits = attempt.limits;
        match attempt.kind {
            Kind::Transform(call) => {
                call.share.check()?;
                request::check_input(call.input.len())?;
                tarn_transform::find(&call.name).map_err(message::JobError::from)?;
                let job = Job::Transform { name: call.name, params: call.params };
                Ok(Work { job, parts: vec![call.input], share: call.share, limits, alone: false })
            }
            Kind::Kernel(call) => {
                call.check(limits.output_bytes)?;
                let source = self.sources.load(&attempt.artifact, attempt.source).await?;
                let launch = Launch {
                    name: call.name,
                    language: call.language,
                    grid: call.grid,
                    block: call.block,
                    shared_bytes: call.shared_bytes,
                    arguments: call.arguments,
                    source_bytes: source.len() as u64,
                };
                let (job, parts) = (Job::Kernel(launch), vec![source, call.input]);
                Ok(Work { job, parts, share: call.share, limits, alone: true })
            }
            other @ (Kind::Command(_) | Kind::Export { .. }) => Err(other.unsupported("cuda")),
        }
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([("cuda.devices".to_owned(), self.devices.len().to_string())]);
        for device in &self.devices {
            let mut label = |name: &str, value: String| labels.insert(format!("cuda.{}.{name}", device.ordinal), value);
            let (major, minor) = device.compute_capability;
            label("name", device.name.clone());
            label("compute_capability", format!("{major}.{minor}"));
            label("memory_bytes", device.memory_bytes.to_string());
            label("driver", format!("{}.{}", device.driver_version / 1000, device.driver_version % 1000 / 10));
            label("fft", device.fft.to_string());
            label("compiler", device.compiler.to_string());
        }
        labels
    }
}

#[async_trait]
impl Executor for CudaExecutor {
    fn runtime(&self) -> &'static str {
        "cuda"
    }

    fn device_states(&self) -> Vec<DeviceState> {
        let ledger = self.shared.ledger();
        let state = |device: &DeviceInfo| DeviceState {
            kind: "cuda",
            memory_bytes: ledger.usable_bytes(device.ordinal),
            capability: 10 * device.compute_capability.0 + device.compute_capability.1,
            lost: ledger.is_closed(device.ordinal),
        };
        self.devices.iter().map(state).collect()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            runtime: self.runtime(),
            slots: self.shared.ledger().slots(),
            limits_max: Limits {
                memory_bytes: crate::MEMORY_BYTES_MAX,
                time_ms: TIME_MS_MAX,
                output_bytes: OUTPUT_BYTES_MAX,
                log_bytes: crate::LOG_BYTES_MAX,
                fuel: None,
            },
            labels: self.labels(),
        }
    }

    /// Keeps the source in memory. It is compiled by the first worker that runs it, and cached on disk from then on.
    async fn prepare(&self, hash: &Hash, bytes: Bytes) -> Result<(), ExecutionError> {
        self.sources.keep(hash, bytes)
    }

    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Result<Report, Failure> {
        let work = self.make_ready(attempt).await?;
        // A token of our own: when this future is dropped, the attempt stops although nobody cancelled. The attempt has a task of its
        // own, because it holds its share until the device is free of it, longer than anybody waits.
        let cancel = cancel.child_token();
        let _stop_when_dropped = cancel.clone().drop_guard();
        let (give, ended) = oneshot::channel();
        let attempt = carry_out(Arc::clone(&self.shared), work, cancel.clone(), move |ended| {
            // Whoever dropped the other end does not want it any more.
            let _ = give.send(ended);
        });
        tokio::spawn(attempt);
        let Ended { result, waited, ran, memory_bytes } = ended.await.map_err(ExecutionError::broken)?;
        let usage = Usage { waited, ran, memory_bytes_peak: memory_bytes, fuel: None };
        match result {
            Ok(output) => Ok(Report { output, values: Vec::new(), logs: Bytes::new(), usage }),
            Err(error) => Err(Failure { error, logs: Bytes::new(), usage }),
        }
    }
}
