//! The `Work` stream: lease, heartbeat, complete and fail over one connection.
//!
//! ```text
//!   requests ─► reader ─┬─ credit ─► feeder ── leases while there is credit ──► tasks ─┐
//!                       └─ heartbeat, complete, fail ─► a few at once ─► answers ──────┼─► outgoing ─► responses
//!   notices of the session ────────────────────────────────────────────────────────────┘
//! ```
//!
//! Everything that waits does so on a bounded queue: a client that stops reading stops being served, and one that sends faster than the
//! cluster commits is read no further.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use tarn_proto::CommandBody;
use tarn_proto::v1::{self, command, outcome, work_request, work_response};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, Streaming};

use super::{Dispatcher, Granted, Notice, Session};
use crate::gate::{Caller, Reason, Refusal};
use crate::way::Way;

/// Responses that wait for the client to read. When full, leasing and answering wait. Each may carry a payload of a megabyte, so this
/// many are what a client that does not read can hold in memory.
const OUTGOING_MAX: usize = 32;

/// Commands of one stream under way at once. When as many are, the stream is read no further. Enough to fill several log entries while
/// earlier ones are flushed.
const COMMANDS_MAX: usize = 256;

/// Reports that are carried out together: what the kernel takes in one batch.
const REPORTS_MAX: usize = tarn_machine::limits::BATCH_COMMANDS_MAX;

/// Reports are not gathered beyond so many bytes, of which a batch can hold four times as many: the last may be as large as any.
const REPORTS_BYTES: usize = tarn_machine::limits::COMMAND_BYTES_MAX / 4;

/// Tasks asked for in one lease: the kernel's limit.
const LEASE_TASKS_MAX: u32 = 256;

/// Credit that a worker can have. More than any worker runs at once; the kernel limits what one worker holds.
const CREDIT_MAX: u32 = 1_000_000;

/// Limit on one command of the stream. There is no deadline on a stream, and a worker learns sooner from an error than from silence.
const COMMAND_DEADLINE: Duration = Duration::from_secs(20);

/// After a lease failed for a passing reason, the next attempt waits this long.
const LEASE_PAUSE: Duration = Duration::from_millis(200);

/// What goes out. A task that is dropped on its way goes back to its queue.
enum Outgoing {
    Task(Granted),
    Other(v1::WorkResponse),
    End(Refusal),
}

/// The responses of a work stream. When the client goes, this is dropped, and everything of the stream ends with it.
pub struct Responses {
    outgoing: mpsc::Receiver<Outgoing>,
    trace: Arc<str>,
    way: Way,
    _end: DropGuard,
}

impl Stream for Responses {
    type Item = Result<v1::WorkResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.outgoing.poll_recv(cx).map(|next| {
            next.map(|outgoing| match outgoing {
                Outgoing::Task(task) => Ok(respond(0, work_response::Message::Task(task.deliver()))),
                Outgoing::Other(response) => Ok(response),
                Outgoing::End(refusal) => Err(crate::api::status(refusal, &self.trace)),
            })
        })
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.way.metrics().work_streams.dec();
    }
}

fn respond(correlation: u64, message: work_response::Message) -> v1::WorkResponse {
    v1::WorkResponse { correlation, message: Some(message) }
}

/// Serves one work stream, whose first message must open it.
///
/// # Errors
/// The first message is another, does not come, or names a worker that is not registered.
pub async fn work(
    way: Way,
    dispatcher: Dispatcher,
    caller: Caller,
    mut requests: Streaming<v1::WorkRequest>,
    deadline: Instant,
) -> Result<Responses, Refusal> {
    let first = tokio::time::timeout_at(deadline, requests.next()).await;
    let first = first.ok().flatten().and_then(Result::ok).and_then(|request| request.message);
    let Some(work_request::Message::Open(open)) = first else {
        return Err(Reason::StreamProtocol.refusal("a work stream begins with `open`: register, then open with the worker's id"));
    };
    known(&way, &caller, &open.worker_id).await?;

    let (session, notices) = dispatcher.open(caller.clone(), open.worker_id, open.lease_ms);
    let (sender, outgoing) = mpsc::channel(OUTGOING_MAX);
    let end = session.ended().child_token();
    let (credit, credits) = watch::channel(0);
    let stream = Arc::new(Worker { way: way.clone(), caller: caller.clone(), session, outgoing: sender });
    way.metrics().work_streams.inc();
    let guard = end.clone().drop_guard();
    tokio::spawn(stream.clone().feed(credit.clone(), credits, end.clone()));
    tokio::spawn(stream.clone().notify(notices, end.clone()));
    tokio::spawn(stream.read(requests, credit, end));
    Ok(Responses { outgoing, trace: caller.trace, way, _end: guard })
}

