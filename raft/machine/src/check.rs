//! Everything that can be refused without knowing the state.
//!
//! The gate calls [`validate`] before a command reaches the log, so that what can never succeed costs nothing; `apply` calls it again,
//! because it trusts nobody.

mod batch;
mod driver;
mod federation;
mod placement;
mod policy;
mod transfer;

use prost::Message;
use tarn_proto::v1::{
    Binding, Command, Decision, DependencyFailure, FailureKind, Fence, GateFacts, Isolation, Priority, Progress, Rejection, RetryPolicy,
    Rule, ScheduleTimerRequest, TaskError, TaskSpec, TaskState, WorkerCapabilities, command, timer_action,
};

use crate::domain::placement::AUTO;
use crate::domain::version;
use crate::ids::Id;
use crate::limits;
use crate::reject::{invalid, invalid_id, too_large};

type Check = Result<(), Rejection>;

/// Refuses a command that can never succeed, whatever the state: the sentence says what to change.
///
/// # Errors
///
/// The rejection, with the offending field and the limit that it breaks.
pub fn validate(command: &Command) -> Result<(), Rejection> {
    fields(command)?;
    routing(command)
}

/// Refuses a command that a cluster of this machine version does not know. Asked before the log: a node of an older build would stop at an
/// entry with a field that it does not know.
///
/// # Errors
///
/// `CLUSTER_VERSION_TOO_LOW`.
pub fn supported(command: &Command, version: u32) -> Result<(), Rejection> {
    version::require(command, version)
}

/// What is refused since the first machine version.
pub(crate) fn fields(command: &Command) -> Check {
    sized_fields(command, command.encoded_len())
}

