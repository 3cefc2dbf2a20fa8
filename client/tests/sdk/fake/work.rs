//! The workers' service: leases tasks over streams.

use std::collections::VecDeque;

use tarn_client::proto::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::{Fake, Fault, State, refuse};

impl State {
    fn worker(&mut self, id: &str) -> Result<&mut (RegisterWorkerRequest, bool), Status> {
        self.workers.get_mut(id).ok_or_else(|| refuse(Code::NotFound, "WORKER_NOT_FOUND", "register again"))
    }

    fn lease(&mut self, worker: &str) -> Option<LeasedTask> {
        if self.workers.get(worker).is_none_or(|(_, draining)| *draining) {
            return None;
        }
        let key = *self.tasks.iter().find(|(_, record)| record.task.state() == TaskState::Ready)?.0;
        let token = self.next();
        let task = &mut self.tasks.get_mut(&key)?.task;
        task.state = TaskState::Running.into();
        task.token = token;
        task.attempts_begun += 1;
        Some(LeasedTask {
            namespace: task.namespace.clone(),
            task_id: task.task_id.clone(),
            token,
            attempt: task.attempts_begun,
            spec: task.spec.clone(),
            dependencies: task.dependencies.clone(),
            ..Default::default()
        })
    }

    fn status(&mut self, lease: &TaskLease) -> LeaseStatus {
        match self.record(&lease.task_id) {
            Ok(record) if record.task.token != lease.token => LeaseStatus::Lost,
            Ok(record) if record.task.cancel_requested => LeaseStatus::CancelRequested,
            Ok(_) => LeaseStatus::Held,
            Err(_) => LeaseStatus::Lost,
        }
    }

    fn complete(&mut self, request: CompleteTaskRequest) -> Result<CompleteTaskResponse, Status> {
        let record = self.record(&request.task_id)?;
        if record.task.token != request.token {
            return Err(refuse(Code::FailedPrecondition, "STALE_TOKEN", "lost"));
        }
        if record.task.state() == TaskState::Succeeded {
            return Ok(CompleteTaskResponse {});
        }
        if request.result.len() > 1000 {
            return Err(refuse(Code::InvalidArgument, "RESULT_TOO_LARGE", "make it smaller"));
        }
        record.outcomes += 1;
        record.logs = request.logs;
        record.task.result = request.result;
        record.task.state = TaskState::Succeeded.into();
        Ok(CompleteTaskResponse {})
    }

    fn fail(&mut self, request: FailTaskRequest) -> Result<FailTaskResponse, Status> {
        let record = self.record(&request.task_id)?;
        if record.task.token != request.token {
            return Err(refuse(Code::FailedPrecondition, "STALE_TOKEN", "lost"));
        }
        record.outcomes += 1;
        record.task.token = 0;
        record.failures.push(request.clone());
        record.task.error = request.error.clone();
        let state = match request.kind() {
            FailureKind::Final => TaskState::Dead,
            FailureKind::Cancelled => TaskState::Cancelled,
            // A second failure is enough here.
            FailureKind::Retryable | FailureKind::Unspecified if record.failures.len() > 1 => TaskState::Dead,
            _ => TaskState::Ready,
        };
        if state == TaskState::Ready {
            record.task.error = None;
        }
        record.task.state = state.into();
        Ok(FailTaskResponse { state: state.into() })
    }
}

/// How one message of a stream ends.
#[allow(clippy::large_enum_variant)]
enum Answer {
    Send(work_response::Message),
    /// The stream breaks before the answer is sent.
    Cut,
}

/// One stream of one worker.
struct Pump {
    fake: Fake,
    worker: String,
    credit: u32,
    leased: Vec<TaskLease>,
    told_draining: bool,
}

impl Pump {
    fn answer(&mut self, method: &'static str, apply: impl FnOnce(&mut State) -> Result<work_response::Message, Status>) -> Answer {
        self.fake.with(|state| {
            state.calls.push((method, String::new()));
            let fault = state.faults.get_mut(method).and_then(VecDeque::pop_front);
            let result = match fault {
                Some(Fault::Fail(status)) => Err(status),
                Some(Fault::Hang | Fault::DoThenFail(_)) => {
                    let _ = apply(state);
                    return Answer::Cut;
                }
                None => apply(state),
            };
            Answer::Send(result.unwrap_or_else(|status| work_response::Message::Rejected(rejection(&status))))
        })
    }

    fn hear(&mut self, message: work_request::Message) -> Option<Answer> {
        Some(match message {
            work_request::Message::Open(_) => panic!("opened twice"),
            work_request::Message::Credit(credit) => {
                self.credit += credit;
                return None;
            }
            work_request::Message::Heartbeat(request) => self.answer("work/heartbeat", |state| {
                let leases = request.leases.iter().map(|lease| LeaseReport {
                    task_id: lease.task_id.clone(),
                    token: lease.token,
                    status: state.status(lease).into(),
                    lease_expires_at_ms: 0,
                });
                Ok(work_response::Message::Heartbeat(HeartbeatTasksResponse { leases: leases.collect(), now_ms: 0 }))
            }),
            work_request::Message::Complete(request) => {
                self.answer("work/complete", |state| state.complete(request).map(work_response::Message::Completed))
            }
            work_request::Message::Fail(request) => {
                self.answer("work/fail", |state| state.fail(request).map(work_response::Message::Failed))
            }
        })
    }

