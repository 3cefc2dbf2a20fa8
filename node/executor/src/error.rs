//! Why an attempt did not succeed, sorted by what the caller does next.

use crate::Hash;

/// Why an attempt did not succeed. [`retryable`](Self::retryable) says what to do next, [`reason`](Self::reason) is the
/// name that programs match on, and the message is a sentence for the person who submitted the task.
///
/// Two rules decide between final and retryable. What follows from the module and its input alone (an invalid module, a
/// trap, memory, output, fuel) is final: another attempt would end the same way. What depends on the machine, on the
/// moment, or on the guest's own judgement (time, a lost artifact, a non-zero exit status) is retryable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutionError {
    // Final: the task itself has to change.
    /// The artifact is not a module that this runtime can compile.
    #[error(
        "the artifact is not a valid WebAssembly module or component ({detail}): rebuild it for wasm32-wasip1 or wasm32-wasip2 and put it again"
    )]
    InvalidModule {
        /// What the compiler found.
        detail: String,
    },
    /// The module has no exported function of the wanted name.
    #[error("the module exports no function `{name}`: name one that it exports{}", list_exports(.exports))]
    MissingExport {
        /// The name that was looked for; a command needs `_start`.
        name: String,
        /// The functions that it does export, at most a handful.
        exports: Vec<String>,
    },
    /// The arguments do not fit what is to be run.
    #[error("the arguments do not fit: {detail}")]
    BadArguments {
        /// Which argument, and what is wanted instead.
        detail: String,
    },
    /// The module imports something that the sandbox does not offer.
    #[error(
        "the module imports `{import}`, which this runtime does not offer: a module may import wasi_snapshot_preview1, a component WASI 0.2 and tarn:guest"
    )]
    UnsupportedImport {
        /// `module::name`.
        import: String,
    },
    /// This executor cannot run an attempt of this kind.
    #[error("the runtime `{runtime}` cannot run {kind}: choose another runtime or another kind")]
    UnsupportedKind {
        /// The executor's runtime.
        runtime: &'static str,
        /// The kind that was asked for.
        kind: &'static str,
    },
    /// A limit in the request is outside of its range.
    #[error("the limit {limit} is {value}, which is outside of {min} to {max}: choose a value in that range")]
    LimitOutOfRange {
        /// The field of [`Limits`](crate::Limits).
        limit: &'static str,
        /// The value that was asked for.
        value: u64,
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// The artifact is larger than any artifact may be.
    #[error("the artifact has {size_bytes} bytes and the limit is {max_bytes}: make it smaller")]
    ArtifactTooLarge {
        /// Its size in bytes.
        size_bytes: u64,
        /// The largest size allowed, in bytes.
        max_bytes: u64,
    },
    /// The guest used something that the task was not granted.
    #[error("the guest called {call}, which needs the capability `{capability}`, and the task was not granted it: {advice}")]
    CapabilityNotGranted {
        /// The capability: a field of [`Grants`](crate::Grants).
        capability: &'static str,
        /// What the guest called.
        call: String,
        /// What to do about it.
        advice: String,
    },
    /// The guest trapped. This is final because a trap is a bug in the guest for this input; a guest that wants to be
    /// tried again exits with a non-zero status instead.
    #[error("the guest trapped ({trap}): fix the guest or its input, the logs show where it happened")]
    Trap {
        /// What the trap was.
        trap: String,
    },
    /// The process was ended by a signal of its own doing: a bug in it for this input.
    #[error("the process crashed ({signal}): fix the program or its input, the logs may say where")]
    Crash {
        /// The signal's name, such as `SIGSEGV`.
        signal: String,
    },
    /// The artifact is nothing that this machine can start as a process.
    #[error(
        "the artifact cannot be started as a process ({detail}): it must be a program for this machine, or a script that begins with #!"
    )]
    InvalidProgram {
        /// What the system said.
        detail: String,
    },
    /// The guest asked for more memory than it may have.
    #[error(
        "the guest asked for {} memory and the limit memory_bytes is {limit_bytes}: raise it or use less", amount(.wanted_bytes)
    )]
    MemoryLimit {
        /// What it would have had, in bytes; `None` where the runtime learns only that it was too much.
        wanted_bytes: Option<u64>,
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// The guest's table of functions and references is too large.
    #[error("the guest asked for a table of {wanted} elements and the limit is {limit}: use smaller tables")]
    TableLimit {
        /// What it would have had, in elements.
        wanted: u64,
        /// The limit in elements.
        limit: u64,
    },
    /// The guest wrote more output than it may.
    #[error("the guest wrote more output than the limit output_bytes of {limit_bytes}: raise it or write less")]
    OutputLimit {
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// The guest used up its fuel.
    #[error("the guest used up the limit fuel of {limit} units: raise it or compute less")]
    FuelLimit {
        /// The limit in units.
        limit: u64,
    },
    /// The artifact is not CUDA source or PTX that compiles.
    #[error("the artifact is not a CUDA kernel that compiles ({detail}): correct it and put it again")]
    InvalidKernel {
        /// What the compiler or the driver said.
        detail: String,
    },
    /// The launch of a kernel does not fit the kernel, its input or the device.
    #[error("the kernel cannot be launched like this: {detail}")]
    BadLaunch {
        /// What is wrong, and what is wanted instead.
        detail: String,
    },
    /// The kernel did what no kernel may, such as reading outside of its memory.
    #[error("the kernel failed on the device ({detail}): fix the kernel or its input")]
    KernelFault {
        /// What the driver said.
        detail: String,
    },
    /// The attempt wanted more device memory than it may have.
    #[error("the attempt needs {wanted_bytes} bytes of device memory and has {limit_bytes}: ask for a larger share")]
    DeviceMemoryLimit {
        /// What it would have had, in bytes.
        wanted_bytes: u64,
        /// Its share in bytes.
        limit_bytes: u64,
    },
    /// A built-in transform refused its parameters or its input.
    #[error("{message}")]
    Transform {
        /// Its own reason, which begins with `TRANSFORM_`.
        reason: &'static str,
        /// Its own sentence.
        message: String,
    },

    /// The guest did to its micro-VM what the machine does not allow: it broke out of the sandbox of WebAssembly, and no
    /// further. Final, because it follows from the module (or from a bug in the compiler or the guest runtime).
    #[error("the guest broke the rules of its micro-VM and was stopped ({detail}): report it, with the module")]
    MicroVmFault {
        /// What it did.
        detail: String,
    },

    // Retryable: the same task may succeed another time or elsewhere.
    /// This node has no CUDA device that works.
    #[error("this node has no CUDA device ({detail}): run the task on a node that announces one")]
    NoCudaDevice {
        /// Why it has none.
        detail: String,
    },
    /// The process that did the device work ended before its answer.
    #[error("the device worker was lost ({detail}): try again, and look at this node's log if it happens twice")]
    WorkerLost {
        /// How it ended.
        detail: String,
    },
    /// The guest ran for too long. Retryable, because another machine or another moment may be faster.
    #[error("the guest ran longer than the limit time_ms of {limit_ms}: raise it or cut the work into smaller tasks")]
    TimeLimit {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// The guest ended with an exit status instead of success, which is how it says "try again". An exported function should
    /// return rather than exit, so there even the status 0 ends up here.
    #[error("the guest exited with status {status}: its logs say why")]
    ExitNonzero {
        /// The exit status.
        status: i32,
    },
    /// Somebody else on the machine ended the process.
    #[error("the process was killed from outside, for want of memory on the machine perhaps: another attempt may go better")]
    Killed,
    /// The guest said itself that it failed, and whether another try may go better.
    #[error("the guest failed: {message}")]
    GuestFailed {
        /// What it said, in one line.
        message: String,
        /// Whether it asked for another try.
        retryable: bool,
    },
    /// The caller cancelled the attempt. It says nothing against the task, so only who cancelled knows what comes next.
    #[error("the attempt was cancelled: submit the task again if it is still wanted")]
    Cancelled,
    /// The bytes of the artifact do not hash to its name: they were damaged on the way.
    #[error("the bytes of artifact {expected} hash to {actual}: fetch or put the artifact again")]
    HashMismatch {
        /// The name under which the bytes were handed in.
        expected: Hash,
        /// What they hash to.
        actual: Hash,
    },
    /// The artifact is not on this node.
    #[error("artifact {hash} is not available on this node ({detail}): put it again, or wait until a peer has delivered it")]
    ArtifactUnavailable {
        /// The artifact.
        hash: Hash,
        /// Where it was looked for.
        detail: String,
    },
    /// The executor has no room for this attempt now.
    #[error("the executor has no room for the attempt ({detail}): try again later or on another node")]
    ResourceExhausted {
        /// What ran out.
        detail: String,
    },
    /// This machine cannot put up all the walls around a process.
    #[error(
        "this machine cannot give a process {}: run the node as root on a kernel that can, or allow incomplete walls", .missing.join(", ")
    )]
    WallsIncomplete {
        /// What is missing.
        missing: Vec<&'static str>,
    },
    /// This machine cannot run micro-VMs.
    #[error("this machine cannot run micro-VMs ({detail}): use another runtime, or a machine with KVM")]
    KvmUnavailable {
        /// What is missing.
        detail: String,
    },
    /// The image that micro-VMs are started from is missing or bad.
    #[error("the guest image for micro-VMs cannot be used ({detail}): build it with deploy/microvm/build")]
    GuestImageUnavailable {
        /// Which file, and what is wrong with it.
        detail: String,
    },
    /// The executor itself failed: a bug in it or a fault of the machine, not of the task.
    #[error("the executor failed ({detail}): try again on another node and look at this node's log")]
    Broken {
        /// What failed.
        detail: String,
    },
}