/// The same of a command that has at most so many bytes.
pub(crate) fn sized_fields(command: &Command, bytes: usize) -> Check {
    let Some(body) = &command.body else {
        return Err(invalid("NO_COMMAND", "body", "the command is empty: name what to do"));
    };
    let (principal, id_bytes) = (&command.principal, body.request_id().len());
    length("COMMAND_TOO_LARGE", "", bytes, limits::COMMAND_BYTES_MAX)?;
    length("PRINCIPAL_TOO_LONG", "principal", principal.len(), limits::PRINCIPAL_BYTES_MAX)?;
    length("REQUEST_ID_TOO_LONG", "request_id", id_bytes, limits::REQUEST_ID_BYTES_MAX)?;
    command.gate.as_deref().map_or(Ok(()), gate)?;
    match body {
        command::Body::Enqueue(r) => {
            name("namespace", &r.namespace)?;
            tasks(&r.tasks)
        }
        command::Body::CancelTask(r) => {
            name("namespace", &r.namespace)?;
            id("task_id", &r.task_id)
        }
        command::Body::RequeueDead(r) => {
            name("namespace", &r.namespace)?;
            name("queue", &r.queue)?;
            count("TOO_MANY_TASKS", "task_ids", r.task_ids.len(), limits::BATCH_TASKS_MAX)?;
            r.task_ids.iter().try_for_each(|text| id("task_ids", text))
        }
        command::Body::PurgeQueue(r) => {
            name("namespace", &r.namespace)?;
            name("queue", &r.queue)?;
            purge_states(&r.states)
        }
        command::Body::LeaseTasks(r) => {
            id("worker_id", &r.worker_id)?;
            range("max_tasks", r.max_tasks.into(), (1, limits::LEASE_TASKS_MAX.into()))?;
            range_or_zero("lease_ms", r.lease_ms, limits::TASK_LEASE_MS)
        }
        command::Body::HeartbeatTasks(r) => {
            id("worker_id", &r.worker_id)?;
            let (leases, max) = (&r.leases, limits::LEASE_TASKS_MAX as usize);
            count("TOO_MANY_LEASES", "leases", leases.len(), max)?;
            range_or_zero("lease_ms", r.lease_ms, limits::TASK_LEASE_MS)?;
            leases.iter().try_for_each(|lease| id("leases.task_id", &lease.task_id))?;
            leases.iter().filter_map(|lease| lease.progress.as_ref()).try_for_each(progress)
        }
        command::Body::CompleteTask(r) => {
            name("namespace", &r.namespace)?;
            id("task_id", &r.task_id)?;
            token(r.token)?;
            length("RESULT_TOO_LARGE", "result", r.result.len(), limits::PAYLOAD_BYTES_MAX)?;
            length("LOGS_TOO_LARGE", "logs", r.logs.len(), limits::LOGS_BYTES_MAX)
        }
        command::Body::FailTask(r) => {
            name("namespace", &r.namespace)?;
            id("task_id", &r.task_id)?;
            token(r.token)?;
            known("kind", FailureKind::try_from(r.kind).is_ok())?;
            task_error(r.error.as_ref())?;
            length("LOGS_TOO_LARGE", "logs", r.logs.len(), limits::LOGS_BYTES_MAX)
        }
        command::Body::RegisterWorker(r) => {
            length("NAME_TOO_LONG", "name", r.name.len(), limits::WORKER_NAME_BYTES_MAX)?;
            range_or_zero("ttl_ms", r.ttl_ms, limits::WORKER_TTL_MS)?;
            r.capabilities.as_ref().map_or(Ok(()), capabilities)
        }
        command::Body::HeartbeatWorker(r) => {
            id("worker_id", &r.worker_id)?;
            r.resources.as_ref().map_or(Ok(()), placement::resources)
        }
        command::Body::DrainWorker(r) => id("worker_id", &r.worker_id),
        command::Body::AcquireLease(r) => {
            name("namespace", &r.namespace)?;
            name("name", &r.name)?;
            length("HOLDER_TOO_LONG", "holder", r.holder.len(), limits::HOLDER_BYTES_MAX)?;
            range_or_zero("ttl_ms", r.ttl_ms, limits::NAMED_LEASE_MS)
        }
        command::Body::RenewLease(r) => {
            name("namespace", &r.namespace)?;
            name("name", &r.name)?;
            token(r.token)?;
            range_or_zero("ttl_ms", r.ttl_ms, limits::NAMED_LEASE_MS)
        }
        command::Body::ReleaseLease(r) => {
            name("namespace", &r.namespace)?;
            name("name", &r.name)?;
            token(r.token)
        }
        command::Body::ScheduleTimer(r) => schedule_timer(r),
        command::Body::CancelTimer(r) => {
            name("namespace", &r.namespace)?;
            id("timer_id", &r.timer_id)
        }
        command::Body::CreateNamespace(r) => {
            name("name", &r.name)?;
            range_or_zero("weight", r.weight.into(), (1, limits::WEIGHT_MAX.into()))?;
            known("isolation", Isolation::try_from(r.isolation).is_ok())?;
            match r.environment.as_str() {
                "" => Ok(()),
                environment => name("environment", environment),
            }
        }
        command::Body::UpdateNamespace(r) => {
            name("name", &r.name)?;
            r.weight.map_or(Ok(()), |weight| range("weight", weight.into(), (1, limits::WEIGHT_MAX.into())))?;
            let isolation = r.isolation.unwrap_or_default();
            known("isolation", Isolation::try_from(isolation).is_ok())?;
            let environment = r.environment.as_ref();
            environment.map_or(Ok(()), |environment| name("environment", environment))
        }
        command::Body::DeleteNamespace(r) if r.cancel && !r.drain => {
            let message = "cancel says how to drain: set drain too";
            Err(invalid("CANCEL_WITHOUT_DRAIN", "cancel", message))
        }
        command::Body::DeleteNamespace(r) => name("name", &r.name),
        command::Body::RaiseVersion(r) => {
            range("version", r.version.into(), (1, u32::MAX.into()))?;
            // A node that knows no roles does not know the field either: it may only see it where it stops anyway.
            match r.keep_access && r.version < version::ACCESS {
                false => Ok(()),
                true => {
                    let message = "there are no roles in this version: leave keep_access out";
                    Err(invalid("NO_ROLES_YET", "keep_access", message))
                }
            }
        }
        command::Body::PutJoinToken(r) => {
            hash("key_hash", &r.key_hash)?;
            range_or_zero("ttl_ms", r.ttl_ms, limits::JOIN_TOKEN_MS)
        }
        command::Body::ConsumeJoinToken(r) => {
            hash("key_hash", &r.key_hash)?;
            hash("node_key_hash", &r.node_key_hash)?;
            range("node_id_min", r.node_id_min, (0, u64::MAX >> 1))
        }
        command::Body::PutRole(r) => {
            name("name", &r.name)?;
            rules("rules", &r.rules, limits::ROLE_BYTES_MAX)
        }
        command::Body::DeleteRole(r) => name("name", &r.name),
        command::Body::PutBinding(r) => binding(r.binding.as_ref()),
        command::Body::DeleteBinding(r) => binding(r.binding.as_ref()),
        command::Body::PutToken(r) => {
            hash("secret_hash", &r.secret_hash)?;
            length("NAME_TOO_LONG", "name", r.name.len(), limits::LABEL_BYTES_MAX)?;
            tokens_principal(&r.principal)?;
            rules("scopes", &r.scopes, limits::SCOPES_BYTES_MAX)?;
            range_or_zero("ttl_ms", r.ttl_ms, limits::TOKEN_MS)
        }
        command::Body::RevokeToken(r) => id("token_id", &r.token_id),
        command::Body::RevokeCertificate(r) => {
            serial("serial", &r.serial)?;
            let max = limits::REVOCATION_REASON_BYTES_MAX;
            length("REASON_TOO_LONG", "reason", r.reason.len(), max)?;
            range("expires_at_ms", r.expires_at_ms, (0, limits::TIME_MS_MAX))
        }
        command::Body::PutBundle(r) => policy::put_bundle(r),
        command::Body::ActivateBundle(r) => policy::activate_bundle(r),
        command::Body::RollbackBundle(r) => policy::rollback_bundle(r),
        command::Body::DeactivateBundle(r) => policy::deactivate_bundle(r),
        command::Body::DeleteBundle(r) => policy::delete_bundle(r),
        command::Body::PutPolicyHandler(r) => policy::put_handler(r),
        command::Body::DeletePolicyHandler(r) => name("name", &r.name),
        command::Body::PutPolicySettings(r) => policy::settings(r.settings.as_ref()),
        command::Body::RecordViolations(r) => policy::violations(r),
        command::Body::AcknowledgeEscalations(r) => policy::acknowledge(r),
        command::Body::PlaceTasks(r) => placement::placements(r),
        command::Body::PutSchedulerSettings(r) => placement::settings(r.settings.as_ref()),
        command::Body::InstallDriver(r) => driver::put(&r.namespace, &r.name, r.spec.as_ref()),
        command::Body::UpgradeDriver(r) => driver::put(&r.namespace, &r.name, r.spec.as_ref()),
        command::Body::RemoveDriver(r) => {
            name("namespace", &r.namespace)?;
            name("name", &r.name)
        }
        command::Body::AdvanceDriver(r) => driver::advance(r),
        command::Body::PutDriverSettings(r) => driver::settings(r.settings.as_ref()),
        command::Body::RecordDecisions(r) => {
            if r.decisions.is_empty() && r.dropped == 0 {
                return Err(invalid("NO_DECISIONS", "decisions", "there is nothing to record"));
            }
            let decisions = r.decisions.len();
            count("TOO_MANY_DECISIONS", "decisions", decisions, limits::DECISIONS_MAX)?;
            r.decisions.iter().try_for_each(decision)
        }
        command::Body::PutAuditSettings(r) => {
            let Some(settings) = &r.settings else {
                let message = "name the settings: 0 in a field means its default";
                return Err(invalid("NO_SETTINGS", "settings", message));
            };
            let retention_ms = settings.retention_ms;
            range_or_zero("settings.retention_ms", retention_ms, limits::AUDIT_RETENTION_MS)?;
            range_or_zero("settings.records_max", settings.records_max, limits::AUDIT_RECORDS)?;
            range_or_zero("settings.bytes_max", settings.bytes_max, limits::AUDIT_BYTES)
        }
        command::Body::PutKey(r) => {
            context(&r.namespace, &r.context, r.fence.as_ref())?;
            key("key", &r.key)?;
            length("VALUE_TOO_LARGE", "value", r.value.len(), limits::VALUE_BYTES_MAX)
        }
        command::Body::DeleteKey(r) => {
            context(&r.namespace, &r.context, r.fence.as_ref())?;
            key("key", &r.key)
        }
        command::Body::SnapshotContext(r) => {
            context(&r.namespace, &r.context, r.fence.as_ref())?;
            name("snapshot", &r.snapshot)
        }
        command::Body::RestoreContext(r) => {
            context(&r.namespace, &r.context, r.fence.as_ref())?;
            name("snapshot", &r.snapshot)
        }
        command::Body::DeleteSnapshot(r) => {
            context(&r.namespace, &r.context, None)?;
            name("snapshot", &r.snapshot)
        }
        command::Body::DeleteContext(r) => context(&r.namespace, &r.context, None),
        command::Body::StartFederation(r) => federation::identity(r.identity.as_ref()),
        command::Body::LeaveFederation(_) => Ok(()),
        command::Body::WriteShared(r) => federation::writes(&r.writes),
        command::Body::CommitReplica(r) => federation::commit(r),
        command::Body::PutInvitation(r) => federation::invitation(r),
        command::Body::ConsumeInvitation(r) => federation::consume(r),
        command::Body::ShareContext(r) => context(&r.namespace, &r.context, None),
        command::Body::AcceptTransfer(r) => transfer::accept(r),
        command::Body::ConfirmTransfer(r) => transfer::until(&r.transfer_id, r.run_until_ms),
        command::Body::ExtendTransfer(r) => transfer::until(&r.transfer_id, r.run_until_ms),
        command::Body::CloseTransfer(r) => transfer::id(&r.transfer_id),
        command::Body::Batch(r) => batch::batch(r),
    }
}

