//! From what a submitter says to the rows of a task, with every default filled in.

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, message};
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

/// The changing part of a new task whose specification has so many bytes; its state is still to be decided.
pub fn row(spec: &TaskSpec, bytes: u64, queue: u64, class: Class, depends: bool, now: u64) -> TaskRow {
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
        spec_bytes: bytes,
        ..TaskRow::default()
    }
}

/// Writes what never changes of a task. Its specification has so many bytes, and lies in the log as `said` unless that is empty.
pub fn put(txn: &mut Txn<'_>, ns: u64, id: u64, mut spec: Box<TaskSpec>, said: &[u8], bytes: u64, dependencies: Vec<u64>) {
    let payload_apart = spec.payload.len() > limits::INLINE_BYTES_MAX;
    if payload_apart {
        txn.rows.put_bytes(Key::Payload { ns, id }, std::mem::take(&mut spec.payload));
    }
    let mut row = SpecRow { spec: None, dependencies, payload_apart };
    txn.rows.put_with(Key::Spec { ns, id }, |to| {
        if said.is_empty() || payload_apart {
            message::encode(1, &*spec, to);
        } else {
            encode_key(1, WireType::LengthDelimited, to);
            encode_varint(said.len() as u64, to);
            to.extend_from_slice(said);
        }
        row.encode_raw(to);
    });
    if !payload_apart {
        row.spec = Some(spec);
        txn.recent.keep_spec(id, row, bytes);
    }
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