impl ExecutionError {
    /// Whether another attempt at the same task may succeed.
    #[must_use]
    pub fn retryable(&self) -> bool {
        match self {
            Self::InvalidModule { .. }
            | Self::MissingExport { .. }
            | Self::BadArguments { .. }
            | Self::UnsupportedImport { .. }
            | Self::UnsupportedKind { .. }
            | Self::LimitOutOfRange { .. }
            | Self::ArtifactTooLarge { .. }
            | Self::CapabilityNotGranted { .. }
            | Self::Trap { .. }
            | Self::Crash { .. }
            | Self::InvalidProgram { .. }
            | Self::MemoryLimit { .. }
            | Self::TableLimit { .. }
            | Self::OutputLimit { .. }
            | Self::FuelLimit { .. }
            | Self::InvalidKernel { .. }
            | Self::BadLaunch { .. }
            | Self::KernelFault { .. }
            | Self::DeviceMemoryLimit { .. }
            | Self::Transform { .. }
            | Self::MicroVmFault { .. } => false,
            Self::GuestFailed { retryable, .. } => *retryable,
            Self::NoCudaDevice { .. }
            | Self::WorkerLost { .. }
            | Self::TimeLimit { .. }
            | Self::ExitNonzero { .. }
            | Self::Killed
            | Self::Cancelled
            | Self::HashMismatch { .. }
            | Self::ArtifactUnavailable { .. }
            | Self::ResourceExhausted { .. }
            | Self::WallsIncomplete { .. }
            | Self::KvmUnavailable { .. }
            | Self::GuestImageUnavailable { .. }
            | Self::Broken { .. } => true,
        }
    }

