//! One command: checked, recognised if it is a repeat, carried out, remembered.

use tarn_proto::v1::{Command, Outcome, Rejection, command, outcome};

use crate::check;
use crate::domain::queue::{admit, cancel, dead, dependency, lease as task_lease, report};
use crate::domain::{
    access, audit, batch, context, driver, federation, join_token, lease, namespace, placement, policy, timer, transfer, version, worker,
};
use crate::error::{Fatal, Refusal};
use crate::limits;
use crate::reject;
use crate::requests::{self, Seen};
use crate::txn::Txn;
use crate::wire;

/// Applies a command, which lies in the log as `said`. It either succeeds or is refused and leaves no trace; an error means that the node
/// must stop.
pub fn command(txn: &mut Txn<'_>, command: Command, said: &[u8]) -> Result<Outcome, Fatal> {
    let before = (txn.rows.touched(), txn.events.len(), txn.decisions.end());
    let mut draft = None;
    match attempt(txn, command, said, &mut draft) {
        Ok(body) => {
            audit::admitted(txn, draft, before.2, &body);
            Ok(Outcome { body: Some(body) })
        }
        Err(Refusal::Rejected(rejection)) => {
            if (txn.rows.touched(), txn.events.len(), txn.decisions.end()) != before {
                return Err(Fatal::assertion(format!("a command changed the state and was refused: {}", rejection.reason)));
            }
            audit::refused(txn, draft, &rejection);
            Ok(rejected(*rejection))
        }
        Err(Refusal::Fatal(fatal)) => Err(fatal),
    }
}

/// The outcome of a refused command.
pub fn rejected(rejection: Rejection) -> Outcome {
    Outcome { body: Some(outcome::Body::Rejected(rejection)) }
}

/// The entry has not enough ids left.
pub fn entry_full() -> Rejection {
    reject::full("ENTRY_FULL", "", limits::COMMAND_ORDINALS_MAX, "too much is going on at once: try again")
}

/// Carries a command out. `draft` is what is to be recorded of it: nothing of a repeat, nor of what can never succeed.
fn attempt(txn: &mut Txn<'_>, mut command: Command, said: &[u8], draft: &mut Option<audit::Draft>) -> Result<outcome::Body, Refusal> {
    if !txn.has_ids() {
        return Err(entry_full().into());
    }
    check::sized_fields(&command, said.len())?;
    version::require(&command, txn.meta.version)?;
    if txn.meta.version >= version::ROUTER {
        check::routing(&command)?;
    }
    *draft = audit::draft(txn, &mut command);
    let Some(body) = command.body else {
        return Err(reject::invalid("NO_COMMAND", "body", "the command is empty").into());
    };
    let said = wire::body(said);
    let seen = requests::look_up(txn, &command.principal, &body, said)?;
    if let Seen::Before(answer) = seen {
        *draft = None;
        return Ok(answer);
    }
    let answer = dispatch(txn, &command.principal, body, said)?;
    dependency::settle(txn)?;
    if let Seen::New(fresh) = seen {
        requests::remember(txn, fresh, &answer);
    }
    Ok(answer)
}

