//! The way of every request behind its API: gate, proposal, outcome; or certainty, then a read.
//!
//! Unary calls, the work stream, dispatch and this node's own worker all go through here, so there is one place where a command is
//! completed, judged, counted and answered.

use std::sync::Arc;
use std::task::Poll;
use std::time::Instant as Clock;

use tarn_machine::Machine;
use tarn_proto::{CommandBody, v1};
use tarn_raft::{Consensus, ProposeError, ReadError};
use tokio::time::Instant;

use crate::dispatch::Foresight;
use crate::gate::policy::{self, Prepared};
use crate::gate::{Ask, Caller, Gate, Reason, Refusal, Snapshot, Snapshots, What, Wish};
use crate::ops::Metrics;

/// The namespace of requests that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The way of every request. Clones share it.
#[derive(Clone)]
pub struct Way {
    consensus: Consensus,
    gate: Gate,
    snapshots: Snapshots,
    metrics: Arc<Metrics>,
    foresight: Foresight,
}

impl Way {
    /// Through this gate to this consensus.
    #[must_use]
    pub fn new(consensus: Consensus, gate: Gate, metrics: Arc<Metrics>) -> Self {
        Self { snapshots: Snapshots::new(consensus.clone()), consensus, gate, metrics, foresight: Foresight::default() }
    }

    /// The way to whoever hands out what is proposed here.
    #[must_use]
    pub fn foresight(&self) -> &Foresight {
        &self.foresight
    }

    /// The consensus behind it.
    #[must_use]
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// The leader's address, if another node leads.
    #[must_use]
    pub fn leader_elsewhere(&self) -> Option<String> {
        let leadership = self.consensus.leadership();
        let leadership = leadership.borrow();
        let leader = leadership.leader.as_ref().filter(|_| !leadership.is_this_node);
        leader.map(|leader| leader.address.clone())
    }

    /// What the gate judges by, as this node has it now.
    ///
    /// # Errors
    /// The node is stopping.
    pub fn snapshot(&self) -> Result<Snapshot, Refusal> {
        self.snapshots.now()
    }

    /// Who makes a request: the gate's first step.
    ///
    /// # Errors
    /// Nothing that the request brings proves a user of this cluster.
    pub fn identify<T>(&self, request: &tonic::Request<T>, trace: Arc<str>) -> Result<Caller, Refusal> {
        let state = self.snapshot()?;
        self.gate.identify(request.extensions(), request.metadata(), &state, trace)
    }

    /// Lets in whoever the caller is, for what everybody may ask about themselves: only that the credential is still good is judged.
    ///
    /// # Errors
    /// It is not: it was revoked, or has expired.
    pub fn recognise(&self, caller: &Caller) -> Result<(), Refusal> {
        self.gate.recognise(caller, &self.snapshot()?)
    }

    /// Notes for the records that the caller changed the cluster by something that is no command: what was done, to what, and how.
    pub fn carried_out(&self, caller: &Caller, action: &str, resource: String, detail: String) {
        self.gate.carried_out(caller, action, resource, detail);
    }

    /// Takes what is no command through the gate.
    ///
    /// # Errors
    /// A step refused.
    pub fn admit(&self, caller: &Caller, wish: Wish<'_>) -> Result<(), Refusal> {
        self.gate.admit(&Ask::new(caller, What::Act(wish), &self.snapshot()?))
    }

    /// Whether the caller may, for answers that say more to who may see more. Asking is no request, and leaves no record.
    #[must_use]
    pub fn may(&self, caller: &Caller, wish: Wish<'_>) -> bool {
        self.still_may(caller, wish).is_ok()
    }

    /// Whether what was let through some time ago still would be, as far as the caller is concerned.
    ///
    /// # Errors
    /// The credential was revoked or has expired, or no role allows it any more.
    pub fn still_may(&self, caller: &Caller, wish: Wish<'_>) -> Result<(), Refusal> {
        self.gate.still_may(caller, wish, &self.snapshot()?)
    }

