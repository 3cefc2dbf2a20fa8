//! What each request asks for, in the words of roles: verb, kind and name of the resource, namespace.
//!
//! | verb | of | for |
//! | --- | --- | --- |
//! | `read` | everything | get, list, watch, logs |
//! | `submit` | `queue/NAME`, `timer/*` | tasks into a queue; timers |
//! | `work` | `worker/*`, `task/ID` | workers and what they report |
//! | `cancel`, `requeue`, `purge` | `task/ID`, `timer/ID`, `queue/NAME` | ending and reviving |
//! | `hold` | `lease/NAME` | named leases |
//! | `write` | `context/NAME` | keys and snapshots of a context, and restoring it; also for a task that is to be granted that |
//! | `call` | `driver/NAME` | having a driver answer |
//! | `create`, `update`, `delete` | `namespace/NAME`, `artifact/*`, `driver/NAME`, `role/NAME`, `binding/PRINCIPAL`, `token/PRINCIPAL`, … | what users make |
//! | `activate` | `policy/NAME` | which version of a policy judges |
//! | `revoke` | `token/ID`, `certificate/SERIAL` | credentials |
//! | `update` | `cluster/members`, `cluster/leader`, `cluster/version` | the cluster itself |
//!
//! A command that is not listed here does not compile. Names that the kernel will refuse anyway are judged as they stand: a pattern matches
//! bytes, and no name is ever normalised, so that none can be written in two ways.

use tarn_proto::v1::command::Body;
use tarn_proto::v1::timer_action::Action;
use tarn_proto::v1::{ContextGrant, TaskSpec};

use super::roles::Wish;

/// All of what it names, or all namespaces.
pub const ALL: &str = "*";

/// In some namespace, whichever: for what belongs to none.
pub const ANYWHERE: Option<&str> = None;

