//! The `microvm` runtime: the same WebAssembly modules as the `wasm` runtime, behind a second wall.
//!
//! ```text
//! run ─► check limits ─► module (cache) ─► resolve job ─► slot ─► thread: machine, session ─► report
//!                        compiled here                          ring 3 of a KVM guest:
//!                        for the guest                          wasmtime's runtime, the module's code
//! ```
//!
//! **Two walls.** The first is WebAssembly's sandbox, as in the `wasm` runtime. The second is a virtual machine whose only program is the
//! guest image (`deploy/microvm`): wasmtime without a compiler, and WASI preview 1 by host calls. A module that tricks the
//! compiler into wrong code gets out of the first wall and finds itself in ring 3 of a machine with exactly the
//! memory of one attempt, no devices but a doorbell, no gates into ring 0, page tables that it has no address for, and no
//! page that is both writable and executable. Any exception ends the machine and the attempt with `MICROVM_FAULT`.
//!
//! **No byte stays.** Machines are started ahead and wait in a pool. After each attempt everything that its guest could
//! have changed is overwritten or given back to the system, and all registers are set again; a machine whose guest did not end in
//! an orderly way is thrown away.
//!
//! **Nothing polls.** Time limit and cancellation reach a guest by a signal to its thread.
//!
//! Limits: `memory_bytes` is enforced twice, exactly by the guest runtime (`MEMORY_LIMIT`) and to the page by the machine, which has
//! no memory beyond it. Time, output and logs are enforced by the host alone. Fuel is counted by compiled code and thus
//! is as good as the sandbox.
//!
//! It uses plain KVM calls of x86-64. Tried on a KVM that runs ring 3 natively and emulates ring 0 (PVM); **untested on VMX and
//! SVM hardware**, where it should run as well.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

use crate::executor::Ended;
use crate::limits::{FUEL_MAX, LOG_BYTES_MAX, MEMORY_BYTES_DEFAULT, MEMORY_BYTES_MAX, OUTPUT_BYTES_MAX, TIME_MS_MAX};
use crate::slots::Slots;
use crate::wasm::disk::DiskCache;
use crate::{Attempt, Capabilities, ExecutionError, Executor, Failure, Hash, Limits, Report, Source};

mod abi;
mod cache;
mod image;
mod job;
mod leash;
mod machine;
mod memory;
mod module;
mod paging;
mod pool;
mod session;
mod settings;
mod vcpu;

use cache::Cache;
use job::Job;
use leash::{Leash, Stop, StopWhenDropped};
use module::Compiler;
use pool::Pool;

/// The most machines that one executor may have at once. Each that runs occupies a thread of tokio's blocking pool, which
/// has 512.
pub const MACHINES_MAX: usize = 128;

/// How a [`MicroVmExecutor`] is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MicroVmConfig {
    /// How many guests run at once, from 1 to [`MACHINES_MAX`].
    pub slots: usize,
    /// How many machines wait ready, up to `slots`. Each uses about 3 MB once it has run. With none, each attempt starts a
    /// machine of its own.
    pub idle: usize,
    /// The guest image, which `deploy/microvm/build` makes. It is as trusted as the node's own binary where one attempt is
    /// concerned, and not at all where others are.
    pub image: PathBuf,
    /// Where compiled modules are kept across restarts; `None` keeps them in memory only. The directory must be the
    /// executor's own, not shared with another runtime's.
    pub cache_dir: Option<PathBuf>,
    /// The most linear memory that a guest may ask for, in bytes, up to [`MEMORY_BYTES_MAX`]. Starting a machine costs a
    /// little more for each byte of it.
    pub memory_bytes_max: u64,
}

impl MicroVmConfig {
    /// One slot for each core, all of them ready, with the image at this path.
    #[must_use]
    pub fn new(image: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = cores.min(MACHINES_MAX);
        Self { slots, idle: slots, image: image.into(), cache_dir: None, memory_bytes_max: MEMORY_BYTES_DEFAULT }
    }

    fn check(&self) -> Result<(), ExecutionError> {
        let ranges = [("idle", self.idle as u64, 0, self.slots as u64), ("memory_bytes_max", self.memory_bytes_max, 1, MEMORY_BYTES_MAX)];
        for (limit, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return Err(ExecutionError::LimitOutOfRange { limit, value, min, max });
            }
        }
        Ok(())
    }
}

/// Runs WebAssembly in micro-VMs. Guests that are running when it is dropped keep what they need until their end.
pub struct MicroVmExecutor {
    config: MicroVmConfig,
    plain: Cache,
    metered: Cache,
    pool: Arc<Pool>,
    slots: Slots,
}

impl MicroVmExecutor {
    /// Boots the guest image and starts the machines that wait. Takes some milliseconds, and one more for each machine.
    ///
    /// # Errors
    /// [`ExecutionError::KvmUnavailable`] when this machine cannot run micro-VMs, [`ExecutionError::GuestImageUnavailable`] when the image
    /// is missing or does not start, [`ExecutionError::LimitOutOfRange`] for a bad number in the configuration,
    /// [`ExecutionError::Broken`] when the cache directory cannot be used.
    pub fn new(config: MicroVmConfig) -> Result<Self, ExecutionError> {
        let slots = Slots::new(config.slots, MACHINES_MAX)?;
        config.check()?;
        let pool = Pool::start(&config.image, config.memory_bytes_max, config.idle)?;
        let disk = match &config.cache_dir {
            Some(dir) => Some(Arc::new(
                DiskCache::open(dir)
                    .map_err(|error| ExecutionError::broken(format!("cannot use the directory for compiled modules: {error}")))?,
            )),
            None => None,
        };
        Ok(Self {
            plain: Cache::new(Compiler::new(false)?, disk.clone()),
            metered: Cache::new(Compiler::new(true)?, disk),
            pool: Arc::new(pool),
            slots,
            config,
        })
    }