/// What is refused since there is a router: tasks that it could not place anywhere.
pub(crate) fn routing(command: &Command) -> Check {
    match command.body.as_ref() {
        Some(command::Body::Enqueue(r)) => r.tasks.iter().try_for_each(placement::task),
        Some(command::Body::ScheduleTimer(r)) => match r.action.as_ref().and_then(|action| action.action.as_ref()) {
            Some(timer_action::Action::Enqueue(spec)) => placement::task(spec),
            _ => Ok(()),
        },
        Some(command::Body::AdvanceDriver(r)) => r.tasks.iter().try_for_each(placement::task),
        Some(command::Body::AcceptTransfer(r)) => {
            r.transfer.as_ref().and_then(|transfer| transfer.spec.as_ref()).map_or(Ok(()), placement::task)
        }
        _ => Ok(()),
    }
}

// --- Decisions -------------------------------------------------------------------------------------------------------------------------

/// What the gate says about a command: the policies' input, and all the rest of it.
fn gate(gate: &GateFacts) -> Check {
    let facts = gate.facts.len();
    length("FACTS_TOO_LARGE", "gate.facts", facts, limits::FACTS_BYTES_MAX)?;
    let rest = gate.encoded_len().saturating_sub(facts);
    length("GATE_TOO_LARGE", "gate", rest, limits::GATE_BYTES_MAX)
}