    /// The stable name of this error in answers, logs and metrics. A name is never reused for something else.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidModule { .. } => "WASM_INVALID_MODULE",
            Self::MissingExport { .. } => "WASM_MISSING_EXPORT",
            Self::BadArguments { .. } => "BAD_ARGUMENTS",
            Self::UnsupportedImport { .. } => "WASM_UNSUPPORTED_IMPORT",
            Self::UnsupportedKind { .. } => "UNSUPPORTED_KIND",
            Self::LimitOutOfRange { .. } => "LIMIT_OUT_OF_RANGE",
            Self::ArtifactTooLarge { .. } => "ARTIFACT_TOO_LARGE",
            Self::CapabilityNotGranted { .. } => "CAPABILITY_NOT_GRANTED",
            Self::Trap { .. } => "WASM_TRAP",
            Self::Crash { .. } => "NATIVE_CRASH",
            Self::InvalidProgram { .. } => "NATIVE_INVALID_PROGRAM",
            Self::Killed => "NATIVE_KILLED",
            Self::WallsIncomplete { .. } => "NATIVE_WALLS_INCOMPLETE",
            Self::MemoryLimit { .. } => "MEMORY_LIMIT",
            Self::TableLimit { .. } => "TABLE_LIMIT",
            Self::OutputLimit { .. } => "OUTPUT_LIMIT",
            Self::FuelLimit { .. } => "FUEL_LIMIT",
            Self::InvalidKernel { .. } => "CUDA_INVALID_KERNEL",
            Self::BadLaunch { .. } => "CUDA_BAD_LAUNCH",
            Self::KernelFault { .. } => "CUDA_KERNEL_FAULT",
            Self::DeviceMemoryLimit { .. } => "CUDA_MEMORY_LIMIT",
            Self::Transform { reason, .. } => reason,
            Self::NoCudaDevice { .. } => "NO_CUDA_DEVICE",
            Self::WorkerLost { .. } => "CUDA_WORKER_LOST",
            Self::TimeLimit { .. } => "TIME_LIMIT",
            Self::ExitNonzero { .. } => "EXIT_NONZERO",
            Self::GuestFailed { .. } => "GUEST_FAILED",
            Self::Cancelled => "CANCELLED",
            Self::HashMismatch { .. } => "HASH_MISMATCH",
            Self::ArtifactUnavailable { .. } => "ARTIFACT_UNAVAILABLE",
            Self::ResourceExhausted { .. } => "RESOURCE_EXHAUSTED",
            Self::MicroVmFault { .. } => "MICROVM_FAULT",
            Self::KvmUnavailable { .. } => "NO_KVM",
            Self::GuestImageUnavailable { .. } => "NO_GUEST_IMAGE",
            Self::Broken { .. } => "EXECUTOR_BROKEN",
        }
    }

    pub(crate) fn broken(detail: impl ToString) -> Self {
        Self::Broken { detail: detail.to_string() }
    }

    pub(crate) fn bad_arguments(detail: impl Into<String>) -> Self {
        Self::BadArguments { detail: detail.into() }
    }
}

