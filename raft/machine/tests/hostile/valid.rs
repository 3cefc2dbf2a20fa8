//! Valid input, to be spoilt.

use std::collections::BTreeMap;

use prost::Message;
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind};
use tarn_machine::Versions;
use tarn_proto::v1::*;

use crate::target::Target;

/// A command of every kind. Ids are those of [`populated`].
pub fn every_body(worker: &str, task: &str) -> Vec<command::Body> {
    use command::Body as B;
    let ns = || "default".to_owned();
    let spec = TaskSpec {
        queue: "q".to_owned(),
        handler: "h".to_owned(),
        payload: "payload".into(),
        priority: Priority::High.into(),
        not_before_at_ms: 5,
        retry: Some(RetryPolicy { max_attempts: 3, ..RetryPolicy::default() }),
        after: vec![task.to_owned()],
        requires: vec!["gpu".to_owned()],
        annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        ..TaskSpec::default()
    };
    let wasm = WasmSpec { artifact: "a".to_owned(), args: vec!["x".to_owned()], ..WasmSpec::default() };
    let wasm =
        TaskSpec { queue: "q".to_owned(), runtime: "wasm".to_owned(), wasm: Some(wasm), after_in_batch: vec![0], ..TaskSpec::default() };
    let enqueue = timer_action::Action::Enqueue(TaskSpec { after: Vec::new(), ..spec.clone() });
    let action = Some(Box::new(TimerAction { action: Some(enqueue) }));
    let lease = TaskLease { namespace: ns(), task_id: task.to_owned(), token: 9, progress: None };
    let capabilities = WorkerCapabilities { labels: vec!["gpu".to_owned()], ..WorkerCapabilities::default() };
    let error = Some(TaskError { reason: "NO".to_owned(), message: "no".to_owned() });
    let hash = bytes::Bytes::from_static(&[7; 32]);
    let mut bodies = vec![
        B::Enqueue(EnqueueRequest { request_id: "r".to_owned(), namespace: ns(), tasks: vec![spec, wasm] }),
        B::CancelTask(CancelTaskRequest { namespace: ns(), task_id: task.to_owned(), force: true, ..Default::default() }),
        B::RequeueDead(RequeueDeadRequest {
            namespace: ns(),
            queue: "q".to_owned(),
            task_ids: vec![task.to_owned()],
            ..Default::default()
        }),
        B::PurgeQueue(PurgeQueueRequest { namespace: ns(), queue: "q".to_owned(), states: vec![6, 1], ..Default::default() }),
        B::LeaseTasks(LeaseTasksRequest { worker_id: worker.to_owned(), max_tasks: 3, lease_ms: 5_000, wait_ms: 9, ..Default::default() }),
        B::HeartbeatTasks(HeartbeatTasksRequest { worker_id: worker.to_owned(), leases: vec![lease.clone(), lease], lease_ms: 2_000 }),
        B::CompleteTask(CompleteTaskRequest {
            namespace: ns(),
            task_id: task.to_owned(),
            token: 9,
            result: "r".into(),
            logs: "l".into(),
            ..Default::default()
        }),
        B::FailTask(FailTaskRequest {
            namespace: ns(),
            task_id: task.to_owned(),
            token: 9,
            kind: 2,
            error,
            logs: "l".into(),
            ..Default::default()
        }),
        B::RegisterWorker(RegisterWorkerRequest {
            name: "w".to_owned(),
            capabilities: Some(capabilities),
            ttl_ms: 3_600_000,
            ..Default::default()
        }),
        B::HeartbeatWorker(HeartbeatWorkerRequest { worker_id: worker.to_owned(), resources: None }),
        B::PlaceTasks(PlaceTasks {
            placements: vec![TaskPlacement {
                namespace: ns(),
                task_id: task.to_owned(),
                worker_id: worker.to_owned(),
                runtime: "wasm".to_owned(),
                scores: Some(PlacementScores { runtime: "wasm".to_owned(), ..Default::default() }),
            }],
        }),
        B::PutSchedulerSettings(PutSchedulerSettingsRequest {
            settings: Some(SchedulerSettings {
                weights: Some(SchedulerWeights { cost: Some(90), ..Default::default() }),
                settle_ms: Some(7),
                away_patience_ms: Some(7),
                any_cluster: Some(true),
                ..Default::default()
            }),
            ..Default::default()
        }),
        B::DrainWorker(DrainWorkerRequest { worker_id: worker.to_owned(), ..Default::default() }),
        B::AcquireLease(AcquireLeaseRequest {
            namespace: ns(),
            name: "l".to_owned(),
            holder: "h".to_owned(),
            ttl_ms: 5_000,
            ..Default::default()
        }),
        B::RenewLease(RenewLeaseRequest { namespace: ns(), name: "l".to_owned(), token: 4, ..Default::default() }),
        B::ReleaseLease(ReleaseLeaseRequest { namespace: ns(), name: "l".to_owned(), token: 4, ..Default::default() }),
        B::ScheduleTimer(ScheduleTimerRequest { namespace: ns(), delay_ms: 5, action, ..Default::default() }),
        B::CancelTimer(CancelTimerRequest { namespace: ns(), timer_id: task.to_owned(), ..Default::default() }),
        B::CreateNamespace(CreateNamespaceRequest { name: "team".to_owned(), weight: 5, ..Default::default() }),
        B::DeleteNamespace(DeleteNamespaceRequest { name: "team".to_owned(), ..Default::default() }),
        B::UpdateNamespace(UpdateNamespaceRequest {
            name: "team".to_owned(),
            weight: Some(7),
            quotas: Some(Quotas { max_queued: Some(100), ..Default::default() }),
            isolation: Some(Isolation::None.into()),
            environment: Some("dev".to_owned()),
            ..Default::default()
        }),
        B::RaiseVersion(RaiseVersion { version: 1, ..Default::default() }),
        B::PutJoinToken(PutJoinToken { key_hash: hash.clone(), ttl_ms: 5_000, ..Default::default() }),
        B::ConsumeJoinToken(ConsumeJoinToken { key_hash: hash.clone(), node_key_hash: hash.clone(), node_id_min: 3 }),
        B::PutRole(PutRoleRequest { name: "mailer".to_owned(), rules: rules(), ..Default::default() }),
        B::DeleteRole(DeleteRoleRequest { name: "pilot".to_owned(), ..Default::default() }),
        B::PutBinding(PutBindingRequest { binding: binding("mailer"), ..Default::default() }),
        B::DeleteBinding(DeleteBindingRequest { binding: binding("viewer"), ..Default::default() }),
        B::PutToken(PutTokenRequest {
            secret_hash: hash,
            name: "ci".to_owned(),
            principal: "user/robot".to_owned(),
            scopes: rules(),
            ttl_ms: 60_000,
            ..Default::default()
        }),
        B::RevokeToken(RevokeTokenRequest { token_id: task.to_owned(), ..Default::default() }),
        B::RevokeCertificate(RevokeCertificateRequest {
            serial: "0a1b".to_owned(),
            reason: "lost".to_owned(),
            expires_at_ms: 1 << 40,
            ..Default::default()
        }),
        B::RecordDecisions(RecordDecisions { decisions: vec![refusal(task)], dropped: 7, ..Default::default() }),
        B::PutAuditSettings(PutAuditSettingsRequest {
            settings: Some(AuditSettings { retention_ms: 7_200_000, records_max: 2_000, bytes_max: 2 << 20 }),
            ..Default::default()
        }),
    ];
    let fence = || Some(Fence { task_id: task.to_owned(), token: 9 });
    let memory = || "memory".to_owned();
    bodies.extend([
        B::PutKey(PutKeyRequest {
            namespace: ns(),
            context: memory(),
            key: "plan/today".to_owned(),
            value: "rest".into(),
            expected_version: Some(7),
            fence: fence(),
            ..Default::default()
        }),
        B::DeleteKey(DeleteKeyRequest { namespace: ns(), context: memory(), key: "plan".to_owned(), fence: fence(), ..Default::default() }),
        B::SnapshotContext(SnapshotContextRequest { namespace: ns(), context: memory(), snapshot: "s".to_owned(), ..Default::default() }),
        B::RestoreContext(RestoreContextRequest { namespace: ns(), context: memory(), snapshot: "s".to_owned(), ..Default::default() }),
        B::DeleteSnapshot(DeleteSnapshotRequest { namespace: ns(), context: memory(), snapshot: "s".to_owned(), ..Default::default() }),
        B::DeleteContext(DeleteContextRequest { namespace: ns(), context: memory(), ..Default::default() }),
    ]);
    bodies.extend(crate::policies::bodies());
    bodies.extend(crate::drivers::bodies());
    bodies.extend(crate::federation::bodies());
    bodies.extend(crate::transfers::bodies(task));
    let release = ReleaseLeaseRequest { namespace: ns(), name: "l".to_owned(), token: 4, ..Default::default() };
    let member = Command { body: Some(B::ReleaseLease(release)), gate: Some(Box::new(gate())), ..Command::default() };
    bodies.push(B::Batch(CommandBatch { request_id: "b".to_owned(), commands: vec![member.clone(), member] }));
    bodies
}

