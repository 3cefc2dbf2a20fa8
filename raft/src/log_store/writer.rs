//! The thread that makes the log durable; in a simulation, a task.
//!
//! It takes what is queued, writes it as one batch with one flush, and then answers everyone who waited. While it
//! flushes, the next group gathers in the queue: the slower the disk, the larger the groups.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use openraft::storage::IOFlushed;
use tarn_invariants::{debug_holds, raft};
use tarn_storage::{Batch, Durability, Engine};
use tokio::sync::{mpsc, oneshot};

use super::closed;
use crate::crash;
use crate::disk::Disk;
use crate::types::{FatalFlag, NodeId, TypeConfig};

/// Writes that may wait for the writer. When full, openraft waits in `append`, which is the back-pressure wanted: a disk
/// that cannot keep up slows the leader down. Large enough that one flush never starves the next of company.
const QUEUE_JOBS: usize = 256;

/// The size from which a group is not made larger: a flush of this much is no longer dominated by its fixed cost.
const GROUP_BYTES: usize = 8 << 20;

pub(super) struct Job {
    pub kind: Kind,
    pub batch: Batch,
    pub done: Done,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Append { sequence: u64 },
    Vote,
    Truncate,
    Purge,
}

pub(super) enum Done {
    Callback(IOFlushed<TypeConfig>),
    Answer(oneshot::Sender<Result<(), io::Error>>),
}

pub(super) struct Writer {
    /// `None` once closed.
    queue: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The last append given a number, and the last one flushed.
    issued: AtomicU64,
    flushed: Arc<AtomicU64>,
}

impl Writer {
    pub fn spawn(engine: Arc<dyn Engine>, node_id: NodeId, disk: &Arc<dyn Disk>, fatal: FatalFlag) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_JOBS);
        let flushed = Arc::new(AtomicU64::new(0));
        let pen = Pen { engine, flushed: flushed.clone(), fatal, node_id, synced: 0 };
        let thread = match disk.simulated_delay() {
            None => Some(
                std::thread::Builder::new()
                    .name("tarn-log".into())
                    .spawn(move || pen.run(jobs))
                    .expect("a node that cannot start a thread cannot start"),
            ),
            Some(_) => {
                tokio::spawn(pen.run_simulated(jobs, disk.clone()));
                None
            }
        };
        Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(thread), issued: AtomicU64::new(0), flushed }
    }

    pub fn next_sequence(&self) -> u64 {
        self.issued.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Every append up to this one is in the engine.
    pub fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    pub async fn send(&self, job: Job) -> Result<(), io::Error> {
        let queue = self.queue.lock().expect("no holder of this lock panics").clone();
        let Some(queue) = queue else { return Err(closed()) };
        queue.send(job).await.map_err(|_| closed())
    }

    /// Lets the thread finish what is queued and waits for it.
    pub fn close(&self) {
        drop(self.queue.lock().expect("no holder of this lock panics").take());
        let thread = self.thread.lock().expect("no holder of this lock panics").take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log's writer panicked");
        }
    }
}

/// What the writer holds.
struct Pen {
    engine: Arc<dyn Engine>,
    flushed: Arc<AtomicU64>,
    fatal: FatalFlag,
    node_id: NodeId,
    /// The last append that a power cut would leave, by what the engine was told and has confirmed.
    synced: u64,
}