    /// What the node says unasked.
    fn news(&mut self) -> Vec<work_response::Message> {
        let mut news = Vec::new();
        let mut state = self.fake.state.lock().unwrap();
        while self.credit > 0 {
            let Some(task) = state.lease(&self.worker) else { break };
            self.credit -= 1;
            let lease = TaskLease { namespace: task.namespace.clone(), task_id: task.task_id.clone(), token: task.token, progress: None };
            self.leased.push(lease);
            news.push(work_response::Message::Task(Box::new(task)));
        }
        for lease in &self.leased {
            let status = state.status(lease);
            let record = state.record(&lease.task_id).unwrap();
            if status == LeaseStatus::CancelRequested && !record.told {
                record.told = true;
                let (task_id, token) = (lease.task_id.clone(), lease.token);
                let notice = LeaseReport { task_id, token, status: status.into(), lease_expires_at_ms: 0 };
                news.push(work_response::Message::Notice(notice));
            }
        }
        if !self.told_draining && state.workers.get(&self.worker).is_some_and(|(_, draining)| *draining) {
            self.told_draining = true;
            news.push(work_response::Message::Draining(true));
        }
        news
    }

    async fn run(mut self, mut requests: Streaming<WorkRequest>, out: mpsc::Sender<Result<WorkResponse, Status>>) {
        let (mut changed, mut cut) = (self.fake.changed.subscribe(), self.fake.cuts.subscribe());
        loop {
            changed.mark_unchanged();
            for message in self.news() {
                let _ = out.send(Ok(WorkResponse { correlation: 0, message: Some(message) })).await;
            }
            tokio::select! {
                request = requests.message() => {
                    let Ok(Some(WorkRequest { correlation, message: Some(message) })) = request else { return };
                    match self.hear(message) {
                        None => {}
                        Some(Answer::Send(message)) => {
                            let _ = out.send(Ok(WorkResponse { correlation, message: Some(message) })).await;
                        }
                        Some(Answer::Cut) => return,
                    }
                }
                _ = changed.changed() => {}
                _ = cut.changed() => {
                    let _ = out.send(Err(Status::unavailable("cut"))).await;
                    return;
                }
            }
        }
    }
}

fn rejection(status: &Status) -> Rejection {
    use tonic_types::StatusExt;
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    Rejection {
        retry_after_ms: 0,
        code: status.code() as u32,
        reason,
        message: status.message().into(),
        field: String::new(),
        limit: 0,
        ..Rejection::default()
    }
}

#[tonic::async_trait]
impl worker_service_server::WorkerService for Fake {
    type WorkStream = ReceiverStream<Result<WorkResponse, Status>>;

    async fn work(&self, request: Request<Streaming<WorkRequest>>) -> Result<Response<Self::WorkStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.message);
        let Some(work_request::Message::Open(open)) = first else {
            return Err(Status::invalid_argument("open first"));
        };
        self.carry_out("work/open", "", |state| state.worker(&open.worker_id).map(|_| DrainWorkerResponse::default())).await?;
        let (sender, receiver) = mpsc::channel(64);
        let pump = Pump { fake: self.clone(), worker: open.worker_id, credit: 0, leased: Vec::new(), told_draining: false };
        tokio::spawn(pump.run(requests, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn register_worker(&self, request: Request<RegisterWorkerRequest>) -> Result<Response<RegisterWorkerResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("register_worker", &request.request_id.clone(), |state| {
            let worker_id = format!("worker-{}", state.next());
            state.workers.insert(worker_id.clone(), (request, false));
            Ok(RegisterWorkerResponse { worker_id, expires_at_ms: 0 })
        })
        .await
    }

    async fn heartbeat_worker(&self, request: Request<HeartbeatWorkerRequest>) -> Result<Response<HeartbeatWorkerResponse>, Status> {
        self.carry_out("heartbeat_worker", "", |state| {
            let (_, draining) = state.worker(&request.into_inner().worker_id)?;
            let worker_state = if *draining { WorkerState::Draining } else { WorkerState::Active };
            Ok(HeartbeatWorkerResponse { expires_at_ms: 0, state: worker_state.into() })
        })
        .await
    }

    async fn drain_worker(&self, request: Request<DrainWorkerRequest>) -> Result<Response<DrainWorkerResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("drain_worker", &request.request_id, |state| {
            state.worker(&request.worker_id)?.1 = true;
            Ok(DrainWorkerResponse { running: 0 })
        })
        .await
    }

    async fn list_workers(&self, _: Request<ListWorkersRequest>) -> Result<Response<ListWorkersResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn lease_tasks(&self, request: Request<LeaseTasksRequest>) -> Result<Response<LeaseTasksResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("lease_tasks", &request.request_id, |state| {
            state.worker(&request.worker_id)?;
            let tasks = (0..request.max_tasks).map_while(|_| state.lease(&request.worker_id)).collect();
            Ok(LeaseTasksResponse { tasks })
        })
        .await
    }

    async fn heartbeat_tasks(&self, _: Request<HeartbeatTasksRequest>) -> Result<Response<HeartbeatTasksResponse>, Status> {
        Err(Status::unimplemented("not in the fake"))
    }

    async fn complete_task(&self, request: Request<CompleteTaskRequest>) -> Result<Response<CompleteTaskResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("complete_task", &request.request_id.clone(), |state| state.complete(request)).await
    }

    async fn fail_task(&self, request: Request<FailTaskRequest>) -> Result<Response<FailTaskResponse>, Status> {
        let request = request.into_inner();
        self.carry_out("fail_task", &request.request_id.clone(), |state| state.fail(request)).await
    }
}
