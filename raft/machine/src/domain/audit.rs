//! Decisions: what was decided, by whom and why, in a chain of hashes that shows whether anything was changed afterwards.
//!
//! An entry's records are one row, written in the batch of their effects. A row begins with the hash of the row before, so that a changed
//! byte is found, and found where it is: the row's own hash is then not what the next one says. Old rows are dropped from the front; the
//! hash of the last one that went stays, so that what is left can still be verified from its beginning.
//!
//! Only clusters of machine version [`SINCE`] and later keep records.

mod draft;

use bytes::Bytes;
use prost::Message;
use tarn_proto::v1::{
    AuditSettings, Decision, DecisionKind, DecisionsRecorded, PutAuditSettingsRequest, PutAuditSettingsResponse, RecordDecisions,
    Rejection, outcome,
};
use tarn_storage::Range;

use super::{nodes_only, parse_id};
use crate::advance::damaged;
use crate::error::{Fatal, Refusal};
use crate::keys::{Key, first, prefix};
use crate::limits;
use crate::overlay::STATE;
use crate::rows::{ChainRow, DecisionRow, DecisionsHead, DecisionsRow};
use crate::task::Task;
use crate::task::spec::or_default;
use crate::txn::Txn;

pub use draft::{Decisions, Draft, draft};

/// The machine version from which on there are records.
pub const SINCE: u32 = 2;
/// What a row begins with: the hash of the row before.
pub const HASH_BYTES: usize = 32;

impl Txn<'_> {
    /// Records a decision; the caller fills in what applies.
    pub fn decide(&mut self, record: DecisionRow) {
        if self.meta.version >= SINCE {
            self.decisions.push(&record);
        }
    }
}

impl Task {
    /// Records a decision about this task and its running attempt, and remembers in its row where. To be called before it is saved.
    pub fn decide(&mut self, txn: &mut Txn<'_>, kind: DecisionKind, reason: &str, delay_ms: u64) -> Result<(), Fatal> {
        if txn.meta.version < SINCE {
            return Ok(());
        }
        let running = self.row.attempts.last().filter(|_| self.row.token != 0);
        let record = DecisionRow {
            kind: kind.into(),
            namespace: txn.namespace_name(self.ns)?,
            task: self.id,
            worker: running.map_or(0, |attempt| attempt.worker),
            attempt: running.map_or(0, |attempt| attempt.number),
            reason: reason.to_owned(),
            delay_ms,
            ..DecisionRow::default()
        };
        self.decided(txn);
        txn.decide(record);
        Ok(())
    }

    /// Remembers that this entry has a record about the task. To be called before it is saved.
    pub fn decided(&mut self, txn: &Txn<'_>) {
        let known = &mut self.row.decided_at;
        if txn.meta.version >= SINCE && known.last() != Some(&txn.index) {
            if known.len() >= limits::RECORDS_OF_TASK_KEPT {
                known.remove(0);
            }
            known.push(txn.index);
        }
    }
}

// --- Commands --------------------------------------------------------------------------------------------------------------------------

/// Whether a command is recorded only if the gate has something to say about it: what workers, holders of locks and writers of contexts do
/// all the time.
fn is_traffic(body: &outcome::Body) -> bool {
    use outcome::Body as O;
    matches!(
        body,
        O::LeaseTasks(_)
            | O::HeartbeatTasks(_)
            | O::CompleteTask(_)
            | O::FailTask(_)
            | O::HeartbeatWorker(_)
            | O::AcquireLease(_)
            | O::RenewLease(_)
            | O::ReleaseLease(_)
            | O::PutKey(_)
            | O::DeleteKey(_)
            | O::RecordDecisions(_)
            | O::RecordViolations(_)
            | O::AcknowledgeEscalations(_)
            | O::PlaceTasks(_)
            | O::ExtendTransfer(_)
    ) || matches!(body, O::AdvanceDriver(answer) if answer.task_ids.is_empty())
}

