//! Decisions: that an entry's records tell what happened in it, and that their chain is whole. The kernel's own walk along the chain has no
//! part in this: hashes are worked out again from the rows as they lie on disk, and records are read by the contract's descriptors of what
//! the kernel lists.

use std::collections::BTreeMap;

use tarn_machine::keys::Key;
use tarn_machine::{Applied, Machine, STATE};
use tarn_proto::v1::{Decision, DecisionKind, Event, EventKind, GetAuditSettingsRequest, ListDecisionsRequest, outcome};
use tarn_storage::{Engine, MemoryEngine, Range};

use crate::invariants::Check;
use crate::reference::{Line, Model};

/// What the records of one entry said, for the count of what scripts came across.
type Told = Vec<&'static str>;

/// "Explained: a choice leaves a decision record in the same batch": exactly one for each event that is one, with the same task, worker,
/// attempt and reason; and one for whoever came too late. `before` is the version that the cluster had before the entry.
pub fn of_entry_tell_what_happened(
    engine: &MemoryEngine,
    machine: &Machine,
    (before, model): (u32, &Model),
    lines: &[Line],
    applied: &Applied,
) -> Result<Told, String> {
    let index = model.index;
    let row = engine.get(STATE, &Key::Decisions { index }.encode()).map_err(|error| error.to_string())?;
    if model.version < 2 {
        return match row {
            None => Ok(Vec::new()),
            Some(_) => Err("a cluster of version 1 has records".to_owned()),
        };
    }
    let records = read(machine, index)?;
    // The entry in which the version was raised to one that keeps records does so from there on.
    let rises = |event: &Event| event.kind() == EventKind::VersionRaised && before < 2;
    let raised = applied.events.iter().position(rises);
    let mut expected: BTreeMap<(i32, String, String, u32, String), i64> = BTreeMap::new();
    for event in applied.events.iter().skip(raised.unwrap_or(0)) {
        if let Some(key) = of_event(event) {
            *expected.entry(key).or_default() += 1;
        }
    }
    let mut told = Vec::new();
    for record in &records {
        told.push(record.kind().as_str_name());
        let key = (record.kind, record.task_id.clone(), record.worker.clone(), record.attempt, record.reason.clone());
        match record.kind() {
            DecisionKind::Admitted | DecisionKind::Refused => {}
            _ => *expected.entry(key).or_default() -= 1,
        }
    }
    if let Some((key, count)) = expected.iter().find(|(_, count)| **count != 0) {
        return Err(format!("{count} records more or less than events of {key:?}: {records:#?}"));
    }
    if raised.is_none() {
        refusals_are_recorded(lines, applied, &records)?;
        commands_are_recorded_with_what_the_gate_said(lines, applied, &records)?;
    }
    Ok(told)
}

/// The record that an event must have: kind, task, worker, attempt, reason.
fn of_event(event: &Event) -> Option<(i32, String, String, u32, String)> {
    let (kind, reason) = match event.kind() {
        EventKind::TaskLeased => (DecisionKind::Leased, ""),
        EventKind::TaskRetried => (DecisionKind::Retried, event.detail.as_str()),
        EventKind::TaskDead => (DecisionKind::Dead, event.detail.as_str()),
        EventKind::TaskCancelled => (DecisionKind::Cancelled, event.detail.as_str()),
        EventKind::TaskReturned => (DecisionKind::Returned, ""),
        EventKind::TaskRequeued => (DecisionKind::Requeued, ""),
        EventKind::WorkerGone => (DecisionKind::Worker, "WORKER_EXPIRED"),
        _ => return None,
    };
    let task = if kind == DecisionKind::Worker { "" } else { event.subject.as_str() };
    Some((kind.into(), task.to_owned(), event.worker.clone(), event.attempt, reason.to_owned()))
}

fn rejected(answer: &outcome::Body) -> Option<&str> {
    match answer {
        outcome::Body::Rejected(rejection) => Some(&rejection.reason),
        _ => None,
    }
}

