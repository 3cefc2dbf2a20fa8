//! Slots: how many attempts run at once, and how many may wait for their turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::ExecutionError;

/// How many attempts may wait, for each slot, before further ones are refused with `RESOURCE_EXHAUSTED`. Each holds its input in
/// memory. A node leases about as many tasks as it has slots, so only a mistake gets here.
const WAITING_PER_SLOT: usize = 64;

/// The slots of one executor.
pub(crate) struct Slots {
    number: usize,
    free: Arc<Semaphore>,
    admitted: AtomicUsize,
}

/// An attempt that was let in. Dropping it makes its place free.
pub(crate) struct Admitted<'a>(&'a AtomicUsize);

impl Slots {
    /// So many slots, all of them free.
    ///
    /// # Errors
    /// [`ExecutionError::LimitOutOfRange`] unless there is at least one and at most `max`.
    pub(crate) fn new(number: usize, max: usize) -> Result<Self, ExecutionError> {
        if !(1..=max).contains(&number) {
            let (value, max) = (number as u64, max as u64);
            return Err(ExecutionError::LimitOutOfRange { limit: "slots", value, min: 1, max });
        }
        Ok(Self { number, free: Arc::new(Semaphore::new(number)), admitted: AtomicUsize::new(0) })
    }

    /// How many there are.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// How many attempts are running or waiting.
    pub(crate) fn admitted(&self) -> usize {
        self.admitted.load(Ordering::Relaxed)
    }

    /// Lets an attempt in, or refuses it when too many are waiting.
    pub(crate) fn admit(&self) -> Result<Admitted<'_>, ExecutionError> {
        let waiting_max = self.number * WAITING_PER_SLOT;
        let admitted = Admitted(&self.admitted);
        if self.admitted.fetch_add(1, Ordering::Relaxed) >= self.number + waiting_max {
            let detail = format!("{waiting_max} attempts are waiting for {} slots already", self.number);
            return Err(ExecutionError::ResourceExhausted { detail });
        }
        Ok(admitted)
    }

    /// Waits for a free slot; first come, first served.
    pub(crate) async fn take(&self, cancel: &CancellationToken) -> Result<OwnedSemaphorePermit, ExecutionError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ExecutionError::Cancelled),
            slot = Arc::clone(&self.free).acquire_owned() => slot.map_err(ExecutionError::broken),
        }
    }

    /// Waits until all are free at once.
    pub(crate) async fn settled(&self) {
        let all = u32::try_from(self.number).expect("the number of slots was checked");
        // The semaphore is never closed.
        let _ = self.free.acquire_many(all).await;
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
