//! One attempt from its admission to the moment when nothing of it is left on the device.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ledger::{Grant, Ledger, Refusal};
use super::message::Job;
use super::worker::{Answer, Worker};
use super::{CudaConfig, DeviceShare};
use crate::{ExecutionError, Limits};

/// How long a shared worker may take to stop one of its attempts before it is killed with all of them.
const GRACE: Duration = Duration::from_secs(2);

/// After so many losses of workers in a row, a device gets no attempts until a probe finds it again.
const LOSSES_MAX: u32 = 3;

/// What to do, ready for a worker.
pub(super) struct Work {
    pub(super) job: Job,
    /// The payload, in parts.
    pub(super) parts: Vec<Bytes>,
    pub(super) share: DeviceShare,
    pub(super) limits: Limits,
    /// Whether it runs a stranger's code, which gets a process of its own that is used once.
    pub(super) alone: bool,
}

/// How it ended.
pub(super) struct Ended {
    pub(super) result: Answer,
    pub(super) waited: Duration,
    pub(super) ran: Duration,
    /// What was set aside on the device, in bytes.
    pub(super) memory_bytes: u64,
}

/// What all attempts of one executor share.
pub(super) struct Shared {
    config: CudaConfig,
    ledger: Mutex<Ledger>,
    /// Told whenever something was given back.
    room: Notify,
    /// The worker of each device that runs built-in transforms side by side.
    workers: HashMap<u32, tokio::sync::Mutex<Option<Arc<Worker>>>>,
    losses: Mutex<HashMap<u32, u32>>,
    next_id: AtomicU64,
}

/// A share that is given back when this is dropped.
struct Held {
    shared: Arc<Shared>,
    grant: Grant,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.ledger().release(self.grant);
        self.shared.room.notify_waiters();
    }
}