fn list_exports(exports: &[String]) -> String {
    if exports.is_empty() { " (there is none)".to_owned() } else { format!(" ({})", exports.join(", ")) }
}

fn amount(wanted_bytes: &Option<u64>) -> String {
    wanted_bytes.map_or_else(|| "more".to_owned(), |bytes| format!("{bytes} bytes of"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_error_has_a_reason_of_its_own_and_one_line_that_says_what_to_do() {
        let hash = Hash::of(b"");
        let text = || "text".to_owned();
        let all = [
            ExecutionError::InvalidModule { detail: text() },
            ExecutionError::MissingExport { name: text(), exports: vec![text()] },
            ExecutionError::BadArguments { detail: text() },
            ExecutionError::UnsupportedImport { import: text() },
            ExecutionError::UnsupportedKind { runtime: "wasm", kind: "a picture" },
            ExecutionError::LimitOutOfRange { limit: "time_ms", value: 0, min: 1, max: 2 },
            ExecutionError::ArtifactTooLarge { size_bytes: 2, max_bytes: 1 },
            ExecutionError::CapabilityNotGranted { capability: "random", call: text(), advice: text() },
            ExecutionError::Trap { trap: text() },
            ExecutionError::Crash { signal: text() },
            ExecutionError::InvalidProgram { detail: text() },
            ExecutionError::Killed,
            ExecutionError::WallsIncomplete { missing: vec!["a network namespace", "landlock"] },
            ExecutionError::MemoryLimit { wanted_bytes: Some(2), limit_bytes: 1 },
            ExecutionError::TableLimit { wanted: 2, limit: 1 },
            ExecutionError::OutputLimit { limit_bytes: 1 },
            ExecutionError::FuelLimit { limit: 1 },
            ExecutionError::InvalidKernel { detail: text() },
            ExecutionError::BadLaunch { detail: text() },
            ExecutionError::KernelFault { detail: text() },
            ExecutionError::DeviceMemoryLimit { wanted_bytes: 2, limit_bytes: 1 },
            ExecutionError::Transform { reason: "TRANSFORM_BAD_INPUT", message: text() },
            ExecutionError::NoCudaDevice { detail: text() },
            ExecutionError::WorkerLost { detail: text() },
            ExecutionError::TimeLimit { limit_ms: 1 },
            ExecutionError::ExitNonzero { status: 1 },
            ExecutionError::GuestFailed { message: text(), retryable: true },
            ExecutionError::Cancelled,
            ExecutionError::HashMismatch { expected: hash, actual: hash },
            ExecutionError::ArtifactUnavailable { hash, detail: text() },
            ExecutionError::ResourceExhausted { detail: text() },
            ExecutionError::MicroVmFault { detail: text() },
            ExecutionError::KvmUnavailable { detail: text() },
            ExecutionError::GuestImageUnavailable { detail: text() },
            ExecutionError::Broken { detail: text() },
        ];
        let reasons: BTreeSet<&str> = all.iter().map(ExecutionError::reason).collect();
        assert_eq!(reasons.len(), all.len());
        for error in &all {
            assert!(error.reason().bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_'), "{}", error.reason());
            assert!(!error.to_string().contains(['\n', '\t']), "{error}");
        }
        assert_eq!(all.iter().filter(|error| !error.retryable()).count(), 21);
    }

    #[test]
    fn a_memory_limit_tells_no_number_that_nobody_knows() {
        let told = |wanted_bytes| ExecutionError::MemoryLimit { wanted_bytes, limit_bytes: 1 }.to_string();
        assert!(told(Some(2)).starts_with("the guest asked for 2 bytes of memory and the limit memory_bytes is 1"));
        assert!(told(None).starts_with("the guest asked for more memory and the limit memory_bytes is 1"));
    }
}
