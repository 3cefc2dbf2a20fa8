//! Holds what the kernel says against what the model says.

use std::collections::BTreeSet;
use std::fmt::Debug;

use tarn_machine::ids::Id;
use tarn_machine::keys::Key;
use tarn_machine::{Applied, Machine, Refusal, STATE};
use tarn_proto::v1::*;

use crate::invariants::first_number;
use crate::reference::{Line, Model, Told};

type Check = Result<(), String>;

/// Outcomes, events and ready groups of an entry.
pub fn told(told: &Told, applied: &Applied, lines: &[Line]) -> Check {
    same("the number of outcomes", &told.answers.len(), &applied.outcomes.len())?;
    for ((expected, found), line) in told.answers.iter().zip(&applied.outcomes).zip(lines) {
        let name = line.command.body.as_ref().map_or("a command without a body", command::Body::name);
        match (expected, found.body.as_ref()) {
            (Err(reason), Some(outcome::Body::Rejected(rejection))) => {
                same(&format!("the reason to refuse {name}"), reason, &rejection.reason.as_str())?;
                if rejection.code == 0 || rejection.message.is_empty() {
                    return Err(format!("a refusal without code or sentence: {rejection:?}"));
                }
            }
            (Err(reason), found) => return Err(format!("{name} must be refused as {reason}, and gave {found:?}")),
            (Ok(expected), found) => same(&format!("the answer to {name}"), &Some(expected), &found)?,
        }
    }
    for (expected, found) in told.events.iter().zip(&applied.events) {
        same("an event", expected, found)?;
    }
    same("the number of events", &told.events.len(), &applied.events.len())?;
    let ready = applied.ready.iter().map(|group| {
        let class = (group.class.runtime.clone(), group.class.handler.clone(), group.class.requires.iter().cloned().collect());
        (group.namespace.to_string(), group.queue.to_string(), class)
    });
    let ready: BTreeSet<_> = ready.collect();
    same("the number of groups in which tasks became ready", &ready.len(), &applied.ready.len())?;
    same("where tasks became ready", &told.ready, &ready)
}

/// When time alone will change something.
pub fn next_wake(model: &Model, machine: &Machine) -> Check {
    same("the next wake", &model.next_wake_ms(), &machine.next_wake_ms())?;
    same("the time", &model.now, &machine.now_ms())?;
    for (id, worker) in &model.workers {
        let able = worker.capabilities.clone().unwrap_or_default();
        let mut ready = model.tasks.values().filter(|task| task.state == TaskState::Ready);
        let any = ready.any(|task| model.serves(&able, task) && !model.is_full(task.ns));
        let expected = any && !worker.draining;
        same("whether there is a task for a worker", &expected, &machine.has_ready_task_for(&Id(*id).to_string()))?;
    }
    Ok(())
}

/// The task that an event is about, as it stands after the entry.
pub fn subject(model: &Model, machine: &Machine, event: &Event) -> Check {
    let Ok(id) = event.subject.parse::<Id>() else {
        return Ok(());
    };
    // An event's namespace may have been deleted since, and another made with its name.
    if event.queue.is_empty() || model.namespace(&event.namespace).is_err() {
        return Ok(());
    }
    let request = GetTaskRequest { namespace: event.namespace.clone(), task_id: event.subject.clone(), ..GetTaskRequest::default() };
    let task = model.tasks.get(&id.0).filter(|task| Ok(task.ns) == model.namespace(&event.namespace));
    match (task, machine.get_task(&request)) {
        (Some(_), Ok(found)) => {
            same_task(&model.view_task(id.0, true), &found.task.unwrap_or_default())?;
            let logs = GetTaskLogsRequest { namespace: event.namespace.clone(), task_id: event.subject.clone() };
            let logs = machine.task_logs(&logs).map_err(refusal)?.logs;
            same("a task's logs", &model.view_logs(id.0), &logs)
        }
        (None, Err(Refusal::Rejected(rejection))) => same("a missing task", &"TASK_NOT_FOUND", &rejection.reason.as_str()),
        (expected, found) => Err(format!("task {id}: expected {}, found {found:?}", expected.is_some())),
    }
}

/// Everything that can be listed.
pub fn everything(model: &Model, machine: &Machine) -> Check {
    let namespaces = machine.list_namespaces(&ListNamespacesRequest {}).map_err(refusal)?.namespaces;
    same("the namespaces", &model.view_namespaces(), &namespaces)?;
    for (ns, namespace) in &model.namespaces {
        let pass = machine.engine().get(STATE, &Key::Pass { ns: *ns }.encode()).map_err(|error| error.to_string())?;
        same("a namespace's pass", &namespace.pass, &first_number(&pass.unwrap_or_default())?)?;
        tasks(model, machine, *ns, &namespace.name)?;
        same("the named leases", &model.view_leases(*ns), &leases(machine, &namespace.name)?)?;
        same("the timers", &model.view_timers(*ns), &timers(machine, &namespace.name)?)?;
    }
    let mut queues = machine.list_queues(&ListQueuesRequest::default()).map_err(refusal)?.queues;
    queues.sort_by_key(|queue| (queue.namespace.clone(), queue.queue.clone()));
    same("the queues", &model.view_queues(), &queues)?;
    let workers = machine.list_workers(&ListWorkersRequest {}).map_err(refusal)?.workers;
    same("the workers", &model.view_workers(), &workers)?;
    for (hash, token) in &model.join_tokens {
        let hash = hash.as_slice().try_into().expect("a hash has 32 bytes");
        let outstanding = token.expires_at_ms > model.now;
        same("an outstanding join token", &outstanding, &machine.join_token_outstanding(hash))?;
    }
    access(model, machine)
}

