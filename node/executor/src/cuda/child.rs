//! The worker's side: the process that touches the device, so that the node need not.
//!
//! The socket to the node is its standard input. It reads requests until the node closes the socket or dies, and then ends at
//! once, whatever its threads are doing: a kernel that cannot be stopped ends with its process.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tarn_transform::{Budget, prepare, write_arrays};

use super::backend::{Backend, Backends};
use super::frame;
use super::message::{FromWorker, Job, JobError, ToWorker};

/// How much of the host's memory one transform may have in a worker, in bytes.
const HOST_BYTES_MAX: u64 = 4 << 30;

/// The exit status after an error that spoils the device's context.
const EXIT_SPOILT: i32 = 70;

/// The exit status after the node sent what is no request.
const EXIT_PROTOCOL: i32 = 76;

/// Runs a worker over standard input until the node closes it. It never returns.
///
/// A node starts itself in a hidden mode that calls this with [`Cuda`](super::Cuda).
pub fn child_main(backends: &dyn Backends) -> ! {
    let status = match standard_input().and_then(|socket| serve(socket, backends)) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("device worker: {error}");
            EXIT_PROTOCOL
        }
    };
    process::exit(status)
}

fn standard_input() -> io::Result<UnixStream> {
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

fn serve(mut socket: UnixStream, backends: &dyn Backends) -> io::Result<()> {
    let answers = Answers(Arc::new(Mutex::new(socket.try_clone()?)));
    let Some((first, _)) = frame::read::<ToWorker>(&mut socket)? else {
        return Ok(());
    };
    let (device, cache_dir) = match first {
        ToWorker::Probe => {
            let answer = match backends.devices() {
                Ok(devices) => FromWorker::Devices { devices },
                Err(detail) => FromWorker::Unusable { detail },
            };
            return answers.give(&answer, &[]);
        }
        ToWorker::Open { device, cache_dir } => (device, cache_dir),
        ToWorker::Run { .. } | ToWorker::Cancel { .. } => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a request came before the device was opened"));
        }
    };
    let backend: Arc<dyn Backend> = match backends.open(device, cache_dir.as_deref()) {
        Ok(backend) => backend.into(),
        Err(detail) => return answers.give(&FromWorker::Unusable { detail }, &[]),
    };
    answers.give(&FromWorker::Ready, &[])?;
    let running = Running::default();
    while let Some((message, payload)) = frame::read::<ToWorker>(&mut socket)? {
        match message {
            ToWorker::Run { id, memory_bytes, job } => {
                let task = Task {
                    id,
                    memory_bytes,
                    job,
                    payload,
                    cancelled: running.enter(id),
                    backend: Arc::clone(&backend),
                    answers: answers.clone(),
                    running: running.clone(),
                };
                std::thread::Builder::new().name(format!("attempt-{id}")).spawn(move || task.run())?;
            }
            ToWorker::Cancel { id } => running.cancel(id),
            ToWorker::Probe | ToWorker::Open { .. } => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the device is open already"));
            }
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked is replaced whole or written whole; a thread that panicked takes the process with it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
struct Answers(Arc<Mutex<UnixStream>>);

impl Answers {
    fn give(&self, answer: &FromWorker, payload: &[u8]) -> io::Result<()> {
        frame::write(&mut *lock(&self.0), answer, payload)
    }
}

/// Which attempts are running, and whether each was cancelled.
#[derive(Clone, Default)]
struct Running(Arc<Mutex<HashMap<u64, Arc<AtomicBool>>>>);

impl Running {
    fn enter(&self, id: u64) -> Arc<AtomicBool> {
        let cancelled = Arc::new(AtomicBool::new(false));
        lock(&self.0).insert(id, Arc::clone(&cancelled));
        cancelled
    }

    fn cancel(&self, id: u64) {
        if let Some(cancelled) = lock(&self.0).get(&id) {
            cancelled.store(true, Ordering::Relaxed);
        }
    }

    fn leave(&self, id: u64) {
        lock(&self.0).remove(&id);
    }
}

/// One attempt on its thread.
struct Task {
    id: u64,
    memory_bytes: u64,
    job: Job,
    payload: Vec<u8>,
    cancelled: Arc<AtomicBool>,
    backend: Arc<dyn Backend>,
    answers: Answers,
    running: Running,
}

impl Task {
    fn run(self) {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.compute()));
        let result = result.unwrap_or_else(|_| {
            let detail = "the worker ran into a bug of its own".to_owned();
            Err(JobError::Device { detail })
        });
        self.running.leave(self.id);
        let ends = result.as_ref().is_err_and(JobError::ends_worker);
        let given = match result {
            Ok(output) => self.answers.give(&FromWorker::Done { id: self.id }, &output),
            Err(error) => self.answers.give(&FromWorker::Failed { id: self.id, error }, &[]),
        };
        if ends || given.is_err() {
            process::exit(EXIT_SPOILT);
        }
    }

    fn compute(&self) -> Result<Vec<u8>, JobError> {
        let cancelled = || self.cancelled.load(Ordering::Relaxed);
        let host = Budget { memory_bytes: HOST_BYTES_MAX, cancelled: &cancelled };
        let device = Budget { memory_bytes: self.memory_bytes, cancelled: &cancelled };
        match &self.job {
            Job::Transform { name, params } => {
                let operation = prepare(name, params, &self.payload, &host)?;
                let arrays = self.backend.transform(operation, &device)?;
                Ok(write_arrays(&arrays, &host)?)
            }
            Job::Kernel(launch) => {
                let split = usize::try_from(launch.source_bytes).ok().filter(|&at| at <= self.payload.len());
                let Some(split) = split else {
                    let detail = "the source is longer than the message".to_owned();
                    return Err(JobError::Device { detail });
                };
                let (source, input) = self.payload.split_at(split);
                self.backend.kernel(launch, source, input, &device)
            }
        }
    }
}
