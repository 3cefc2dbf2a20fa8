//! Commands made wrong on purpose, each in one way that the state has no part in, with the reason that must be given.

use bytes::Bytes;
use tarn_machine::limits;
use tarn_proto::v1::*;

use crate::dice::Dice;

/// Does one of these and gives its reason.
macro_rules! one_of {
    ($dice:expr, $($reason:literal: $spoil:expr),+ $(,)?) => {{
        let ways = [$($reason),+].len() as u64;
        let mut left = $dice.below(ways);
        $(
            if left == 0 {
                $spoil;
                return $reason;
            }
            left = left.wrapping_sub(1);
        )+
        unreachable!("one of the ways was taken, {left} left")
    }};
}

/// Spoils a command; gives the reason for which it must be refused.
pub fn spoil(dice: &mut Dice, command: &mut Command) -> &'static str {
    match dice.below(40) {
        0 => {
            command.body = None;
            return "NO_COMMAND";
        }
        2 => {
            let facts = Bytes::from(vec![b'x'; limits::FACTS_BYTES_MAX + 1]);
            command.gate = Some(Box::new(GateFacts { facts, ..GateFacts::default() }));
            return "FACTS_TOO_LARGE";
        }
        3 => {
            let rule = "x".repeat(limits::GATE_BYTES_MAX);
            command.gate = Some(Box::new(GateFacts { rule, ..GateFacts::default() }));
            return "GATE_TOO_LARGE";
        }
        1 => {
            command.principal = "p".repeat(limits::PRINCIPAL_BYTES_MAX + 1);
            return "PRINCIPAL_TOO_LONG";
        }
        _ => {}
    }
    let body = command.body.as_mut().expect("the generator gives every command a body");
    spoil_body(dice, body)
}

