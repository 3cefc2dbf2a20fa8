//! Workers: programs that run tasks with handlers of their own.
//!
//! ```text
//!   mod            options, and the life of a worker: register, work over one stream after another, end
//!   registration   the worker's registration, kept alive
//!   session        one stream with one node: credit and reports out, tasks and notices in
//!   crew           the jobs that run and the reports that no node has taken yet; outlives streams
//!   job            one attempt at a task, as its handler sees it
//!   stop           the stages of the end, each with its bound
//! ```
//!
//! What is promised: a handler's outcome is reported until a node takes it, under the same request id and token each time; a job whose lease
//! is lost is told to stop, and its outcome is thrown away; a handler's panic ends its own attempt only; the number of jobs, reports and
//! messages in memory is bounded by the worker's concurrency.

mod crew;
mod job;
mod registration;
mod session;
mod stop;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::client::Client;
use crate::error::Error;
use crate::proto;
use crate::retry::Backoff;

use crew::{Crew, Handlers};
use registration::Registration;
use session::End;
use stop::{Stage, Stop};

pub use job::{Job, JobError};

/// How long a lease is granted for, and how long a registration outlives its worker, unless told otherwise.
const LEASE: Duration = Duration::from_secs(30);
/// How long running jobs may go on after the wish to stop, unless told otherwise: what service managers wait for commonly.
const GRACE: Duration = Duration::from_secs(30);
/// The most jobs at once: what the cluster lets one worker hold.
const CONCURRENCY_MAX: usize = 1024;

/// Options of a [`Worker`]; made by [`Worker::builder`].
#[derive(Clone)]
pub struct WorkerBuilder {
    client: Client,
    name: String,
    capabilities: proto::WorkerCapabilities,
    handlers: Handlers,
    concurrency: usize,
    lease: Duration,
    grace: Duration,
}

/// A program's worker: leases tasks, runs their handlers, and reports what became of them.
///
/// It registers itself, sends heartbeats for itself and for its leases, goes on with another node when one fails, and ends gracefully. See the
/// [crate's page](crate) for one in ten lines.
pub struct Worker {
    options: WorkerBuilder,
}