impl Shared {
    pub(super) fn new(config: CudaConfig, ledger: Ledger, devices: impl Iterator<Item = u32>) -> Self {
        Self {
            config,
            ledger: Mutex::new(ledger),
            room: Notify::new(),
            workers: devices.map(|device| (device, tokio::sync::Mutex::default())).collect(),
            losses: Mutex::default(),
            next_id: AtomicU64::new(1),
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the share is free on some device.
    async fn admit(self: &Arc<Self>, share: DeviceShare) -> Result<Held, ExecutionError> {
        loop {
            // Before asking, so that what is given back in between is not missed.
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            let asked = self.ledger().admit(share);
            match asked {
                Ok(grant) => {
                    return Ok(Held { shared: Arc::clone(self), grant });
                }
                Err(Refusal::Full) => room.await,
                Err(Refusal::TooLarge(limit_bytes)) => {
                    let wanted_bytes = share.bytes_of(limit_bytes);
                    return Err(ExecutionError::DeviceMemoryLimit { wanted_bytes, limit_bytes });
                }
                Err(Refusal::NoDevice) => {
                    let detail = "its devices failed and are being probed".to_owned();
                    return Err(ExecutionError::NoCudaDevice { detail });
                }
            }
        }
    }

    async fn start_worker(&self, device: u32) -> Result<Arc<Worker>, ExecutionError> {
        let cache_dir = self.config.cache_dir.as_ref().map(|dir| dir.to_string_lossy().into_owned());
        Worker::start(&self.config.command, device, cache_dir, self.config.patience).await.map(Arc::new)
    }

    async fn worker(&self, device: u32, alone: bool) -> Result<Arc<Worker>, ExecutionError> {
        if alone {
            return self.start_worker(device).await;
        }
        let mut place = self.workers[&device].lock().await;
        if let Some(worker) = place.as_ref().filter(|worker| !worker.is_lost()) {
            return Ok(Arc::clone(worker));
        }
        let worker = self.start_worker(device).await?;
        *place = Some(Arc::clone(&worker));
        Ok(worker)
    }

    /// Counts losses of a device's workers in a row, and closes it after too many.
    fn note(self: &Arc<Self>, device: u32, lost: bool) {
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let count = losses.entry(device).or_default();
        *count = if lost { *count + 1 } else { 0 };
        if *count == LOSSES_MAX {
            tracing::warn!(device, losses = LOSSES_MAX, "a CUDA device lost its workers and gets no attempts for now");
            self.ledger().set_closed(device, true);
            // Those who wait for this device alone must hear it.
            self.room.notify_waiters();
            tokio::spawn(Arc::clone(self).reopen(device));
        }
    }

    /// Probes a closed device until it answers. It ends with the executor.
    async fn reopen(self: Arc<Self>, device: u32) {
        let weak = Arc::downgrade(&self);
        let (command, patience, pause) = (self.config.command.clone(), self.config.patience, self.config.probe_pause);
        drop(self);
        loop {
            tokio::time::sleep(pause).await;
            let found = command.probe(patience).await;
            let Some(shared) = weak.upgrade() else { return };
            if found.is_ok_and(|devices| devices.iter().any(|found| found.ordinal == device)) {
                tracing::info!(device, "a CUDA device answers again");
                shared.losses.lock().unwrap_or_else(PoisonError::into_inner).insert(device, 0);
                shared.ledger().set_closed(device, false);
                shared.room.notify_waiters();
                return;
            }
        }
    }
}

/// Carries an attempt out. The result is given as soon as it is known; the share is given back when the device is free of the attempt.
pub(super) async fn carry_out(shared: Arc<Shared>, work: Work, cancel: CancellationToken, give: impl FnOnce(Ended) + Send) {
    let called = Instant::now();
    let refused = |error: ExecutionError| Ended { result: Err(error), waited: called.elapsed(), ran: Duration::ZERO, memory_bytes: 0 };
    let held = tokio::select! {
        biased;
        () = cancel.cancelled() => return give(refused(ExecutionError::Cancelled)),
        held = shared.admit(work.share) => match held {
            Ok(held) => held,
            Err(error) => return give(refused(error)),
        },
    };
    let Grant { device, bytes } = held.grant;
    let worker = tokio::select! {
        biased;
        () = cancel.cancelled() => return give(refused(ExecutionError::Cancelled)),
        worker = shared.worker(device, work.alone) => match worker {
            Ok(worker) => worker,
            Err(error) => {
                shared.note(device, true);
                return give(refused(error));
            }
        },
    };
    let (waited, started) = (called.elapsed(), Instant::now());
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let mut answer = worker.submit(id, bytes, work.job, work.parts).await;
    let (limit_ms, limit_bytes) = (work.limits.time_ms, work.limits.output_bytes);
    let stopped = tokio::select! {
        biased;
        answer = &mut answer => Ok(answer),
        () = cancel.cancelled() => Err(ExecutionError::Cancelled),
        () = tokio::time::sleep(Duration::from_millis(limit_ms)) => Err(ExecutionError::TimeLimit { limit_ms }),
    };
    let in_time = stopped.is_ok();
    let lost = || ExecutionError::WorkerLost { detail: "it gave no answer".into() };
    let result = match stopped {
        Ok(answer) => answer.unwrap_or_else(|_| Err(lost())),
        Err(error) => Err(error),
    };
    if in_time {
        shared.note(device, matches!(result, Err(ExecutionError::WorkerLost { .. })));
    }
    let result = match result {
        Ok(output) if output.len() as u64 > limit_bytes => Err(ExecutionError::OutputLimit { limit_bytes }),
        result => result,
    };
    give(Ended { result, waited, ran: started.elapsed(), memory_bytes: bytes });
    if work.alone {
        worker.kill();
        worker.gone().await;
    } else if !in_time {
        worker.cancel(id);
        if tokio::time::timeout(GRACE, answer).await.is_err() {
            worker.kill();
            worker.gone().await;
        }
    } else if worker.is_lost() {
        worker.gone().await;
    }
    drop(held);
}
