//! Submits tasks to a work queue and keeps account of each until a worker has acknowledged it.
//!
//! As many generators run as tasks may be outstanding. Each submits a task, waits until the queue has accepted it and a worker has
//! acknowledged it, and goes on with its next: so no more are ever outstanding, and each that was accepted is waited for, also after the
//! measured time.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::pace::Pace;
use crate::measure::{Load, Samples};

/// How long tasks may take after the end of the load, before they count as lost.
const DRAINED_WITHIN: Duration = Duration::from_secs(60);
/// A payload begins with the number of its generator and the number of its task there.
const HEAD: usize = 16;

/// The account of the outstanding tasks.
pub struct Tasks {
    /// For each generator its outstanding task's number, and whom to tell.
    outstanding: Vec<Mutex<(u64, Option<oneshot::Sender<()>>)>>,
    filling: Vec<u8>,
    repeated: AtomicU64,
}

impl Tasks {
    /// An account for this load's tasks.
    ///
    /// # Errors
    /// If the payload is too small for a task's number.
    pub fn new(load: &Load) -> Result<Arc<Self>> {
        ensure!(load.payload >= HEAD, "a payload needs {HEAD} bytes at least");
        let outstanding = (0..load.outstanding).map(|_| Mutex::new((0, None))).collect();
        Ok(Arc::new(Self { outstanding, filling: vec![b'x'; load.payload - HEAD], repeated: AtomicU64::new(0) }))
    }

    /// A worker has acknowledged the task that has this payload.
    ///
    /// # Errors
    /// If it is no payload of these tasks.
    pub fn acknowledged(&self, payload: &[u8]) -> Result<()> {
        let (generator, rest) = payload.split_first_chunk().context("a task without a number")?;
        let number = u64::from_le_bytes(*rest.first_chunk().context("a task without a number")?);
        let slot = self.outstanding.get(usize::try_from(u64::from_le_bytes(*generator))?).context("a task of nobody")?;
        let mut slot = slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let submitted = slot.0;
        ensure!(number <= submitted, "a task that was never submitted");
        match slot.1.take_if(|_| number == submitted) {
            Some(waiting) => drop(waiting.send(())),
            None => drop(self.repeated.fetch_add(1, Ordering::Relaxed)),
        }
        Ok(())
    }

    /// The next task of a generator: its payload, and what tells when it is acknowledged.
    fn next(&self, generator: usize) -> (Bytes, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        let mut slot = self.outstanding[generator].lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slot.0 += 1;
        slot.1 = Some(sender);
        let head = [(generator as u64).to_le_bytes(), slot.0.to_le_bytes()];
        (Bytes::from([&head[0][..], &head[1][..], &self.filling[..]].concat()), receiver)
    }

    /// Runs the load: `submit` gets a generator's number and a payload, and returns when the queue has accepted the task. `workers` never
    /// end unless they fail.
    ///
    /// The samples' facts tell `acknowledged_again` if tasks were acknowledged more than once.
    ///
    /// # Errors
    /// If a submission or a worker fails, or a task is not acknowledged within a minute after the end.
    pub async fn run<S, F>(self: &Arc<Self>, load: &Load, submit: S, mut workers: JoinSet<Result<()>>) -> Result<Samples>
    where
        S: Fn(usize, Bytes) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let pace = Pace::begin(load);
        let mut generators = JoinSet::new();
        for generator in 0..load.outstanding {
            let (tasks, pace, submit) = (self.clone(), pace.clone(), submit.clone());
            generators.spawn(async move {
                let mut micros = Vec::new();
                while let Some(due) = pace.next().await {
                    let (payload, acknowledged) = tasks.next(generator);
                    submit(generator, payload).await?;
                    acknowledged.await?;
                    pace.count(due, &mut micros);
                }
                anyhow::Ok(micros)
            });
        }
        let mut micros = Vec::new();
        let mut too_late = pin!(tokio::time::sleep_until((pace.end() + DRAINED_WITHIN).into()));
        loop {
            tokio::select! {
                ended = generators.join_next() => match ended {
                    Some(counted) => micros.extend(counted??),
                    None => break,
                },
                Some(failed) = workers.join_next() => {
                    failed?.context("a worker failed")?;
                    bail!("a worker ended");
                },
                () = &mut too_late => bail!("{} tasks were accepted and not acknowledged within {DRAINED_WITHIN:?}", generators.len()),
            }
        }
        let mut samples = pace.samples(micros);
        match self.repeated.load(Ordering::Relaxed) {
            0 => {}
            repeated => samples.facts.push(("acknowledged_again", repeated.to_string())),
        }
        Ok(samples)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::usage::Meter;

    /// Runs a load on a queue in memory whose worker acknowledges each task so often.
    async fn run(times: usize) -> Result<Samples> {
        let load = Load {
            time: Duration::from_millis(50),
            warm_up: Duration::ZERO,
            clients: 1,
            connections: 1,
            workers: 1,
            outstanding: 3,
            rate: None,
            payload: HEAD,
            meter: Meter::default(),
        };
        let tasks = Tasks::new(&load)?;
        let (queue, mut submitted) = mpsc::unbounded_channel::<Bytes>();
        let (book, mut workers) = (tasks.clone(), JoinSet::new());
        workers.spawn(async move {
            while let Some(payload) = submitted.recv().await {
                tokio::time::sleep(Duration::from_millis(1)).await;
                for _ in 0..times {
                    book.acknowledged(&payload)?;
                }
            }
            std::future::pending().await
        });
        let submit = move |_, payload| {
            let sent = queue.send(payload);
            async { Ok(sent?) }
        };
        tasks.run(&load, submit, workers).await
    }

    #[tokio::test]
    async fn what_is_acknowledged_twice_counts_once_and_is_told() {
        let once = run(1).await.expect("nothing is lost");
        assert!(!once.micros.is_empty() && once.facts.is_empty());
        let twice = run(2).await.expect("nothing is lost");
        let again: usize = twice.facts[0].1.parse().expect("a number");
        assert!(twice.facts[0].0 == "acknowledged_again" && again.abs_diff(twice.micros.len()) <= 3 + 1, "{again} {}", twice.micros.len());
    }

    #[test]
    fn a_task_of_somebody_else_is_refused() {
        let load = Load {
            time: Duration::ZERO,
            warm_up: Duration::ZERO,
            clients: 1,
            connections: 1,
            workers: 1,
            outstanding: 1,
            rate: None,
            payload: HEAD,
            meter: Meter::default(),
        };
        let tasks = Tasks::new(&load).expect("room for a number");
        assert!(tasks.acknowledged(b"short").is_err());
        assert!(tasks.acknowledged(&[9; HEAD]).is_err());
        assert!(tasks.acknowledged(&[[0; 8], 1_u64.to_le_bytes()].concat()).is_err(), "it was not submitted yet");
    }
}