    /// How many attempts are running or waiting.
    #[must_use]
    pub fn admitted(&self) -> usize {
        self.slots.admitted()
    }

    /// How many machines wait for a job.
    #[must_use]
    pub fn idle(&self) -> usize {
        self.pool.idle()
    }

    /// Waits until every machine that was used is ready again or gone.
    pub async fn settled(&self) {
        self.slots.settled().await;
    }

    fn limits_max(&self) -> Limits {
        Limits {
            memory_bytes: self.config.memory_bytes_max,
            time_ms: TIME_MS_MAX,
            output_bytes: OUTPUT_BYTES_MAX,
            log_bytes: LOG_BYTES_MAX,
            fuel: Some(FUEL_MAX),
        }
    }

    /// Does all that comes before the guest can start.
    async fn make_ready(&self, attempt: Attempt) -> Result<Job, ExecutionError> {
        attempt.grants.check_offered("microvm", &["clock", "random"])?;
        attempt.limits.check()?;
        let (value, max) = (attempt.limits.memory_bytes, self.config.memory_bytes_max);
        if value > max {
            let limit = "memory_bytes";
            return Err(ExecutionError::LimitOutOfRange { limit, value, min: 0, max });
        }
        let cache = if attempt.limits.fuel.is_some() { &self.metered } else { &self.plain };
        let module = cache.module(&attempt.artifact, attempt.source).await?;
        Job::resolve(module, attempt.kind, attempt.limits, &attempt.grants)
    }

    /// Waits for a slot, runs the guest in it, and watches it. The slot is free again when the machine is ready for the next
    /// guest, even if nobody waits for it any more.
    async fn run_in_slot(&self, job: Job, cancel: CancellationToken, called: Instant) -> Result<Report, Failure> {
        let slot = self.slots.take(&cancel).await?;
        let leash = Arc::new(Leash::default());
        let _stop = StopWhenDropped(Arc::clone(&leash));
        let time = Duration::from_millis(job.limits.time_ms);
        let (started, starts) = oneshot::channel();
        let (ended, mut ends) = oneshot::channel();
        let work = Work { pool: Arc::clone(&self.pool), job, leash: Arc::clone(&leash), slot };
        tokio::task::spawn_blocking(move || work.run(started, ended));
        let outcome = tokio::select! {
            biased;
            outcome = &mut ends => outcome,
            why = stopped(&cancel, starts, time) => {
                leash.stop(why);
                ends.await
            }
        };
        let (ended, began) = outcome.map_err(|_| ExecutionError::broken("the thread of a micro-VM ended half-way"))??;
        ended.after(began.duration_since(called))
    }
}

/// Returns when the guest has to be stopped.
async fn stopped(cancel: &CancellationToken, starts: oneshot::Receiver<()>, time: Duration) -> Stop {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Stop::Cancelled,
        () = time_over(starts, time) => Stop::TimeOver,
    }
}

/// Returns when a guest that started has run for so long.
async fn time_over(starts: oneshot::Receiver<()>, time: Duration) {
    match starts.await {
        Ok(()) => tokio::time::sleep(time).await,
        // It could not start, and the outcome says why.
        Err(_) => std::future::pending().await,
    }
}

/// A guest and everything that it needs, on its way to a thread.
struct Work {
    pool: Arc<Pool>,
    job: Job,
    leash: Arc<Leash>,
    slot: OwnedSemaphorePermit,
}

type Outcome = Result<(Ended, Instant), ExecutionError>;

impl Work {
    /// Runs the guest, hands the outcome over, and only then cleans up behind it.
    fn run(self, started: oneshot::Sender<()>, ended: oneshot::Sender<Outcome>) {
        let mut machine = match self.pool.take() {
            Ok(machine) => machine,
            Err(error) => {
                let _ = ended.send(Err(error));
                return;
            }
        };
        let began = Instant::now();
        let _ = started.send(());
        let (outcome, orderly) = session::run(&mut machine, &self.job, &self.leash);
        // If nobody waits any more, the outcome is nobody's.
        let _ = ended.send(Ok((outcome, began)));
        drop(self.job);
        self.pool.put(machine, orderly);
        drop(self.slot);
    }
}

#[async_trait]
impl Executor for MicroVmExecutor {
    fn runtime(&self) -> &'static str {
        "microvm"
    }

    fn capabilities(&self) -> Capabilities {
        let labels = [("wasm.wasi", "preview1"), ("wasm.simd", "true"), ("wasm.fuel", "true"), ("microvm.kvm", "true")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Capabilities { runtime: self.runtime(), slots: self.slots.number(), limits_max: self.limits_max(), labels: BTreeMap::from(labels) }
    }

    async fn prepare(&self, hash: &Hash, bytes: Bytes) -> Result<(), ExecutionError> {
        self.plain.module(hash, Source::Bytes(bytes)).await?;
        Ok(())
    }

    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Result<Report, Failure> {
        let called = Instant::now();
        let _admitted = self.slots.admit()?;
        let job = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ExecutionError::Cancelled.into()),
            job = self.make_ready(attempt) => job?,
        };
        self.run_in_slot(job, cancel, called).await
    }
}
