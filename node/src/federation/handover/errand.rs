//! One task that another cluster does for this one: from the offer to what came of it.
//!
//! ```text
//!   leased here ─► offer ── refused ─────────────────────────────► given back, as if never begun
//!                    │ held there, artifacts and all
//!                    ▼
//!                 confirm ─► it runs there ── extend, as the lease is renewed here
//!                    │            │ ended there
//!                    ▼            ▼
//!                 lease lost    fetch ─► completed or failed here ─► close: the other cluster forgets it
//! ```
//!
//! The attempt there may run until a moment of the other cluster's clock that comes before the lease ends here. So the task is given to
//! somebody else only when the attempt there is over, whatever was lost on the way; and a result that comes too late all the same bears a token
//! that nobody takes any more.
//!
//! An errand whose node stops leading ends, and the next leader's node takes it up from what the state says: every step is safe to repeat.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tarn_crdt::ClusterId;
use tarn_proto::v1::hand_over::Message;
use tarn_proto::v1::{
    CloseTask, CompleteTaskRequest, ConfirmTask, ExtendTask, FailTaskRequest, FailureKind, FetchTask, LeasedTask, OfferTask, Rejection,
    TaskError, TaskState, Transfer, TransferAnswer,
};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use super::super::Federation;
use super::artifact::{self, Offered};
use super::clock::Clock;
use super::exchange::{AskError, Exchange};
use super::lease::{Lease, Over};

/// How long an offer may take: the other cluster fetches artifacts meanwhile.
const OFFER: Duration = Duration::from_secs(120);

/// How long the other cluster holds an offer, in milliseconds: it is confirmed at once, or never.
const HOLD_MS: u64 = 60_000;

/// How long any other answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Without a link, an offer is withdrawn after this long: somebody here may have room by then.
const OFFER_PATIENCE: Duration = Duration::from_secs(3);

/// Limit on one command here.
const COMMAND: Duration = Duration::from_secs(10);

/// How long what came of it is told here, beyond the lease: the answer of a command may be lost.
const TELL: Duration = Duration::from_secs(60);

/// What an errand needs.
pub(super) struct Errand {
    pub federation: Federation,
    pub exchange: Exchange,
    pub offered: Offered,
    /// Who does it.
    pub cluster: ClusterId,
    pub name: String,
    pub transfer_id: String,
    pub lease: Lease,
    /// Told when the other cluster says that it has ended there.
    pub ended: Arc<Notify>,
    /// Turns to make an offer to that cluster.
    pub offers: Arc<Semaphore>,
}

/// How an errand begins.
pub(super) enum Begin {
    /// The task was only just leased.
    New(Box<LeasedTask>),
    /// A node that led before may have begun it.
    Again,
}

/// What came of an errand.
#[derive(Debug)]
pub(super) enum End {
    /// It was not begun there.
    Returned(Rejection),
    Succeeded(Bytes),
    Failed(TaskError),
    Cancelled,
    /// The task is not this errand's any more, whoever leads.
    Lost,
    /// This node could not renew the lease.
    Expired,
}

impl From<Over> for End {
    fn from(over: Over) -> Self {
        match over {
            Over::Lost => Self::Lost,
            Over::Expired => Self::Expired,
            Over::Cancelled => Self::Cancelled,
        }
    }
}

impl Errand {
    /// Does it, and reports what came of it. Says why, if the other cluster would not have it.
    pub async fn run(self, begin: Begin) -> Option<Rejection> {
        let end = match self.work(begin).await {
            Ok(end) | Err(end) => end,
        };
        tracing::debug!(transfer = self.transfer_id, cluster = self.name, ?end, "a task at another cluster has come to an end");
        let refused = match &end {
            End::Returned(rejection) => Some(rejection.clone()),
            _ => None,
        };
        self.count(&end);
        self.settle(end).await;
        refused
    }