/// Calls `ask` for each thing that a command needs. Stops at the first that is refused.
///
/// # Errors
/// What `ask` returned.
pub fn of_command<E>(body: &Body, mut ask: impl FnMut(Wish<'_>) -> Result<(), E>) -> Result<(), E> {
    let mut wish = |verb, kind, name, namespace| ask(Wish { verb, kind, name, namespace });
    match body {
        Body::Enqueue(r) => {
            // Tasks of one batch mostly want the same: it is asked for once in a row.
            if r.tasks.is_empty() {
                return wish("submit", "queue", ALL, Some(&r.namespace));
            }
            let mut last = None;
            for task in &r.tasks {
                let wants = (&task.queue, granted(task));
                if last != Some(wants) {
                    submission(task, &r.namespace, &mut wish)?;
                    last = Some(wants);
                }
            }
            Ok(())
        }
        Body::CancelTask(r) => wish("cancel", "task", &r.task_id, Some(&r.namespace)),
        Body::RequeueDead(r) => wish("requeue", "queue", &r.queue, Some(&r.namespace)),
        Body::PurgeQueue(r) => wish("purge", "queue", &r.queue, Some(&r.namespace)),
        Body::RegisterWorker(r) => {
            let namespaces = r.capabilities.as_ref().map_or(&[][..], |given| &given.namespaces);
            match namespaces {
                [] => wish("work", "worker", ALL, Some(ALL)),
                some => some.iter().try_for_each(|namespace| wish("work", "worker", ALL, Some(namespace))),
            }
        }
        // A worker is its maker's: the kernel asks whether the caller is. Where it serves, the role step asks besides.
        Body::LeaseTasks(r) => wish("work", "worker", &r.worker_id, ANYWHERE),
        Body::HeartbeatTasks(r) => wish("work", "worker", &r.worker_id, ANYWHERE),
        Body::HeartbeatWorker(r) => wish("work", "worker", &r.worker_id, ANYWHERE),
        Body::DrainWorker(r) => wish("update", "worker", &r.worker_id, Some(ALL)),
        Body::CompleteTask(r) => wish("work", "task", &r.task_id, Some(&r.namespace)),
        Body::FailTask(r) => wish("work", "task", &r.task_id, Some(&r.namespace)),
        Body::AcquireLease(r) => wish("hold", "lease", &r.name, Some(&r.namespace)),
        Body::RenewLease(r) => wish("hold", "lease", &r.name, Some(&r.namespace)),
        Body::ReleaseLease(r) => wish("hold", "lease", &r.name, Some(&r.namespace)),
        Body::ScheduleTimer(r) => {
            wish("submit", "timer", ALL, Some(&r.namespace))?;
            match r.action.as_ref().and_then(|action| action.action.as_ref()) {
                Some(Action::Enqueue(task)) => submission(task, &r.namespace, &mut wish),
                Some(Action::Mark(_)) | None => Ok(()),
            }
        }
        Body::CancelTimer(r) => wish("cancel", "timer", &r.timer_id, Some(&r.namespace)),
        Body::CreateNamespace(r) => wish("create", "namespace", &r.name, Some(ALL)),
        Body::DeleteNamespace(r) => wish("delete", "namespace", &r.name, Some(ALL)),
        // How much a namespace may have is not for those who use it to say: it is asked for as its creation is.
        Body::UpdateNamespace(r) => {
            wish("update", "namespace", &r.name, Some(ALL))?;
            match r.environment {
                // Other policies judge from then on, or none.
                Some(_) => wish("activate", "policy", ALL, Some(ALL)),
                None => Ok(()),
            }
        }
        Body::RaiseVersion(_) => wish("update", "cluster", "version", Some(ALL)),
        Body::PutJoinToken(_) => wish("create", "join-token", ALL, Some(ALL)),
        // Asked by a node for one that joins, never by a user.
        Body::ConsumeJoinToken(_) => wish("update", "cluster", "members", Some(ALL)),
        Body::PutRole(r) => wish("update", "role", &r.name, Some(ALL)),
        Body::DeleteRole(r) => wish("delete", "role", &r.name, Some(ALL)),
        Body::PutBinding(r) => binding(r.binding.as_ref(), "update", wish),
        Body::DeleteBinding(r) => binding(r.binding.as_ref(), "delete", wish),
        Body::PutToken(r) => wish("create", "token", &r.principal, Some(ALL)),
        Body::RevokeToken(r) => wish("revoke", "token", &r.token_id, Some(ALL)),
        Body::RevokeCertificate(r) => wish("revoke", "certificate", &r.serial, Some(ALL)),
        Body::PutBundle(r) => wish("update", "policy", &r.name, Some(ALL)),
        Body::ActivateBundle(r) => wish("activate", "policy", &r.name, Some(ALL)),
        Body::RollbackBundle(r) => wish("activate", "policy", &r.name, Some(ALL)),
        Body::DeactivateBundle(r) => wish("activate", "policy", &r.name, Some(ALL)),
        Body::DeleteBundle(r) => wish("delete", "policy", &r.name, Some(ALL)),
        Body::PutPolicyHandler(r) => wish("update", "policy-handler", &r.name, Some(ALL)),
        Body::DeletePolicyHandler(r) => wish("delete", "policy-handler", &r.name, Some(ALL)),
        Body::PutPolicySettings(_) => wish("update", "policy-settings", ALL, Some(ALL)),
        // Told by nodes of their own gates, never by users.
        Body::RecordViolations(_) | Body::AcknowledgeEscalations(_) => wish("update", "cluster", "violations", Some(ALL)),
        // Sent by nodes alone: the kernel takes it from nobody else.
        Body::RecordDecisions(_) => wish("update", "audit", "records", Some(ALL)),
        Body::InstallDriver(r) => driver("create", &r.namespace, &r.name, r.spec.as_ref(), wish),
        Body::UpgradeDriver(r) => driver("update", &r.namespace, &r.name, r.spec.as_ref(), wish),
        Body::RemoveDriver(r) => wish("delete", "driver", &r.name, Some(&r.namespace)),
        Body::PutDriverSettings(_) => wish("update", "driver-settings", ALL, Some(ALL)),
        // Sent by the node that runs the driver, never by users.
        Body::AdvanceDriver(r) => wish("update", "driver", &r.name, Some(&r.namespace)),
        Body::PutAuditSettings(_) => wish("update", "audit", "settings", Some(ALL)),
        // Decided by the leader's node alone: the kernel takes it from nobody else.
        Body::PlaceTasks(_) => wish("update", "scheduler", "placements", Some(ALL)),
        Body::PutSchedulerSettings(_) => wish("update", "scheduler", "settings", Some(ALL)),
        Body::PutKey(r) => wish("write", "context", &r.context, Some(&r.namespace)),
        Body::DeleteKey(r) => wish("write", "context", &r.context, Some(&r.namespace)),
        Body::SnapshotContext(r) => wish("write", "context", &r.context, Some(&r.namespace)),
        Body::RestoreContext(r) => wish("write", "context", &r.context, Some(&r.namespace)),
        Body::DeleteSnapshot(r) => wish("write", "context", &r.context, Some(&r.namespace)),
        Body::DeleteContext(r) => wish("delete", "context", &r.context, Some(&r.namespace)),
        Body::StartFederation(_) | Body::PutInvitation(_) | Body::LeaveFederation(_) | Body::WriteShared(_) => {
            wish("update", "federation", "members", Some(ALL))
        }
        // Asked by a node for a cluster that joins, and by the leader's node: the kernel takes them from nobody else.
        Body::ConsumeInvitation(_) | Body::CommitReplica(_) => wish("update", "federation", "document", Some(ALL)),
        // Sent by the leader's node alone: the kernel takes all but the last from nobody else.
        Body::AcceptTransfer(_) | Body::ConfirmTransfer(_) | Body::ExtendTransfer(_) | Body::CloseTransfer(_) => {
            wish("update", "federation", "transfers", Some(ALL))
        }
        // Asked for command by command instead.
        Body::Batch(_) => wish("update", "cluster", "batches", Some(ALL)),
        // What is shared leaves the cluster: that is not for those who use the context to say.
        Body::ShareContext(r) => {
            wish("write", "context", &r.context, Some(&r.namespace))?;
            wish("update", "federation", "contexts", Some(ALL))
        }
    }
}

/// The context that a task is to be granted.
fn granted(task: &TaskSpec) -> Option<&ContextGrant> {
    task.grants.as_ref()?.context.as_ref()
}

/// What a task needs to be submitted: its queue, and whatever its submitter has it do there in their place.
fn submission<'a, E>(
    task: &'a TaskSpec,
    namespace: &'a str,
    mut wish: impl FnMut(&'static str, &'static str, &'a str, Option<&'a str>) -> Result<(), E>,
) -> Result<(), E> {
    wish("submit", "queue", &task.queue, Some(namespace))?;
    granted(task).map_or(Ok(()), |context| {
        let verb = if context.write { "write" } else { "read" };
        wish(verb, "context", &context.name, Some(namespace))
    })
}

