//! Clients: they submit tasks, hold named leases, schedule timers, cancel, and look whether what they were told is so.

use std::time::Duration;

use bytes::Bytes;
use tarn_invariants::tasks::NO_TASK_LOST;
use tarn_proto::v1::{
    AcquireLeaseRequest, CancelTaskRequest, CancelTimerRequest, DependencyFailure, EnqueueRequest, GetTaskRequest, Priority,
    ReleaseLeaseRequest, RenewLeaseRequest, RetryPolicy, ScheduleTimerRequest, TaskSpec, TimerAction, command::Body, outcome,
    timer_action::Action,
};
use tokio::time::sleep;

use super::ledger::Held;
use super::session::{Said, Session};
use super::{Doing, NAMESPACE};
use crate::clock::BEGIN_MS;

/// How long a patient client tries to learn what became of a command.
const PATIENCE: Duration = Duration::from_secs(8);
/// How many of a hundred commands are given up after the first try, their fate unknown.
const HASTY: u64 = 40;

/// Queues that tasks go to.
const QUEUES: u64 = 3;
/// Named leases that clients fight for.
const LOCKS: u64 = 3;

/// A client at work.
pub struct Client {
    session: Session,
    /// The longest pause between two operations, in milliseconds.
    pause_ms: u64,
    tasks: Vec<String>,
    timers: Vec<String>,
    held: Option<Held>,
}

impl Client {
    /// A client that pauses at most so long between two operations, in milliseconds.
    pub fn new(session: Session, pause_ms: u64) -> Self {
        Self { session, pause_ms, tasks: Vec::new(), timers: Vec::new(), held: None }
    }