/// Every command, spelled out: a new one does not compile until it stands here.
fn dispatch(txn: &mut Txn<'_>, principal: &str, body: command::Body, said: &[u8]) -> Result<outcome::Body, Refusal> {
    use command::Body as C;
    use outcome::Body as O;
    Ok(match body {
        C::Enqueue(request) => O::Enqueue(admit::enqueue(txn, request, said)?),
        C::CancelTask(request) => O::CancelTask(cancel::cancel_task(txn, request)?),
        C::RequeueDead(request) => O::RequeueDead(dead::requeue_dead(txn, request)?),
        C::PurgeQueue(request) => O::PurgeQueue(dead::purge_queue(txn, request)?),
        C::LeaseTasks(request) => O::LeaseTasks(task_lease::lease_tasks(txn, principal, request)?),
        C::HeartbeatTasks(request) => O::HeartbeatTasks(task_lease::heartbeat_tasks(txn, principal, request)?),
        C::CompleteTask(request) => O::CompleteTask(report::complete_task(txn, principal, request)?),
        C::FailTask(request) => O::FailTask(report::fail_task(txn, principal, request)?),
        C::RegisterWorker(request) => O::RegisterWorker(worker::register_worker(txn, principal, request)?),
        C::HeartbeatWorker(request) => O::HeartbeatWorker(worker::heartbeat_worker(txn, principal, request)?),
        C::DrainWorker(request) => O::DrainWorker(worker::drain_worker(txn, request)?),
        C::AcquireLease(request) => O::AcquireLease(lease::acquire_lease(txn, request)?),
        C::RenewLease(request) => O::RenewLease(lease::renew_lease(txn, request)?),
        C::ReleaseLease(request) => O::ReleaseLease(lease::release_lease(txn, request)?),
        C::ScheduleTimer(request) => O::ScheduleTimer(timer::schedule_timer(txn, request)?),
        C::CancelTimer(request) => O::CancelTimer(timer::cancel_timer(txn, request)?),
        C::CreateNamespace(request) => O::CreateNamespace(namespace::create_namespace(txn, request)?),
        C::DeleteNamespace(request) => O::DeleteNamespace(namespace::delete_namespace(txn, request)?),
        C::UpdateNamespace(request) => O::UpdateNamespace(namespace::update_namespace(txn, request)?),
        C::RaiseVersion(request) => O::RaiseVersion(version::raise_version(txn, request)?),
        C::PutJoinToken(request) => O::PutJoinToken(join_token::put_join_token(txn, request)?),
        C::ConsumeJoinToken(request) => O::ConsumeJoinToken(join_token::consume_join_token(txn, request)?),
        C::PutRole(request) => O::PutRole(access::put_role(txn, request)?),
        C::DeleteRole(request) => O::DeleteRole(access::delete_role(txn, request)?),
        C::PutBinding(request) => O::PutBinding(access::put_binding(txn, request)?),
        C::DeleteBinding(request) => O::DeleteBinding(access::delete_binding(txn, request)?),
        C::PutToken(request) => O::PutToken(access::put_token(txn, principal, request)?),
        C::RevokeToken(request) => O::RevokeToken(access::revoke_token(txn, request)?),
        C::RevokeCertificate(request) => O::RevokeCertificate(access::revoke_certificate(txn, principal, request)?),
        C::PutBundle(request) => O::PutBundle(policy::put(txn, principal, request)?),
        C::ActivateBundle(request) => O::ActivateBundle(policy::activate(txn, principal, request)?),
        C::RollbackBundle(request) => O::RollbackBundle(policy::rollback(txn, principal, request)?),
        C::DeactivateBundle(request) => O::DeactivateBundle(policy::deactivate(txn, request)?),
        C::DeleteBundle(request) => O::DeleteBundle(policy::delete(txn, request)?),
        C::PutPolicyHandler(request) => O::PutPolicyHandler(policy::put_handler(txn, principal, request)?),
        C::DeletePolicyHandler(request) => O::DeletePolicyHandler(policy::delete_handler(txn, request)?),
        C::PutPolicySettings(request) => O::PutPolicySettings(policy::put_settings(txn, request)?),
        C::RecordViolations(request) => O::RecordViolations(policy::record(txn, request)?),
        C::AcknowledgeEscalations(request) => O::AcknowledgeEscalations(policy::acknowledge(txn, request)?),
        C::PlaceTasks(request) => O::PlaceTasks(placement::place_tasks(txn, principal, request)?),
        C::PutSchedulerSettings(request) => O::PutSchedulerSettings(placement::put_settings(txn, request)?),
        C::RecordDecisions(request) => O::RecordDecisions(audit::record_decisions(txn, principal, request)?),
        C::PutAuditSettings(request) => O::PutAuditSettings(audit::put_settings(txn, request)?),
        C::PutKey(request) => O::PutKey(context::put_key(txn, request)?),
        C::DeleteKey(request) => O::DeleteKey(context::delete_key(txn, request)?),
        C::SnapshotContext(request) => O::SnapshotContext(context::snapshot(txn, request)?),
        C::RestoreContext(request) => O::RestoreContext(context::restore(txn, request)?),
        C::DeleteSnapshot(request) => O::DeleteSnapshot(context::delete_snapshot(txn, request)?),
        C::DeleteContext(request) => O::DeleteContext(context::delete_context(txn, request)?),
        C::InstallDriver(request) => O::InstallDriver(driver::install(txn, principal, request)?),
        C::UpgradeDriver(request) => O::UpgradeDriver(driver::upgrade(txn, principal, request)?),
        C::RemoveDriver(request) => O::RemoveDriver(driver::remove(txn, request)?),
        C::AdvanceDriver(request) => O::AdvanceDriver(driver::advance(txn, principal, request)?),
        C::PutDriverSettings(request) => O::PutDriverSettings(driver::put_settings(txn, request)?),
        C::StartFederation(request) => O::StartFederation(federation::start(txn, request)?),
        C::LeaveFederation(request) => O::LeaveFederation(federation::leave(txn, request)?),
        C::WriteShared(request) => O::WriteShared(federation::write_shared(txn, request)?),
        C::CommitReplica(request) => O::CommitReplica(federation::commit_replica(txn, principal, request)?),
        C::PutInvitation(request) => O::PutInvitation(federation::put_invitation(txn, request)?),
        C::ConsumeInvitation(request) => O::ConsumeInvitation(federation::consume(txn, principal, request)?),
        C::ShareContext(request) => O::ShareContext(federation::share_context(txn, request)?),
        C::AcceptTransfer(request) => O::AcceptTransfer(transfer::accept(txn, principal, request)?),
        C::ConfirmTransfer(request) => O::ConfirmTransfer(transfer::confirm(txn, principal, request)?),
        C::ExtendTransfer(request) => O::ExtendTransfer(transfer::extend(txn, principal, request)?),
        C::CloseTransfer(request) => O::CloseTransfer(transfer::close(txn, request)?),
        C::Batch(request) => O::Batch(batch::carry_out(txn, principal, request, said)?),
    })
}

