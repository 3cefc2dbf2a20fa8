//! What happened to a task, oldest first: who submitted it, what policy said, which attempts there were and why, who ended it.

use tarn_proto::v1::{Attempt, Decision, DecisionKind, GateFacts, Task, TaskStory};

use super::task::{worker, worker_by_id};
use super::{Level, Teller, placement, words};

/// Tells what happened.
pub fn tell(teller: &mut Teller, story: &TaskStory, task: &Task) {
    if story.decisions_incomplete {
        let text = format!(
            "It came at {}. How is not recorded: the record was dropped, or the cluster did not keep any yet.",
            words::time(task.created_at_ms)
        );
        teller.tell(Level::Detailed, "SUBMITTED", text, task.created_at_ms, 0);
    }
    for decision in &story.decisions {
        one(teller, story, task, decision);
    }
    // Attempts of which there is no record, because the cluster kept none yet.
    for attempt in task.attempts.iter().filter(|attempt| !recorded(story, attempt)) {
        let text = format!("Attempt {} began on {}.", attempt.number, worker(story, attempt));
        teller.tell(Level::Detailed, "ATTEMPT", text, attempt.started_at_ms, 0);
    }
}

fn recorded(story: &TaskStory, attempt: &Attempt) -> bool {
    let of_it = |decision: &Decision| decision.kind() == DecisionKind::Leased && decision.attempt == attempt.number;
    story.decisions.iter().any(of_it)
}

fn one(teller: &mut Teller, story: &TaskStory, task: &Task, decision: &Decision) {
    let (at_ms, index) = (decision.at_ms, decision.index);
    let mut tell = |from, topic, text: String| teller.tell(from, topic, text, at_ms, index);
    match decision.kind() {
        DecisionKind::Admitted => {
            tell(Level::Detailed, topic_of(decision), admitted(decision));
            if let Some(gate) = &decision.gate {
                judged(teller, decision, gate);
            }
        }
        DecisionKind::Refused => {
            let text = format!(
                "{} was refused {} by the {}: {}.",
                words::who(decision),
                words::action(decision),
                step(&decision.step),
                decision.reason
            );
            tell(Level::Detailed, "REFUSED", text);
        }
        DecisionKind::Leased => {
            let on = worker_by_id(story, &decision.worker);
            tell(Level::Detailed, "ATTEMPT", format!("Attempt {} began on {on}.", decision.attempt));
            if let Some(text) = scores(decision) {
                tell(Level::Technical, "ATTEMPT", text);
            }
        }
        DecisionKind::Placed => placement::tell(teller, story, decision),
        DecisionKind::Retried => tell(Level::Detailed, "RETRY", retried(task, decision)),
        DecisionKind::Returned => {
            let text = format!("Attempt {} was given back by its worker before it began, and does not count.", decision.attempt);
            tell(Level::Detailed, "RETRY", text);
        }
        DecisionKind::Requeued => {
            let text = "It was put back from the dead letters, its attempts counted from zero.".to_owned();
            tell(Level::Detailed, "REQUEUED", text);
        }
        DecisionKind::Dead => tell(Level::Detailed, "END", died(task, decision)),
        DecisionKind::Cancelled => tell(Level::Detailed, "END", "It ended as cancelled.".to_owned()),
        DecisionKind::Worker | DecisionKind::Members | DecisionKind::Unspecified => {}
    }
}

fn topic_of(decision: &Decision) -> &'static str {
    match decision.action.as_str() {
        "Enqueue" | "FireTimer" => "SUBMITTED",
        "RequeueDead" => "REQUEUED",
        "CancelTask" => "CANCEL",
        _ => "COMMAND",
    }
}

fn admitted(decision: &Decision) -> String {
    let who = words::who(decision);
    let others = match decision.count {
        0 | 1 => String::new(),
        count => format!(", with {} in the same request", words::count(u64::from(count) - 1, "other")),
    };
    match decision.action.as_str() {
        "Enqueue" => format!("{who} submitted it to {}{others}.", decision.resource),
        "FireTimer" => format!("{} submitted it when its time had come.", decision.resource),
        "CancelTask" => format!("{who} asked to cancel it."),
        "RequeueDead" => format!("{who} put it back from the dead letters of {}.", decision.resource),
        action => format!("{who} was let through with {action}."),
    }
}

