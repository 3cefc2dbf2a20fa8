//! When operations are due, and which of them count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::measure::{self, Load, Samples};

/// How long operations may take after the end of the load.
const ENDED_WITHIN: Duration = Duration::from_secs(60);

/// Tells a load's generators when their next operation is due. Clones share one schedule.
///
/// Without a rate an operation is due as soon as its generator is free. With a rate the schedule is laid before the load begins and does
/// not wait for answers: an operation that finds no free generator is late from the moment it was due.
#[derive(Clone)]
pub struct Pace {
    begin: Instant,
    counted_from: Instant,
    end: Instant,
    schedule: Option<Arc<Schedule>>,
}

struct Schedule {
    /// Between one operation and the next.
    every: Duration,
    /// As many permits as operations that are due and not taken.
    due: Semaphore,
    taken: AtomicU32,
}

impl Pace {
    /// Begins now, and has the load's meter read when the counted time begins and ends.
    pub fn begin(load: &Load) -> Self {
        let begin = Instant::now();
        let counted_from = begin + load.warm_up;
        let end = counted_from + load.time;
        load.meter.watch(counted_from, end);
        let schedule = load.rate.map(|rate| {
            let every = Duration::from_secs(1) / rate.max(1);
            let schedule = Arc::new(Schedule { every, due: Semaphore::new(0), taken: AtomicU32::new(0) });
            // A thread of its own: tokio's timers have a resolution of a millisecond, which is as long as what is measured.
            std::thread::spawn({
                let schedule = schedule.clone();
                move || schedule.run(begin, end)
            });
            schedule
        });
        Self { begin, counted_from, end, schedule }
    }

    /// Waits for the next operation, and tells since when it is due; nothing when the load has ended.
    pub async fn next(&self) -> Option<Instant> {
        let Some(schedule) = &self.schedule else {
            let now = Instant::now();
            return (now < self.end).then_some(now);
        };
        schedule.due.acquire().await.ok()?.forget();
        Some(self.begin + schedule.every * schedule.taken.fetch_add(1, Ordering::Relaxed))
    }

    /// When the load ends.
    pub fn end(&self) -> Instant {
        self.end
    }

    /// Adds the latency of an operation that was due then and ended now, if it counts: if it ended after the warm-up and before the end.
    pub fn count(&self, due: Instant, micros: &mut Vec<u32>) {
        let now = Instant::now();
        if (self.counted_from..self.end).contains(&now) {
            micros.push(measure::micros(now - due));
        }
    }

    /// What the load gave, from the latencies of all generators. Call it when the load has ended.
    pub fn samples(&self, micros: Vec<u32>) -> Samples {
        let mut facts = Vec::new();
        if let Some(schedule) = &self.schedule {
            let left = schedule.due.available_permits();
            if left > 0 {
                facts.push(("due_and_never_begun", left.to_string()));
            }
        }
        Samples { micros, took: self.end - self.counted_from, facts }
    }
}

impl Schedule {
    fn run(&self, begin: Instant, end: Instant) {
        for at in (0..).map(|number| begin + self.every * number).take_while(|at| *at < end) {
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            self.due.add_permits(1);
        }
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        self.due.close();
    }
}

/// Whoever performs one operation after another.
pub trait Client: Send + 'static {
    /// Performs one operation.
    ///
    /// # Errors
    /// If it fails, which ends the load.
    fn operate(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// Runs a load of operations: each client performs its next when it is due and the last has ended.
///
/// # Errors
/// If an operation fails, or has not ended a minute after the end.
pub async fn drive<C: Client>(load: &Load, clients: Vec<C>) -> Result<Samples> {
    let pace = Pace::begin(load);
    let mut running = JoinSet::new();
    for mut client in clients {
        let pace = pace.clone();
        running.spawn(async move {
            let mut micros = Vec::new();
            while let Some(due) = pace.next().await {
                client.operate().await?;
                pace.count(due, &mut micros);
            }
            anyhow::Ok(micros)
        });
    }
    let mut micros = Vec::new();
    while let Some(ended) = tokio::time::timeout_at((pace.end() + ENDED_WITHIN).into(), running.join_next()).await.context("no answer")? {
        micros.extend(ended??);
    }
    Ok(pace.samples(micros))
}
