//! One stream of work with one node: credit and reports go out, tasks and notices come in.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::crew::{Crew, Report};
use super::registration::Registration;
use super::stop::{Stage, Stop};
use crate::client::{Client, MESSAGE_BYTES_MAX};
use crate::error::{Error, Refusal, WORKER_NOT_FOUND};
use crate::nodes::Node;
use crate::proto::{self, work_request, work_response, worker_service_client::WorkerServiceClient};
use crate::retry::{Backoff, Failure};
use crate::time::millis;

/// How many messages may wait between the session and the connection. More wait in the session, as many as there are jobs.
const OUTGOING: usize = 16;
/// How long a node may take to open the stream, or to answer a report or a heartbeat, before another is tried.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a report waits before it is sent again that the node could not pass on just now, as while a leader is elected.
const REPORT_AGAIN: Duration = Duration::from_millis(200);
/// How many leases one heartbeat may name.
const LEASES_PER_HEARTBEAT: usize = 256;
/// How long a worker without jobs waits for a node's word that no more tasks will come.
const DRAIN_CONFIRMATION: Duration = Duration::from_secs(3);

/// Why a session ended.
#[derive(Debug)]
pub(super) enum End {
    /// The worker is done.
    Finished,
    /// The stream broke, or the node could not serve: go on with another.
    Lost(String),
    /// The cluster knows the worker no more: register again.
    Unregistered,
    /// The cluster does not want this worker.
    Failed(Error),
}

/// What an answer is waited for.
enum Awaited {
    Heartbeat,
    Report(u64),
}

struct Session<'a> {
    crew: &'a mut Crew,
    stop: &'a mut Stop,
    registration: &'a mut Registration,
    lease: Duration,
    outgoing: VecDeque<proto::WorkRequest>,
    /// Tasks that the node may still send.
    granted: usize,
    awaited: BTreeMap<u64, (Instant, Awaited)>,
    correlation: u64,
    /// Reports to be sent again, and when.
    again: Vec<u64>,
    again_at: Option<Instant>,
    /// Since when the node can pass nothing on.
    trouble: Option<Instant>,
    /// The node has said that no more tasks will come.
    drain_confirmed: bool,
}

/// Works over one stream until it ends.
pub(super) async fn run(
    client: &Client,
    lease: Duration,
    crew: &mut Crew,
    stop: &mut Stop,
    registration: &mut Registration,
    backoff: &mut Backoff,
) -> End {
    let node = client.nodes().pick();
    let mut session = Session {
        crew,
        stop,
        registration,
        lease,
        outgoing: VecDeque::new(),
        granted: 0,
        awaited: BTreeMap::new(),
        correlation: 0,
        again: Vec::new(),
        again_at: None,
        trouble: None,
        drain_confirmed: false,
    };
    let (sender, receiver) = mpsc::channel(OUTGOING);
    session.open();
    let first = session.outgoing.pop_front().expect("opening is the first message");
    sender.try_send(first).expect("the channel is new");
    let mut service = WorkerServiceClient::new(node.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let opening = tokio::time::timeout(ANSWER_TIMEOUT, service.work(ReceiverStream::new(receiver)));
    let end = match opening.await {
        Ok(Ok(answer)) => session.converse(client, &node, sender, answer.into_inner(), backoff).await,
        Ok(Err(status)) => end_of(Failure::of(&status)),
        Err(_) => End::Lost("the node did not open the stream in time".into()),
    };
    if matches!(end, End::Lost(_)) {
        client.nodes().failed(&node);
    }
    end
}

/// What the end of a stream means for the worker.
fn end_of(failure: Failure) -> End {
    match failure {
        Failure::Refused(refusal) => end_of_refused(*refusal),
        Failure::Busy(_, refusal) => End::Lost(refusal.message),
        // The worker has registered with these credentials, so they are good: another node may take them.
        Failure::Barred(text) | Failure::NotSent(text) | Failure::Lost(text) => End::Lost(text),
        Failure::TimedOut => End::Lost("the node took too long".into()),
    }
}

fn end_of_refused(refusal: Refusal) -> End {
    if refusal.reason == WORKER_NOT_FOUND {
        End::Unregistered
    } else if is_the_workers_fault(refusal.code) {
        End::Failed(refusal.into())
    } else {
        End::Lost(refusal.message)
    }
}

/// Whether every node would refuse the worker. Anything else is taken for a passing trouble of the node, because a worker is to outlive it.
fn is_the_workers_fault(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            | Code::FailedPrecondition
    )
}

