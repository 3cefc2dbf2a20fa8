//! The node's side of a device worker: a process that is started, talked to, and killed.
//!
//! Whatever the process does, whether it crashes, hangs, or sends garbage, it costs the attempts that it was running and nothing else:
//! each gets an answer, and the process is killed and reaped.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::backend::tail;
use super::frame;
use super::message::{DeviceInfo, FromWorker, Job, ToWorker};
use crate::ExecutionError;

/// How many messages may wait to be written to one worker. There is at most one for each attempt and one to cancel it.
const QUEUED_MAX: usize = 64;

/// How much of what a worker prints is kept for the log, in bytes.
const PRINTED_BYTES_MAX: usize = 4096;

/// The environment variables that a worker inherits: what finds CUDA's libraries and devices. Everything else, above all the node's
/// secrets, is no business of a process that runs strangers' code.
const INHERITED: [&str; 9] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_CACHE_PATH",
    "CUDA_MPS_PIPE_DIRECTORY",
    "CUDA_MPS_LOG_DIRECTORY",
];

/// How a worker is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program, the node's own binary as a rule.
    pub program: PathBuf,
    /// Its arguments: the hidden mode in which it calls [`child_main`](super::child_main).
    pub args: Vec<String>,
    /// Environment variables that are set beside the few that it inherits.
    pub env: Vec<(String, String)>,
}

impl WorkerCommand {
    /// The node's own binary, with the arguments on which it calls [`child_main`](crate::child_main).
    #[must_use]
    pub fn own(program: PathBuf, mut args: Vec<String>) -> Self {
        args.push(crate::child::CUDA.to_owned());
        Self { program, args, env: Vec::new() }
    }

    /// Starts the process with one end of a socket as its standard input, and gives the other end.
    fn spawn(&self) -> io::Result<(Child, UnixStream)> {
        let (ours, theirs) = BlockingStream::pair()?;
        ours.set_nonblocking(true)?;
        let inherited = INHERITED.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let child = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(inherited)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // Libraries print there; nothing they print can get into the messages.
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok((child, UnixStream::from_std(ours)?))
    }

    /// Asks a process of its own which devices there are.
    ///
    /// # Errors
    /// Why there is no answer, as a sentence.
    pub(super) async fn probe(&self, patience: Duration) -> Result<Vec<DeviceInfo>, String> {
        let (mut child, mut socket) = self.spawn().map_err(|error| format!("the worker does not start: {error}"))?;
        let asked = async {
            frame::send(&mut socket, &ToWorker::Probe, &[]).await?;
            frame::receive::<FromWorker>(&mut socket).await
        };
        let answer = tokio::time::timeout(patience, asked).await;
        // Not waited for here: a process that hangs in its driver may take long to die. Tokio reaps it.
        let _ = child.start_kill();
        match answer {
            Err(_) => Err(format!("the worker gave no answer within {} s", patience.as_secs())),
            Ok(Err(error)) => Err(format!("the worker's answer cannot be read: {error}")),
            Ok(Ok(None)) => Err("the worker ended without an answer".into()),
            Ok(Ok(Some((FromWorker::Devices { devices }, _)))) => Ok(devices),
            Ok(Ok(Some((FromWorker::Unusable { detail }, _)))) => Err(detail),
            Ok(Ok(Some(_))) => Err("the worker answered something else than was asked".into()),
        }
    }
}

/// What a worker says to one request.
pub(super) type Answer = Result<Bytes, ExecutionError>;

/// A worker that has its device. When the last handle is dropped, the process is killed.
pub(super) struct Worker {
    requests: mpsc::Sender<(ToWorker, Vec<Bytes>)>,
    pending: Pending,
    stop: CancellationToken,
    gone: CancellationToken,
    _stop_when_dropped: DropGuard,
}

impl Worker {
    /// Starts a worker and waits until it has its device.
    pub(super) async fn start(
        command: &WorkerCommand,
        device: u32,
        cache_dir: Option<String>,
        patience: Duration,
    ) -> Result<Self, ExecutionError> {
        let lost = |detail: String| ExecutionError::WorkerLost { detail };
        let (mut child, mut socket) = command.spawn().map_err(|error| lost(format!("it does not start: {error}")))?;
        let opened = async {
            frame::send(&mut socket, &ToWorker::Open { device, cache_dir }, &[]).await?;
            frame::receive::<FromWorker>(&mut socket).await
        };
        match tokio::time::timeout(patience, opened).await {
            Ok(Ok(Some((FromWorker::Ready, _)))) => {}
            Ok(Ok(Some((FromWorker::Unusable { detail }, _)))) => return Err(lost(detail)),
            Ok(Ok(Some(_))) => return Err(lost("it answered something else than was asked".into())),
            Ok(Ok(None)) => return Err(lost("it ended before it had its device".into())),
            Ok(Err(error)) => return Err(lost(format!("its answer cannot be read: {error}"))),
            Err(_) => return Err(lost(format!("it had no device within {} s", patience.as_secs()))),
        }
        let printed = child.stderr.take();
        let (reader, mut writer) = socket.into_split();
        let (requests, mut queue) = mpsc::channel::<(ToWorker, Vec<Bytes>)>(QUEUED_MAX);
        let (stop, gone, pending) = (CancellationToken::new(), CancellationToken::new(), Pending::default());
        let stop_writing = stop.clone();
        tokio::spawn(async move {
            let write = async {
                while let Some((message, parts)) = queue.recv().await {
                    if frame::send(&mut writer, &message, &parts).await.is_err() {
                        return;
                    }
                }
            };
            // Half a message may be on its way when this stops, but then nobody reads on.
            tokio::select! {
                () = stop_writing.cancelled() => {}
                () = write => {}
            }
        });
        let supervisor = Supervisor { child, device, pending: pending.clone(), stop: stop.clone(), gone: gone.clone() };
        tokio::spawn(supervisor.watch(reader, printed));
        Ok(Self { requests, pending, _stop_when_dropped: stop.clone().drop_guard(), stop, gone })
    }