fn spoil_body(dice: &mut Dice, body: &mut command::Body) -> &'static str {
    use command::Body as B;
    let bad_name = || "Upper Case".to_owned();
    let bad_id = || "not-an-id".to_owned();
    let long = |limit: usize| "x".repeat(limit + 1);
    let told = |permille, message| TaskLease {
        task_id: "0000000000001".to_owned(),
        progress: Some(Progress { permille, message }),
        ..TaskLease::default()
    };
    match body {
        B::Enqueue(r) => {
            let last = r.tasks.len() - 1;
            one_of!(dice,
                "INVALID_NAME": r.namespace = bad_name(),
                "INVALID_NAME": r.tasks[last].queue = String::new(),
                "INVALID_NAME": r.tasks[last].runtime = "WASM".to_owned(),
                "NO_TASKS": r.tasks.clear(),
                "TOO_MANY_TASKS": r.tasks = vec![plain(); limits::BATCH_TASKS_MAX + 1],
                "REQUEST_ID_TOO_LONG": r.request_id = long(limits::REQUEST_ID_BYTES_MAX),
                "INVALID_ID": r.tasks[last].after.push(bad_id()),
                "DEPENDENCY_CYCLE": r.tasks[last].after_in_batch = vec![last as u32],
                "DEPENDENCY_NOT_FOUND": r.tasks[last].after_in_batch = vec![last as u32 + 1],
                "TOO_MANY_DEPENDENCIES": r.tasks[last].after = vec!["0000000000001".to_owned(); limits::DEPENDENCIES_MAX + 1],
                "PAYLOAD_TOO_LARGE": r.tasks[last].payload = vec![0; limits::PAYLOAD_BYTES_MAX + 1].into(),
                "SPEC_TOO_LARGE": drop(r.tasks[last].annotations.insert("a".to_owned(), long(limits::SPEC_BYTES_MAX))),
                "HANDLER_TOO_LONG": r.tasks[last].handler = long(limits::LABEL_BYTES_MAX),
                "UNKNOWN_VALUE": r.tasks[last].priority = 6,
                "UNKNOWN_VALUE": r.tasks[last].on_dependency_failure = -1,
                "OUT_OF_RANGE": r.tasks[last].not_before_at_ms = limits::TIME_MS_MAX + 1,
                "OUT_OF_RANGE": r.tasks[last].deadline_at_ms = u64::MAX,
                "OUT_OF_RANGE": r.tasks[last].attempt_timeout_ms = limits::ATTEMPT_TIMEOUT_MS_MAX + 1,
                "OUT_OF_RANGE": r.tasks[last].retention_ms = limits::RETENTION_MS_MAX + 1,
                "OUT_OF_RANGE": r.tasks[last].retry = Some(RetryPolicy { max_attempts: 101, ..Default::default() }),
                "OUT_OF_RANGE": r.tasks[last].retry = Some(RetryPolicy { multiplier_percent: 99, ..Default::default() }),
                "TOO_MANY_LABELS": r.tasks[last].requires = vec!["l".to_owned(); limits::REQUIRES_MAX + 1],
                "EMPTY_LABEL": r.tasks[last].requires = vec![String::new()],
                "WASM_SPEC_MISSING": runs(&mut r.tasks[last], "wasm"),
                "NATIVE_SPEC_MISSING": runs(&mut r.tasks[last], "native"),
                "WASM_SPEC_MISSING": runs(&mut r.tasks[last], "microvm"),
                "CUDA_SPEC_MISSING": runs(&mut r.tasks[last], "cuda"),
                "TRANSFORM_SPEC_MISSING": {
                    runs(&mut r.tasks[last], "cuda");
                    r.tasks[last].transform = Some(TransformSpec::default());
                },
                "TRANSFORM_SPEC_UNEXPECTED": {
                    runs(&mut r.tasks[last], "native");
                    r.tasks[last].native = Some(NativeSpec { artifact: "a".to_owned(), ..Default::default() });
                    r.tasks[last].transform = Some(TransformSpec { name: "fft".to_owned(), ..Default::default() });
                },
                "NATIVE_SPEC_UNEXPECTED": {
                    runs(&mut r.tasks[last], "");
                    r.tasks[last].native = Some(NativeSpec::default());
                },
                "GRANTS_UNEXPECTED": {
                    runs(&mut r.tasks[last], "");
                    r.tasks[last].grants = Some(Grants::default());
                },
                "WASM_SPEC_UNEXPECTED": {
                    runs(&mut r.tasks[last], "");
                    r.tasks[last].wasm = Some(WasmSpec::default());
                },
            )
        }
        B::CancelTask(r) => one_of!(dice,
            "INVALID_NAME": r.namespace = bad_name(),
            "INVALID_ID": r.task_id = bad_id(),
            "REQUEST_ID_TOO_LONG": r.request_id = long(limits::REQUEST_ID_BYTES_MAX),
        ),
        B::RequeueDead(r) => one_of!(dice,
            "INVALID_NAME": r.queue = bad_name(),
            "INVALID_ID": r.task_ids.push(bad_id()),
            "TOO_MANY_TASKS": r.task_ids = vec!["0000000000001".to_owned(); limits::BATCH_TASKS_MAX + 1],
        ),
        B::PurgeQueue(r) => one_of!(dice,
            "INVALID_NAME": r.namespace = bad_name(),
            "INVALID_STATES": r.states.clear(),
            "INVALID_STATES": r.states.push(TaskState::Running.into()),
            "INVALID_STATES": r.states.push(77),
        ),
        B::LeaseTasks(r) => one_of!(dice,
            "INVALID_ID": r.worker_id = bad_id(),
            "OUT_OF_RANGE": r.max_tasks = 0,
            "OUT_OF_RANGE": r.max_tasks = limits::LEASE_TASKS_MAX + 1,
            "OUT_OF_RANGE": r.lease_ms = limits::TASK_LEASE_MS.0 - 1,
            "OUT_OF_RANGE": r.lease_ms = limits::TASK_LEASE_MS.1 + 1,
        ),
        B::HeartbeatTasks(r) => one_of!(dice,
            "INVALID_ID": r.worker_id = bad_id(),
            "INVALID_ID": r.leases.push(TaskLease::default()),
            "TOO_MANY_LEASES": r.leases = vec![TaskLease::default(); limits::LEASE_TASKS_MAX as usize + 1],
            "OUT_OF_RANGE": r.lease_ms = 1,
            "OUT_OF_RANGE": r.leases.push(told(1_001, String::new())),
            "MESSAGE_TOO_LONG": r.leases.push(told(0, long(limits::PROGRESS_BYTES_MAX))),
        ),
        B::CompleteTask(r) => one_of!(dice,
            "INVALID_NAME": r.namespace = bad_name(),
            "INVALID_ID": r.task_id = bad_id(),
            "NO_TOKEN": r.token = 0,
            "RESULT_TOO_LARGE": r.result = vec![0; limits::PAYLOAD_BYTES_MAX + 1].into(),
            "LOGS_TOO_LARGE": r.logs = vec![0; limits::LOGS_BYTES_MAX + 1].into(),
        ),
        B::FailTask(r) => one_of!(dice,
            "INVALID_ID": r.task_id = bad_id(),
            "NO_TOKEN": r.token = 0,
            "UNKNOWN_VALUE": r.kind = 9,
            "INVALID_REASON": r.error = Some(TaskError { reason: "not capital".to_owned(), ..Default::default() }),
            "REASON_TOO_LONG": r.error = Some(TaskError { reason: long(limits::REASON_BYTES_MAX), ..Default::default() }),
            "MESSAGE_TOO_LONG": r.error = Some(TaskError { message: long(limits::MESSAGE_BYTES_MAX), ..Default::default() }),
        ),
        B::RegisterWorker(r) => one_of!(dice,
            "NAME_TOO_LONG": r.name = long(limits::WORKER_NAME_BYTES_MAX),
            "OUT_OF_RANGE": r.ttl_ms = limits::WORKER_TTL_MS.1 + 1,
            "TOO_MANY_CAPABILITIES": r.capabilities.get_or_insert_default().labels = vec![String::new(); limits::CAPABILITIES_MAX + 1],
            "LABEL_TOO_LONG": r.capabilities.get_or_insert_default().handlers = vec![long(limits::LABEL_BYTES_MAX)],
            "INVALID_NAME": r.capabilities.get_or_insert_default().queues = vec!["A".to_owned()],
        ),
        B::HeartbeatWorker(r) => one_of!(dice, "INVALID_ID": r.worker_id = bad_id()),
        B::DrainWorker(r) => one_of!(dice, "INVALID_ID": r.worker_id = bad_id()),
        B::AcquireLease(r) => one_of!(dice,
            "INVALID_NAME": r.name = bad_name(),
            "HOLDER_TOO_LONG": r.holder = long(limits::HOLDER_BYTES_MAX),
            "OUT_OF_RANGE": r.ttl_ms = 999,
        ),
        B::RenewLease(r) => one_of!(dice,
            "INVALID_NAME": r.name = bad_name(),
            "NO_TOKEN": r.token = 0,
            "OUT_OF_RANGE": r.ttl_ms = limits::NAMED_LEASE_MS.1 + 1,
        ),
        B::ReleaseLease(r) => one_of!(dice, "INVALID_NAME": r.namespace = bad_name(), "NO_TOKEN": r.token = 0),
        B::ScheduleTimer(r) => one_of!(dice,
            "INVALID_NAME": r.namespace = bad_name(),
            "NO_ACTION": r.action = None,
            "TWO_TIMES": (r.due_at_ms, r.delay_ms) = (1, 1),
            "OUT_OF_RANGE": (r.due_at_ms, r.delay_ms) = (0, limits::DELAY_MS_MAX + 1),
            "OUT_OF_RANGE": r.due_at_ms = limits::TIME_MS_MAX + 1,
            "MARK_TOO_LONG": r.action = action(timer_action::Action::Mark(long(limits::MARK_BYTES_MAX))),
            "INVALID_NAME": r.action = action(timer_action::Action::Enqueue(TaskSpec::default())),
            "DEPENDENCY_NOT_FOUND": r.action = action(timer_action::Action::Enqueue(TaskSpec { after_in_batch: vec![0], ..plain() })),
        ),
        B::CancelTimer(r) => {
            one_of!(dice, "INVALID_NAME": r.namespace = bad_name(), "INVALID_ID": r.timer_id = bad_id())
        }
        B::CreateNamespace(r) => one_of!(dice,
            "INVALID_NAME": r.name = bad_name(),
            "OUT_OF_RANGE": r.weight = limits::WEIGHT_MAX + 1,
            "UNKNOWN_VALUE": r.isolation = -1,
            "INVALID_NAME": r.environment = bad_name(),
        ),
        B::DeleteNamespace(r) => one_of!(dice,
            "INVALID_NAME": r.name = bad_name(),
            "CANCEL_WITHOUT_DRAIN": r.cancel = true,
        ),
        B::UpdateNamespace(r) => one_of!(dice,
            "INVALID_NAME": r.name = bad_name(),
            "OUT_OF_RANGE": r.weight = Some(0),
            "UNKNOWN_VALUE": r.isolation = Some(9),
            "INVALID_NAME": r.environment = Some(bad_name()),
        ),
        B::RaiseVersion(r) => one_of!(dice,
            "OUT_OF_RANGE": r.version = 0,
            "NO_ROLES_YET": (r.version, r.keep_access) = (1, true),
        ),
        B::PutJoinToken(r) => one_of!(dice,
            "INVALID_HASH": r.key_hash = Bytes::from_static(b"short"),
            "OUT_OF_RANGE": r.ttl_ms = limits::JOIN_TOKEN_MS.1 + 1,
        ),
        B::ConsumeJoinToken(r) => one_of!(dice,
            "INVALID_HASH": r.key_hash = Bytes::new(),
            "INVALID_HASH": r.node_key_hash = vec![0; 33].into(),
            "OUT_OF_RANGE": r.node_id_min = u64::MAX,
        ),
        B::PutRole(r) => match dice.below(3) {
            0 => one_of!(dice,
                "INVALID_NAME": r.name = bad_name(),
                "REQUEST_ID_TOO_LONG": r.request_id = long(limits::REQUEST_ID_BYTES_MAX),
            ),
            _ => spoil_rules(dice, &mut r.rules),
        },
        B::DeleteRole(r) => one_of!(dice, "INVALID_NAME": r.name = bad_name(), "INVALID_NAME": r.name = String::new()),
        B::PutBinding(r) => spoil_binding(dice, &mut r.binding),
        B::DeleteBinding(r) => spoil_binding(dice, &mut r.binding),
        B::PutToken(r) => match dice.below(3) {
            0 => spoil_rules(dice, &mut r.scopes),
            _ => one_of!(dice,
                "INVALID_HASH": r.secret_hash = Bytes::new(),
                "INVALID_HASH": r.secret_hash = vec![0; 33].into(),
                "NAME_TOO_LONG": r.name = long(limits::LABEL_BYTES_MAX),
                "INVALID_PRINCIPAL": r.principal = String::new(),
                "INVALID_PRINCIPAL": r.principal = "user/*".to_owned(),
                "INVALID_PRINCIPAL": r.principal = "node/2".to_owned(),
                "PRINCIPAL_TOO_LONG": r.principal = format!("user/{}", long(limits::PRINCIPAL_BYTES_MAX)),
                "OUT_OF_RANGE": r.ttl_ms = limits::TOKEN_MS.0 - 1,
                "OUT_OF_RANGE": r.ttl_ms = limits::TOKEN_MS.1 + 1,
            ),
        },
        B::RevokeToken(r) => {
            one_of!(dice, "INVALID_ID": r.token_id = bad_id(), "INVALID_ID": r.token_id = String::new())
        }
        B::RevokeCertificate(r) => one_of!(dice,
            "INVALID_SERIAL": r.serial = String::new(),
            "INVALID_SERIAL": r.serial = "0A".to_owned(),
            "INVALID_SERIAL": r.serial = "a:b".to_owned(),
            "INVALID_SERIAL": r.serial = "a".repeat(limits::SERIAL_BYTES_MAX + 1),
            "REASON_TOO_LONG": r.reason = long(limits::REVOCATION_REASON_BYTES_MAX),
            "OUT_OF_RANGE": r.expires_at_ms = limits::TIME_MS_MAX + 1,
        ),
        B::RecordDecisions(r) => one_of!(dice,
            "NO_DECISIONS": (r.decisions, r.dropped) = (Vec::new(), 0),
            "TOO_MANY_DECISIONS": r.decisions = vec![Decision::default(); limits::DECISIONS_MAX + 1],
            "TEXT_TOO_LONG": r.decisions.push(Decision { resource: long(limits::RECORD_TEXT_BYTES_MAX), ..Decision::default() }),
            "FACTS_TOO_LARGE": r.decisions.push(Decision { gate: Some(GateFacts { facts: long(limits::FACTS_BYTES_MAX).into(), ..GateFacts::default() }), ..Decision::default() }),
        ),
        B::PutAuditSettings(r) => one_of!(dice,
            "NO_SETTINGS": r.settings = None,
            "OUT_OF_RANGE": r.settings = Some(AuditSettings { retention_ms: limits::AUDIT_RETENTION_MS.0 - 1, ..AuditSettings::default() }),
            "OUT_OF_RANGE": r.settings = Some(AuditSettings { records_max: limits::AUDIT_RECORDS.1 + 1, ..AuditSettings::default() }),
            "OUT_OF_RANGE": r.settings = Some(AuditSettings { bytes_max: 1, ..AuditSettings::default() }),
        ),
        B::PutBundle(_)
        | B::ActivateBundle(_)
        | B::RollbackBundle(_)
        | B::DeactivateBundle(_)
        | B::DeleteBundle(_)
        | B::PutPolicyHandler(_)
        | B::DeletePolicyHandler(_)
        | B::PutPolicySettings(_)
        | B::RecordViolations(_)
        | B::AcknowledgeEscalations(_) => unreachable!("policies have a model of their own, in tests/policies"),
        B::PlaceTasks(_) | B::PutSchedulerSettings(_) => unreachable!("placements have tests of their own"),
        B::PutKey(_) | B::DeleteKey(_) | B::SnapshotContext(_) | B::RestoreContext(_) | B::DeleteSnapshot(_) | B::DeleteContext(_) => {
            unreachable!("contexts have a model of their own, in tests/contexts")
        }
        B::InstallDriver(_) | B::UpgradeDriver(_) | B::RemoveDriver(_) | B::AdvanceDriver(_) | B::PutDriverSettings(_) => {
            unreachable!("drivers have a model of their own, in tests/drivers.rs")
        }
        B::StartFederation(_)
        | B::LeaveFederation(_)
        | B::WriteShared(_)
        | B::CommitReplica(_)
        | B::PutInvitation(_)
        | B::ConsumeInvitation(_)
        | B::ShareContext(_) => unreachable!("the federation has a model of its own, in tests/federation.rs"),
        B::Batch(_) => unreachable!("batches have tests of their own, in tests/batches"),
        B::AcceptTransfer(_) | B::ConfirmTransfer(_) | B::ExtendTransfer(_) | B::CloseTransfer(_) => {
            unreachable!("transfers have a model of their own, in tests/transfers.rs")
        }
    }
}