    /// The node's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Takes a command to its answer.
    ///
    /// # Errors
    /// As [`Way::execute`].
    pub async fn command<R: CommandBody>(&self, caller: &Caller, request: R, deadline: Instant) -> Result<R::Response, Refusal> {
        let body = request.into_body();
        let name = body.name();
        let answer = self.execute(caller, body, deadline).await?;
        R::response(answer).ok_or_else(|| Refusal::internal(format_args!("the outcome of {name} is that of another command")))
    }

    /// Takes a command, whichever it is, to its outcome.
    ///
    /// # Errors
    /// The gate or the kernel refused it, or the cluster did not take it before the deadline; `OUTCOME_UNKNOWN` where it may have taken
    /// effect all the same.
    pub async fn execute(&self, caller: &Caller, mut body: v1::command::Body, deadline: Instant) -> Result<v1::outcome::Body, Refusal> {
        if let v1::command::Body::Batch(batch) = body {
            return self.execute_batch(caller, batch, deadline).await.map(v1::outcome::Body::Batch);
        }
        // Makes it safe for the node to propose again when a leader is lost on the way.
        body.ensure_request_id(fresh_id);
        name_namespace(&mut body);
        let name = body.name();
        let mut command = v1::Command { principal: caller.principal.to_string(), gate: None, body: Some(body) };
        self.founded(deadline).await?;
        command.gate = self.judge(caller, &command)?;
        let prepared = match &mut command.body {
            Some(body) => policy::prepare(self, body, deadline).await?,
            None => Prepared::default(),
        };

        let started = Clock::now();
        let outcome = self.propose(command, deadline).await;
        self.metrics.proposal_seconds.observe(started.elapsed().as_secs_f64());
        let answer = match outcome.map(|outcome| outcome.body) {
            Err(error) => Err(Refusal::from(error)),
            Ok(Some(v1::outcome::Body::Rejected(rejection))) => Err(Refusal::from(rejection)),
            Ok(Some(body)) => Ok(prepared.told(body)),
            Ok(None) => Err(Refusal::internal(format_args!("{name} has an empty outcome"))),
        };
        self.metrics.proposed(name, answer.as_ref().err());
        answer
    }

    /// Proposes a command. What it brings is asked for at once by whoever waits for it here.
    async fn propose(&self, command: v1::Command, deadline: Instant) -> Result<v1::Outcome, ProposeError> {
        let Some(coming) = self.foresight.foresee(&command) else {
            return self.consensus.propose(command, deadline).await;
        };
        let mut proposing = std::pin::pin!(self.consensus.propose_followed(command, deadline));
        // From the first look on it is in line, and those who ask come behind it.
        if let Poll::Ready(outcome) = futures::poll!(&mut proposing) {
            return outcome;
        }
        coming.ask();
        proposing.await
    }

