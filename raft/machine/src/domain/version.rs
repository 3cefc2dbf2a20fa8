//! The cluster's machine version: it rises by a command, once every voter supports it.

use tarn_proto::v1::{
    Command, DriverSpec, EventKind, RaiseVersion, Rejection, SchedulerSettings, TaskSpec, VersionRaised, WorkerResources, command,
    timer_action::Action,
};

use super::{access, audit, placement, quota};
use crate::error::{Fatal, Refusal};
use crate::reject;
use crate::txn::Txn;

/// The machine version that brought roles, and workers that belong to who registered them.
pub const ACCESS: u32 = 2;

/// The machine version that brought executors besides WASM, and grants.
pub const EXECUTORS: u32 = 3;

/// The machine version that brought the router, contexts and drivers.
pub const ROUTER: u32 = 4;

/// The machine version that brought the federation.
pub const FEDERATION: u32 = 5;

/// The machine version that brought batches of commands.
pub const BATCHES: u32 = 6;

/// Refuses a command that a node of the cluster may not know yet.
pub fn require(command: &Command, found: u32) -> Result<(), Rejection> {
    let gate = if command.gate.is_some() { audit::SINCE } else { 1 };
    let needed = command.body.as_ref().map_or(1, since).max(gate);
    if needed <= found {
        return Ok(());
    }
    let message =
        format!("this needs machine version {needed}, and the cluster runs {found}: upgrade every node, then run `tarn cluster upgrade`");
    Err(reject::precondition("CLUSTER_VERSION_TOO_LOW", "", message))
}

/// The machine version that a command came with, or what it says in fields that are younger than it.
fn since(body: &command::Body) -> u32 {
    use command::Body as C;
    match body {
        C::CreateNamespace(r) if r.quotas.is_some() || r.isolation != 0 || !r.environment.is_empty() => quota::SINCE,
        C::Enqueue(r) => r.tasks.iter().map(of_spec).max().unwrap_or(1),
        C::ScheduleTimer(r) => {
            let action = r.action.as_ref().and_then(|action| action.action.as_ref());
            match action {
                Some(Action::Enqueue(spec)) => of_spec(spec),
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
        C::RegisterWorker(r) => r.capabilities.as_ref().and_then(|given| given.resources.as_ref()).map_or(1, of_resources),
        C::HeartbeatWorker(r) => r.resources.as_ref().map_or(1, of_resources),
        C::PutSchedulerSettings(r) => of_settings(r.settings.as_ref()),
        C::PlaceTasks(_) => ROUTER,
        C::PutKey(_) | C::DeleteKey(_) | C::SnapshotContext(_) | C::RestoreContext(_) | C::DeleteSnapshot(_) | C::DeleteContext(_) => {
            ROUTER
        }
        C::InstallDriver(r) => of_events(r.spec.as_ref()),
        C::UpgradeDriver(r) => of_events(r.spec.as_ref()),
        C::AdvanceDriver(r) => r.tasks.iter().map(of_spec).max().unwrap_or(1).max(ROUTER),
        C::RemoveDriver(_) | C::PutDriverSettings(_) => ROUTER,
        C::StartFederation(_)
        | C::LeaveFederation(_)
        | C::WriteShared(_)
        | C::CommitReplica(_)
        | C::PutInvitation(_)
        | C::ConsumeInvitation(_)
        | C::ShareContext(_)
        | C::AcceptTransfer(_)
        | C::ConfirmTransfer(_)
        | C::ExtendTransfer(_)
        | C::CloseTransfer(_) => FEDERATION,
        C::Batch(r) => r.commands.iter().filter_map(|command| command.body.as_ref()).map(since).fold(BATCHES, u32::max),
        _ => 1,
    }
}

/// The machine version that brought the youngest of what a specification says.
fn of_spec(spec: &TaskSpec) -> u32 {
    let parts = spec.native.is_some() || spec.cuda.is_some() || spec.transform.is_some();
    let context = spec.grants.as_ref().is_some_and(|grants| grants.context.is_some());
    if spec.placement.as_ref().is_some_and(|placement| placement.any_cluster) {
        return FEDERATION;
    }
    if context || spec.runtime == placement::AUTO || spec.placement.is_some() {
        return ROUTER;
    }
    match parts || spec.grants.is_some() || spec.runtime == "microvm" {
        true => EXECUTORS,
        false => 1,
    }
}

/// The same of a worker's resources.
fn of_resources(resources: &WorkerResources) -> u32 {
    if resources.cluster.is_empty() { ROUTER } else { FEDERATION }
}

/// The same of the router's settings.
fn of_settings(settings: Option<&SchedulerSettings>) -> u32 {
    let young = settings.is_some_and(|settings| settings.away_patience_ms.is_some() || settings.any_cluster.is_some());
    if young { FEDERATION } else { ROUTER }
}

/// The same of a driver's subscription: an older node does not know the younger kinds of events, and would refuse what others take.
fn of_events(spec: Option<&DriverSpec>) -> u32 {
    let young = |kind: &i32| *kind >= EventKind::FederationChanged.into();
    if spec.is_some_and(|spec| spec.events.iter().any(young)) { FEDERATION } else { ROUTER }
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