impl WorkerBuilder {
    /// What the worker calls itself, for people to read. The program's name and process id unless given.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Serves this queue. May be called several times; a worker that names no queue serves all.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.capabilities.queues.push(queue.into());
        self
    }

    /// Serves this namespace. May be called several times; a worker that names none serves the client's.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.capabilities.namespaces.push(namespace.into());
        self
    }

    /// Carries this label, for tasks that require it. May be called several times.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.capabilities.labels.push(label.into());
        self
    }

    /// Runs tasks that name this handler. What it returns is the task's result, up to 1 MiB. An error has the task tried again unless it is
    /// [permanent](JobError::permanent); a panic counts as an error.
    pub fn handler<F, Fut, R>(mut self, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(Job) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, JobError>> + Send + 'static,
        R: Into<Bytes>,
    {
        self.handlers.named.insert(name.into(), boxed(handler));
        self
    }

    /// Runs tasks that name no handler, or one that has not been given. With it, the worker is offered tasks for any handler.
    pub fn default_handler<F, Fut, R>(mut self, handler: F) -> Self
    where
        F: Fn(Job) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, JobError>> + Send + 'static,
        R: Into<Bytes>,
    {
        self.handlers.other = Some(boxed(handler));
        self
    }

    /// How many jobs may run at once: from 1 to 1,024. The number of the machine's cores unless given.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// How long leases are granted for, and how long the registration outlives the worker: from one second to one hour. 30 seconds unless
    /// given. Both are renewed at a third of that, so a job may run for longer.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How long running jobs may go on after the wish to stop. 30 seconds unless given.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Makes the worker without starting it.
    ///
    /// # Errors
    /// [`Error::Config`] where there is no handler or an option is out of its range.
    pub fn build(mut self) -> Result<Worker, Error> {
        if self.handlers.named.is_empty() && self.handlers.other.is_none() {
            return Err(Error::Config("a worker needs a handler".into()));
        }
        if !(1..=CONCURRENCY_MAX).contains(&self.concurrency) {
            return Err(Error::Config(format!("a worker's concurrency is from 1 to {CONCURRENCY_MAX}")));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.lease) {
            return Err(Error::Config("a worker's lease is from one second to one hour".into()));
        }
        if self.handlers.other.is_none() {
            self.capabilities.handlers = self.handlers.named.keys().cloned().collect();
        }
        if self.capabilities.namespaces.is_empty() {
            self.capabilities.namespaces.push(self.client.namespace().to_owned());
        }
        Ok(Worker { options: self })
    }

    /// Makes the worker and runs it; see [`Worker::run`].
    ///
    /// # Errors
    /// Those of [`WorkerBuilder::build`] and [`Worker::run`].
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
        self.build()?.run(shutdown).await
    }
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("name", &self.name)
            .field("capabilities", &self.capabilities)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// Options for a worker.
    pub fn builder(client: Client) -> WorkerBuilder {
        let program = std::env::current_exe().ok();
        let program = program.as_deref().and_then(|path| path.file_name()).map_or("worker".into(), |name| name.to_string_lossy());
        WorkerBuilder {
            name: format!("{program}-{}", std::process::id()),
            client,
            capabilities: proto::WorkerCapabilities::default(),
            handlers: Handlers::default(),
            concurrency: std::thread::available_parallelism().map_or(1, usize::from),
            lease: LEASE,
            grace: GRACE,
        }
    }

    /// Works until `shutdown` ends or the cluster drains the worker. Then it takes no more tasks, gives back those that it has not begun, and
    /// waits for those that run: after the time of grace they are told to stop, and five seconds later dropped and reported as failed.
    ///
    /// A node that fails is left for another; jobs go on meanwhile.
    ///
    /// # Errors
    /// What registering met the first time, and a refusal that holds for every node, such as a lack of permission. Outages later on are
    /// waited out.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), Error> {
        let wished = CancellationToken::new();
        let wish = wished.clone();
        let _waiting = AbortOnDropHandle::new(tokio::spawn(async move {
            shutdown.await;
            wish.cancel();
        }));
        let WorkerBuilder { client, handlers, concurrency, lease, grace, .. } = &self.options;
        let mut stop = Stop::new(wished.clone(), *grace);
        let mut crew = Crew::new(client.clone(), handlers.clone(), *concurrency);
        let mut backoff = Backoff::default();
        let mut registration = tokio::select! {
            registered = self.register() => registered?,
            () = wished.cancelled() => return Ok(()),
        };
        loop {
            match session::run(client, *lease, &mut crew, &mut stop, &mut registration, &mut backoff).await {
                End::Finished => return Ok(()),
                End::Failed(error) => return Err(error),
                End::Lost(text) => tracing::info!(cause = text, "the stream of work was interrupted"),
                End::Unregistered => match self.register().await {
                    Ok(renewed) => registration = renewed,
                    Err(error) if error.is_temporary() => tracing::warn!(%error, "not registered"),
                    Err(error) => return Err(error),
                },
            }
            if !pause(backoff.next(), &mut crew, &mut stop).await {
                return Ok(());
            }
        }
    }

    async fn register(&self) -> Result<Registration, Error> {
        let WorkerBuilder { client, name, capabilities, lease, .. } = &self.options;
        Registration::new(client, name, capabilities, *lease).await
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("options", &self.options).finish()
    }
}

/// Waits between two sessions while jobs go on. Returns whether there is a reason to begin another.
async fn pause(pause: Duration, crew: &mut Crew, stop: &mut Stop) -> bool {
    let wake = tokio::time::sleep(pause);
    tokio::pin!(wake);
    loop {
        match stop.stage() {
            Stage::Over => return false,
            Stage::Working => {}
            Stage::Draining(_) | Stage::Abandoning(_) if crew.is_idle() => return false,
            Stage::Draining(_) => {}
            Stage::Abandoning(_) => crew.abandon(),
        }
        tokio::select! {
            () = &mut wake => return true,
            _ = crew.finished() => {}
            _ = stop.advance() => {}
        }
    }
}

/// A handler as the worker keeps it: its future boxed, its result turned into bytes.
fn boxed<F, Fut, R>(handler: F) -> crew::Handler
where
    F: Fn(Job) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, JobError>> + Send + 'static,
    R: Into<Bytes>,
{
    Arc::new(move |job| {
        let working = handler(job);
        Box::pin(async move { working.await.map(Into::into) })
    })
}