/// Who may do what: as it is listed, and as the gate asks for it.
fn access(model: &Model, machine: &Machine) -> Check {
    same("the version", &model.version, &machine.version())?;
    let roles = machine.list_roles(&ListRolesRequest {}).map_err(refusal)?.roles;
    same("the roles", &model.view_roles(), &roles)?;
    let revocations = machine.list_revocations(&ListRevocationsRequest {}).map_err(refusal)?;
    same("the revocations", &model.view_revocations(), &revocations.revocations)?;
    let of_tokens = model.tokens.values().map(|token| token.shown.principal.as_str());
    let of_bindings = model.bindings.iter().map(|(principal, _, _)| principal.as_str());
    // Everybody's at once, each one's alone, and those of somebody who has none.
    let mut principals: BTreeSet<&str> = of_tokens.chain(of_bindings).collect();
    principals.extend(["", "user/nobody"]);
    for principal in principals {
        let principal = principal.to_owned();
        let bindings = ListBindingsRequest { principal: principal.clone() };
        let bindings = machine.list_bindings(&bindings).map_err(refusal)?.bindings;
        same("the bindings", &model.view_bindings(&principal), &bindings)?;
        let tokens = ListTokensRequest { principal: principal.clone() };
        let tokens = machine.list_tokens(&tokens).map_err(refusal)?.tokens;
        same("the tokens", &model.view_tokens(&principal), &tokens)?;
    }
    let access = machine.access();
    same("the number of secrets", &model.tokens.len(), &access.secrets.len())?;
    for (id, token) in &model.tokens {
        let hash = token.secret_hash.as_slice().try_into().expect("a hash has 32 bytes");
        let found = access.token(hash).map(|(id, row)| (id, row.principal.as_str()));
        same("the token of a secret", &Some((*id, token.shown.principal.as_str())), &found)?;
    }
    Ok(())
}

fn tasks(model: &Model, machine: &Machine, ns: u64, namespace: &str) -> Check {
    let mut expected = model.tasks_of(ns).into_iter();
    // Pages that are small and do not divide the list evenly, so that turning them is tested too.
    let mut request = ListTasksRequest { namespace: namespace.to_owned(), page_size: 37, ..ListTasksRequest::default() };
    loop {
        let page = machine.list_tasks(&request).map_err(refusal)?;
        for found in &page.tasks {
            let id = expected.next().ok_or_else(|| format!("task {} should not exist", found.task_id))?;
            same("the order of tasks", &Id(id).to_string(), &found.task_id)?;
            same_task(&model.view_task(id, false), found)?;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    match expected.next() {
        Some(id) => Err(format!("task {} is missing from its namespace's list", Id(id))),
        None => Ok(()),
    }
}

fn leases(machine: &Machine, namespace: &str) -> Result<Vec<NamedLease>, String> {
    let mut request = ListLeasesRequest { namespace: namespace.to_owned(), page_size: 1, ..ListLeasesRequest::default() };
    let mut leases = Vec::new();
    loop {
        let page = machine.list_leases(&request).map_err(refusal)?;
        leases.extend(page.leases);
        if page.next_page_token.is_empty() {
            return Ok(leases);
        }
        request.page_token = page.next_page_token;
    }
}

fn timers(machine: &Machine, namespace: &str) -> Result<Vec<Timer>, String> {
    let mut request = ListTimersRequest { namespace: namespace.to_owned(), page_size: 7, ..ListTimersRequest::default() };
    let mut timers = Vec::new();
    loop {
        let page = machine.list_timers(&request).map_err(refusal)?;
        timers.extend(page.timers);
        if page.next_page_token.is_empty() {
            return Ok(timers);
        }
        request.page_token = page.next_page_token;
    }
}

/// Tasks are the same but for the sentences that the kernel itself words.
fn same_task(expected: &Task, found: &Task) -> Check {
    let (mut expected, mut found) = (expected.clone(), found.clone());
    for task in [&mut expected, &mut found] {
        for error in task.attempts.iter_mut().filter_map(|attempt| attempt.error.as_mut()).chain(task.error.as_mut()) {
            if error.message != "It is not there." {
                error.message.clear();
            }
        }
    }
    same("a task", &expected, &found)
}

fn refusal(refusal: Refusal) -> String {
    format!("a read was refused: {refusal}")
}

fn same<T: PartialEq + Debug + ?Sized>(what: &str, expected: &T, found: &T) -> Check {
    match expected == found {
        true => Ok(()),
        false => Err(format!("{what} differs\n  model:  {}\n  kernel: {}", short(expected), short(found))),
    }
}

fn short(value: &(impl Debug + ?Sized)) -> String {
    let mut text = format!("{value:?}");
    if text.len() > 2_000 {
        text.truncate((0..=2_000).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0));
        text.push('…');
    }
    text
}
