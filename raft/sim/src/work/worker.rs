//! Workers: most of them do what they should. Some take too long and report late, forget what they hold, or vanish.

use std::time::Duration;

use tarn_proto::v1::{
    CompleteTaskRequest, FailTaskRequest, FailureKind, HeartbeatTasksRequest, HeartbeatWorkerRequest, LeaseTasksRequest, LeasedTask,
    RegisterWorkerRequest, TaskError, TaskLease, WorkerCapabilities, command::Body, outcome,
};
use tokio::time::sleep;

use super::session::{Said, Session};
use super::{Doing, result_of};

/// How long a worker tries to get its report through.
const PATIENCE: Duration = Duration::from_secs(6);

/// A worker at work.
pub struct Worker {
    session: Session,
    id: Option<String>,
    /// What it holds and will report late.
    late: Vec<LeasedTask>,
}

impl Worker {
    /// A worker that is not registered yet.
    pub fn new(session: Session) -> Self {
        Self { session, id: None, late: Vec::new() }
    }

    /// Works until everybody rests.
    pub async fn run(mut self) {
        while self.session.phase.get() != Doing::Rest {
            match self.id.clone() {
                None => self.register().await,
                Some(id) => self.round(&id).await,
            }
            let pause = self.session.dice.between(1, 150);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    fn misbehaves(&mut self, percent: u64) -> bool {
        self.session.phase.get() == Doing::Work && self.session.dice.percent(percent)
    }

    async fn register(&mut self) {
        let request = RegisterWorkerRequest {
            request_id: self.session.request_id(),
            name: self.session.name.clone(),
            capabilities: Some(WorkerCapabilities::default()),
            ttl_ms: 4_000,
        };
        if let Said::Done(outcome::Body::RegisterWorker(response)) = self.session.propose(Body::RegisterWorker(request), PATIENCE).await {
            self.id = Some(response.worker_id);
        }
    }

    async fn round(&mut self, id: &str) {
        if self.misbehaves(2) {
            // It is started anew, and knows nothing of what it held.
            self.id = None;
            return;
        }
        if self.session.dice.percent(20) {
            let request = HeartbeatWorkerRequest { worker_id: id.to_owned(), resources: None };
            if let Said::Refused(_) = self.session.propose(Body::HeartbeatWorker(request), PATIENCE).await {
                self.id = None;
                return;
            }
        }
        if !self.late.is_empty() && self.session.dice.percent(30) {
            let late = self.late.remove(0);
            self.complete(&late).await;
        }
        let request = LeaseTasksRequest {
            request_id: self.session.request_id(),
            worker_id: id.to_owned(),
            max_tasks: u32::try_from(self.session.dice.between(1, 3)).unwrap_or(1),
            lease_ms: self.session.dice.between(1_000, 3_000),
            wait_ms: 0,
        };
        match self.session.propose(Body::LeaseTasks(request), PATIENCE).await {
            Said::Done(outcome::Body::LeaseTasks(response)) => {
                for task in &response.tasks {
                    self.session.ledger.granted(task, id);
                }
                for task in response.tasks {
                    self.attempt(id, task).await;
                }
            }
            Said::Refused(_) => self.id = None,
            Said::Done(_) | Said::NotDone | Said::Unknown => {}
        }
    }

    async fn attempt(&mut self, id: &str, task: LeasedTask) {
        if self.misbehaves(8) {
            // Forgotten: its lease must end by itself.
            return;
        }
        if self.misbehaves(15) {
            self.late.push(task);
            return;
        }
        let took = match self.misbehaves(10) {
            true => self.session.dice.between(500, 4_000),
            false => self.session.dice.between(1, 60),
        };
        sleep(Duration::from_millis(took)).await;
        if self.session.dice.percent(10) {
            self.heartbeat(id, &task).await;
        }
        match self.session.dice.between(0, 99) {
            0..=9 => self.fail(&task, FailureKind::Retryable).await,
            10..=12 => self.fail(&task, FailureKind::Final).await,
            13..=15 => self.fail(&task, FailureKind::Returned).await,
            _ => self.complete(&task).await,
        }
    }

    async fn heartbeat(&mut self, id: &str, task: &LeasedTask) {
        let request = HeartbeatTasksRequest {
            worker_id: id.to_owned(),
            leases: vec![TaskLease { namespace: task.namespace.clone(), task_id: task.task_id.clone(), token: task.token, progress: None }],
            lease_ms: 2_000,
        };
        self.session.propose(Body::HeartbeatTasks(request), PATIENCE).await;
    }

    async fn complete(&mut self, task: &LeasedTask) {
        let payload = task.spec.as_ref().map(|spec| spec.payload.clone()).unwrap_or_default();
        let result = result_of(&payload, task.token);
        let highest = self.session.ledger.highest_token(&task.task_id);
        let request = CompleteTaskRequest {
            request_id: self.session.request_id(),
            namespace: task.namespace.clone(),
            task_id: task.task_id.clone(),
            token: task.token,
            result: result.clone().into(),
            ..CompleteTaskRequest::default()
        };
        if let Said::Done(_) = self.session.propose(Body::CompleteTask(request), PATIENCE).await {
            self.session.ledger.completed(&task.task_id, task.token, &result, highest);
        }
    }

    async fn fail(&mut self, task: &LeasedTask, kind: FailureKind) {
        let mut request = FailTaskRequest {
            request_id: self.session.request_id(),
            namespace: task.namespace.clone(),
            task_id: task.task_id.clone(),
            token: task.token,
            error: Some(TaskError { reason: "SIMULATED".into(), message: "the simulation made this attempt fail".into() }),
            ..FailTaskRequest::default()
        };
        request.set_kind(kind);
        self.session.propose(Body::FailTask(request), PATIENCE).await;
    }
}