#[cfg(test)]
mod tests {
    use tarn_proto::v1::{CommandBatch, EnqueueRequest};
    use tarn_storage::MemoryEngine;

    use super::*;
    use crate::Versions;
    use crate::index::Indices;
    use crate::overlay::Overlay;
    use crate::rows::MetaRow;

    #[test]
    fn an_entry_that_runs_out_of_ids_refuses_the_rest() {
        let (engine, mut ix) = (MemoryEngine::new(), Indices::default());
        let mut txn = Txn::new(Overlay::new(&engine), &mut ix, MetaRow::default(), Versions::CURRENT, 7);
        let mut last = 0;
        while txn.has_ids() {
            let id = txn.next_id();
            assert!(id > last && id >> limits::ORDINAL_BITS == 7, "ids grow and name their entry");
            last = id;
        }
        for _ in 0..limits::COMMAND_ORDINALS_MAX {
            assert_eq!(txn.next_id() >> limits::ORDINAL_BITS, 7, "whoever began may finish");
        }
        let body = Some(command::Body::Enqueue(EnqueueRequest::default()));
        let outcome = super::command(&mut txn, Command { principal: String::new(), gate: None, body }, &[]).expect("it is refused");
        let Some(outcome::Body::Rejected(rejection)) = outcome.body else { panic!("{outcome:?}") };
        assert_eq!(rejection.reason, "ENTRY_FULL");
    }

    #[test]
    fn a_batch_finds_room_for_all_of_its_commands_or_is_refused_as_a_whole() {
        let (engine, mut ix) = (MemoryEngine::new(), Indices::default());
        let meta = MetaRow { version: version::BATCHES, ..MetaRow::default() };
        let mut txn = Txn::new(Overlay::new(&engine), &mut ix, meta, Versions::CURRENT, 7);
        let member = Command { body: Some(command::Body::Enqueue(EnqueueRequest::default())), ..Command::default() };
        let batch = CommandBatch { request_id: "b".to_owned(), commands: vec![member; 2] };
        let tell = |txn: &mut Txn<'_>| {
            let body = Some(command::Body::Batch(batch.clone()));
            super::command(txn, Command { body, ..Command::default() }, &[]).expect("it is no defect").body.expect("it has an outcome")
        };
        while txn.has_ids_for(limits::BATCH_TASKS_MAX as u64 + limits::BATCH_COMMANDS_MAX as u64) {
            txn.next_id();
        }
        assert!(txn.has_ids(), "one command alone would still be carried out");
        let outcome::Body::Rejected(rejection) = tell(&mut txn) else { panic!("there is no room for all of it") };
        assert_eq!(rejection.reason, "ENTRY_FULL");
        assert!(txn.rows.touched() == 0 && txn.request_hashes.is_empty(), "and it may be sent again");
    }
}