impl Pen {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            if !self.write_group(first, &mut jobs) {
                return;
            }
        }
        self.finish();
    }

    /// The same on the one thread of a simulation, where a flush takes simulated time.
    async fn run_simulated(mut self, mut jobs: mpsc::Receiver<Job>, disk: Arc<dyn Disk>) {
        while let Some(first) = jobs.recv().await {
            if let Some(delay) = disk.simulated_delay() {
                delay.await;
            }
            if !self.write_group(first, &mut jobs) {
                return;
            }
        }
        self.finish();
    }

    /// Writes a job with those that are queued behind it. False: the disk failed.
    fn write_group(&mut self, first: Job, jobs: &mut mpsc::Receiver<Job>) -> bool {
        let mut group = gather(first, jobs);
        let result = write(self.engine.as_ref(), &mut group);
        if let Err(error) = &result {
            self.fatal.raise(format!("the log cannot be written: {error}"));
        }
        if let Ok(Durability::Synced) = result {
            self.synced = group.last_append().unwrap_or(self.synced);
        }
        for (kind, done) in group.waiting {
            if let (Kind::Append { sequence }, Ok(_)) = (kind, &result) {
                self.confirm(sequence);
            }
            done.complete(match &result {
                Ok(_) => Ok(()),
                Err(error) => Err(io::Error::other(error.to_string())),
            });
        }
        // Nobody can say what the disk holds after a failed flush: nothing more is written.
        result.is_ok()
    }

    /// An append is about to be answered as durable.
    fn confirm(&self, sequence: u64) {
        // The planted bug is for the simulation to find, from outside.
        if !unsafe_answers() {
            debug_holds!(raft::durable_acknowledgement(self.node_id, sequence, self.synced));
        }
        self.flushed.store(sequence, Ordering::Release);
    }

    fn finish(&self) {
        if let Err(error) = self.engine.sync() {
            self.fatal.raise(format!("the log cannot be flushed: {error}"));
        }
    }
}

struct Group {
    batch: Batch,
    waiting: Vec<(Kind, Done)>,
}

impl Group {
    /// The number of the last append in it.
    fn last_append(&self) -> Option<u64> {
        let append = |(kind, _): &(Kind, Done)| match kind {
            Kind::Append { sequence } => Some(*sequence),
            Kind::Vote | Kind::Truncate | Kind::Purge => None,
        };
        self.waiting.iter().rev().find_map(append)
    }
}

fn gather(first: Job, jobs: &mut mpsc::Receiver<Job>) -> Group {
    let mut group = Group { batch: first.batch, waiting: vec![(first.kind, first.done)] };
    while group.batch.byte_size() < GROUP_BYTES
        && let Ok(job) = jobs.try_recv()
    {
        group.batch.append(&job.batch);
        group.waiting.push((job.kind, job.done));
    }
    group
}

fn unsafe_answers() -> bool {
    tarn_storage::canary::planted("ack-before-fsync")
}

/// Writes a group, and says how durable it is.
fn write(engine: &dyn Engine, group: &mut Group) -> Result<Durability, tarn_storage::StorageError> {
    let has = |wanted: fn(&Kind) -> bool| group.waiting.iter().any(|(kind, _)| wanted(kind));
    let points = [
        (has(|kind| matches!(kind, Kind::Append { .. })), crash::LOG_APPEND_BEFORE, crash::LOG_APPEND_AFTER),
        (has(|kind| *kind == Kind::Vote), crash::LOG_VOTE_BEFORE, crash::LOG_VOTE_AFTER),
        (has(|kind| *kind == Kind::Purge), crash::LOG_PURGE_BEFORE, crash::LOG_PURGE_AFTER),
    ];
    let durability = match !unsafe_answers() && has(|kind| *kind != Kind::Purge) {
        true => Durability::Synced,
        // A lost purge is repeated.
        false => Durability::Buffered,
    };
    points.iter().filter(|(visited, ..)| *visited).for_each(|(_, before, _)| crash::point(before));
    engine.write(std::mem::take(&mut group.batch), durability)?;
    points.iter().filter(|(visited, ..)| *visited).for_each(|(_, _, after)| crash::point(after));
    Ok(durability)
}

impl Done {
    fn complete(self, result: Result<(), io::Error>) {
        match self {
            Self::Callback(callback) => callback.io_completed(result),
            Self::Answer(answer) => {
                // Whoever asked may have been stopped meanwhile.
                let _ = answer.send(result);
            }
        }
    }
}