/// Refuses a worker that the cluster does not know: its stream would wait for ever.
async fn known(way: &Way, caller: &Caller, worker: &str) -> Result<(), Refusal> {
    let request = v1::HeartbeatWorkerRequest { worker_id: worker.to_owned(), resources: None };
    way.command(caller, request, Instant::now() + COMMAND_DEADLINE).await.map(drop)
}

struct Worker {
    way: Way,
    caller: Caller,
    session: Session,
    outgoing: mpsc::Sender<Outgoing>,
}

impl Worker {
    /// Leases while there is credit.
    async fn feed(self: Arc<Self>, credit: watch::Sender<u32>, mut credits: watch::Receiver<u32>, end: CancellationToken) {
        let feeding = async {
            loop {
                let Ok(max) = credits.wait_for(|credit| *credit > 0).await.map(|credit| (*credit).min(LEASE_TASKS_MAX)) else {
                    return;
                };
                match self.session.lease(max).await {
                    Ok(tasks) => {
                        let taken = u32::try_from(tasks.len()).unwrap_or(u32::MAX);
                        credit.send_modify(|credit| *credit = credit.saturating_sub(taken));
                        for task in tasks {
                            if self.outgoing.send(Outgoing::Task(task)).await.is_err() {
                                return;
                            }
                        }
                    }
                    Err(refusal) if refusal.reason() == "WORKER_DRAINING" => {
                        let draining = respond(0, work_response::Message::Draining(true));
                        // Nothing comes after this but answers.
                        let _ = self.outgoing.send(Outgoing::Other(draining)).await;
                        return;
                    }
                    Err(refusal) if refusal.passes() => tokio::time::sleep(LEASE_PAUSE).await,
                    Err(refusal) => {
                        let _ = self.outgoing.send(Outgoing::End(refusal)).await;
                        return;
                    }
                }
            }
        };
        end.run_until_cancelled(feeding).await;
    }

    /// Passes notices on.
    async fn notify(self: Arc<Self>, mut notices: mpsc::Receiver<Notice>, end: CancellationToken) {
        let ended = self.session.ended().clone();
        let passing = async {
            while let Some(notice) = notices.recv().await {
                let outgoing = match notice {
                    Notice::Lease(report) => Outgoing::Other(respond(0, work_response::Message::Notice(report))),
                    Notice::Draining => Outgoing::Other(respond(0, work_response::Message::Draining(true))),
                    Notice::Gone => Outgoing::End(worker_gone(self.session.worker())),
                };
                if self.outgoing.send(outgoing).await.is_err() {
                    return;
                }
            }
        };
        if end.run_until_cancelled(passing).await.is_none() && ended.is_cancelled() {
            let refusal = Reason::NodeStopping.refusal("this node is stopping: connect to another one");
            let _ = self.outgoing.send(Outgoing::End(refusal)).await;
        }
    }

    /// Takes what the client sends until it ends.
    async fn read(self: Arc<Self>, mut requests: Streaming<v1::WorkRequest>, credit: watch::Sender<u32>, end: CancellationToken) {
        let mut commands = FuturesUnordered::new();
        let reading = async {
            loop {
                let first = tokio::select! {
                    Some(()) = commands.next(), if !commands.is_empty() => continue,
                    request = requests.next(), if commands.len() < COMMANDS_MAX => request,
                };
                let heard = hear(first, &mut requests, &credit);
                for (_, report) in &heard.reports {
                    self.session.settled(task_of(report));
                }
                if !heard.reports.is_empty() {
                    commands.push(self.report(heard.reports).boxed());
                }
                for (correlation, request) in heard.heartbeats {
                    commands.push(self.run(correlation, request, work_response::Message::Heartbeat).boxed());
                }
                if heard.broken {
                    let refusal = Reason::StreamProtocol.refusal("a work stream is opened once, and every message says what it is");
                    let _ = self.outgoing.send(Outgoing::End(refusal)).await;
                }
                if heard.broken || heard.ended {
                    return;
                }
            }
        };
        end.run_until_cancelled(reading).await;
        // The client will take nothing more, but what it asked for is carried out, and answers under way are still worth sending.
        while commands.next().await.is_some() {}
        end.cancel();
    }