    async fn work(&self, begin: Begin) -> Result<End, End> {
        let mut clock = match begin {
            Begin::New(task) => self.offer(*task).await?,
            Begin::Again => match self.fetch().await? {
                Ok((_, answer)) if answer.ended => return Ok(of_ended(answer)),
                Ok((clock, answer)) if !answer.task_id.is_empty() => clock,
                // It is only held there, or not known: nothing of it has run for this lease, and nothing will once it is closed.
                Ok(_) => return self.never_begun().await,
                Err(rejection) if rejection.reason == "TRANSFER_NOT_FOUND" => return self.never_begun().await,
                Err(rejection) => return Err(gone(&rejection)),
            },
        };
        self.confirm(&mut clock).await?;
        loop {
            tokio::select! {
                over = self.lease.over() => return Err(over.into()),
                () = self.ended.notified() => {}
                () = sleep(self.lease.renew_every()) => {}
            }
            match self.extend(&mut clock).await? {
                Ok(()) => {}
                Err(rejection) if rejection.reason == "TRANSFER_ENDED" => break,
                Err(rejection) => return Err(gone(&rejection)),
            }
        }
        match self.fetch().await? {
            Ok((_, answer)) => Ok(of_ended(answer)),
            Err(rejection) => Err(gone(&rejection)),
        }
    }

    /// Makes sure that it will not begin there any more.
    async fn never_begun(&self) -> Result<End, End> {
        loop {
            match self.ask(Message::Close(CloseTask { transfer_id: self.transfer_id.clone() }), ANSWER).await? {
                Ok(_) => break,
                Err(AskError::Refused(rejection)) => return Err(gone(&rejection)),
                Err(_) => self.pause().await?,
            }
        }
        let message = "the node that was to hand it over leads no more".to_owned();
        Ok(End::Returned(Rejection { reason: "LEADER_CHANGED".to_owned(), message, ..Rejection::default() }))
    }

    /// Has the other cluster keep the task ready.
    async fn offer(&self, task: LeasedTask) -> Result<Clock, End> {
        let transfer = self.transfer(task)?;
        let _turn = self.turn().await?;
        let _open = self.offered.open(self.cluster, artifact::named_in(transfer.spec.as_ref()));
        let began = Instant::now();
        loop {
            let asked = Message::Offer(OfferTask { transfer: Some(transfer.clone()), hold_ms: HOLD_MS });
            match self.ask(asked, OFFER).await? {
                Ok(answer) => return Ok(Clock::read(&answer)),
                Err(AskError::Refused(rejection)) => return Err(End::Returned(rejection)),
                Err(error) if began.elapsed() >= OFFER_PATIENCE => {
                    return Err(End::Returned(Rejection {
                        reason: "CLUSTER_UNREACHABLE".into(),
                        message: error.to_string(),
                        ..Rejection::default()
                    }));
                }
                Err(_) => self.pause().await?,
            }
        }
    }

