//! From what a submitter says to the rows of a task, with every default filled in.

use bytes::Bytes;
use prost::Message;
use tarn_proto::v1::{DependencyFailure, Priority, RetryPolicy, TaskSpec};

use crate::keys::Key;
use crate::limits;
use crate::rows::{Class, RetryRow, SpecRow, TaskRow};
use crate::txn::Txn;

/// The class of a task.
pub fn class(spec: &TaskSpec) -> Class {
    let mut requires = spec.requires.clone();
    requires.sort();
    requires.dedup();
    Class { runtime: spec.runtime.clone(), handler: spec.handler.clone(), requires }
}

/// The changing part of a new task; its state is still to be decided.
pub fn row(spec: &TaskSpec, queue: u64, class: Class, depends: bool, now: u64) -> TaskRow {
    TaskRow {
        queue,
        priority: match spec.priority() {
            Priority::Unspecified | Priority::Normal => 3,
            Priority::Critical => 1,
            Priority::High => 2,
            Priority::Low => 4,
            Priority::Background => 5,
        },
        class: Some(class),
        created_at_ms: now,
        not_before_at_ms: spec.not_before_at_ms,
        deadline_at_ms: spec.deadline_at_ms,
        attempt_timeout_ms: or_default(spec.attempt_timeout_ms, limits::ATTEMPT_TIMEOUT_MS_DEFAULT),
        retry: Some(retry(spec.retry.as_ref())),
        retention_ms: or_default(spec.retention_ms, limits::RETENTION_MS_DEFAULT),
        depends,
        run_anyway: match spec.on_dependency_failure() {
            DependencyFailure::Unspecified | DependencyFailure::Die => false,
            DependencyFailure::Run => true,
        },
        spec_bytes: spec.encoded_len() as u64,
        ..TaskRow::default()
    }
}

/// Writes what never changes of a task.
pub fn put(txn: &mut Txn<'_>, ns: u64, id: u64, mut spec: TaskSpec, dependencies: Vec<u64>) {
    let payload_apart = spec.payload.len() > limits::INLINE_BYTES_MAX;
    if payload_apart {
        // A copy, so that the row does not keep the whole command in memory.
        let payload = Bytes::copy_from_slice(&std::mem::take(&mut spec.payload));
        txn.rows.put_bytes(Key::Payload { ns, id }, payload);
    }
    txn.rows.put(Key::Spec { ns, id }, &SpecRow { spec: Some(spec), dependencies, payload_apart });
}

fn retry(policy: Option<&RetryPolicy>) -> RetryRow {
    let policy = policy.cloned().unwrap_or_default();
    RetryRow {
        max_attempts: or_default(policy.max_attempts.into(), limits::ATTEMPTS_DEFAULT.into()) as u32,
        initial_ms: or_default(policy.initial_backoff_ms, limits::INITIAL_BACKOFF_MS_DEFAULT),
        percent: or_default(policy.multiplier_percent.into(), limits::BACKOFF_PERCENT_DEFAULT.into()) as u32,
        cap_ms: or_default(policy.max_backoff_ms, limits::BACKOFF_CAP_MS_DEFAULT),
        jitter_percent: match policy.no_jitter {
            true => 0,
            false => or_default(policy.jitter_percent.into(), limits::JITTER_PERCENT_DEFAULT.into()) as u32,
        },
    }
}

/// The value, or its default where the client says zero.
pub fn or_default(value: u64, default: u64) -> u64 {
    if value == 0 { default } else { value }
}