impl Session<'_> {
    /// Says who works, reports again what no node has taken, and asks how the leases stand that came over an earlier stream.
    fn open(&mut self) {
        let open = proto::WorkOpen { worker_id: self.registration.worker_id.to_string(), lease_ms: millis(self.lease) };
        self.send(work_request::Message::Open(open));
        let tokens: Vec<u64> = self.crew.reports().map(|(token, _)| token).collect();
        for token in tokens {
            self.send_report(token);
        }
        self.send_heartbeats();
    }

    async fn converse(
        &mut self,
        client: &Client,
        node: &Node,
        sender: mpsc::Sender<proto::WorkRequest>,
        mut incoming: Streaming<proto::WorkResponse>,
        backoff: &mut Backoff,
    ) -> End {
        let mut heartbeat = tokio::time::interval_at(Instant::now() + self.lease / 3, self.lease / 3);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watchdog = tokio::time::interval_at(Instant::now() + ANSWER_TIMEOUT / 4, ANSWER_TIMEOUT / 4);
        // Counted from when the worker has nothing left to do.
        let mut confirm_by: Option<Instant> = None;
        loop {
            self.enter_stage();
            self.grant_credit();
            if self.stop.stage() == Stage::Over {
                return End::Finished;
            }
            if self.stop.is_stopping() && self.crew.is_idle() {
                if self.drain_confirmed || confirm_by.is_some_and(|by| Instant::now() >= by) {
                    return End::Finished;
                }
                confirm_by.get_or_insert_with(|| Instant::now() + DRAIN_CONFIRMATION);
            } else {
                confirm_by = None;
            }
            // The nearest of the two; both are seldom set.
            let wake = [confirm_by, self.again_at].into_iter().flatten().min();
            tokio::select! {
                permit = sender.reserve(), if !self.outgoing.is_empty() => match permit {
                    Ok(permit) => permit.send(self.outgoing.pop_front().expect("checked above")),
                    Err(_) => return End::Lost("the connection was closed".into()),
                },
                message = incoming.message() => match message {
                    Ok(Some(message)) => {
                        backoff.reset();
                        if let Some(end) = self.receive(message) {
                            return end;
                        }
                    }
                    Ok(None) => return End::Lost("the node ended the stream".into()),
                    Err(status) => return end_of(Failure::of(&status)),
                },
                finished = self.crew.finished() => self.report_finished(finished),
                _ = heartbeat.tick() => self.send_heartbeats(),
                _ = watchdog.tick() => {
                    if self.is_unanswered() {
                        return End::Lost("the node does not answer".into());
                    }
                    // The worker's own heartbeats go through calls. Where they have left the node, it is cut off from the cluster,
                    // perhaps, and an idle stream to it would wait for ever.
                    if !client.nodes().is_current(node) {
                        return End::Lost("calls go to another node now".into());
                    }
                }
                () = self.registration.gone.cancelled() => return End::Unregistered,
                () = self.registration.draining.cancelled(), if !self.stop.is_stopping() => self.stop.drain(),
                _ = self.stop.advance() => {}
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.report_again(),
            }
        }
    }

    /// Does what the present stage asks for; doing it again changes nothing.
    fn enter_stage(&mut self) {
        match self.stop.stage() {
            Stage::Working | Stage::Over => {}
            Stage::Draining(_) => self.registration.drain(),
            Stage::Abandoning(_) => self.crew.abandon(),
        }
    }

    fn grant_credit(&mut self) {
        let room = self.crew.room();
        if !self.stop.is_stopping() && room > self.granted {
            let credit = u32::try_from(room - self.granted).unwrap_or(u32::MAX);
            self.granted = room;
            self.send(work_request::Message::Credit(credit));
        }
    }

    fn send(&mut self, message: work_request::Message) {
        self.correlation += 1;
        self.outgoing.push_back(proto::WorkRequest { correlation: self.correlation, message: Some(message) });
    }

    fn send_awaited(&mut self, message: work_request::Message, awaited: Awaited) {
        self.send(message);
        self.awaited.insert(self.correlation, (Instant::now(), awaited));
    }

    fn send_report(&mut self, token: u64) {
        let message = match self.crew.report(token) {
            Some(Report::Complete(request)) => work_request::Message::Complete(request.clone()),
            Some(Report::Fail(request)) => work_request::Message::Fail(request.clone()),
            None => return,
        };
        self.send_awaited(message, Awaited::Report(token));
    }

    /// Reports a job that ended, and all others that have ended by now, so that the credit for them goes out in one message.
    fn report_finished(&mut self, first: Option<u64>) {
        let mut ended = first;
        loop {
            if let Some(token) = ended {
                self.send_report(token);
            }
            match self.crew.finished_already() {
                Some(next) => ended = next,
                None => return,
            }
        }
    }

    fn send_heartbeats(&mut self) {
        let leases = self.crew.leases();
        for leases in leases.chunks(LEASES_PER_HEARTBEAT) {
            let request = proto::HeartbeatTasksRequest {
                worker_id: self.registration.worker_id.to_string(),
                leases: leases.to_vec(),
                lease_ms: millis(self.lease),
            };
            self.send_awaited(work_request::Message::Heartbeat(request), Awaited::Heartbeat);
        }
    }

    /// Sends again what the node could not pass on, once its time has come.
    fn report_again(&mut self) {
        if self.again_at.is_some_and(|at| Instant::now() >= at) {
            self.again_at = None;
            for token in std::mem::take(&mut self.again) {
                self.send_report(token);
            }
        }
    }

    /// Whether the node has been silent, or of no use, for too long.
    fn is_unanswered(&self) -> bool {
        // Correlations grow with time, so the first is the oldest.
        let silent = self.awaited.first_key_value().map(|(_, (since, _))| *since);
        [silent, self.trouble].into_iter().flatten().any(|since| since.elapsed() >= ANSWER_TIMEOUT)
    }

    fn receive(&mut self, response: proto::WorkResponse) -> Option<End> {
        let awaited = self.awaited.remove(&response.correlation).map(|(_, awaited)| awaited);
        let message = response.message?;
        if awaited.is_some() && !matches!(message, work_response::Message::Rejected(_)) {
            self.trouble = None;
        }
        match message {
            work_response::Message::Task(task) => self.take_task(*task),
            work_response::Message::Heartbeat(answer) => answer.leases.iter().for_each(|report| self.crew.hear(report)),
            work_response::Message::Notice(report) => self.crew.hear(&report),
            work_response::Message::Completed(_) | work_response::Message::Failed(_) => {
                if let Some(Awaited::Report(token)) = awaited {
                    self.crew.taken(token);
                }
            }
            work_response::Message::Draining(draining) => {
                self.drain_confirmed |= draining;
                if draining {
                    self.stop.drain();
                }
            }
            work_response::Message::Rejected(rejection) => {
                return self.rejected(awaited, Refusal::from_rejection(rejection));
            }
        }
        None
    }

    fn take_task(&mut self, task: proto::LeasedTask) {
        self.granted = self.granted.saturating_sub(1);
        let report = if self.stop.is_stopping() { Some(self.crew.give_back(task)) } else { self.crew.accept(task) };
        if let Some(token) = report {
            self.send_report(token);
        }
    }

    fn rejected(&mut self, awaited: Option<Awaited>, refusal: Refusal) -> Option<End> {
        match awaited {
            Some(awaited) if refusal.is_temporary() => {
                // The stream stands, and tasks may be on their way over it: leaving it would have them wait until their leases end.
                self.trouble.get_or_insert_with(Instant::now);
                if let Awaited::Report(token) = awaited {
                    self.again.push(token);
                    self.again_at.get_or_insert_with(|| Instant::now() + REPORT_AGAIN);
                }
                None
            }
            Some(Awaited::Report(token)) if refusal.reason != WORKER_NOT_FOUND => {
                if self.crew.refused(token, refusal) {
                    self.send_report(token);
                }
                None
            }
            _ => Some(end_of_refused(refusal)),
        }
    }
}
