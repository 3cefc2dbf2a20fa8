//! Why a task waits, and what would end that.

use tarn_proto::v1::{Task, TaskState, TaskStory, Waiting, WorkerLack};

use super::{Level, Teller, words};

/// What the kernel counts of the tasks that stand before another.
const AHEAD_MAX: u64 = 10_000;
/// Ready since so long, a task counts as one priority higher.
const AGE_STEP_MS: u64 = tarn_machine::limits::AGE_STEP_MS;

/// Tells why it waits.
pub fn tell(teller: &mut Teller, story: &TaskStory, task: &Task, waiting: &Waiting) {
    match task.state() {
        TaskState::Blocked => dependencies(teller, waiting),
        TaskState::Delayed => delayed(teller, story, task, waiting),
        TaskState::Ready => ready(teller, story, task, waiting),
        _ => {}
    }
}

fn dependencies(teller: &mut Teller, waiting: &Waiting) {
    let open: Vec<String> =
        waiting.dependencies.iter().map(|dependency| format!("{} ({})", dependency.task_id, words::state(dependency.state()))).collect();
    let text = match open.len() {
        0 => "All that it waited for has ended; the cluster is about to let it go on.".to_owned(),
        number => format!("It waits for {}: {}.", words::count(number as u64, "task"), words::list(&open)),
    };
    teller.say(Level::Brief, "WAITS", text);
    if !open.is_empty() {
        let text =
            "It goes on when they have ended. Explain them in turn with `tarn explain task ID`, or cancel those that are not needed.";
        teller.say(Level::Brief, "UNBLOCK", text);
    }
}

fn delayed(teller: &mut Teller, story: &TaskStory, task: &Task, waiting: &Waiting) {
    let left = words::span(waiting.until_ms.saturating_sub(story.now_ms));
    let until = words::time(waiting.until_ms);
    let failed = task.attempts.last().filter(|attempt| attempt.ended_at_ms > 0);
    let text = match failed.and_then(|attempt| Some((attempt.number, attempt.error.as_ref()?))) {
        Some((number, error)) => format!(
            "Attempt {number} failed: {}. The next one is held back for another {left}, until {until}, as its retry policy says.",
            words::error(error)
        ),
        None => format!("Its submitter asked that it not start before {until}, in {left}."),
    };
    teller.say(Level::Brief, "WAITS", text);
    let text = "It goes on by itself then; nothing else is needed.";
    teller.say(Level::Brief, "UNBLOCK", text);
}

fn ready(teller: &mut Teller, story: &TaskStory, task: &Task, waiting: &Waiting) {
    if waiting.able == 0 {
        return nobody_able(teller, task, waiting);
    }
    if !waiting.limit_name.is_empty() {
        return limited(teller, task, waiting);
    }
    if !waiting.lacks.is_empty() && routed(teller, &waiting.lacks) {
        return aging(teller, story, task);
    }
    if waiting.free == 0 {
        let text = format!(
            "{} could run it, and none takes tasks now: they drain, or hold as many as a worker may.",
            words::count(waiting.able.into(), "worker")
        );
        teller.say(Level::Brief, "WAITS", text);
        let text = "Start another worker like them, or wait until one of them has finished something.";
        teller.say(Level::Brief, "UNBLOCK", text);
        return;
    }
    in_line(teller, task, waiting);
    aging(teller, story, task);
    shares(teller, task, waiting);
}

fn nobody_able(teller: &mut Teller, task: &Task, waiting: &Waiting) {
    let spec = task.spec.clone().unwrap_or_default();
    if waiting.workers == 0 {
        teller.say(Level::Brief, "WAITS", "No worker is registered.");
        let text = format!("Start a worker that serves queue {} of namespace {}.", spec.queue, task.namespace);
        return teller.say(Level::Brief, "UNBLOCK", text);
    }
    let registered = words::count(waiting.workers.into(), "registered worker");
    if waiting.missing.is_empty() {
        let mut wanted = vec![format!("namespace {}", task.namespace), format!("queue {}", spec.queue)];
        wanted.extend((!spec.runtime.is_empty()).then(|| format!("runtime {}", spec.runtime)));
        wanted.extend((!spec.handler.is_empty()).then(|| format!("handler {}", spec.handler)));
        wanted.extend(spec.requires.iter().map(|label| format!("label {label}")));
        let text =
            format!("Of {registered}, none has all that it requires, though each thing is had by one of them: {}.", words::list(&wanted));
        teller.say(Level::Brief, "WAITS", text);
    } else {
        let (sdk, others): (Vec<_>, Vec<_>) = waiting.missing.iter().partition(|what| *what == SDK);
        let others: Vec<String> = others.into_iter().map(|what| readable(what)).collect();
        let mut kinds = Vec::new();
        kinds.extend((!sdk.is_empty()).then(|| "built with an SDK".to_owned()));
        kinds.extend((!others.is_empty()).then(|| format!("with {}", words::list(&others))));
        let text = format!("Of {registered}, none can run it: there is none {}.", kinds.join(" and "));
        teller.say(Level::Brief, "WAITS", text);
    }
    let text = "Start a worker that has it all, or submit the task again without what it does not need.";
    teller.say(Level::Brief, "UNBLOCK", text);
}

/// How the state names what a task without a runtime needs.
const SDK: &str = "a worker built with an SDK";

/// What is missing, as a sentence has it.
fn readable(what: &str) -> String {
    match what {
        "handler " => "no handlers of its own, as a task without a handler needs".to_owned(),
        what => what.to_owned(),
    }
}

