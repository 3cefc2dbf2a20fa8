//! Numbers, times and names as people read them.

use tarn_proto::v1::{Decision, TaskError, TaskState};

/// A point in time: milliseconds of the Unix epoch as date and time, UTC, to the second.
pub fn time(at_ms: u64) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000)
        .ok()
        .and_then(|time| time.format(format).ok())
        .unwrap_or_else(|| format!("{at_ms} ms"))
}

/// A length of time, in the largest units that matter.
pub fn span(ms: u64) -> String {
    let (s, m, h, d) = (ms / 1_000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{s}.{} s", ms / 100 % 10),
        60_000..3_600_000 => format!("{m} min {} s", s % 60),
        3_600_000..86_400_000 => format!("{h} h {} min", m % 60),
        _ => format!("{} {} h", count(d, "day"), h % 24),
    }
}

/// How many of something.
pub fn count(number: u64, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {one}s"),
    }
}

/// A list as a sentence has it: `a, b and c`.
pub fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The name of a priority.
pub fn priority(level: u32) -> &'static str {
    match level {
        1 => "critical",
        2 => "high",
        3 => "normal",
        4 => "low",
        _ => "background",
    }
}

/// What somebody is doing who is a task in this state.
pub fn state(state: TaskState) -> &'static str {
    match state {
        TaskState::Unspecified => "gone",
        TaskState::Blocked => "waiting for others itself",
        TaskState::Delayed => "waiting for its time",
        TaskState::Ready => "waiting for a worker",
        TaskState::Running => "running",
        TaskState::Succeeded => "done",
        TaskState::Dead => "dead",
        TaskState::Cancelled => "cancelled",
    }
}

/// A failure: its reason, and its sentence if it has one.
pub fn error(error: &TaskError) -> String {
    match error.message.trim() {
        "" => error.reason.clone(),
        message => format!("{} ({})", error.reason, message.trim_end_matches('.')),
    }
}

/// What was asked for. Of somebody who did not prove who it was, nothing more is known.
pub fn action(decision: &Decision) -> &str {
    match decision.action.as_str() {
        "" => "something",
        action => action,
    }
}

/// Who asked for something; time itself where nobody did.
pub fn who(decision: &Decision) -> &str {
    match decision.principal.as_str() {
        "" => "the cluster",
        principal => principal,
    }
}