    /// Waits for a turn to make an offer: offers take long where artifacts are fetched, and leave room for the questions about what runs. The lease
    /// is kept meanwhile: those before end by themselves.
    async fn turn(&self) -> Result<SemaphorePermit<'_>, End> {
        let turn = self.offers.acquire();
        tokio::pin!(turn);
        loop {
            tokio::select! {
                over = self.lease.over() => return Err(over.into()),
                () = sleep(self.lease.renew_every()) => self.lease.heard(),
                turn = &mut turn => {
                    self.lease.heard();
                    return turn.map_err(|_| End::Expired);
                }
            }
        }
    }

    fn transfer(&self, task: LeasedTask) -> Result<Transfer, End> {
        let own = self.federation.own_id().ok_or(End::Expired)?;
        let mut spec = task.spec.unwrap_or_default();
        // They have ended: what is left of them here means nothing there.
        spec.after.clear();
        spec.after_in_batch.clear();
        spec.placement = None;
        Ok(Transfer {
            transfer_id: self.transfer_id.clone(),
            origin_cluster: own.0.to_vec().into(),
            origin_name: self.federation.credentials().ca().cluster().to_owned(),
            namespace: task.namespace,
            origin_task_id: task.task_id,
            origin_token: task.token,
            spec: Some(spec),
        })
    }

    /// Has the task run there. From the first try on it may, whatever the answer.
    async fn confirm(&self, clock: &mut Clock) -> Result<(), End> {
        let mut unsure = false;
        loop {
            let run_until_ms = clock.until(self.lease.until());
            let asked = Message::Confirm(ConfirmTask { transfer_id: self.transfer_id.clone(), run_until_ms });
            match self.ask(asked, ANSWER).await? {
                Ok(answer) => {
                    clock.learn(&answer);
                    return Ok(());
                }
                Err(AskError::Refused(rejection)) if unsure => return Err(gone(&rejection)),
                Err(AskError::Refused(rejection)) => return Err(End::Returned(rejection)),
                Err(_) => {
                    unsure = true;
                    self.pause().await?;
                }
            }
        }
    }

    /// Tells the other cluster for how long the lease is good now. An answer that does not come is no reason to stop: it may be a short cut.
    async fn extend(&self, clock: &mut Clock) -> Result<Result<(), Rejection>, End> {
        let run_until_ms = clock.until(self.lease.until());
        let asked = Message::Extend(ExtendTask { transfer_id: self.transfer_id.clone(), run_until_ms });
        match self.ask(asked, ANSWER).await? {
            Ok(answer) => {
                clock.learn(&answer);
                if let Some(progress) = answer.progress {
                    self.lease.progress(progress);
                }
                Ok(if answer.ended { Err(ended()) } else { Ok(()) })
            }
            Err(AskError::Refused(rejection)) => Ok(Err(rejection)),
            Err(_) => Ok(Ok(())),
        }
    }

    /// Asks what became of it, for as long as the lease is good.
    async fn fetch(&self) -> Result<Result<(Clock, TransferAnswer), Rejection>, End> {
        loop {
            let asked = Message::Fetch(FetchTask { transfer_id: self.transfer_id.clone() });
            match self.ask(asked, ANSWER).await? {
                Ok(answer) => return Ok(Ok((Clock::read(&answer), answer))),
                Err(AskError::Refused(rejection)) => return Ok(Err(rejection)),
                Err(_) => self.pause().await?,
            }
        }
    }

    /// Asks, unless the lease is over first.
    async fn ask(&self, question: Message, within: Duration) -> Result<Result<TransferAnswer, AskError>, End> {
        let offering = matches!(question, Message::Offer(_));
        let asking = self.exchange.ask(self.cluster, question, within);
        tokio::pin!(asking);
        loop {
            tokio::select! {
                over = self.lease.over() => return Err(over.into()),
                // The other cluster fetches artifacts, perhaps for long; without a link the question ends.
                () = sleep(self.lease.renew_every()), if offering => self.lease.heard(),
                answer = &mut asking => {
                    if matches!(answer, Ok(_) | Err(AskError::Refused(_))) {
                        self.lease.heard();
                    }
                    return Ok(match answer {
                        Ok(Message::Transfer(answer)) => Ok(answer),
                        // What passes is no answer: it is asked again.
                        Err(AskError::Refused(rejection)) if !offering && super::passes(&rejection) => Err(AskError::NoAnswer),
                        // One that speaks otherwise is as good as silent.
                        Ok(_) => Err(AskError::NoAnswer),
                        Err(error) => Err(error),
                    });
                }
            }
        }
    }

    async fn pause(&self) -> Result<(), End> {
        timeout(PAUSE, self.lease.over()).await.map_or(Ok(()), |over| Err(over.into()))
    }

    /// Tells this cluster what came of it, then the other one that nobody waits for it. What this cluster could not be told stays there: whoever
    /// leads then takes it up again.
    async fn settle(&self, end: End) {
        let told = match end {
            End::Succeeded(result) => {
                let request_id = format!("{}/complete", self.transfer_id);
                let (namespace, task_id) = (self.lease.namespace.clone(), self.lease.task_id.clone());
                let request = CompleteTaskRequest {
                    request_id,
                    namespace,
                    task_id,
                    token: self.lease.token,
                    result,
                    ..CompleteTaskRequest::default()
                };
                self.tell(request).await
            }
            End::Failed(error) => self.fail(FailureKind::Retryable, error).await,
            End::Returned(rejection) => {
                let message = format!("cluster {} does not take it: {}", self.name, rejection.message);
                self.fail(FailureKind::Returned, error(&rejection.reason, message)).await
            }
            End::Cancelled => {
                // It stops there first, if that is possible: then nothing of it runs when this cluster says that it is cancelled.
                self.close().await;
                self.fail(FailureKind::Cancelled, error("CANCELLED", "the task was cancelled".to_owned())).await;
                return;
            }
            End::Lost => true,
            // This node may lead no more, and another one go on. If nobody does, what runs there ends by itself, and is closed when its cluster
            // asks.
            End::Expired => return,
        };
        if told {
            self.close().await;
        }
    }

    async fn fail(&self, kind: FailureKind, error: TaskError) -> bool {
        let request = FailTaskRequest {
            request_id: format!("{}/fail", self.transfer_id),
            namespace: self.lease.namespace.clone(),
            task_id: self.lease.task_id.clone(),
            token: self.lease.token,
            kind: kind.into(),
            error: Some(error),
            ..FailTaskRequest::default()
        };
        self.tell(request).await
    }

    /// Until the cluster has heard it, or will not; false if neither is known.
    async fn tell<R: tarn_proto::CommandBody + Clone>(&self, request: R) -> bool {
        let last = Instant::now() + TELL;
        while Instant::now() < last {
            let told = self.federation.way().command(&self.federation.caller(), request.clone(), Instant::now() + COMMAND).await;
            match told {
                Err(refusal) if refusal.passes() => sleep(PAUSE).await,
                Err(refusal) => {
                    tracing::debug!(transfer = self.transfer_id, reason = refusal.reason(), "the report of a task is not wanted");
                    return true;
                }
                Ok(_) => return true,
            }
        }
        false
    }

    /// One try: the other cluster asks from time to time whether what has ended there is wanted.
    async fn close(&self) {
        let asked = Message::Close(CloseTask { transfer_id: self.transfer_id.clone() });
        if let Err(error) = self.exchange.ask(self.cluster, asked, ANSWER).await {
            tracing::debug!(transfer = self.transfer_id, %error, "the other cluster is not told that a task is settled");
        }
    }

    fn count(&self, end: &End) {
        let result = match end {
            End::Returned(_) => "returned",
            End::Succeeded(_) => "succeeded",
            End::Failed(_) => "failed",
            End::Cancelled => "cancelled",
            End::Lost => "lost",
            End::Expired => "expired",
        };
        let label = crate::ops::FederationErrand { cluster: self.name.clone(), result };
        self.federation.way().metrics().federation_errands.get_or_create(&label).inc();
    }
}