/// Who installs a driver has it do what they may do themselves.
fn driver<'a, E>(
    verb: &'static str,
    namespace: &'a str,
    name: &'a str,
    spec: Option<&'a tarn_proto::v1::DriverSpec>,
    mut wish: impl FnMut(&'static str, &'static str, &'a str, Option<&'a str>) -> Result<(), E>,
) -> Result<(), E> {
    wish(verb, "driver", name, Some(namespace))?;
    let Some(spec) = spec else { return Ok(()) };
    if !spec.events.is_empty() {
        wish("read", "event", ALL, Some(namespace))?;
    }
    let mut queues = spec.grants.iter().flat_map(|grants| &grants.queues);
    queues.try_for_each(|queue| wish("submit", "queue", queue, Some(namespace)))
}

fn binding<'a, E>(
    binding: Option<&'a tarn_proto::v1::Binding>,
    verb: &'static str,
    mut wish: impl FnMut(&'static str, &'static str, &'a str, Option<&'a str>) -> Result<(), E>,
) -> Result<(), E> {
    // One that is missing is refused by validation, which comes later: it must not be let through to it by anybody.
    let (principal, namespace) = binding.map_or((ALL, ALL), |binding| (&binding.principal, &binding.namespace));
    wish(verb, "binding", principal, Some(namespace))
}
