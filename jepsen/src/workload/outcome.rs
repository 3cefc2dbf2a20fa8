//! How a call of the SDK ended, in the three words of a history.

use std::fmt::Display;

use serde_json::Value;
use tarn_client::Error;

use crate::history::Pending;

/// Ends an operation as the call ended. What the SDK says is believed: a refusal had no effect, and an error tells whether its outcome is
/// unknown; if that is wrong, the checker finds the effect of an operation that had none. An error about the session says nothing of the
/// tries before it, so it is unknown.
pub fn settle<T>(pending: Pending, result: &Result<T, Error>, value: impl FnOnce(&T) -> Value) {
    match result {
        Ok(answer) => pending.ok(value(answer)),
        Err(error) if is_unknown(error) => pending.unknown(told(error)),
        Err(error) => pending.fail(told(error)),
    }
}

/// As [`settle`] for a call that changes nothing: without an answer it had no effect, which is certain.
pub fn settle_read<T>(pending: Pending, result: &Result<T, Error>, value: impl FnOnce(&T) -> Value) {
    match result {
        Ok(answer) => pending.ok(value(answer)),
        Err(error) => pending.fail(told(error)),
    }
}

/// Whether the call may have had its effect.
pub fn is_unknown(error: &Error) -> bool {
    error.outcome_unknown() || matches!(error, Error::Transport(_))
}

/// The reason, a colon, and the sentence.
fn told(error: &Error) -> String {
    let text: &dyn Display = match error.refusal() {
        Some(refusal) => &refusal.message,
        None => error,
    };
    format!("{}: {text}", error.reason())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tarn_client::{Code, Fate, Refusal};

    use super::*;
    use crate::history::{Kind, Process, Recorder, operations, read};

    #[test]
    fn each_error_is_one_of_the_three_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        let recorder = Recorder::create(&path).unwrap();
        let refusal = Refusal {
            code: Code::FailedPrecondition,
            reason: "LEASE_HELD".into(),
            message: "held by b".into(),
            field: None,
            limit: None,
            actual_version: None,
            request_id: None,
        };
        let late = |fate| Error::DeadlineExceeded { tries: 2, fate };
        let calls = [
            (Ok(7), Kind::Ok, ""),
            (Err(refusal.into()), Kind::Fail, "LEASE_HELD"),
            (Err(late(Fate::NotDone)), Kind::Fail, "DEADLINE_EXCEEDED"),
            (Err(late(Fate::Unknown)), Kind::Unknown, "DEADLINE_EXCEEDED"),
            (Err(Error::Transport("cut".into())), Kind::Unknown, "TRANSPORT"),
        ];
        for (result, _, _) in &calls {
            let pending = recorder.invoke(Process::Client(1), "call", None, Value::Null);
            settle(pending, result, |answer| json!(answer));
        }
        drop(recorder.invoke(Process::Client(1), "call", None, Value::Null));
        recorder.flush().unwrap();
        let history = read(&path).unwrap();
        let operations = operations(&history, "call");
        assert_eq!(operations.len(), calls.len() + 1);
        for (operation, (_, kind, reason)) in operations.iter().zip(&calls) {
            assert_eq!((operation.outcome(), operation.reason()), (*kind, *reason));
        }
        assert_eq!(operations[0].answer(), Some(7));
        assert_eq!(operations[calls.len()].outcome(), Kind::Unknown, "dropped");
    }
}