    /// Takes a batch of commands to its outcomes, one for each. The gate judges each command by itself, and where it refuses one, none of them
    /// is carried out: whoever sent them learns which when it sends them one by one.
    ///
    /// # Errors
    /// As [`Way::execute`].
    pub async fn execute_batch(
        &self,
        caller: &Caller,
        mut batch: v1::CommandBatch,
        deadline: Instant,
    ) -> Result<v1::CommandBatchOutcome, Refusal> {
        let by_nature = |command: &v1::Command| command.body.as_ref().is_some_and(v1::command::Body::is_repeatable);
        if batch.request_id.is_empty() && !batch.commands.iter().all(by_nature) {
            batch.request_id = fresh_id();
        }
        self.founded(deadline).await?;
        let state = self.snapshot()?;
        let principal = || caller.principal.to_string();
        let whole = |batch| v1::Command { principal: principal(), gate: None, body: Some(v1::command::Body::Batch(batch)) };
        // Before the gate looks at each: there may be far too many.
        let command = whole(batch);
        tarn_machine::check::validate(&command).map_err(Refusal::from)?;
        tarn_machine::check::supported(&command, state.version).map_err(Refusal::from)?;
        let Some(v1::command::Body::Batch(mut batch)) = command.body else {
            return Err(Refusal::internal("a batch is no batch any more"));
        };
        for command in &mut batch.commands {
            command.body.iter_mut().for_each(name_namespace);
            let asked = v1::Command { principal: principal(), gate: None, body: command.body.take() };
            let ask = Ask::new(caller, What::Command(&asked), &state);
            self.gate.admit(&ask)?;
            command.gate = self.gate.facts(&ask).map(Box::new);
            command.body = asked.body;
        }
        let names: Vec<&'static str> =
            batch.commands.iter().filter_map(|command| command.body.as_ref().map(v1::command::Body::name)).collect();
        let command = whole(batch);
        drop(state);

        let started = Clock::now();
        let outcome = self.propose(command, deadline).await;
        self.metrics.proposal_seconds.observe(started.elapsed().as_secs_f64());
        let outcome = match outcome.map_err(Refusal::from)?.body {
            Some(v1::outcome::Body::Batch(outcome)) if outcome.outcomes.len() == names.len() => outcome,
            Some(v1::outcome::Body::Rejected(rejection)) => return Err(Refusal::from(rejection)),
            _ => return Err(Refusal::internal("the outcome of a batch is that of another command")),
        };
        for (name, outcome) in names.into_iter().zip(&outcome.outcomes) {
            let refused = match &outcome.body {
                Some(v1::outcome::Body::Rejected(rejection)) => Some(Refusal::from(rejection.clone())),
                _ => None,
            };
            self.metrics.proposed(name, refused.as_ref());
        }
        Ok(outcome)
    }

    /// Takes what one call of a driver changed to its outcome. Tasks go through the gate as if the driver had submitted them, which may
    /// use these queues and nothing else.
    ///
    /// # Errors
    /// As [`Way::execute`].
    pub async fn advance_driver(
        &self,
        queues: Arc<[String]>,
        request: v1::AdvanceDriver,
        deadline: Instant,
    ) -> Result<v1::DriverAdvanced, Refusal> {
        let caller = Caller::driver(&request.namespace, &request.name, queues);
        let mut command = v1::Command { principal: caller.principal.to_string(), gate: None, body: None };
        if !request.tasks.is_empty() {
            let (namespace, tasks) = (request.namespace.clone(), request.tasks.clone());
            let wanted = v1::EnqueueRequest { namespace, tasks, ..v1::EnqueueRequest::default() };
            command.body = Some(v1::command::Body::Enqueue(wanted));
            command.gate = self.judge(&caller, &command)?;
        }
        command.body = Some(request.into_body());
        let outcome = self.consensus.propose(command, deadline).await.map_err(Refusal::from);
        let answer = match outcome.map(|outcome| outcome.body) {
            Err(refusal) => Err(refusal),
            Ok(Some(v1::outcome::Body::AdvanceDriver(advanced))) => Ok(advanced),
            Ok(Some(v1::outcome::Body::Rejected(rejection))) => Err(Refusal::from(rejection)),
            Ok(_) => Err(Refusal::internal("the outcome of advance_driver is that of another command")),
        };
        self.metrics.proposed("AdvanceDriver", answer.as_ref().err());
        answer
    }