fn spoil_rules(dice: &mut Dice, rules: &mut Vec<Rule>) -> &'static str {
    let mut rule = Rule { verbs: vec!["read".to_owned()], resources: vec!["*".to_owned()] };
    if dice.chance(10) {
        rule.verbs = vec!["v".repeat(limits::PATTERN_BYTES_MAX); limits::PATTERNS_MAX];
        *rules = vec![rule; 2];
        return "RULES_TOO_LARGE";
    }
    let reason = spoil_rule(dice, &mut rule);
    match dice.below(10) {
        0 => {
            *rules = vec![rule; limits::RULES_MAX + 1];
            "TOO_MANY_RULES"
        }
        _ => {
            *rules = vec![rule];
            reason
        }
    }
}

fn spoil_rule(dice: &mut Dice, rule: &mut Rule) -> &'static str {
    let patterns = if dice.chance(50) { &mut rule.verbs } else { &mut rule.resources };
    one_of!(dice,
        "NO_PATTERN": patterns.clear(),
        "TOO_MANY_PATTERNS": *patterns = vec!["read".to_owned(); limits::PATTERNS_MAX + 1],
        "PATTERN_TOO_LONG": patterns.push("x".repeat(limits::PATTERN_BYTES_MAX + 1)),
        "INVALID_PATTERN": patterns.push(String::new()),
        "INVALID_PATTERN": patterns.push("queue/*/x".to_owned()),
        "INVALID_PATTERN": patterns.push("**".to_owned()),
        "INVALID_PATTERN": patterns.push("two words".to_owned()),
        "INVALID_PATTERN": patterns.push("queue/m\u{430}il".to_owned()),
    )
}