/// What a gate says about a command.
pub fn gate() -> GateFacts {
    GateFacts {
        trace: "5f".to_owned(),
        method: "certificate".to_owned(),
        node: 2,
        environment: "prod".to_owned(),
        policies: vec![PolicyVersion { name: "limits".to_owned(), version: "1.2.3".to_owned() }],
        rule: "data.tarn.deny".to_owned(),
        input_digest: vec![7; 32].into(),
        facts: r#"{"verb":"submit"}"#.into(),
        warnings: vec!["a large payload".to_owned()],
    }
}

fn refusal(task: &str) -> Decision {
    Decision {
        kind: DecisionKind::Refused.into(),
        principal: "user/eve".to_owned(),
        action: "CancelTask".to_owned(),
        namespace: "default".to_owned(),
        task_id: task.to_owned(),
        reason: "PERMISSION_DENIED".to_owned(),
        step: "role".to_owned(),
        gate: Some(gate()),
        count: 3,
        ..Decision::default()
    }
}

fn rules() -> Vec<Rule> {
    vec![Rule { verbs: vec!["submit".to_owned(), "read".to_owned()], resources: vec!["queue/mail-*".to_owned()] }]
}

fn binding(role: &str) -> Option<Binding> {
    Some(Binding { principal: "user/ada".to_owned(), role: role.to_owned(), namespace: "team-*".to_owned() })
}