    /// Takes over a task of another cluster, as far as keeping it ready. It goes through the gate as if that cluster had submitted it.
    ///
    /// # Errors
    /// As [`Way::execute`].
    pub async fn accept_transfer(
        &self,
        node_id: u64,
        from: &str,
        request: v1::AcceptTransfer,
        deadline: Instant,
    ) -> Result<v1::TransferAccepted, Refusal> {
        let caller = Caller::cluster(from);
        let transfer = request.transfer.clone().unwrap_or_default();
        let wanted = v1::EnqueueRequest {
            namespace: transfer.namespace,
            tasks: transfer.spec.into_iter().collect(),
            ..v1::EnqueueRequest::default()
        };
        let mut command =
            v1::Command { principal: caller.principal.to_string(), gate: None, body: Some(v1::command::Body::Enqueue(wanted)) };
        command.gate = self.judge(&caller, &command)?;
        // The kernel takes it from nodes alone.
        command.principal = Caller::node(node_id).principal.to_string();
        command.body = Some(request.into_body());
        let answer = match self.consensus.propose(command, deadline).await.map_err(Refusal::from)?.body {
            Some(v1::outcome::Body::AcceptTransfer(accepted)) => Ok(accepted),
            Some(v1::outcome::Body::Rejected(rejection)) => Err(Refusal::from(rejection)),
            _ => Err(Refusal::internal("the outcome of accept_transfer is that of another command")),
        };
        self.metrics.proposed("AcceptTransfer", answer.as_ref().err());
        answer
    }

    /// Takes a command through the gate. Gives what its decision rested on.
    fn judge(&self, caller: &Caller, command: &v1::Command) -> Result<Option<Box<v1::GateFacts>>, Refusal> {
        let state = self.snapshot()?;
        let ask = Ask::new(caller, What::Command(command), &state);
        self.gate.admit(&ask)?;
        Ok(self.gate.facts(&ask).map(Box::new))
    }

    /// Waits until the first leader of a new cluster has made its version known, and with it that roles are judged: no command comes before
    /// that, not even a node's own, after which the cluster would pass for an old one.
    async fn founded(&self, deadline: Instant) -> Result<(), Refusal> {
        if !self.snapshot()?.is_fresh() {
            return Ok(());
        }
        let mut applied = self.consensus.applied();
        let founded = applied.wait_for(|applied| !Snapshot::is_before_roles(applied.version, applied.now_ms));
        match tokio::time::timeout_at(deadline, founded).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(stopping()),
            Err(_) => {
                Err(Reason::NoLeader
                    .refusal("the cluster has no leader yet, or was not founded: nothing was done; try again when it has one"))
            }
        }
    }

    /// Reads the state, certain to see everything that was acknowledged before the call.
    ///
    /// # Errors
    /// No leader confirmed it before the deadline, or the kernel refused the read.
    pub async fn read<T>(
        &self,
        caller: &Caller,
        wish: Wish<'_>,
        deadline: Instant,
        read: impl FnOnce(&Machine) -> Result<T, tarn_machine::Refusal>,
    ) -> Result<T, Refusal> {
        self.admit(caller, wish)?;
        self.barrier(deadline).await?;
        self.look(read)
    }

    /// Waits until this node has applied everything that was acknowledged before the call.
    ///
    /// # Errors
    /// No leader confirmed it before the deadline.
    pub async fn barrier(&self, deadline: Instant) -> Result<(), Refusal> {
        let started = Clock::now();
        let confirmed = self.consensus.read_barrier(deadline).await;
        self.metrics.reads_seconds.observe(started.elapsed().as_secs_f64());
        match confirmed {
            Ok(_) => Ok(()),
            Err(ReadError::NotConfirmed) => Err(Reason::DeadlineExceeded
                .refusal("no leader confirmed the read before its deadline: send it again, to another node perhaps, or allow more time")),
            Err(ReadError::Stopped) => Err(stopping()),
        }
    }

    /// Reads this node's state as it is, however old.
    ///
    /// # Errors
    /// The kernel refused the read, or the node is stopping.
    pub fn look<T>(&self, read: impl FnOnce(&Machine) -> Result<T, tarn_machine::Refusal>) -> Result<T, Refusal> {
        match self.consensus.read(read) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(tarn_machine::Refusal::Rejected(rejection))) => Err(Refusal::from(*rejection)),
            Ok(Err(tarn_machine::Refusal::Fatal(fatal))) => Err(Refusal::internal(fatal)),
            Err(_) => Err(stopping()),
        }
    }
}