/// Whoever came too late, or asked for more than a quota allows, is recorded, with who it was; and nobody else, unless the gate had something to say.
fn refusals_are_recorded(lines: &[Line], applied: &Applied, records: &[Decision]) -> Check {
    let by_kernel: Vec<&Decision> = records.iter().filter(|record| record.step == "kernel").collect();
    let mut expected = Vec::new();
    for (line, outcome) in lines.iter().zip(&applied.outcomes) {
        let Some(reason) = outcome.body.as_ref().and_then(rejected) else {
            continue;
        };
        let well_formed = line.refused_as.is_none() && reason != "CLUSTER_VERSION_TOO_LOW";
        let always = reason == "STALE_TOKEN" || reason.starts_with("QUOTA_");
        if well_formed && (always || line.command.gate.is_some()) {
            expected.push((line.command.principal.as_str(), reason));
        }
    }
    let found: Vec<_> = by_kernel.iter().map(|r| (r.principal.as_str(), r.reason.as_str())).collect();
    match found == expected {
        true => Ok(()),
        false => Err(format!("refused were {expected:?}, recorded {found:?}")),
    }
}

/// Each command that the gate said something about, and that was carried out, has it in its record.
fn commands_are_recorded_with_what_the_gate_said(lines: &[Line], applied: &Applied, records: &[Decision]) -> Check {
    let admitted: Vec<&Decision> = records.iter().filter(|record| record.kind() == DecisionKind::Admitted).collect();
    for (line, outcome) in lines.iter().zip(&applied.outcomes) {
        let done = outcome.body.as_ref().is_some_and(|body| rejected(body).is_none());
        let Some(gate) = line.command.gate.as_deref().filter(|_| done) else {
            continue;
        };
        let found = |record: &&&Decision| record.gate.as_ref() == Some(gate) && record.principal == line.command.principal;
        // A repeat changed nothing and is not recorded again: its first time may have been before the gate had anything to say.
        let id = line.command.body.as_ref().map_or("", |body| body.request_id());
        if id.is_empty() && admitted.iter().filter(found).count() == 0 {
            return Err(format!("what the gate said is not recorded: {gate:?} in {records:#?}"));
        }
    }
    Ok(())
}

fn read(machine: &Machine, index: u64) -> Result<Vec<Decision>, String> {
    let request = ListDecisionsRequest { after_index: index - 1, page_size: 1, ..ListDecisionsRequest::default() };
    let list = machine.list_decisions(&request).map_err(|refusal| refusal.to_string())?;
    Ok(list.decisions.into_iter().filter(|record| record.index == index).collect())
}

/// "A hash chain over rows (BLAKE3(previous hash ‖ row bytes)), the head in the state": recomputed from what lies on disk. The kernel's walk
/// must say the same.
pub fn chain_is_whole(engine: &MemoryEngine, machine: &Machine) -> Check {
    let settings = machine.get_audit_settings(&GetAuditSettingsRequest {}).map_err(|refusal| refusal.to_string())?;
    let ends = settings.chain.ok_or("no chain")?;
    let (mut previous, mut rows, mut bytes) = (ends.start_hash.to_vec(), ends.start_rows, 0);
    for entry in engine.scan(STATE, Range::prefix(&[0x60])) {
        let (key, row) = entry.map_err(|error| error.to_string())?;
        if row.get(..32) != Some(&previous[..]) {
            return Err(format!("the row under {key:02x?} does not begin with the hash of the row before"));
        }
        let hashed = [&row[..32], &key[1..], &row[32..]].concat();
        previous = blake3::hash(&hashed).as_bytes().to_vec();
        rows += 1;
        bytes += row.len() as u64;
    }
    if (previous.as_slice(), rows, bytes) != (ends.head_hash.as_ref(), ends.head_rows, settings.bytes) {
        return Err(format!("the chain's head is not that of its {rows} rows: {ends:?}"));
    }
    let mut walk = machine.chain_walk(0);
    while !machine.walk_chain(&mut walk, 7) {}
    let report = walk.report(1);
    match report.faults.is_empty() && report.through_hash == ends.head_hash && report.records == settings.records {
        true => Ok(()),
        false => Err(format!("a whole chain is reported as {report:?}, with {} records", settings.records)),
    }
}