/// As the kernel takes it: other clusters may say anything.
fn error(reason: &str, message: String) -> TaskError {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let good = (1..=tarn_machine::limits::REASON_BYTES_MAX).contains(&reason.len()) && reason.bytes().all(plain);
    let reason = if good { reason } else { "FAILED_ELSEWHERE" };
    TaskError { reason: reason.to_owned(), message: message.chars().take(tarn_machine::limits::MESSAGE_BYTES_MAX / 4).collect() }
}

fn ended() -> Rejection {
    Rejection { reason: "TRANSFER_ENDED".to_owned(), ..Rejection::default() }
}

/// It may have run there, and nothing is known of it: the attempt counts.
fn gone(rejection: &Rejection) -> End {
    End::Failed(error(
        "TRANSFER_GONE",
        format!("the other cluster has lost the task, or gave it up: {}: {}", rejection.reason, rejection.message),
    ))
}

fn of_ended(answer: TransferAnswer) -> End {
    match answer.state() {
        TaskState::Succeeded if answer.result.len() > tarn_machine::limits::PAYLOAD_BYTES_MAX => {
            End::Failed(error("RESULT_TOO_LARGE", "the cluster that ran it says that its result is larger than a result may be".to_owned()))
        }
        TaskState::Succeeded => End::Succeeded(answer.result),
        TaskState::Cancelled => End::Failed(error("CANCELLED_ELSEWHERE", "somebody cancelled it in the cluster that ran it".to_owned())),
        _ => End::Failed(match answer.error {
            Some(told) => error(&told.reason, told.message),
            None => error("TRANSFER_GONE", "the cluster that ran it has purged what came of it".to_owned()),
        }),
    }
}
