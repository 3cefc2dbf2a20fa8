//! Decisions: what was decided, by whom and why, in a chain of hashes that shows whether anything was changed afterwards.
//!
//! An entry's records are one row, written in the batch of their effects. A row begins with the hash of the row before, so that a changed
//! byte is found, and found where it is: the row's own hash is then not what the next one says. Old rows are dropped from the front; the
//! hash of the last one that went stays, so that what is left can still be verified from its beginning.
//!
//! Only clusters of machine version [`SINCE`] and later keep records.

use bytes::Bytes;
use prost::Message;
use tarn_proto::v1::{
    AuditSettings, Command, Decision, DecisionKind, DecisionsRecorded, PutAuditSettingsRequest, PutAuditSettingsResponse, RecordDecisions,
    Rejection, command, outcome,
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

/// The machine version from which on there are records.
pub const SINCE: u32 = 2;
/// What a row begins with: the hash of the row before.
pub const HASH_BYTES: usize = 32;

impl Txn<'_> {
    /// Records a decision; the caller fills in what applies.
    pub fn decide(&mut self, record: DecisionRow) {
        if self.meta.version >= SINCE {
            self.decisions.push(record);
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

/// What is to be recorded of a command once its outcome is known. None of what workers do all the time, unless the gate has something to
/// say about it; but whoever comes too late is recorded anyway.
pub fn draft(txn: &Txn<'_>, command: &mut Command) -> Option<DecisionRow> {
    // The raise itself is the first record.
    let begins = |body: &&command::Body| matches!(body, command::Body::RaiseVersion(_));
    // What a leader's node keeps for the federation is no decision, and of a batch each command is one.
    let is_decision = |body: &&command::Body| !matches!(body, command::Body::CommitReplica(_) | command::Body::Batch(_));
    let body = command.body.as_ref().filter(|body| txn.meta.version >= SINCE || begins(body)).filter(is_decision)?;
    let mut record = DecisionRow {
        principal: command.principal.clone(),
        action: body.name().to_owned(),
        request_id: if txn.batch_id.is_empty() { body.request_id() } else { &txn.batch_id }.to_owned(),
        gate: command.gate.take().map(|gate| *gate),
        ..DecisionRow::default()
    };
    describe(&mut record, body);
    Some(record)
}

/// Fills in what a command is about.
fn describe(record: &mut DecisionRow, body: &command::Body) {
    use command::Body as C;
    let about = |record: &mut DecisionRow, namespace: &str, kind: &str, name: &str| {
        record.namespace = namespace.to_owned();
        record.resource = format!("{kind}/{name}");
    };
    let task = |record: &mut DecisionRow, namespace: &str, id: &str| {
        record.namespace = namespace.to_owned();
        record.task = parse_id(id, "").unwrap_or_default();
    };
    match body {
        C::Enqueue(r) => {
            let queue = r.tasks.first().map_or("", |task| &task.queue);
            about(record, &r.namespace, "queue", queue);
            record.count = r.tasks.len() as u32;
        }
        C::CancelTask(r) => task(record, &r.namespace, &r.task_id),
        C::CompleteTask(r) => task(record, &r.namespace, &r.task_id),
        C::FailTask(r) => task(record, &r.namespace, &r.task_id),
        C::RequeueDead(r) => about(record, &r.namespace, "queue", &r.queue),
        C::PurgeQueue(r) => about(record, &r.namespace, "queue", &r.queue),
        C::RegisterWorker(r) => record.detail = r.name.clone(),
        C::DrainWorker(r) => record.worker = parse_id(&r.worker_id, "").unwrap_or_default(),
        C::LeaseTasks(r) => record.worker = parse_id(&r.worker_id, "").unwrap_or_default(),
        C::AcquireLease(r) => about(record, &r.namespace, "lease", &r.name),
        C::RenewLease(r) => about(record, &r.namespace, "lease", &r.name),
        C::ReleaseLease(r) => about(record, &r.namespace, "lease", &r.name),
        C::ScheduleTimer(r) => about(record, &r.namespace, "timer", ""),
        C::CancelTimer(r) => about(record, &r.namespace, "timer", &r.timer_id),
        C::CreateNamespace(r) => about(record, &r.name, "namespace", &r.name),
        C::UpdateNamespace(r) => about(record, &r.name, "namespace", &r.name),
        C::DeleteNamespace(r) => about(record, &r.name, "namespace", &r.name),
        C::RaiseVersion(r) => record.detail = r.version.to_string(),
        C::StartFederation(_) | C::LeaveFederation(_) | C::PutInvitation(_) | C::ConsumeInvitation(_) => {
            about(record, "", "federation", "members");
        }
        C::ShareContext(r) => about(record, &r.namespace, "context", &r.context),
        C::AcceptTransfer(r) => {
            let transfer = r.transfer.clone().unwrap_or_default();
            about(record, &transfer.namespace, "transfer", &transfer.transfer_id);
            record.detail = format!("task {} of {}", transfer.origin_task_id, transfer.origin_name);
        }
        C::ConfirmTransfer(r) => about(record, "", "transfer", &r.transfer_id),
        C::ExtendTransfer(r) => about(record, "", "transfer", &r.transfer_id),
        C::CloseTransfer(r) => about(record, "", "transfer", &r.transfer_id),
        C::PutRole(r) => about(record, "", "role", &r.name),
        C::DeleteRole(r) => about(record, "", "role", &r.name),
        C::PutBinding(r) => bound(record, r.binding.as_ref()),
        C::DeleteBinding(r) => bound(record, r.binding.as_ref()),
        C::PutToken(r) => about(record, "", "token", &r.principal),
        C::RevokeToken(r) => about(record, "", "token", &r.token_id),
        C::RevokeCertificate(r) => about(record, "", "certificate", &r.serial),
        C::PutBundle(r) => policy(record, &r.environment, &r.name, &r.version),
        C::ActivateBundle(r) => policy(record, &r.environment, &r.name, &r.version),
        C::RollbackBundle(r) => policy(record, &r.environment, &r.name, ""),
        C::DeactivateBundle(r) => policy(record, &r.environment, &r.name, ""),
        C::DeleteBundle(r) => policy(record, &r.environment, &r.name, &r.version),
        C::PutPolicyHandler(r) => about(record, "", "policy-handler", &r.name),
        C::DeletePolicyHandler(r) => about(record, "", "policy-handler", &r.name),
        C::PutPolicySettings(_) => about(record, "", "policy-settings", ""),
        C::PutSchedulerSettings(_) => about(record, "", "scheduler-settings", ""),
        C::PutKey(r) => context(record, &r.namespace, &r.context, &r.key),
        C::DeleteKey(r) => context(record, &r.namespace, &r.context, &r.key),
        C::SnapshotContext(r) => context(record, &r.namespace, &r.context, &r.snapshot),
        C::RestoreContext(r) => context(record, &r.namespace, &r.context, &r.snapshot),
        C::DeleteSnapshot(r) => context(record, &r.namespace, &r.context, &r.snapshot),
        C::DeleteContext(r) => context(record, &r.namespace, &r.context, ""),
        C::InstallDriver(r) => driver(record, &r.namespace, &r.name, r.spec.as_ref()),
        C::UpgradeDriver(r) => driver(record, &r.namespace, &r.name, r.spec.as_ref()),
        C::RemoveDriver(r) => about(record, &r.namespace, "driver", &r.name),
        C::AdvanceDriver(r) => {
            about(record, &r.namespace, "driver", &r.name);
            record.count = r.tasks.len() as u32;
        }
        C::PutDriverSettings(_) => about(record, "", "driver-settings", ""),
        _ => {}
    }
}

fn context(record: &mut DecisionRow, namespace: &str, name: &str, part: &str) {
    record.namespace = namespace.to_owned();
    record.resource = format!("context/{name}");
    record.detail = part.to_owned();
}

fn policy(record: &mut DecisionRow, environment: &str, name: &str, version: &str) {
    record.resource = format!("policy/{name}");
    record.detail = format!("{version} in {environment}").trim_start().to_owned();
}

/// What was to be run, and whose signature it bears.
fn driver(record: &mut DecisionRow, namespace: &str, name: &str, spec: Option<&tarn_proto::v1::DriverSpec>) {
    record.namespace = namespace.to_owned();
    record.resource = format!("driver/{name}");
    if let Some(spec) = spec {
        let signer: String = spec.signer.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let signed = if signer.is_empty() { "not signed".to_owned() } else { format!("signed by {signer}") };
        record.detail = format!("{} {signed}", spec.artifact);
    }
}

fn bound(record: &mut DecisionRow, binding: Option<&tarn_proto::v1::Binding>) {
    if let Some(binding) = binding {
        record.resource = format!("binding/{}", binding.principal);
        record.detail = format!("{} in {}", binding.role, binding.namespace);
    }
}

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
pub fn admitted(txn: &mut Txn<'_>, draft: Option<DecisionRow>, place: usize, answer: &outcome::Body) {
    let recorded = |draft: &DecisionRow| txn.meta.version >= SINCE && (draft.gate.is_some() || !is_traffic(answer));
    let Some(mut record) = draft.filter(recorded) else {
        return;
    };
    record.set_kind(DecisionKind::Admitted);
    match answer {
        outcome::Body::Enqueue(answer) => {
            record.task = answer.task_ids.first().and_then(|id| parse_id(id, "").ok()).unwrap_or_default();
        }
        outcome::Body::AdvanceDriver(answer) => {
            record.task = answer.task_ids.first().and_then(|id| parse_id(id, "").ok()).unwrap_or_default();
        }
        outcome::Body::ConfirmTransfer(answer) => record.task = parse_id(&answer.task_id, "").unwrap_or_default(),
        outcome::Body::CloseTransfer(answer) => record.task = parse_id(&answer.task_id, "").unwrap_or_default(),
        outcome::Body::RegisterWorker(answer) => record.worker = parse_id(&answer.worker_id, "").unwrap_or_default(),
        _ => {}
    }
    txn.decisions.insert(place, record);
}

/// Records that the kernel refused a command: where a quota said so, where the asker came too late, and where the gate has something to say
/// about it.
pub fn refused(txn: &mut Txn<'_>, draft: Option<DecisionRow>, rejection: &Rejection) {
    let always = rejection.reason == "STALE_TOKEN" || rejection.reason.starts_with("QUOTA_");
    let Some(mut record) = draft.filter(|draft| always || draft.gate.is_some()) else {
        return;
    };
    record.set_kind(DecisionKind::Refused);
    record.step = "kernel".to_owned();
    record.reason = rejection.reason.clone();
    record.detail = rejection.field.clone();
    txn.decide(record);
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
    if !txn.decisions.is_empty() {
        append(txn, &mut chain);
    }
    if chain != txn.ix.chain {
        txn.rows.put(Key::Chain, &chain);
        txn.ix.chain = chain;
    }
    Ok(())
}

fn append(txn: &mut Txn<'_>, chain: &mut ChainRow) {
    let records = std::mem::take(&mut txn.decisions);
    let row = DecisionsRow { number: chain.head_rows + 1, at_ms: txn.now, count: records.len() as u64, records };
    let mut bytes = Vec::with_capacity(HASH_BYTES + row.encoded_len());
    bytes.extend_from_slice(&chain.head_hash);
    bytes.resize(HASH_BYTES, 0);
    row.encode_raw(&mut bytes);
    if chain.records == 0 {
        chain.oldest_ms = row.at_ms;
    }
    chain.records += row.count;
    chain.bytes += bytes.len() as u64;
    chain.head_index = txn.index;
    chain.head_rows = row.number;
    chain.head_hash = Bytes::copy_from_slice(&hash(txn.index, &bytes));
    txn.rows.put_bytes(Key::Decisions { index: txn.index }, bytes.into());
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