    /// Works until everybody rests.
    pub async fn run(mut self, now_ms: impl Fn() -> u64) {
        loop {
            match self.session.phase.get() {
                Doing::Work => {
                    self.session.ledger.lock().at_work += 1;
                    self.operation(now_ms()).await;
                    self.session.ledger.lock().at_work -= 1;
                }
                Doing::Drain => self.probe().await,
                Doing::Rest => return,
            }
            let pause = self.session.dice.between(0, self.pause_ms);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn operation(&mut self, now_ms: u64) {
        match self.session.dice.between(0, 99) {
            0..=44 => self.enqueue(now_ms).await,
            45..=59 => self.lock().await,
            60..=71 => self.schedule(now_ms).await,
            72..=77 => self.cancel_timer().await,
            78..=84 => self.cancel_task().await,
            _ => self.look().await,
        }
    }

    /// Whether the cluster takes writes.
    async fn probe(&mut self) {
        let request = AcquireLeaseRequest {
            request_id: self.session.request_id(),
            namespace: NAMESPACE.into(),
            name: format!("probe-{}", self.session.name),
            holder: self.session.name.clone(),
            ttl_ms: 1_000,
        };
        let said = self.propose(Body::AcquireLease(request)).await;
        if matches!(said, Said::Done(_) | Said::Refused(_)) {
            self.session.ledger.lock().probes += 1;
        }
        sleep(Duration::from_millis(200)).await;
    }

    async fn propose(&mut self, body: Body) -> Said {
        let hasty = self.session.phase.get() == Doing::Work && self.session.dice.percent(HASTY);
        let patience = if hasty { Duration::ZERO } else { PATIENCE };
        self.session.propose(body, patience).await
    }

    fn spec(&mut self, now_ms: u64, number: u64) -> TaskSpec {
        let dice = &mut self.session.dice;
        let long = dice.percent(10);
        let mut payload = format!("{}-{number}", self.session.name).into_bytes();
        if long {
            payload.resize(2_000, b'.');
        }
        let mut spec = TaskSpec {
            queue: format!("q{}", dice.between(1, QUEUES)),
            payload: payload.into(),
            attempt_timeout_ms: dice.between(2_000, 10_000),
            retry: Some(RetryPolicy {
                max_attempts: u32::try_from(dice.between(1, 4)).unwrap_or(1),
                initial_backoff_ms: dice.between(100, 500),
                max_backoff_ms: 2_000,
                ..RetryPolicy::default()
            }),
            ..TaskSpec::default()
        };
        spec.set_priority(*dice.pick(&[Priority::Critical, Priority::Normal, Priority::Background]).expect("three"));
        if dice.percent(20) {
            spec.not_before_at_ms = BEGIN_MS + now_ms + dice.between(0, 4_000);
        }
        if dice.percent(5) {
            spec.deadline_at_ms = BEGIN_MS + now_ms + dice.between(2_000, 20_000);
        }
        if dice.percent(20)
            && let Some(task) = dice.pick(&self.tasks)
        {
            spec.after = vec![task.clone()];
            if dice.percent(50) {
                spec.set_on_dependency_failure(DependencyFailure::Run);
            }
        }
        spec
    }

    async fn enqueue(&mut self, now_ms: u64) {
        let request_id = self.session.request_id();
        let count = self.session.dice.between(1, 3);
        let mut tasks: Vec<TaskSpec> = (0..count).map(|number| self.spec(now_ms, self.tasks.len() as u64 * 10 + number)).collect();
        if tasks.len() > 1 && self.session.dice.percent(30) {
            tasks[1].after_in_batch = vec![0];
        }
        let payloads: Vec<Bytes> = tasks.iter().map(|task| task.payload.clone()).collect();
        let request = EnqueueRequest { request_id, namespace: NAMESPACE.into(), tasks };
        if let Said::Done(outcome::Body::Enqueue(response)) = self.propose(Body::Enqueue(request)).await {
            for (task, payload) in response.task_ids.into_iter().zip(payloads) {
                self.session.ledger.accepted(&task, &payload);
                self.tasks.push(task);
            }
        }
    }

    /// Whether a task that was accepted is there, wherever one asks.
    async fn look(&mut self) {
        let Some(task_id) = self.session.dice.pick(&self.tasks).cloned() else {
            return;
        };
        let request = GetTaskRequest { namespace: NAMESPACE.into(), task_id: task_id.clone(), ..GetTaskRequest::default() };
        let found = self.session.read("get task", move |machine| machine.get_task(&request).is_ok()).await;
        self.session.ledger.count(match found {
            Some(_) => "get task done",
            None => "get task unknown",
        });
        let lost = found == Some(false);
        self.session.ledger.judge(NO_TASK_LOST.require(!lost, || {
            format!("{} was told that task {task_id} was accepted, and a linearizable read does not find it", self.session.name)
        }));
    }

    async fn cancel_task(&mut self) {
        let Some(task_id) = self.session.dice.pick(&self.tasks).cloned() else {
            return;
        };
        let request = CancelTaskRequest {
            request_id: self.session.request_id(),
            namespace: NAMESPACE.into(),
            task_id,
            force: self.session.dice.percent(50),
        };
        self.propose(Body::CancelTask(request)).await;
    }

    async fn schedule(&mut self, now_ms: u64) {
        let action = match self.session.dice.percent(50) {
            true => Action::Mark("sim".into()),
            false => Action::Enqueue(TaskSpec { after: Vec::new(), deadline_at_ms: 0, ..self.spec(now_ms, 0) }),
        };
        let (due_at_ms, delay_ms) = match self.session.dice.percent(50) {
            true => (BEGIN_MS + now_ms + self.session.dice.between(0, 6_000), 0),
            false => (0, self.session.dice.between(1, 6_000)),
        };
        let request = ScheduleTimerRequest {
            request_id: self.session.request_id(),
            namespace: NAMESPACE.into(),
            due_at_ms,
            delay_ms,
            action: Some(Box::new(TimerAction { action: Some(action) })),
        };
        if let Said::Done(outcome::Body::ScheduleTimer(response)) = self.propose(Body::ScheduleTimer(request)).await {
            let mut ledger = self.session.ledger.lock();
            ledger.scheduled.push((response.timer_id.clone(), response.due_at_ms));
            ledger.timers.insert(response.timer_id.clone(), response.due_at_ms);
            self.timers.push(response.timer_id);
        }
    }

    async fn cancel_timer(&mut self) {
        let Some(timer_id) = self.timers.pop() else { return };
        let request = CancelTimerRequest { request_id: self.session.request_id(), namespace: NAMESPACE.into(), timer_id: timer_id.clone() };
        let said = self.propose(Body::CancelTimer(request)).await;
        let mut ledger = self.session.ledger.lock();
        match said {
            Said::Done(_) => {
                ledger.timers_cancelled.push(timer_id.clone());
                ledger.no_longer_due.insert(timer_id);
            }
            // It may be cancelled: then it need not fire.
            Said::Unknown => drop(ledger.no_longer_due.insert(timer_id)),
            Said::Refused(_) | Said::NotDone => {}
        }
    }

    async fn lock(&mut self) {
        match self.held.take() {
            None => self.acquire().await,
            Some(held) if self.session.dice.percent(50) => self.renew(held).await,
            Some(held) => self.release(held).await,
        }
    }

    async fn acquire(&mut self) {
        let request = AcquireLeaseRequest {
            request_id: self.session.request_id(),
            namespace: NAMESPACE.into(),
            name: format!("lock-{}", self.session.dice.between(1, LOCKS)),
            holder: self.session.name.clone(),
            ttl_ms: self.session.dice.between(1_000, 5_000),
        };
        if let Said::Done(outcome::Body::AcquireLease(response)) = self.propose(Body::AcquireLease(request)).await
            && let Some(lease) = response.lease
        {
            let held = Held {
                name: lease.name,
                holder: lease.holder,
                token: lease.token,
                from_ms: lease.acquired_at_ms,
                until_ms: lease.expires_at_ms,
                may_have_ended: false,
            };
            self.session.ledger.lock().held.push(held.clone());
            self.held = Some(held);
        }
    }

    async fn renew(&mut self, held: Held) {
        let request = RenewLeaseRequest {
            request_id: self.session.request_id(),
            namespace: NAMESPACE.into(),
            name: held.name.clone(),
            token: held.token,
            ttl_ms: self.session.dice.between(1_000, 5_000),
        };
        let said = self.propose(Body::RenewLease(request)).await;
        if let Said::Done(outcome::Body::RenewLease(response)) = &said
            && let Some(lease) = &response.lease
        {
            self.amend(held.token, |held| held.until_ms = lease.expires_at_ms);
        }
        if matches!(said, Said::Unknown) {
            self.amend(held.token, |held| held.may_have_ended = true);
        }
        if !matches!(said, Said::Refused(_)) {
            self.held = Some(held);
        }
    }

    async fn release(&mut self, held: Held) {
        let request = ReleaseLeaseRequest {
            request_id: self.session.request_id(),
            namespace: NAMESPACE.into(),
            name: held.name.clone(),
            token: held.token,
        };
        let said = self.propose(Body::ReleaseLease(request)).await;
        // A release of unknown fate may have ended the lease.
        if !matches!(said, Said::Refused(_) | Said::NotDone) {
            self.amend(held.token, |held| held.may_have_ended = true);
        }
    }

    fn amend(&self, token: u64, amend: impl Fn(&mut Held)) {
        let mut ledger = self.session.ledger.lock();
        ledger.held.iter_mut().filter(|held| held.token == token).for_each(amend);
    }
}
