//! Standard input of an attempt: the payload, and with `feed_dependency_results` the results of the tasks it depends on.

use std::io::Write as _;

use bytes::Bytes;
use tarn_proto::v1;
use tokio::time::Instant;

use super::attempt::Unfit;
use super::{COMMAND_DEADLINE, Shared};

/// Payload and results together, in bytes: held in memory once per slot.
const INPUT_BYTES_MAX: usize = 16 << 20;

/// The input of an attempt.
pub(super) async fn of(shared: &Shared, task: &v1::LeasedTask, feed_dependency_results: bool) -> Result<Bytes, Unfit> {
    let payload = task.spec.as_ref().map(|spec| spec.payload.clone()).unwrap_or_default();
    if !feed_dependency_results {
        return Ok(payload);
    }
    // The lease may have been granted by a leader that is ahead of this node's state.
    shared.way.barrier(Instant::now() + COMMAND_DEADLINE).await.map_err(|refusal| Unfit {
        reason: "DEPENDENCY_UNREADABLE",
        message: format!("the results of the task's dependencies could not be read: {}", refusal.rejection.message),
        retryable: true,
    })?;
    let mut input = Vec::new();
    push(&mut input, &payload)?;
    for dependency in &task.dependencies {
        push(&mut input, &result_of(shared, &task.namespace, dependency)?)?;
    }
    Ok(input.into())
}

/// Adds a piece: its length in decimal, a newline, its bytes.
fn push(input: &mut Vec<u8>, piece: &[u8]) -> Result<(), Unfit> {
    if input.len() + piece.len() > INPUT_BYTES_MAX {
        return Err(Unfit {
            reason: "DEPENDENCY_RESULTS_TOO_LARGE",
            message: format!(
                "payload and results of the dependencies are more than {INPUT_BYTES_MAX} bytes together: merge them in stages, or pass artifacts"
            ),
            retryable: false,
        });
    }
    writeln!(input, "{}", piece.len()).expect("a vector takes what is written");
    input.extend_from_slice(piece);
    Ok(())
}

/// The result of an ended task; empty for one that has none, because it failed and its dependents run all the same.
fn result_of(shared: &Shared, namespace: &str, task_id: &str) -> Result<Bytes, Unfit> {
    let question = v1::GetTaskRequest { namespace: namespace.into(), task_id: task_id.into(), ..v1::GetTaskRequest::default() };
    let answer = shared.way.look(|machine| machine.get_task(&question)).map_err(|refusal| Unfit {
        reason: "DEPENDENCY_GONE",
        message: format!("the result of dependency {task_id} is not there: {}", refusal.rejection.message),
        retryable: refusal.passes(),
    })?;
    Ok(answer.task.map(|task| task.result).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_carry_their_lengths() {
        let mut input = Vec::new();
        for piece in [&b"payload"[..], b"", b"two\nlines"] {
            assert!(push(&mut input, piece).is_ok());
        }
        assert_eq!(input, b"7\npayload0\n9\ntwo\nlines");
    }

    #[test]
    fn too_much_is_refused_with_a_reason_of_its_own() {
        let mut input = Vec::new();
        let piece = vec![0; INPUT_BYTES_MAX / 2];
        assert!(push(&mut input, &piece).is_ok());
        let unfit = push(&mut input, &piece).err().unwrap();
        assert_eq!((unfit.reason, unfit.retryable), ("DEPENDENCY_RESULTS_TOO_LARGE", false));
    }
}
