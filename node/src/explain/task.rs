//! The story of a task.

use tarn_proto::v1::{Attempt, Task, TaskState, TaskStory};

use super::{Level, Teller, history, records, waits, words};

/// The story of a task, in plain sentences: first how it stands and what would unblock it, then what happened, oldest first.
#[must_use]
pub fn task(story: &TaskStory, level: Level) -> Vec<tarn_proto::v1::Sentence> {
    let mut teller = Teller::new(level);
    let Some(task) = &story.task else {
        return Vec::new();
    };
    standing(&mut teller, story, task);
    if let Some(waiting) = &story.waiting {
        waits::tell(&mut teller, story, task, waiting);
    }
    history::tell(&mut teller, story, task);
    records::tell(&mut teller, &story.decisions);
    teller.sentences
}

/// How it stands.
fn standing(teller: &mut Teller, story: &TaskStory, task: &Task) {
    let now = story.now_ms;
    let ended = words::time(task.ended_at_ms);
    let text = match task.state() {
        TaskState::Blocked => "The task waits for other tasks.".to_owned(),
        TaskState::Delayed => "The task waits for its time.".to_owned(),
        TaskState::Ready => {
            let waited = words::span(now.saturating_sub(task.eligible_at_ms));
            format!("The task has been waiting for a worker for {waited}.")
        }
        TaskState::Running => running(story, task),
        TaskState::Succeeded => match task.attempts.last() {
            Some(attempt) => format!(
                "The task succeeded at {ended}, on attempt {}, which ran for {} on {}.",
                attempt.number,
                words::span(attempt.ended_at_ms.saturating_sub(attempt.started_at_ms)),
                worker(story, attempt)
            ),
            None => format!("The task succeeded at {ended}."),
        },
        TaskState::Dead => format!("The task died at {ended}: {}. It lies among the dead letters.", cause(task)),
        TaskState::Cancelled => format!("The task was cancelled at {ended}."),
        TaskState::Unspecified => "The task is in a state that this build does not know.".to_owned(),
    };
    teller.say(Level::Brief, "STATE", text);
    match task.state() {
        TaskState::Dead => {
            let queue = task.spec.as_ref().map_or("", |spec| &spec.queue);
            let text = format!(
                "Remove the cause, then put it back with `tarn queue requeue {queue} {}`: its attempts are then counted from zero.",
                task.task_id
            );
            teller.say(Level::Brief, "UNBLOCK", text);
        }
        TaskState::Running if task.cancel_requested => {
            let text = "Somebody asked to cancel it: its worker has been told, and may still finish first.";
            teller.say(Level::Brief, "STATE", text);
        }
        _ => {}
    }
}

fn running(story: &TaskStory, task: &Task) -> String {
    let Some(attempt) = task.attempts.last() else {
        return "The task is running.".to_owned();
    };
    format!(
        "The task is running: attempt {}, for {} now, on {}; the worker must renew its lease by {}.",
        attempt.number,
        words::span(story.now_ms.saturating_sub(attempt.started_at_ms)),
        worker(story, attempt),
        words::time(task.lease_expires_at_ms)
    )
}

fn cause(task: &Task) -> String {
    task.error.as_ref().map_or_else(|| "nobody said why".to_owned(), words::error)
}

/// The worker that ran an attempt, by name and id.
pub(super) fn worker(story: &TaskStory, attempt: &Attempt) -> String {
    worker_by_id(story, &attempt.worker)
}

/// A worker by its id, and by its name where that is known.
pub(super) fn worker_by_id(story: &TaskStory, id: &str) -> String {
    match story.workers.get(id).map(String::as_str) {
        None | Some("") => format!("worker {id}"),
        Some(name) => format!("worker {name} ({id})"),
    }
}