fn decision(decision: &Decision) -> Check {
    decision.gate.as_ref().map_or(Ok(()), gate)?;
    let text = |field, text: &String| length("TEXT_TOO_LONG", field, text.len(), limits::RECORD_TEXT_BYTES_MAX);
    let traces = &decision.traces;
    count("TOO_MANY_TRACES", "decisions.traces", traces.len(), limits::TRACES_MAX)?;
    traces.iter().try_for_each(|one| text("decisions.traces", one))?;
    let mut texts = [
        ("decisions.principal", &decision.principal),
        ("decisions.action", &decision.action),
        ("decisions.resource", &decision.resource),
        ("decisions.namespace", &decision.namespace),
        ("decisions.reason", &decision.reason),
        ("decisions.step", &decision.step),
        ("decisions.request_id", &decision.request_id),
        ("decisions.task_id", &decision.task_id),
        ("decisions.detail", &decision.detail),
    ]
    .into_iter();
    texts.try_for_each(|(field, one)| text(field, one))
}

// --- Contexts --------------------------------------------------------------------------------------------------------------------------

fn context(namespace: &str, context: &str, fence: Option<&Fence>) -> Check {
    name("namespace", namespace)?;
    name("context", context)?;
    fence.map_or(Ok(()), |fence| {
        id("fence.task_id", &fence.task_id)?;
        token(fence.token)
    })
}

pub(crate) fn key(field: &str, text: &str) -> Check {
    let max = limits::KEY_BYTES_MAX;
    if (1..=max).contains(&text.len()) && !text.contains('\0') {
        return Ok(());
    }
    let message = format!("{field} has {} bytes: a key is 1 to {max} bytes of text without the character U+0000", text.len());
    Err(too_large("INVALID_KEY", field, max as u64, message))
}

// --- Access ----------------------------------------------------------------------------------------------------------------------------

fn rules(field: &str, rules: &[Rule], bytes_max: usize) -> Check {
    count("TOO_MANY_RULES", field, rules.len(), limits::RULES_MAX)?;
    for rule in rules {
        for (part, patterns) in [("verbs", &rule.verbs), ("resources", &rule.resources)] {
            let field = format!("{field}.{part}");
            count("TOO_MANY_PATTERNS", &field, patterns.len(), limits::PATTERNS_MAX)?;
            if patterns.is_empty() {
                let message = format!("{field} is empty: the rule would allow nothing; \"*\" stands for all");
                return Err(invalid("NO_PATTERN", &field, message));
            }
            patterns.iter().try_for_each(|text| pattern(&field, text))?;
        }
    }
    let bytes = rules.iter().map(Message::encoded_len).sum();
    length("RULES_TOO_LARGE", field, bytes, bytes_max)
}