fn stopping() -> Refusal {
    Reason::NodeStopping.refusal("this node is stopping: ask another one")
}

/// An id that nothing else has: 128 random bits.
pub(crate) fn fresh_id() -> String {
    data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>())
}

/// The namespace that a request means.
pub(crate) fn namespace_or_default(namespace: &mut String) {
    if namespace.is_empty() {
        DEFAULT_NAMESPACE.clone_into(namespace);
    }
}

fn name_namespace(body: &mut v1::command::Body) {
    use v1::command::Body;
    let namespace = match body {
        Body::Enqueue(request) => &mut request.namespace,
        Body::CancelTask(request) => &mut request.namespace,
        Body::RequeueDead(request) => &mut request.namespace,
        Body::PurgeQueue(request) => &mut request.namespace,
        Body::CompleteTask(request) => &mut request.namespace,
        Body::FailTask(request) => &mut request.namespace,
        Body::AcquireLease(request) => &mut request.namespace,
        Body::RenewLease(request) => &mut request.namespace,
        Body::ReleaseLease(request) => &mut request.namespace,
        Body::ScheduleTimer(request) => &mut request.namespace,
        Body::CancelTimer(request) => &mut request.namespace,
        Body::PutKey(request) => &mut request.namespace,
        Body::DeleteKey(request) => &mut request.namespace,
        Body::SnapshotContext(request) => &mut request.namespace,
        Body::RestoreContext(request) => &mut request.namespace,
        Body::DeleteSnapshot(request) => &mut request.namespace,
        Body::DeleteContext(request) => &mut request.namespace,
        Body::InstallDriver(request) => &mut request.namespace,
        Body::UpgradeDriver(request) => &mut request.namespace,
        Body::RemoveDriver(request) => &mut request.namespace,
        Body::AdvanceDriver(request) => &mut request.namespace,
        Body::ShareContext(request) => &mut request.namespace,
        Body::HeartbeatTasks(request) => {
            request.leases.iter_mut().for_each(|lease| namespace_or_default(&mut lease.namespace));
            return;
        }
        Body::LeaseTasks(_)
        | Body::RegisterWorker(_)
        | Body::HeartbeatWorker(_)
        | Body::DrainWorker(_)
        | Body::CreateNamespace(_)
        | Body::DeleteNamespace(_)
        | Body::UpdateNamespace(_)
        | Body::RaiseVersion(_)
        | Body::PutJoinToken(_)
        | Body::ConsumeJoinToken(_)
        | Body::PutRole(_)
        | Body::DeleteRole(_)
        | Body::PutBinding(_)
        | Body::DeleteBinding(_)
        | Body::PutToken(_)
        | Body::RevokeToken(_)
        | Body::RevokeCertificate(_)
        | Body::PutBundle(_)
        | Body::ActivateBundle(_)
        | Body::RollbackBundle(_)
        | Body::DeactivateBundle(_)
        | Body::DeleteBundle(_)
        | Body::PutPolicyHandler(_)
        | Body::DeletePolicyHandler(_)
        | Body::PutPolicySettings(_)
        | Body::RecordViolations(_)
        | Body::AcknowledgeEscalations(_)
        | Body::RecordDecisions(_)
        | Body::PlaceTasks(_)
        | Body::PutSchedulerSettings(_)
        | Body::PutAuditSettings(_)
        | Body::PutDriverSettings(_)
        | Body::StartFederation(_)
        | Body::LeaveFederation(_)
        | Body::WriteShared(_)
        | Body::CommitReplica(_)
        | Body::PutInvitation(_)
        | Body::ConsumeInvitation(_)
        | Body::AcceptTransfer(_)
        | Body::ConfirmTransfer(_)
        | Body::ExtendTransfer(_)
        | Body::CloseTransfer(_)
        | Body::Batch(_) => return,
    };
    namespace_or_default(namespace);
}