    /// Hands a job over. The answer comes in any case, also when the worker is lost.
    pub(super) async fn submit(&self, id: u64, memory_bytes: u64, job: Job, parts: Vec<Bytes>) -> oneshot::Receiver<Answer> {
        let receiver = self.pending.enter(id);
        let request = (ToWorker::Run { id, memory_bytes, job }, parts);
        // When nobody takes it any more, the worker is being lost and the answer says so.
        let _ = self.requests.send(request).await;
        receiver
    }

    /// Asks the worker to stop a job. It may be too busy to hear it.
    pub(super) fn cancel(&self, id: u64) {
        let _ = self.requests.try_send((ToWorker::Cancel { id }, Vec::new()));
    }

    /// Kills the process.
    pub(super) fn kill(&self) {
        self.stop.cancel();
    }

    /// Whether it cannot take jobs any more.
    pub(super) fn is_lost(&self) -> bool {
        self.pending.is_lost()
    }

    /// Waits until the process is no more, and with it everything it had on the device.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

/// Who waits for which answer.
#[derive(Clone, Default)]
struct Pending(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    answers: HashMap<u64, oneshot::Sender<Answer>>,
    lost: Option<String>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, id: u64) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.lock();
        match waiting.lost.clone() {
            // Nobody needs the answer if the receiver is gone.
            Some(detail) => drop(sender.send(Err(ExecutionError::WorkerLost { detail }))),
            None => drop(waiting.answers.insert(id, sender)),
        }
        receiver
    }

    fn answer(&self, id: u64, answer: Answer) {
        if let Some(sender) = self.lock().answers.remove(&id) {
            let _ = sender.send(answer);
        }
    }

    fn lose(&self, detail: &str) {
        let mut waiting = self.lock();
        waiting.lost.get_or_insert_with(|| detail.to_owned());
        for (_, sender) in waiting.answers.drain() {
            let detail = detail.to_owned();
            let _ = sender.send(Err(ExecutionError::WorkerLost { detail }));
        }
    }

    fn is_lost(&self) -> bool {
        self.lock().lost.is_some()
    }
}

/// Owns the process from its start to its end.
struct Supervisor {
    child: Child,
    device: u32,
    pending: Pending,
    stop: CancellationToken,
    gone: CancellationToken,
}

impl Supervisor {
    async fn watch(mut self, mut reader: OwnedReadHalf, printed: Option<impl AsyncRead + Unpin + Send + 'static>) {
        let printed = tokio::spawn(keep_tail(printed));
        let end = tokio::select! {
            biased;
            () = self.stop.cancelled() => "it was stopped".to_owned(),
            end = self.read_answers(&mut reader) => end,
        };
        // First of all nobody waits any longer, because a process that hangs in its driver may take long to die.
        self.pending.lose(&end);
        self.stop.cancel();
        let _ = self.child.start_kill();
        let status = self.child.wait().await;
        self.gone.cancel();
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        let printed = printed.await.unwrap_or_default();
        tracing::debug!(device = self.device, %end, %status, %printed, "a device worker ended");
    }

    /// Hands answers on until there can be no more, and says why.
    async fn read_answers(&self, reader: &mut OwnedReadHalf) -> String {
        loop {
            match frame::receive::<FromWorker>(reader).await {
                Ok(Some((FromWorker::Done { id }, payload))) => self.pending.answer(id, Ok(payload)),
                Ok(Some((FromWorker::Failed { id, error }, _))) => {
                    let ends = error.ends_worker();
                    self.pending.answer(id, Err(error.into()));
                    if ends {
                        return "its device failed".into();
                    }
                }
                Ok(Some((FromWorker::Unusable { detail }, _))) => return detail,
                Ok(Some((FromWorker::Devices { .. } | FromWorker::Ready, _))) => return "it broke the protocol".into(),
                Ok(None) => return "it ended".into(),
                Err(error) => return format!("its answer cannot be read: {error}"),
            }
        }
    }
}

/// Reads what a worker prints, so that it never blocks on printing, and keeps the end of it.
async fn keep_tail(printed: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut printed) = printed else {
        return String::new();
    };
    let (mut kept, mut buffer) = (Vec::new(), vec![0; PRINTED_BYTES_MAX]);
    while let Ok(count @ 1..) = printed.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(PRINTED_BYTES_MAX);
        kept.drain(..surplus);
    }
    tail(&String::from_utf8_lossy(&kept), PRINTED_BYTES_MAX)
}