/// Records that a command was carried out, before the records of what it did, which begin at `place`.
pub fn admitted(txn: &mut Txn<'_>, draft: Option<Draft>, place: usize, answer: &outcome::Body) {
    let Some(mut draft) = draft else { return };
    if txn.meta.version >= SINCE && (draft.has_gate || !is_traffic(answer)) {
        let number = |id: &String| parse_id(id, "").unwrap_or_default();
        match answer {
            outcome::Body::Enqueue(answer) => draft.task = answer.task_ids.first().map_or(0, number),
            outcome::Body::AdvanceDriver(answer) => draft.task = answer.task_ids.first().map_or(0, number),
            outcome::Body::ConfirmTransfer(answer) => draft.task = number(&answer.task_id),
            outcome::Body::CloseTransfer(answer) => draft.task = number(&answer.task_id),
            outcome::Body::RegisterWorker(answer) => draft.worker = number(&answer.worker_id),
            _ => {}
        }
        txn.decisions.insert(place, &draft, DecisionKind::Admitted, None);
    }
    txn.draft = draft.bytes;
}

/// Records that the kernel refused a command: where a quota said so, where the asker came too late, and where the gate has something to say
/// about it.
pub fn refused(txn: &mut Txn<'_>, draft: Option<Draft>, rejection: &Rejection) {
    let always = rejection.reason == "STALE_TOKEN" || rejection.reason.starts_with("QUOTA_");
    let Some(draft) = draft.filter(|draft| always || draft.has_gate) else {
        return;
    };
    if txn.meta.version >= SINCE {
        txn.decisions.insert(txn.decisions.end(), &draft, DecisionKind::Refused, Some(rejection));
    }
}

/// Records that the cluster's members changed, in the entry that does nothing else.
pub fn members(txn: &mut Txn<'_>, members: String) -> Result<(), Fatal> {
    txn.decide(DecisionRow { kind: DecisionKind::Members.into(), detail: members, ..DecisionRow::default() });
    seal(txn)
}

/// The command: records what a node decided.
pub fn record_decisions(txn: &mut Txn<'_>, node: &str, request: RecordDecisions) -> Result<DecisionsRecorded, Refusal> {
    nodes_only(node, "record what they decided")?;
    for decision in request.decisions {
        txn.decide(row_of(decision));
    }
    if request.dropped > 0 {
        txn.decide(DecisionRow {
            kind: DecisionKind::Refused.into(),
            principal: node.to_owned(),
            reason: "NOT_RECORDED".to_owned(),
            count: u32::try_from(request.dropped).unwrap_or(u32::MAX),
            ..DecisionRow::default()
        });
    }
    Ok(DecisionsRecorded {})
}

/// A node's decision, a refusal unless it says otherwise: of all fields only those that a gate knows.
fn row_of(decision: Decision) -> DecisionRow {
    let kind = match decision.kind() {
        DecisionKind::Admitted => DecisionKind::Admitted,
        _ => DecisionKind::Refused,
    };
    DecisionRow {
        kind: kind.into(),
        namespace: decision.namespace,
        task: parse_id(&decision.task_id, "").unwrap_or_default(),
        principal: decision.principal,
        action: decision.action,
        resource: decision.resource,
        reason: decision.reason,
        step: decision.step,
        request_id: decision.request_id,
        gate: decision.gate,
        count: decision.count,
        detail: decision.detail,
        traces: decision.traces,
        ..DecisionRow::default()
    }
}

/// The command: how long records are kept, from this entry on.
pub fn put_settings(txn: &mut Txn<'_>, request: PutAuditSettingsRequest) -> Result<PutAuditSettingsResponse, Refusal> {
    let settings = request.settings.unwrap_or_default();
    txn.rows.put(Key::AuditSettings, &settings);
    txn.ix.audit_settings = settings;
    Ok(PutAuditSettingsResponse { settings: Some(with_defaults(settings)) })
}

/// Settings with every default filled in.
pub fn with_defaults(settings: AuditSettings) -> AuditSettings {
    AuditSettings {
        retention_ms: or_default(settings.retention_ms, limits::AUDIT_RETENTION_MS_DEFAULT),
        records_max: or_default(settings.records_max, limits::AUDIT_RECORDS_DEFAULT),
        bytes_max: or_default(settings.bytes_max, limits::AUDIT_BYTES_DEFAULT),
    }
}

// --- The chain -------------------------------------------------------------------------------------------------------------------------

