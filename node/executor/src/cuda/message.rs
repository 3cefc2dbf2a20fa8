//! What a node and its device worker say to each other.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tarn_transform::TransformError;

use super::{KernelArgument, Language};
use crate::ExecutionError;

/// From the node to the worker. The first one is [`Probe`](Self::Probe) or [`Open`](Self::Open).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ToWorker {
    /// List the devices and end.
    Probe,
    /// Take this device, and say [`FromWorker::Ready`].
    Open { device: u32, cache_dir: Option<String> },
    /// Do this. The payload belongs to it.
    Run { id: u64, memory_bytes: u64, job: Job },
    /// Stop doing it; what has ended already has ended.
    Cancel { id: u64 },
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Job {
    /// The payload is the input.
    Transform { name: String, params: String },
    /// The payload is the source and behind it the input.
    Kernel(Launch),
}

/// A launch of a kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The kernel.
    pub name: String,
    /// What the source is.
    pub language: Language,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// The arguments in order.
    pub arguments: Vec<KernelArgument>,
    /// How long the source is; the input follows it.
    pub source_bytes: u64,
}

/// From the worker to the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum FromWorker {
    /// The answer to [`ToWorker::Probe`].
    Devices { devices: Vec<DeviceInfo> },
    /// The answer to [`ToWorker::Open`].
    Ready,
    /// It was done; the payload is the output.
    Done { id: u64 },
    /// It was not done.
    Failed { id: u64, error: JobError },
    /// The worker cannot do anything at all, and ends.
    Unusable { detail: String },
}

/// A device as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceInfo {
    /// Its number in the driver's order.
    pub ordinal: u32,
    /// Its name.
    pub name: String,
    /// The compute capability, for example (9, 0).
    pub compute_capability: (u32, u32),
    /// Its memory in bytes.
    pub memory_bytes: u64,
    /// How many multiprocessors it has.
    pub multiprocessors: u32,
    /// The newest CUDA version that the driver supports, for example 13000.
    pub driver_version: u32,
    /// Whether cuFFT was found.
    pub fft: bool,
    /// Whether NVRTC was found.
    pub compiler: bool,
}

/// Why a worker did not do something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum JobError {
    /// A transform refused.
    #[error("{message}")]
    Transform {
        /// Its reason.
        reason: String,
        /// Its sentence.
        message: String,
    },
    /// The kernel does not compile or load.
    #[error("{detail}")]
    InvalidKernel {
        /// What the compiler said.
        detail: String,
    },
    /// The launch does not fit.
    #[error("{detail}")]
    BadLaunch {
        /// Why.
        detail: String,
    },
    /// More device memory than the share.
    #[error("{wanted_bytes} bytes of {limit_bytes}")]
    Memory {
        /// What it would have had.
        wanted_bytes: u64,
        /// Its share.
        limit_bytes: u64,
    },
    /// The kernel failed on the device. The worker's context is lost with it.
    #[error("{detail}")]
    Fault {
        /// What the driver said.
        detail: String,
    },
    /// The device or its libraries failed, not the task. The worker ends.
    #[error("{detail}")]
    Device {
        /// What failed.
        detail: String,
    },
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl JobError {
    /// Whether the worker cannot go on after this, because CUDA reports the same error for every further call.
    pub(super) fn ends_worker(&self) -> bool {
        matches!(self, Self::Fault { .. } | Self::Device { .. })
    }
}

impl From<TransformError> for JobError {
    fn from(error: TransformError) -> Self {
        if error == TransformError::Cancelled {
            return Self::Cancelled;
        }
        Self::Transform { reason: error.reason().to_owned(), message: error.to_string() }
    }
}

impl From<JobError> for ExecutionError {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Transform { reason, message } => {
                // A worker is not trusted with the names that programs match on.
                let known: HashMap<&str, &'static str> = TransformError::REASONS.iter().map(|&reason| (reason, reason)).collect();
                match known.get(reason.as_str()) {
                    Some(reason) => Self::Transform { reason, message },
                    None => Self::WorkerLost { detail: "it gave a reason that does not exist".into() },
                }
            }
            JobError::InvalidKernel { detail } => Self::InvalidKernel { detail },
            JobError::BadLaunch { detail } => Self::BadLaunch { detail },
            JobError::Memory { wanted_bytes, limit_bytes } => Self::DeviceMemoryLimit { wanted_bytes, limit_bytes },
            JobError::Fault { detail } => Self::KernelFault { detail },
            JobError::Device { detail } => Self::WorkerLost { detail },
            JobError::Cancelled => Self::Cancelled,
        }
    }
}
