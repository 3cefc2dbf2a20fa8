//! The cluster's machine version: it rises by a command, once every voter supports it.

use tarn_proto::v1::{
    Command, EventKind, RaiseVersion, Rejection, TaskSpec, VersionRaised, command, timer_action::Action,
};

use super::{access, audit, quota};
use crate::error::{Fatal, Refusal};
use crate::reject;
use crate::txn::Txn;

/// The machine version that brought roles, and workers that belong to who registered them.
pub const ACCESS: u32 = 2;

/// The machine version that brought executors besides WASM, and grants.
pub const EXECUTORS: u32 = 3;

/// The machine version that brought the router's part of the state, and drivers.
pub const ROUTER: u32 = 4;

/// Refuses a command that a node of the cluster may not know yet.
pub fn require(txn: &Txn<'_>, command: &Command) -> Result<(), Rejection> {
    let gate = if command.gate.is_some() { audit::SINCE } else { 1 };
    let (needed, found) = (command.body.as_ref().map_or(1, since).max(gate), txn.meta.version);
    if needed <= found {
        return Ok(());
    }
    let message = format!(
        "this needs machine version {needed}, and the cluster runs {found}: upgrade every node, then run `tarn cluster upgrade`"
    );
    Err(reject::precondition("CLUSTER_VERSION_TOO_LOW", "", message))
}

/// The machine version that a command came with, or what it says in fields that are younger than it.
fn since(body: &command::Body) -> u32 {
    use command::Body as C;
    match body {
        C::CreateNamespace(r) if r.quotas.is_some() || r.isolation != 0 || !r.environment.is_empty() => quota::SINCE,
        C::Enqueue(r) if r.tasks.iter().any(is_for_executors) => EXECUTORS,
        C::ScheduleTimer(r) => {
            let action = r.action.as_ref().and_then(|action| action.action.as_ref());
            match action {
                Some(Action::Enqueue(spec)) if is_for_executors(spec) => EXECUTORS,
                _ => 1,
            }
        }
        C::HeartbeatTasks(r) if r.leases.iter().any(|lease| lease.progress.is_some()) => EXECUTORS,
        C::DeleteNamespace(r) if r.drain || r.cancel => quota::SINCE,
        C::UpdateNamespace(_) => quota::SINCE,
        C::PutRole(_)
        | C::DeleteRole(_)
        | C::PutBinding(_)
        | C::DeleteBinding(_)
        | C::PutToken(_)
        | C::RevokeToken(_)
        | C::RevokeCertificate(_) => ACCESS,
        C::PutBundle(_)
        | C::ActivateBundle(_)
        | C::RollbackBundle(_)
        | C::DeactivateBundle(_)
        | C::DeleteBundle(_)
        | C::PutPolicyHandler(_)
        | C::DeletePolicyHandler(_)
        | C::PutPolicySettings(_)
        | C::RecordViolations(_)
        | C::AcknowledgeEscalations(_) => 2,
        C::RecordDecisions(_) | C::PutAuditSettings(_) => audit::SINCE,
        C::InstallDriver(_)
        | C::UpgradeDriver(_)
        | C::RemoveDriver(_)
        | C::AdvanceDriver(_)
        | C::PutDriverSettings(_) => ROUTER,
        _ => 1,
    }
}

/// Whether a specification has fields that came with executors besides WASM.
fn is_for_executors(spec: &TaskSpec) -> bool {
    let parts = spec.native.is_some() || spec.cuda.is_some() || spec.transform.is_some();
    parts || spec.grants.is_some() || spec.runtime == "microvm"
}

/// The command: from here on the cluster writes this version. A build that cannot read it stops before it applies the entry; nothing
/// changes where the version is reached already.
pub fn raise_version(txn: &mut Txn<'_>, request: RaiseVersion) -> Result<VersionRaised, Refusal> {
    if request.version > txn.versions.max {
        return Err(Fatal::UnknownVersion {
            what: "the cluster, from this entry on,",
            found: request.version,
            min: txn.versions.min,
            max: txn.versions.max,
        }
        .into());
    }
    let found = txn.meta.version;
    if request.version > found {
        txn.meta.version = request.version;
        txn.event(EventKind::VersionRaised, "").detail = request.version.to_string();
        if request.keep_access && found < ACCESS && request.version >= ACCESS {
            access::put_binding(txn, access::everybody())?;
        }
    }
    Ok(VersionRaised { version: txn.meta.version })
}