fn spoil_binding(dice: &mut Dice, binding: &mut Option<Binding>) -> &'static str {
    if dice.chance(10) {
        *binding = None;
        return "NO_BINDING";
    }
    let binding = binding.as_mut().expect("the generator fills a binding in");
    one_of!(dice,
        "INVALID_PRINCIPAL": binding.principal = "ada".to_owned(),
        "INVALID_PRINCIPAL": binding.principal = "user/".to_owned(),
        "INVALID_PRINCIPAL": binding.principal = "User/ada".to_owned(),
        "INVALID_PRINCIPAL": binding.principal = "user/a\u{200b}da".to_owned(),
        "INVALID_PRINCIPAL": binding.principal = "user/a\0da".to_owned(),
        "PRINCIPAL_TOO_LONG": binding.principal = "p".repeat(limits::PRINCIPAL_BYTES_MAX + 1),
        "INVALID_NAME": binding.role = String::new(),
        "INVALID_NAME": binding.role = "Viewer".to_owned(),
        "INVALID_NAME": binding.namespace = String::new(),
        "INVALID_NAME": binding.namespace = "../blue".to_owned(),
        "INVALID_NAME": binding.namespace = "b*e".to_owned(),
        "INVALID_NAME": binding.namespace = "**".to_owned(),
    )
}

fn plain() -> TaskSpec {
    TaskSpec { queue: "fast".to_owned(), ..TaskSpec::default() }
}

fn action(action: timer_action::Action) -> Option<Box<TimerAction>> {
    Some(Box::new(TimerAction { action: Some(action) }))
}

/// Leaves a task with this runtime and nothing that says what to run.
fn runs(spec: &mut TaskSpec, runtime: &str) {
    *spec = TaskSpec { runtime: runtime.to_owned(), wasm: None, native: None, cuda: None, transform: None, grants: None, ..spec.clone() };
}