/// As whom a token lets its bearer act. Nodes are trusted with more than any user, and prove who they are by their certificates alone.
fn tokens_principal(text: &str) -> Check {
    principal("principal", text)?;
    match text.starts_with("node/") || text.starts_with("driver/") {
        false => Ok(()),
        true => {
            let message = "a token cannot stand for a node or a driver: make it for a user or a service";
            Err(invalid("INVALID_PRINCIPAL", "principal", message))
        }
    }
}

fn binding(binding: Option<&Binding>) -> Check {
    let Some(binding) = binding else {
        let message = "name a principal, a role and a namespace";
        return Err(invalid("NO_BINDING", "binding", message));
    };
    match binding.principal.strip_suffix("/*") {
        // Everybody of a kind.
        Some(kind) => principal("binding.principal", &format!("{kind}/all"))?,
        None => principal("binding.principal", &binding.principal)?,
    }
    name("binding.role", &binding.role)?;
    match binding.namespace.strip_suffix('*') {
        Some("") => Ok(()),
        Some(start) => name("binding.namespace", start),
        None => name("binding.namespace", &binding.namespace),
    }
}

/// A kind and a name: `user/ada`. Plain ASCII, so that no two principals look the same.
fn principal(field: &str, text: &str) -> Check {
    length("PRINCIPAL_TOO_LONG", field, text.len(), limits::PRINCIPAL_BYTES_MAX)?;
    let parts = text.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty());
    if parts.is_some_and(|(kind, _)| kind.bytes().all(|b| b.is_ascii_lowercase())) && is_plain(text) && !text.contains('*') {
        return Ok(());
    }
    let message = format!("{field} must be a kind and a name, such as \"user/ada\", in printable ASCII and without \"*\"");
    Err(invalid("INVALID_PRINCIPAL", field, message))
}

