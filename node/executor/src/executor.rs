//! The one trait behind which every runtime stands, and the words it uses.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::artifact::ARTIFACT_BYTES_MAX;
use crate::limits::ARGUMENTS_BYTES_MAX;
use crate::{Argument, ArtifactSource, ExecutionError, Grants, Hash, HostServices, KernelCall, Limits, NoServices, TransformCall, Value};

/// A runtime that runs attempts. Implementations are shared between threads and cheap to call concurrently: they
/// bound by themselves how much runs at once.
#[async_trait]
pub trait Executor: Send + Sync {
    /// The runtime's name, as a task names it: `wasm`.
    fn runtime(&self) -> &'static str;

    /// What this executor offers, for the worker's registration. It does not change while the process runs.
    fn capabilities(&self) -> Capabilities;

    /// The devices as they stand now. They do change: one may be lost, and come back.
    fn device_states(&self) -> Vec<DeviceState> {
        Vec::new()
    }

    /// Makes the artifact `hash` ready to run, so that the first attempt does not wait for it: compiles `bytes` and caches
    /// the result. Preparing again what is ready does nothing, not even look at `bytes`; concurrent calls do the work once.
    ///
    /// # Errors
    /// The artifact is invalid, does not hash to its name, or the executor failed.
    async fn prepare(&self, hash: &Hash, bytes: Bytes) -> Result<(), ExecutionError>;

    /// Runs one attempt to its end, waiting for a free slot first. Cancelling the token, or dropping the returned future,
    /// stops the guest within a few hundredths of a second.
    ///
    /// # Errors
    /// A [`Failure`] carries the [`ExecutionError`] together with the logs and usage up to it.
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Result<Report, Failure>;
}

/// What an executor offers. The node turns it into the capabilities of its worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Executor::runtime`].
    pub runtime: &'static str,
    /// How many attempts run at once. A node should lease no more than that; a few more wait without harm.
    pub slots: usize,
    /// The largest limits that an attempt may ask for.
    pub limits_max: Limits,
    /// Facts to match requirements against, for example `wasm.wasi` = `preview1`.
    pub labels: BTreeMap<String, String>,
}

/// A device of an executor, as whoever places tasks wants to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceState {
    /// Such as `cuda`.
    pub kind: &'static str,
    /// Its memory for attempts, in bytes.
    pub memory_bytes: u64,
    /// Its compute capability, ten times the major number plus the minor one.
    pub capability: u32,
    /// Whether it gets no attempts for now.
    pub lost: bool,
}

/// One try at a task: what to run, on what, within which limits.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Whose it is: what one tenant leaves behind, no other may find.
    pub tenant: Arc<str>,
    /// The artifact to run.
    pub artifact: Hash,
    /// Where its bytes come from, should it not be ready yet.
    pub source: Source,
    /// How to run it.
    pub kind: Kind,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub grants: Grants,
    /// What does for it what it was granted; [`NoServices`](crate::NoServices) does nothing.
    pub services: Arc<dyn HostServices>,
}

impl Attempt {
    /// An attempt for nobody in particular, within the default limits and without grants.
    #[must_use]
    pub fn new(artifact: Hash, source: Source, kind: Kind) -> Self {
        Self {
            tenant: "".into(),
            artifact,
            source,
            kind,
            limits: Limits::default(),
            grants: Grants::default(),
            services: Arc::new(NoServices),
        }
    }
}

/// Where the bytes of an artifact come from. They are only asked for when the compiled form is not cached.
#[derive(Clone)]
pub enum Source {
    /// From nowhere: the artifact was prepared before. If it has left the cache since, the attempt fails with
    /// `ARTIFACT_UNAVAILABLE`, which is retryable.
    Prepared,
    /// These bytes.
    Bytes(Bytes),
    /// Whatever this says: the node's own store, or a peer's.
    Provider(Arc<dyn ArtifactSource>),
}

impl Source {
    /// The bytes of `artifact`. Whether they are the right ones is for the caller to verify.
    ///
    /// # Errors
    /// [`ExecutionError::ArtifactUnavailable`], [`ExecutionError::ArtifactTooLarge`].
    pub(crate) async fn obtain(self, artifact: &Hash) -> Result<Bytes, ExecutionError> {
        let unavailable = |detail: String| ExecutionError::ArtifactUnavailable { hash: *artifact, detail };
        let bytes = match self {
            Self::Bytes(bytes) => bytes,
            Self::Prepared => return Err(unavailable("it was not prepared, or long ago".into())),
            Self::Provider(provider) => match provider.load(artifact).await {
                Ok(Some(bytes)) => bytes,
                Ok(None) => return Err(unavailable("no source has it".into())),
                Err(error) => return Err(unavailable(error.to_string())),
            },
        };
        let size_bytes = bytes.len() as u64;
        if size_bytes > ARTIFACT_BYTES_MAX {
            return Err(ExecutionError::ArtifactTooLarge { size_bytes, max_bytes: ARTIFACT_BYTES_MAX });
        }
        Ok(bytes)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prepared => f.write_str("Prepared"),
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Provider(_) => f.write_str("Provider"),
        }
    }
}