/// A machine that takes every command, with a worker and a task, and their ids.
pub fn populated() -> (Target, String, String) {
    let mut target = Target::new();
    target.tell(command::Body::RaiseVersion(RaiseVersion { keep_access: false, version: Versions::CURRENT.max }));
    let register = RegisterWorkerRequest { ttl_ms: 3_600_000, ..RegisterWorkerRequest::default() };
    let outcome::Body::RegisterWorker(worker) = target.tell(command::Body::RegisterWorker(register)) else { panic!() };
    let tasks = vec![TaskSpec { queue: "q".to_owned(), ..TaskSpec::default() }];
    let enqueue = EnqueueRequest { namespace: "default".to_owned(), tasks, ..EnqueueRequest::default() };
    let outcome::Body::Enqueue(answer) = target.tell(command::Body::Enqueue(enqueue)) else { panic!() };
    (target, worker.worker_id, answer.task_ids[0].clone())
}

pub fn entry(bodies: &[command::Body]) -> Vec<u8> {
    let command = |body: &command::Body| Command { principal: "node/1".to_owned(), gate: Some(Box::new(gate())), body: Some(body.clone()) };
    Entry { version: 1, now_ms: 1_000, commands: bodies.iter().map(command).collect() }.encode_to_vec()
}

/// The commands of the contract, as fields of the message that wraps them.
pub fn commands() -> Vec<FieldDescriptor> {
    let pool = DescriptorPool::decode(tarn_proto::DESCRIPTORS).expect("the contract's descriptors are valid");
    let command = pool.get_message_by_name("tarn.v1.Command").expect("the contract has commands");
    command.fields().filter(|field| field.containing_oneof().is_some() && matches!(field.kind(), Kind::Message(_))).collect()
}
