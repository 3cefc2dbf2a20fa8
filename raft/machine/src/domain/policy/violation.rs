//! Violations: what policies found, kept for a while and up to a number.

use tarn_proto::v1::{EventKind, PolicySeverity, RecordViolations, Violation, ViolationsRecorded};

use crate::error::{Fatal, Refusal};
use crate::ids::Id;
use crate::index::Wake;
use crate::keys::Key;
use crate::limits;
use crate::rows::ViolationRow;
use crate::txn::Txn;

/// The command: keeps what a node's gate saw. Where there is no room, the oldest make it.
pub fn record(txn: &mut Txn<'_>, request: RecordViolations) -> Result<ViolationsRecorded, Refusal> {
    let mut dropped = 0;
    for violation in request.violations {
        while txn.ix.violations.len() >= limits::VIOLATIONS_MAX {
            let Some(oldest) = txn.ix.violations.keys().next().copied() else {
                break;
            };
            expire_violation(txn, oldest)?;
            dropped += 1;
        }
        keep(txn, violation);
    }
    Ok(ViolationsRecorded { dropped })
}

fn keep(txn: &mut Txn<'_>, violation: Violation) {
    let id = txn.next_id();
    if violation.severity() == PolicySeverity::Critical {
        let detail = format!("{} {}: {}", violation.policy, violation.version, violation.message);
        let event = txn.event(EventKind::PolicyViolated, Id(id).to_string());
        event.namespace = violation.namespace.clone();
        event.detail = detail;
    }
    let row = ViolationRow { at_ms: txn.now, violation: Some(violation) };
    txn.rows.put(Key::Violation { id }, &row);
    insert(txn, id);
}

fn insert(txn: &mut Txn<'_>, id: u64) {
    let at = txn.now + limits::VIOLATION_KEPT_MS;
    txn.ix.violations.insert(id, at);
    txn.ix.wakes.insert((at, Wake::Violation { id }));
}

/// The violation is old enough, or has to make room.
pub fn expire_violation(txn: &mut Txn<'_>, id: u64) -> Result<(), Fatal> {
    let Some(at) = txn.ix.violations.remove(&id) else {
        return Err(Fatal::assertion("an index has a violation that does not exist"));
    };
    txn.ix.wakes.remove(&(at, Wake::Violation { id }));
    txn.rows.delete(Key::Violation { id });
    Ok(())
}

/// A violation as users see it.
pub fn violation(id: u64, row: ViolationRow) -> Violation {
    Violation { violation_id: Id(id).to_string(), at_ms: row.at_ms, ..row.violation.unwrap_or_default() }
}