/// What the gate said.
pub(super) fn judged(teller: &mut Teller, decision: &Decision, gate: &GateFacts) {
    let mut tell = |from, topic, text: String| teller.tell(from, topic, text, decision.at_ms, decision.index);
    if !gate.policies.is_empty() {
        let policies: Vec<String> = gate.policies.iter().map(|p| format!("{} {}", p.name, p.version)).collect();
        let verdict = match decision.kind() {
            DecisionKind::Refused if gate.rule.is_empty() => "refused it".to_owned(),
            DecisionKind::Refused => format!("refused it, by the rule {}", gate.rule),
            _ => "let it through".to_owned(),
        };
        let noun = if policies.len() == 1 { "Policy" } else { "Policies" };
        let text = format!("{noun} {} of environment {} {verdict}.", words::list(&policies), gate.environment);
        tell(Level::Detailed, "POLICY", text);
    }
    for warning in &gate.warnings {
        tell(Level::Detailed, "POLICY", format!("Policy noted: {}.", warning.trim_end_matches('.')));
    }
    let mut facts = Vec::new();
    if !gate.method.is_empty() {
        facts.push(format!("{} proved who it was by {}", words::who(decision), gate.method));
    }
    if gate.node != 0 {
        facts.push(format!("the gate was that of node {}", gate.node));
    }
    if !gate.trace.is_empty() {
        facts.push(format!("its log has more under trace {}", gate.trace));
    }
    if let Some(first) = facts.first_mut() {
        *first = capitalised(first);
        tell(Level::Technical, "GATE", format!("{}.", facts.join("; ")));
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Why this task was the next for its worker.
fn scores(decision: &Decision) -> Option<String> {
    let scores = decision.scores.as_ref()?;
    let aged = match scores.level < scores.priority {
        true => format!(", which counted as {} after {}", words::priority(scores.level), words::span(scores.waited_ms)),
        false => format!(", ready for {}", words::span(scores.waited_ms)),
    };
    let share = match scores.namespaces {
        0 | 1 => "no other namespace had a task for this worker".to_owned(),
        namespaces => format!(
            "of {namespaces} namespaces with a task for this worker, {} had the lowest pass, {} at weight {}",
            decision.namespace, scores.pass, scores.weight
        ),
    };
    Some(format!(
        "It was the next in line: {share}, and in it nothing that the worker could run stood before this task of priority {}{aged}.",
        words::priority(scores.priority)
    ))
}

fn attempt_of<'a>(task: &'a Task, decision: &Decision) -> Option<&'a Attempt> {
    task.attempts.iter().find(|attempt| attempt.number == decision.attempt)
}

/// What became of the attempt, in words: its error, as far as it is still known.
fn failure(task: &Task, decision: &Decision) -> String {
    let known = attempt_of(task, decision).and_then(|attempt| attempt.error.as_ref());
    let known = known.filter(|error| error.reason == decision.reason);
    known.map_or_else(|| decision.reason.clone(), words::error)
}

fn retried(task: &Task, decision: &Decision) -> String {
    let ran = attempt_of(task, decision).filter(|attempt| attempt.ended_at_ms > 0);
    let after = ran
        .map_or_else(String::new, |attempt| format!(" after {}", words::span(attempt.ended_at_ms.saturating_sub(attempt.started_at_ms))));
    let next = match decision.delay_ms {
        0 => "Another followed at once".to_owned(),
        delay => format!("Another was to follow after {}", words::span(delay)),
    };
    format!(
        "Attempt {} failed{after}: {}. {next}: its retry policy allows {}.",
        decision.attempt,
        failure(task, decision),
        words::count(attempts_allowed(task), "attempt")
    )
}

fn attempts_allowed(task: &Task) -> u64 {
    let said = task.spec.as_ref().and_then(|spec| spec.retry.as_ref()).map_or(0, |retry| retry.max_attempts);
    match said {
        0 => tarn_machine::limits::ATTEMPTS_DEFAULT.into(),
        said => said.into(),
    }
}

fn died(task: &Task, decision: &Decision) -> String {
    let failure = failure(task, decision);
    match decision.reason.as_str() {
        "DEADLINE_EXCEEDED" => "It died because it had not finished by its deadline.".to_owned(),
        "DEPENDENCY_FAILED" => "It died because a task that it depends on died, was cancelled or was deleted.".to_owned(),
        _ if decision.attempt == 0 => format!("It died: {failure}."),
        _ if u64::from(decision.attempt) >= attempts_allowed(task) => format!(
            "It died when attempt {} failed: {failure}. All {} that its retry policy allows were used.",
            decision.attempt,
            words::count(attempts_allowed(task), "attempt")
        ),
        _ => format!("It died when attempt {} failed: {failure}. Its worker said that no further attempt could succeed.", decision.attempt),
    }
}

/// Who refused, as a sentence has it.
pub(super) fn step(step: &str) -> String {
    match step {
        "kernel" => "cluster's state".to_owned(),
        "" => "gate".to_owned(),
        step => format!("gate's step {step:?}"),
    }
}