/// The hash of a row: over the hash of the row before, which it begins with, the log index under which it lies, and its records.
pub fn hash(index: u64, row: &[u8]) -> [u8; HASH_BYTES] {
    let (previous, records) = row.split_at(row.len().min(HASH_BYTES));
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous);
    hasher.update(&index.to_be_bytes());
    hasher.update(records);
    *hasher.finalize().as_bytes()
}

/// Ends the entry: drops what is too old, and writes the entry's records as the chain's next row.
pub fn seal(txn: &mut Txn<'_>) -> Result<(), Fatal> {
    let mut chain = txn.ix.chain.clone();
    drop_old(txn, &mut chain)?;
    if txn.decisions.end() != 0 {
        append(txn, &mut chain);
    }
    if chain != txn.ix.chain {
        txn.rows.put(Key::Chain, &chain);
        txn.ix.chain = chain;
    }
    Ok(())
}

fn append(txn: &mut Txn<'_>, chain: &mut ChainRow) {
    let (mut records, count) = std::mem::take(&mut txn.decisions).into_parts();
    let row = DecisionsHead { number: chain.head_rows + 1, at_ms: txn.now, count };
    let mut bytes = Vec::with_capacity(HASH_BYTES + row.encoded_len() + records.len());
    bytes.extend_from_slice(&chain.head_hash);
    bytes.resize(HASH_BYTES, 0);
    row.encode_raw(&mut bytes);
    bytes.extend_from_slice(&records);
    records.clear();
    txn.decisions = Decisions::new(records);
    if chain.records == 0 {
        chain.oldest_ms = row.at_ms;
    }
    chain.records += row.count;
    chain.bytes += bytes.len() as u64;
    chain.head_index = txn.index;
    chain.head_rows = row.number;
    chain.head_hash = Bytes::copy_from_slice(&hash(txn.index, &bytes));
    txn.rows.put_bytes(Key::Decisions { index: txn.index }, bytes);
}

/// Drops rows from the front while they are too old, too many or too large together, but only so many at once.
fn drop_old(txn: &mut Txn<'_>, chain: &mut ChainRow) -> Result<(), Fatal> {
    let settings = with_defaults(txn.ix.audit_settings);
    let now = txn.now;
    let due = |chain: &ChainRow| {
        let old = chain.oldest_ms.saturating_add(settings.retention_ms) <= now;
        chain.records > 0 && (old || chain.records > settings.records_max || chain.bytes > settings.bytes_max)
    };
    if !due(chain) {
        return Ok(());
    }
    // From the place on where the last one went: an engine would have to step over the traces of all that went before.
    let (start, end) = (prefix(first::DECISIONS, &[chain.start_index + 1]), [first::DECISIONS + 1]);
    let engine = txn.rows.engine();
    let rows = engine.scan(STATE, Range::between(&start, &end)).take(limits::DECISION_ROWS_DROPPED_MAX + 1);
    for (dropped, entry) in rows.enumerate() {
        let (key, bytes) = entry?;
        let Some(key @ Key::Decisions { index }) = Key::decode(&key) else {
            return Err(damaged(&key));
        };
        let head = head(&bytes).ok_or_else(|| Fatal::assertion(format!("the row under {key:?} cannot be decoded")))?;
        chain.oldest_ms = head.at_ms;
        if dropped == limits::DECISION_ROWS_DROPPED_MAX || !due(chain) {
            return Ok(());
        }
        let too_few = || Fatal::assertion("there are more decisions than were counted");
        chain.records = chain.records.checked_sub(head.count).ok_or_else(too_few)?;
        chain.bytes = chain.bytes.checked_sub(bytes.len() as u64).ok_or_else(too_few)?;
        chain.start_index = index;
        chain.start_rows = head.number;
        chain.start_hash = Bytes::copy_from_slice(&hash(index, &bytes));
        txn.rows.delete(key);
    }
    Ok(())
}

/// The records of a row; `None` if it is damaged.
pub fn records(row: &[u8]) -> Option<DecisionsRow> {
    DecisionsRow::decode(row.get(HASH_BYTES..)?).ok()
}

/// What a row begins with; `None` if it is damaged.
pub fn head(row: &[u8]) -> Option<DecisionsHead> {
    DecisionsHead::decode(row.get(HASH_BYTES..)?).ok()
}