    /// Carries reports out, together where there are several, and answers each.
    async fn report(&self, reports: Vec<(u64, command::Body)>) {
        let batches = self.way.snapshot().is_ok_and(|state| state.version >= tarn_machine::BATCHES);
        if reports.len() == 1 || !batches {
            return self.report_one_by_one(reports).await;
        }
        let command = |(_, body): &(u64, command::Body)| v1::Command { body: Some(body.clone()), ..v1::Command::default() };
        // Without a request id: a report is recognised by its lease's token.
        let batch = v1::CommandBatch { request_id: String::new(), commands: reports.iter().map(command).collect() };
        match self.way.execute_batch(&self.caller, batch, Instant::now() + COMMAND_DEADLINE).await {
            Ok(answer) => {
                for ((correlation, _), outcome) in reports.into_iter().zip(answer.outcomes) {
                    self.answer(correlation, outcome.body).await;
                }
            }
            // Not one was carried out, because of one of them, or of all together.
            Err(refusal) if !refusal.passes() => self.report_one_by_one(reports).await,
            Err(refusal) => {
                for (correlation, _) in reports {
                    self.answer(correlation, Some(outcome::Body::Rejected(refusal.rejection.clone()))).await;
                }
            }
        }
    }

    async fn report_one_by_one(&self, reports: Vec<(u64, command::Body)>) {
        let all = reports.into_iter().map(|(correlation, body)| async move {
            let executed = self.way.execute(&self.caller, body, Instant::now() + COMMAND_DEADLINE).await;
            self.answer(correlation, Some(executed.unwrap_or_else(|refusal| outcome::Body::Rejected(refusal.rejection)))).await;
        });
        futures::future::join_all(all).await;
    }

    /// Answers a report.
    async fn answer(&self, correlation: u64, outcome: Option<outcome::Body>) {
        let message = match outcome {
            Some(outcome::Body::CompleteTask(done)) => work_response::Message::Completed(done),
            Some(outcome::Body::FailTask(done)) => work_response::Message::Failed(done),
            Some(outcome::Body::Rejected(rejection)) => work_response::Message::Rejected(rejection),
            _ => work_response::Message::Rejected(Refusal::internal("the outcome of a report is that of another command").rejection),
        };
        let _ = self.outgoing.send(Outgoing::Other(respond(correlation, message))).await;
    }

    /// Carries a command out and sends its answer, which has the correlation.
    async fn run<R: CommandBody>(&self, correlation: u64, request: R, wrap: fn(R::Response) -> work_response::Message) {
        let answer = self.way.command(&self.caller, request, Instant::now() + COMMAND_DEADLINE).await;
        let message = answer.map_or_else(|refusal| work_response::Message::Rejected(refusal.rejection), wrap);
        // The client may have gone; what it asked for has happened all the same.
        let _ = self.outgoing.send(Outgoing::Other(respond(correlation, message))).await;
    }
}

/// What a client has sent, as far as it has come.
#[derive(Default)]
struct Heard {
    heartbeats: Vec<(u64, v1::HeartbeatTasksRequest)>,
    reports: Vec<(u64, command::Body)>,
    /// The client will send nothing more.
    ended: bool,
    /// It sent what it may not.
    broken: bool,
}

/// Takes a message, and those that have come behind it: reports that come together go together.
fn hear(first: Option<Result<v1::WorkRequest, Status>>, requests: &mut Streaming<v1::WorkRequest>, credit: &watch::Sender<u32>) -> Heard {
    use work_request::Message;
    let (mut heard, mut messages, mut bytes, mut next) = (Heard::default(), 0, 0, Some(first));
    while let Some(request) = next {
        let Some(Ok(v1::WorkRequest { correlation, message })) = request else {
            heard.ended = true;
            break;
        };
        match message {
            Some(Message::Credit(more)) => credit.send_modify(|credit| *credit = credit.saturating_add(more).min(CREDIT_MAX)),
            Some(Message::Heartbeat(request)) => heard.heartbeats.push((correlation, request)),
            Some(Message::Complete(request)) => {
                bytes += request.encoded_len();
                heard.reports.push((correlation, request.into_body()));
            }
            Some(Message::Fail(request)) => {
                bytes += request.encoded_len();
                heard.reports.push((correlation, request.into_body()));
            }
            Some(Message::Open(_)) | None => {
                heard.broken = true;
                break;
            }
        }
        messages += 1;
        let more = messages < REPORTS_MAX && bytes < REPORTS_BYTES && heard.heartbeats.is_empty();
        next = more.then(|| requests.next().now_or_never()).flatten();
    }
    heard
}

fn task_of(report: &command::Body) -> &str {
    match report {
        command::Body::CompleteTask(request) => &request.task_id,
        command::Body::FailTask(request) => &request.task_id,
        _ => "",
    }
}

fn worker_gone(worker: &str) -> Refusal {
    v1::Rejection {
        code: tonic::Code::NotFound as u32,
        reason: "WORKER_NOT_FOUND".into(),
        message: format!("worker {worker} is not registered any more: register again"),
        field: "worker_id".into(),
        ..v1::Rejection::default()
    }
    .into()
}