/// The reason that stands for data which the node that tells this cannot look for.
const DATA_UNCERTAIN: &str = "DATA_UNCERTAIN";

/// Of a task that waits for the router: why it is not placed. False if some worker could be given it now.
fn routed(teller: &mut Teller, lacks: &[WorkerLack]) -> bool {
    if lacks.iter().any(|lack| lack.reasons.is_empty()) {
        return false;
    }
    let busy = lacks.iter().filter(|lack| lack.passes).count();
    let only_data = lacks.iter().any(|lack| lack.reasons == [DATA_UNCERTAIN]);
    let (waits, unblock) = match busy {
        0 if only_data => (
            "No node is known to hold the data that it asks for and to have a worker for it.".to_owned(),
            "Store the data, or submit the task again with --near, which prefers the nodes that hold it.",
        ),
        0 => (
            "No registered worker could ever run it.".to_owned(),
            "Start a worker that has it all, or submit the task again without what it does not need.",
        ),
        busy => (
            format!("{} could run it, and none has room now.", words::count(busy as u64, "worker")),
            "The router places it as soon as one of them has room.",
        ),
    };
    teller.say(Level::Brief, "WAITS", waits);
    for lack in lacks.iter().take(LACKS_TOLD) {
        let text = format!("Worker {} ({}): {}.", lack.name, lack.worker_id, words::list(&lack.texts));
        teller.say(Level::Detailed, "WAITS", text);
    }
    teller.say(Level::Brief, "UNBLOCK", unblock);
    true
}

/// Workers of which it is told what they lack.
const LACKS_TOLD: usize = 4;

fn limited(teller: &mut Teller, task: &Task, waiting: &Waiting) {
    let text = format!(
        "Namespace {} has reached its limit {} of {}: {} are in use.",
        task.namespace, waiting.limit_name, waiting.limit, waiting.used
    );
    teller.say(Level::Brief, "WAITS", text);
    let text = format!(
        "It goes on when a task of the namespace has ended, or when somebody who may raises the limit: `tarn namespace update {}`.",
        task.namespace
    );
    teller.say(Level::Brief, "UNBLOCK", text);
}

fn in_line(teller: &mut Teller, task: &Task, waiting: &Waiting) {
    let able = words::count(waiting.able.into(), "worker");
    let text = match waiting.ahead {
        0 => format!("In its namespace nothing stands before it, and {able} could take it."),
        AHEAD_MAX.. => {
            format!("At least {} stand before it; {able} could take it.", words::count(waiting.ahead, "task"))
        }
        ahead => format!("{} before it; {able} could take it.", stand(ahead)),
    };
    teller.say(Level::Brief, "WAITS", text);
    if waiting.ahead > 0 {
        let text = format!("The next of those before it is task {}.", waiting.first_ahead);
        teller.say(Level::Technical, "WAITS", text);
    }
    let priority = task.spec.as_ref().map_or(3, |spec| spec.priority);
    let text = match (waiting.ahead, priority) {
        (0, _) => "It is given out as soon as one of them asks for work.",
        (_, 1) => "Its turn comes when those have been given out. More workers bring it nearer.",
        _ => "Its turn comes when those have been given out. More workers bring it nearer, and so would a higher priority.",
    };
    teller.say(Level::Brief, "UNBLOCK", text);
}

fn stand(ahead: u64) -> String {
    match ahead {
        1 => "1 task stands".to_owned(),
        ahead => format!("{ahead} tasks stand"),
    }
}

/// Waiting raises a task.
fn aging(teller: &mut Teller, story: &TaskStory, task: &Task) {
    let submitted = match task.spec.as_ref().map_or(0, |spec| spec.priority) {
        0 => 3,
        priority => priority.unsigned_abs(),
    };
    let waited = story.now_ms.saturating_sub(task.eligible_at_ms);
    let counts_as = u64::from(submitted).saturating_sub(waited / AGE_STEP_MS).max(1) as u32;
    let mut text = format!("Its priority is {}", words::priority(submitted));
    if counts_as < submitted {
        text.push_str(&format!(", and having waited it counts as {}", words::priority(counts_as)));
    }
    if counts_as > 1 {
        let left = words::span(AGE_STEP_MS - waited % AGE_STEP_MS);
        text.push_str(&format!("; in {left} it counts as {}", words::priority(counts_as - 1)));
    }
    text.push('.');
    teller.say(Level::Detailed, "WAITS", text);
}

/// Who is served before its namespace.
fn shares(teller: &mut Teller, task: &Task, waiting: &Waiting) {
    let Some(place) = waiting.shares.iter().position(|share| share.namespace == task.namespace) else {
        return;
    };
    let own = &waiting.shares[place];
    let before: Vec<String> = waiting.shares[..place].iter().map(|share| share.namespace.clone()).collect();
    let text = match before.is_empty() {
        true => format!("Its namespace {} is the next to be served.", task.namespace),
        false => format!(
            "Before its namespace {}, {} {} served: what they had lately is less than their share.",
            task.namespace,
            words::list(&before),
            if before.len() == 1 { "is" } else { "are" }
        ),
    };
    teller.say(Level::Detailed, "WAITS", text);
    let all: Vec<String> = waiting
        .shares
        .iter()
        .map(|share| format!("{} (weight {}, pass {}, {} ready)", share.namespace, share.weight, share.pass, share.ready))
        .collect();
    let text = format!("Namespaces are served by the lowest pass: {}. This one stands at {}.", all.join(", "), own.pass);
    teller.say(Level::Technical, "WAITS", text);
}