/// Text with at most one `*`, at its end.
fn pattern(field: &str, text: &str) -> Check {
    length("PATTERN_TOO_LONG", field, text.len(), limits::PATTERN_BYTES_MAX)?;
    let start = text.strip_suffix('*').unwrap_or(text);
    if !text.is_empty() && is_plain(start) && !start.contains('*') {
        return Ok(());
    }
    // What is not plain is not said again: it might not look like what it is.
    let found = match is_plain(text) && !text.is_empty() {
        true => format!("{text:?}"),
        false => "a pattern that is empty or not plain".to_owned(),
    };
    let message = format!("{field} has {found}: write printable ASCII, with a \"*\" only at the end");
    Err(invalid("INVALID_PATTERN", field, message))
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

fn serial(field: &str, text: &str) -> Check {
    let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if digits && (1..=limits::SERIAL_BYTES_MAX).contains(&text.len()) {
        return Ok(());
    }
    let message = format!("{field} must be a serial number as `openssl x509 -serial` prints it, in small letters and without colons");
    let max = limits::SERIAL_BYTES_MAX as u64;
    Err(too_large("INVALID_SERIAL", field, max, message))
}

// --- Tasks -----------------------------------------------------------------------------------------------------------------------------

fn tasks(tasks: &[TaskSpec]) -> Check {
    if tasks.is_empty() {
        let message = "there is no task in the request: name at least one";
        return Err(invalid("NO_TASKS", "tasks", message));
    }
    count("TOO_MANY_TASKS", "tasks", tasks.len(), limits::BATCH_TASKS_MAX)?;
    tasks.iter().try_for_each(task)?;
    let dependencies = tasks.iter().map(dependencies).sum();
    let max = limits::BATCH_DEPENDENCIES_MAX;
    count("TOO_MANY_DEPENDENCIES", "tasks.after", dependencies, max)?;
    for task in tasks {
        if let Some(place) = task.after_in_batch.iter().find(|place| **place as usize >= tasks.len()) {
            let message = format!("there is no task {place} in this batch of {}: positions start at 0", tasks.len());
            return Err(invalid("DEPENDENCY_NOT_FOUND", "tasks.after_in_batch", message));
        }
    }
    match has_cycle(tasks) {
        false => Ok(()),
        true => {
            let message = "tasks of this batch wait for each other in a circle: none of them could ever run";
            Err(invalid("DEPENDENCY_CYCLE", "tasks.after_in_batch", message))
        }
    }
}

/// Whether tasks of a batch wait for each other in a circle: takes away, again and again, whoever waits for nobody.
fn has_cycle(tasks: &[TaskSpec]) -> bool {
    let backward = |(place, task): (usize, &TaskSpec)| task.after_in_batch.iter().all(|after| (*after as usize) < place);
    if tasks.iter().enumerate().all(backward) {
        return false;
    }
    let mut waits: Vec<usize> = tasks.iter().map(|task| task.after_in_batch.len()).collect();
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    for (place, task) in tasks.iter().enumerate() {
        for after in &task.after_in_batch {
            dependents[*after as usize].push(place);
        }
    }
    let mut free: Vec<usize> = (0..tasks.len()).filter(|place| waits[*place] == 0).collect();
    let mut taken = 0;
    while let Some(place) = free.pop() {
        taken += 1;
        for dependent in &dependents[place] {
            waits[*dependent] -= 1;
            if waits[*dependent] == 0 {
                free.push(*dependent);
            }
        }
    }
    taken < tasks.len()
}

fn task(spec: &TaskSpec) -> Check {
    let payload = spec.payload.len();
    length("PAYLOAD_TOO_LARGE", "tasks.payload", payload, limits::PAYLOAD_BYTES_MAX)?;
    let rest = spec.encoded_len() - payload;
    length("SPEC_TOO_LARGE", "tasks", rest, limits::SPEC_BYTES_MAX)?;
    name("tasks.queue", &spec.queue)?;
    if !spec.runtime.is_empty() {
        name("tasks.runtime", &spec.runtime)?;
    }
    let handler = spec.handler.len();
    length("HANDLER_TOO_LONG", "tasks.handler", handler, limits::LABEL_BYTES_MAX)?;
    known("tasks.priority", Priority::try_from(spec.priority).is_ok())?;
    let on_failure = DependencyFailure::try_from(spec.on_dependency_failure);
    known("tasks.on_dependency_failure", on_failure.is_ok())?;
    let (time, timeout) = (limits::TIME_MS_MAX, limits::ATTEMPT_TIMEOUT_MS_MAX);
    range("tasks.not_before_at_ms", spec.not_before_at_ms, (0, time))?;
    range("tasks.deadline_at_ms", spec.deadline_at_ms, (0, time))?;
    range("tasks.attempt_timeout_ms", spec.attempt_timeout_ms, (0, timeout))?;
    range("tasks.retention_ms", spec.retention_ms, (0, limits::RETENTION_MS_MAX))?;
    let (field, requires) = ("tasks.requires", &spec.requires);
    count("TOO_MANY_LABELS", field, requires.len(), limits::REQUIRES_MAX)?;
    requires.iter().try_for_each(|text| label(field, text))?;
    let (field, max) = ("tasks.after", limits::DEPENDENCIES_MAX);
    count("TOO_MANY_DEPENDENCIES", field, dependencies(spec), max)?;
    spec.after.iter().try_for_each(|text| id(field, text))?;
    spec.retry.as_ref().map_or(Ok(()), retry)?;
    let context = spec.grants.as_ref().and_then(|grants| grants.context.as_ref());
    context.map_or(Ok(()), |context| name("tasks.grants.context.name", &context.name))?;
    parts(spec)
}

/// How many tasks it waits for.
fn dependencies(spec: &TaskSpec) -> usize {
    spec.after.len() + spec.after_in_batch.len()
}

fn retry(policy: &RetryPolicy) -> Check {
    let (attempts, backoff) = (limits::ATTEMPTS_MAX.into(), limits::BACKOFF_MS_MAX);
    range("tasks.retry.max_attempts", policy.max_attempts.into(), (0, attempts))?;
    let initial = policy.initial_backoff_ms;
    range("tasks.retry.initial_backoff_ms", initial, (0, backoff))?;
    range("tasks.retry.max_backoff_ms", policy.max_backoff_ms, (0, backoff))?;
    let (factor, (low, high)) = (policy.multiplier_percent.into(), limits::BACKOFF_PERCENT);
    range_or_zero("tasks.retry.multiplier_percent", factor, (low.into(), high.into()))?;
    range("tasks.retry.jitter_percent", policy.jitter_percent.into(), (0, 100))
}

/// What an executor could never run: its tasks have one part that says what to run, and others have none. What an artifact itself is, only
/// the executor can say.
fn parts(spec: &TaskSpec) -> Check {
    let parts = crate::domain::placement::parts(spec);
    let runtime = spec.runtime.as_str();
    if runtime == AUTO {
        return Ok(());
    }
    for (part, what, runtimes) in &parts {
        if what.is_some() && !runtimes.contains(&runtime) {
            let message = format!("only tasks of the runtime {} have a {part} part", runtimes.join(" or "));
            return Err(part_error(part, "UNEXPECTED", "", message));
        }
    }
    let mut given = parts.iter().filter(|(_, what, _)| what.is_some());
    let wanted = parts.iter().find(|(_, _, runtimes)| runtimes.contains(&runtime));
    match (given.next().or(wanted), given.next()) {
        (Some((part, _, _)), Some((other, _, _))) => {
            let message = format!("the task says twice what to run: leave out its {part} or its {other} part");
            Err(part_error(other, "UNEXPECTED", "", message))
        }
        (Some((_, Some(what), _)), None) if !what.is_empty() => Ok(()),
        (Some((part, _, _)), None) => Err(unnamed(part, runtime)),
        (None, _) if spec.grants.is_some() => {
            let message = "grants are for tasks that executors run: workers of your own do what you let them";
            Err(invalid("GRANTS_UNEXPECTED", "tasks.grants", message))
        }
        (None, _) => Ok(()),
    }
}

/// A part does not name what it runs.
fn unnamed(part: &str, runtime: &str) -> Rejection {
    let (what, from) = match part {
        "transform" => ("name", "one of `tarn transform list`"),
        _ => ("artifact", "what PutArtifact returned"),
    };
    let message = format!("a task of the runtime {runtime:?} names what it runs: set {part}.{what} to {from}");
    part_error(part, "MISSING", &format!(".{what}"), message)
}

fn part_error(part: &str, what: &str, field: &str, message: String) -> Rejection {
    let reason = format!("{}_SPEC_{what}", part.to_ascii_uppercase());
    invalid(&reason, &format!("tasks.{part}{field}"), message)
}

fn progress(progress: &Progress) -> Check {
    let (field, message) = ("leases.progress.message", progress.message.len());
    range("leases.progress.permille", progress.permille.into(), (0, 1_000))?;
    length("MESSAGE_TOO_LONG", field, message, limits::PROGRESS_BYTES_MAX)
}

fn task_error(error: Option<&TaskError>) -> Check {
    let Some(error) = error else { return Ok(()) };
    let (reason, message) = (&error.reason, error.message.len());
    length("REASON_TOO_LONG", "error.reason", reason.len(), limits::REASON_BYTES_MAX)?;
    length("MESSAGE_TOO_LONG", "error.message", message, limits::MESSAGE_BYTES_MAX)?;
    let valid = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if reason.bytes().all(valid) {
        return Ok(());
    }
    let message = "a reason is written in capitals, digits and underscores, such as NO_SUCH_FILE";
    Err(invalid("INVALID_REASON", "error.reason", message))
}

fn purge_states(states: &[i32]) -> Check {
    let purgeable = |state: &i32| {
        matches!(TaskState::try_from(*state), Ok(TaskState::Blocked | TaskState::Delayed | TaskState::Ready | TaskState::Dead))
    };
    if !states.is_empty() && states.iter().all(purgeable) {
        return Ok(());
    }
    let message = "name at least one state, among BLOCKED, DELAYED, READY and DEAD: running and ended tasks are never purged";
    Err(invalid("INVALID_STATES", "states", message))
}

fn schedule_timer(request: &ScheduleTimerRequest) -> Check {
    name("namespace", &request.namespace)?;
    range("due_at_ms", request.due_at_ms, (0, limits::TIME_MS_MAX))?;
    range("delay_ms", request.delay_ms, (0, limits::DELAY_MS_MAX))?;
    if request.due_at_ms != 0 && request.delay_ms != 0 {
        let message = "name either due_at_ms or delay_ms, not both";
        return Err(invalid("TWO_TIMES", "delay_ms", message));
    }
    match request.action.as_ref().and_then(|action| action.action.as_ref()) {
        None => {
            let message = "say what the timer does: enqueue a task or mark an event";
            Err(invalid("NO_ACTION", "action", message))
        }
        Some(timer_action::Action::Mark(text)) => length("MARK_TOO_LONG", "action.mark", text.len(), limits::MARK_BYTES_MAX),
        Some(timer_action::Action::Enqueue(spec)) if spec.after_in_batch.is_empty() => task(spec),
        Some(timer_action::Action::Enqueue(_)) => {
            let message = "a timer enqueues one task: it cannot depend on others of a batch";
            let field = "action.enqueue.after_in_batch";
            Err(invalid("DEPENDENCY_NOT_FOUND", field, message))
        }
    }
}

fn capabilities(given: &WorkerCapabilities) -> Check {
    let lists = [
        ("capabilities.runtimes", &given.runtimes),
        ("capabilities.handlers", &given.handlers),
        ("capabilities.labels", &given.labels),
        ("capabilities.namespaces", &given.namespaces),
        ("capabilities.queues", &given.queues),
    ];
    for (field, list) in lists {
        count("TOO_MANY_CAPABILITIES", field, list.len(), limits::CAPABILITIES_MAX)?;
        for text in list {
            length("LABEL_TOO_LONG", field, text.len(), limits::LABEL_BYTES_MAX)?;
        }
    }
    given.resources.as_ref().map_or(Ok(()), placement::resources)?;
    let names = |field, list: &[String]| list.iter().try_for_each(|text| name(field, text));
    names("capabilities.namespaces", &given.namespaces)?;
    names("capabilities.queues", &given.queues)
}

// --- Fields ----------------------------------------------------------------------------------------------------------------------------

/// A name: `[a-z0-9]`, then `[a-z0-9._-]`, up to 64 bytes.
pub(crate) fn name(field: &str, text: &str) -> Check {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let valid = text.bytes().next().is_some_and(inner)
        && text.bytes().all(|b| inner(b) || matches!(b, b'.' | b'_' | b'-'))
        && text.len() <= limits::NAME_BYTES_MAX;
    if valid {
        return Ok(());
    }
    let message = format!(
        "{field} must be a name: a small letter or digit, then small letters, digits, dots, dashes and underscores, up to {} in all",
        limits::NAME_BYTES_MAX
    );
    Err(too_large("INVALID_NAME", field, limits::NAME_BYTES_MAX as u64, message))
}

pub(crate) fn id(field: &str, text: &str) -> Check {
    text.parse::<Id>().map(drop).map_err(|_| invalid_id(field))
}

fn label(field: &str, text: &str) -> Check {
    if text.is_empty() {
        let message = format!("{field} has an empty entry: leave it out");
        return Err(invalid("EMPTY_LABEL", field, message));
    }
    length("LABEL_TOO_LONG", field, text.len(), limits::LABEL_BYTES_MAX)
}

/// An artifact by its name: `blake3:` and the digits of its BLAKE3.
fn artifact(field: &str, text: &str) -> Check {
    let digits = text.strip_prefix("blake3:").unwrap_or_default();
    if digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Ok(());
    }
    let message = "name the artifact as `tarn artifact put` returned it: \"blake3:\" and 64 digits";
    Err(invalid("INVALID_ARTIFACT", field, message))
}

