//! What policies are asked about: a document for each thing that a command wants.

use tarn_policy::{Cluster, ContextGrant, Digest, Document, Grants, Native, Payload, Resource, Task, Wasm};
use tarn_proto::v1::command::Body;
use tarn_proto::v1::{Priority, TaskSpec, timer_action};

use super::super::permission::{self, ALL};
use super::super::roles::{self, Wish, covers};
use super::super::{Ask, What};

/// The documents for a request: one for each thing that it wants, and of a batch one for each task. Empty for what policies are not asked
/// about: reads, and what workers and holders of leases do with what policies let in.
pub(super) fn documents(ask: &Ask<'_>) -> Vec<Document> {
    match ask.what {
        What::Act(wish) if wish.verb == "read" => Vec::new(),
        What::Act(wish) => vec![document(ask, &wish)],
        What::Command(command) => command.body.as_ref().map_or_else(Vec::new, |body| of_command(ask, body)),
    }
}

fn of_command(ask: &Ask<'_>, body: &Body) -> Vec<Document> {
    if matches!(
        body,
        Body::LeaseTasks(_)
            | Body::HeartbeatTasks(_)
            | Body::HeartbeatWorker(_)
            | Body::CompleteTask(_)
            | Body::FailTask(_)
            | Body::RenewLease(_)
            | Body::ReleaseLease(_)
            | Body::CommitReplica(_)
    ) {
        return Vec::new();
    }
    if let Body::Enqueue(request) = body {
        return request.tasks.iter().map(|spec| of_task(ask, &request.namespace, spec)).collect();
    }
    let mut documents = Vec::new();
    let Ok(()) = permission::of_command(body, |wish| {
        documents.push(document(ask, &wish));
        Ok::<(), std::convert::Infallible>(())
    });
    if let Body::ScheduleTimer(request) = body
        && let Some(timer_action::Action::Enqueue(spec)) = request.action.as_ref().and_then(|action| action.action.as_ref())
    {
        // What the task wants, this time with the task.
        documents.truncate(1);
        documents.push(of_task(ask, &request.namespace, spec));
    }
    if let Some(document) = documents.first_mut() {
        document.resource.key = key(body).to_owned();
    }
    documents
}

/// The key of a context that a command is about.
fn key(body: &Body) -> &str {
    match body {
        Body::PutKey(request) => &request.key,
        Body::DeleteKey(request) => &request.key,
        _ => "",
    }
}

fn of_task(ask: &Ask<'_>, namespace: &str, spec: &TaskSpec) -> Document {
    let wish = Wish { verb: "submit", kind: "queue", name: &spec.queue, namespace: Some(namespace) };
    Document { task: Some(task(spec)), ..document(ask, &wish) }
}

fn document(ask: &Ask<'_>, wish: &Wish<'_>) -> Document {
    let (caller, state) = (ask.caller, ask.state);
    let or_none = |text: &str| if text == ALL { String::new() } else { text.to_owned() };
    let namespace = wish.namespace.map(or_none).unwrap_or_default();
    let here = if namespace.is_empty() { ALL } else { &namespace };
    let bound = roles::bindings(&state.access, &caller.principal).filter(|(_, pattern)| covers(pattern, here));
    let mut roles: Vec<String> = bound.map(|(role, _)| role.to_owned()).collect();
    roles.sort_unstable();
    roles.dedup();
    Document {
        principal: caller.principal.to_string(),
        method: caller.method().to_owned(),
        roles,
        verb: wish.verb.to_owned(),
        resource: Resource { kind: wish.kind.to_owned(), name: or_none(wish.name), key: String::new() },
        environment: state.environment(&namespace).to_string(),
        namespace,
        task: None,
        cluster: Cluster { nodes: state.nodes, version: state.version, time_ms: state.now_ms, ..Cluster::default() },
    }
}

fn task(spec: &TaskSpec) -> Task {
    let priority = match spec.priority() {
        Priority::Critical => "critical",
        Priority::High => "high",
        // What nobody said is normal.
        Priority::Unspecified | Priority::Normal => "normal",
        Priority::Low => "low",
        Priority::Background => "background",
    };
    Task {
        queue: spec.queue.clone(),
        runtime: spec.runtime.clone(),
        handler: spec.handler.clone(),
        priority: priority.to_owned(),
        requires: spec.requires.clone(),
        annotations: spec.annotations.clone(),
        not_before_at_ms: spec.not_before_at_ms,
        deadline_at_ms: spec.deadline_at_ms,
        attempt_timeout_ms: spec.attempt_timeout_ms,
        max_attempts: spec.retry.as_ref().map_or(0, |retry| retry.max_attempts),
        retention_ms: spec.retention_ms,
        after: u32::try_from(spec.after.len() + spec.after_in_batch.len()).unwrap_or(u32::MAX),
        payload: Payload { digest: Digest::of(&spec.payload).to_string(), bytes: spec.payload.len() as u64 },
        wasm: spec.wasm.as_ref().map(|wasm| Wasm {
            artifact: wasm.artifact.clone(),
            export: wasm.export.clone(),
            memory_bytes: wasm.memory_bytes,
            output_bytes: wasm.output_bytes,
            fuel: wasm.fuel,
        }),
        native: spec.native.as_ref().map(|native| Native {
            artifact: native.artifact.clone(),
            memory_bytes: native.memory_bytes,
            output_bytes: native.output_bytes,
        }),
        grants: spec.grants.as_ref().map_or_else(Grants::default, |grants| Grants {
            clock: grants.clock,
            random: grants.random,
            scratch_bytes: grants.scratch_bytes,
            http: grants.http.clone(),
            calls: grants.calls.clone(),
            network: grants.network,
            context: grants.context.as_ref().map(|context| ContextGrant { name: context.name.clone(), write: context.write }),
        }),
    }
}