/// How an artifact is run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Kind {
    /// As a program: `main` with arguments, standard input, standard output and standard error.
    Command(Command),
    /// As a library, of which one function is called with numbers.
    Export {
        /// The exported function.
        name: String,
        /// Its arguments, in order.
        params: Vec<Argument>,
    },
    /// As CUDA source or PTX, of which one kernel is launched on a device.
    Kernel(KernelCall),
    /// As nothing: a built-in transform is computed, and the artifact is not looked at.
    Transform(TransformCall),
}

impl Kind {
    /// That `runtime` cannot run it.
    pub(crate) fn unsupported(&self, runtime: &'static str) -> ExecutionError {
        let kind = match self {
            Self::Command(_) => "a command",
            Self::Export { .. } => "an exported function",
            Self::Kernel(_) => "a kernel",
            Self::Transform(_) => "a built-in transform",
        };
        ExecutionError::UnsupportedKind { runtime, kind }
    }
}

/// What a program is started with. It sees nothing else of the machine but what it was granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// Its arguments, without the program's own name, which the executor adds in front.
    pub args: Vec<String>,
    /// Its environment. Nothing is inherited from the node.
    pub env: BTreeMap<String, String>,
    /// Its standard input.
    pub input: Bytes,
}

impl Command {
    /// Checks that it can be handed to a program.
    ///
    /// # Errors
    /// [`ExecutionError::BadArguments`] names the first argument or variable that cannot.
    pub(crate) fn check(&self) -> Result<(), ExecutionError> {
        if let Some(index) = self.args.iter().position(|arg| arg.contains('\0')) {
            let detail = format!("argument {} contains a zero byte, which ends a string for the guest", index + 1);
            return Err(ExecutionError::bad_arguments(detail));
        }
        for (key, value) in &self.env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                let detail = format!("the environment variable {key:?} needs a name without `=`, and no zero bytes");
                return Err(ExecutionError::bad_arguments(detail));
            }
        }
        // Each ends with a zero byte, so empty ones count too.
        let pairs = self.env.iter().flat_map(|(key, value)| [key, value]);
        let bytes: u64 = self.args.iter().chain(pairs).map(|text| text.len() as u64 + 1).sum();
        if bytes > ARGUMENTS_BYTES_MAX {
            return Err(ExecutionError::bad_arguments(format!(
                "arguments and environment have {bytes} bytes and the limit is {ARGUMENTS_BYTES_MAX}: pass them on standard input"
            )));
        }
        Ok(())
    }
}

/// The end of an attempt that succeeded.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The standard output of a command; the results of a function as JSON text (nothing for none, a value for one, an
    /// array for several).
    pub output: Bytes,
    /// The results of a function as numbers; empty for a command.
    pub values: Vec<Value>,
    /// The standard error of a command; anything that a function printed. It may end with a marker that says how much
    /// was dropped.
    pub logs: Bytes,
    /// What the attempt used.
    pub usage: Usage,
}

/// The end of an attempt that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// Why it did not succeed.
    #[source]
    pub error: ExecutionError,
    /// The logs up to that moment; after a trap they end with the guest's call stack.
    pub logs: Bytes,
    /// What the attempt used up to that moment.
    pub usage: Usage,
}

impl From<ExecutionError> for Failure {
    fn from(error: ExecutionError) -> Self {
        Self { error, logs: Bytes::new(), usage: Usage::default() }
    }
}

/// What one attempt used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// From the call until the guest started: loading or compiling the artifact, and waiting for a slot.
    pub waited: Duration,
    /// From the start of the guest until its end, by the wall clock. A guest has a thread of its own, so that on a machine
    /// with a core for each slot this is its processor time too.
    pub ran: Duration,
    /// The most linear memory it had at any moment, in bytes.
    pub memory_bytes_peak: u64,
    /// The fuel it used, where the runtime counts it.
    pub fuel: Option<u64>,
}

/// How a guest ended and what it used, as those who ran it see it.
pub(crate) struct Ended {
    pub(crate) result: Result<(Bytes, Vec<Value>), ExecutionError>,
    pub(crate) logs: Bytes,
    pub(crate) usage: Usage,
}

impl Ended {
    /// The end of the attempt, which had waited so long before.
    #[expect(clippy::result_large_err, reason = "it is what executors return")]
    pub(crate) fn after(self, waited: Duration) -> Result<Report, Failure> {
        let Self { result, logs, usage } = self;
        let usage = Usage { waited, ..usage };
        match result {
            Ok((output, values)) => Ok(Report { output, values, logs, usage }),
            Err(error) => Err(Failure { error, logs, usage }),
        }
    }
}