fn token(token: u64) -> Check {
    match token {
        0 => Err(invalid("NO_TOKEN", "token", "name the token that came with the lease")),
        _ => Ok(()),
    }
}

fn hash(field: &str, bytes: &[u8]) -> Check {
    match bytes.len() {
        32 => Ok(()),
        _ => {
            let message = format!("{field} is a BLAKE3 hash of 32 bytes");
            Err(invalid("INVALID_HASH", field, message))
        }
    }
}

fn known(field: &str, known: bool) -> Check {
    match known {
        true => Ok(()),
        false => {
            let message = format!("{field} has a value that this version does not know");
            Err(invalid("UNKNOWN_VALUE", field, message))
        }
    }
}

fn length(reason: &str, field: &str, found: usize, max: usize) -> Check {
    if found <= max {
        return Ok(());
    }
    let what = if field.is_empty() { "the request" } else { field };
    let message = format!("{what} is {found} bytes long: at most {max} are allowed");
    Err(too_large(reason, field, max as u64, message))
}

fn count(reason: &str, field: &str, found: usize, max: usize) -> Check {
    if found <= max {
        return Ok(());
    }
    let message = format!("{field} has {found} entries: at most {max} are allowed");
    Err(too_large(reason, field, max as u64, message))
}

fn range(field: &str, found: u64, (low, high): (u64, u64)) -> Check {
    if (low..=high).contains(&found) {
        return Ok(());
    }
    let limit = if found < low { low } else { high };
    let message = format!("{field} is {found}: it must be from {low} to {high}");
    Err(too_large("OUT_OF_RANGE", field, limit, message))
}

/// Zero stands for the default.
fn range_or_zero(field: &str, found: u64, bounds: (u64, u64)) -> Check {
    if found == 0 { Ok(()) } else { range(field, found, bounds) }
}
