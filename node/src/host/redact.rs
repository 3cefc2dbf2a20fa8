//! What of an executor's failure a tenant is told. What went wrong inside this node stays in its log, under the task's id.

use tarn_executor::ExecutionError;
use tarn_proto::v1;

/// The sentence that goes with a failed attempt. Causes of the node's own (paths, states, library errors) are logged, and left out.
pub(super) fn message(task: &v1::LeasedTask, error: &ExecutionError) -> String {
    let told = match error {
        ExecutionError::Broken { .. } => {
            "the executor failed: another attempt may go better; the node's log says why, under the task's id".to_owned()
        }
        ExecutionError::ResourceExhausted { .. } => {
            "the executor has no room for the attempt: it is tried again later, or on another node".to_owned()
        }
        ExecutionError::ArtifactUnavailable { hash, .. } => {
            format!("artifact {hash} is not available on the node: put it again, or wait until a peer has delivered it")
        }
        other => return other.to_string(),
    };
    tracing::error!(
        namespace = task.namespace,
        task = task.task_id,
        attempt = task.attempt,
        reason = error.reason(),
        "an attempt failed by this node's own fault: {error}"
    );
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use tarn_executor::Hash;

    #[test]
    fn causes_of_the_nodes_own_are_left_out() {
        let task = v1::LeasedTask::default();
        let detail = || "cannot open /var/lib/tarn/wasm/ab12: Permission denied (os error 13), at src/disk.rs:40".to_owned();
        let hash = Hash::of(b"x");
        for error in [
            ExecutionError::Broken { detail: detail() },
            ExecutionError::ResourceExhausted { detail: detail() },
            ExecutionError::ArtifactUnavailable { hash, detail: detail() },
        ] {
            let told = message(&task, &error);
            assert!(!told.contains('/') && !told.contains("os error") && !told.contains(".rs"), "{told}");
        }
        let own = ExecutionError::ExitNonzero { status: 3 };
        assert_eq!(message(&task, &own), own.to_string(), "what the guest did is the tenant's to know");
    }
}
