//! When the operations of a load are due.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Tells clients when their next operation is due, until the run ends. Clones share one schedule.
///
/// Without a rate an operation is due as soon as its client is free. With one the schedule waits for nobody: an operation that finds no free
/// client is late from the moment it was due.
#[derive(Clone)]
pub struct Beat {
    end: CancellationToken,
    schedule: Option<Arc<Schedule>>,
}

/// How long the schedule's thread may outlive its run.
const END_SEEN_WITHIN: Duration = Duration::from_millis(100);

struct Schedule {
    begin: Instant,
    every: Duration,
    /// As many permits as operations that are due and not taken.
    due: Semaphore,
    taken: AtomicU32,
}

impl Beat {
    /// Begins now. `rate` counts tasks or keys a second, all clients together, of which each operation has `batch`.
    pub fn start(rate: Option<u32>, batch: u32, end: CancellationToken) -> Self {
        let schedule = rate.map(|rate| {
            let every = Duration::from_secs(1) * batch / rate.max(1);
            let schedule = Arc::new(Schedule { begin: Instant::now(), every, due: Semaphore::new(0), taken: AtomicU32::new(0) });
            // A thread of its own: the runtime's timers have a resolution of a millisecond, which is as long as what is measured.
            std::thread::spawn({
                let (schedule, end) = (schedule.clone(), end.clone());
                move || schedule.run(&end)
            });
            schedule
        });
        Self { end, schedule }
    }

    /// Waits until the next operation is due, and tells since when it is; `None` when the run has ended.
    pub async fn due(&self) -> Option<Instant> {
        let Some(schedule) = &self.schedule else {
            return (!self.end.is_cancelled()).then(Instant::now);
        };
        self.end.run_until_cancelled(schedule.due.acquire()).await?.ok()?.forget();
        Some(schedule.begin + schedule.every * schedule.taken.fetch_add(1, Ordering::Relaxed))
    }

    /// Operations that were due and found no free client before the end, but for one that may be due at the very end.
    pub fn missed(&self) -> u64 {
        self.schedule.as_ref().map_or(0, |schedule| schedule.due.available_permits().saturating_sub(1) as u64)
    }
}

impl Schedule {
    fn run(&self, end: &CancellationToken) {
        let mut number = 0;
        while !end.is_cancelled() {
            let early = (self.begin + self.every * number).saturating_duration_since(Instant::now());
            if early.is_zero() {
                self.due.add_permits(1);
                number += 1;
            } else {
                std::thread::sleep(early.min(END_SEEN_WITHIN));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_due_while_nobody_is_free_is_late_from_then_on() {
        let beat = Beat::start(Some(2_000), 2, CancellationToken::new());
        let mut before = beat.due().await.unwrap();
        for _ in 0..5 {
            let due = beat.clone().due().await.unwrap();
            assert_eq!(due - before, Duration::from_millis(1));
            before = due;
        }
        // Nobody is free until ten more are due: the first of them is as old as it is.
        while beat.missed() < 10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(beat.due().await.unwrap() - before, Duration::from_millis(1));
        assert!(before.elapsed() >= Duration::from_millis(10));
        beat.end.cancel();
        assert_eq!(beat.due().await, None);
        assert!(beat.missed() >= 9);
    }

    #[tokio::test]
    async fn the_end_comes_before_the_next_operation_is_due() {
        let beat = Beat::start(Some(1), 1_000, CancellationToken::new());
        assert!(beat.due().await.is_some());
        let (end, waits) = (beat.end.clone(), beat.due());
        end.cancel();
        assert_eq!(waits.await, None);
    }

    #[tokio::test]
    async fn without_a_rate_whoever_is_free_goes_on() {
        let beat = Beat::start(None, 1, CancellationToken::new());
        assert!(beat.due().await.is_some());
        beat.end.cancel();
        assert_eq!(beat.due().await, None);
    }
}
