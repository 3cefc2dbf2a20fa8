//! What is to be recorded of a command, taken down before it is carried out, which uses it up.
//!
//! It is taken down as it will lie in its record, so that what is said all the time costs no memory of its own. How it ended, and what only
//! its outcome says, comes last.

use std::borrow::Cow;

use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, int32, message, uint32, uint64};
use tarn_proto::v1::{Command, DecisionKind, Rejection, command};

use super::SINCE;
use crate::domain::parse_id;
use crate::rows::DecisionRow;
use crate::txn::Txn;

/// The tag of a record among those of an entry, in [`DecisionsRow`](crate::rows::DecisionsRow).
const RECORD: u32 = 4;

/// The records of an entry, encoded.
#[derive(Default)]
pub struct Decisions {
    bytes: Vec<u8>,
    count: u64,
}

impl Decisions {
    /// None yet, with memory for them.
    pub fn new(memory: Vec<u8>) -> Self {
        Decisions { bytes: memory, count: 0 }
    }

    /// The records, as a [`DecisionsRow`](crate::rows::DecisionsRow) has them, and how many.
    pub fn into_parts(self) -> (Vec<u8>, u64) {
        (self.bytes, self.count)
    }

    /// Where the next one will stand.
    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a record.
    pub fn push(&mut self, record: &DecisionRow) {
        message::encode(RECORD, record, &mut self.bytes);
        self.count += 1;
    }

    /// Adds the record of a command before what stands at `place`.
    pub fn insert(&mut self, place: usize, draft: &Draft, kind: DecisionKind, refusal: Option<&Rejection>) {
        let end = self.bytes.len();
        draft.encode(kind, refusal, &mut self.bytes);
        let len = self.bytes.len() - end;
        self.bytes[place..].rotate_right(len);
        self.count += 1;
    }
}

/// What is known of a command before it is carried out.
#[derive(Default)]
pub struct Draft {
    /// Namespace; then principal, action and resource; then request id, gate and count; then detail: encoded as in [`DecisionRow`]. Once
    /// this is recorded, memory for the next one.
    pub bytes: Vec<u8>,
    /// Where the second, the third and the last of these begin.
    places: [usize; 3],
    /// Whether the gate has something to say about it.
    pub has_gate: bool,
    pub task: u64,
    pub worker: u64,
}

impl Draft {
    fn encode(&self, kind: DecisionKind, refusal: Option<&Rejection>, to: &mut Vec<u8>) {
        let kind = i32::from(kind);
        let numbers = [(3, self.task), (4, self.worker)];
        let numbers = || numbers.iter().filter(|(_, number)| *number != 0);
        let [second, third, last] = self.places;
        let mut why = Vec::new();
        let mut detail = Cow::Borrowed(&self.bytes[last..]);
        if let Some(refusal) = refusal {
            text(10, &refusal.reason, &mut why);
            text(11, "kernel", &mut why);
            detail.to_mut().clear();
            text(16, &refusal.field, detail.to_mut());
        }
        let numbers_len: usize = numbers().map(|(tag, number)| uint64::encoded_len(*tag, number)).sum();
        let len = int32::encoded_len(1, &kind) + numbers_len + last + why.len() + detail.len();
        to.reserve(len + 8);
        encode_key(RECORD, WireType::LengthDelimited, to);
        encode_varint(len as u64, to);
        int32::encode(1, &kind, to);
        to.extend_from_slice(&self.bytes[..second]);
        numbers().for_each(|(tag, number)| uint64::encode(*tag, number, to));
        to.extend_from_slice(&self.bytes[second..third]);
        to.extend_from_slice(&why);
        to.extend_from_slice(&self.bytes[third..last]);
        to.extend_from_slice(&detail);
    }
}

/// What is to be recorded of a command once its outcome is known. None of what workers do all the time, unless the gate has something to
/// say about it; but whoever comes too late is recorded anyway.
pub fn draft(txn: &mut Txn<'_>, command: &mut Command) -> Option<Draft> {
    // The raise itself is the first record.
    let begins = |body: &&command::Body| matches!(body, command::Body::RaiseVersion(_));
    // What a leader's node keeps for the federation is no decision, and of a batch each command is one.
    let is_decision = |body: &&command::Body| !matches!(body, command::Body::CommitReplica(_) | command::Body::Batch(_));
    let body = command.body.as_ref().filter(|body| txn.meta.version >= SINCE || begins(body)).filter(is_decision)?;
    let about = describe(body);
    let mut draft = Draft { bytes: std::mem::take(&mut txn.draft), task: about.task, worker: about.worker, ..Draft::default() };
    let to = &mut draft.bytes;
    to.clear();
    text(2, about.namespace, to);
    draft.places[0] = to.len();
    text(7, &command.principal, to);
    text(8, body.name(), to);
    if let Some((kind, name)) = about.resource {
        let len = kind.len() + 1 + name.len();
        to.reserve(len + 1 + encoded_len_varint(len as u64));
        encode_key(9, WireType::LengthDelimited, to);
        encode_varint(len as u64, to);
        for part in [kind, "/", name] {
            to.extend_from_slice(part.as_bytes());
        }
    }
    draft.places[1] = to.len();
    text(12, if txn.batch_id.is_empty() { body.request_id() } else { &txn.batch_id }, to);
    if let Some(gate) = command.gate.take() {
        message::encode(13, &*gate, to);
        draft.has_gate = true;
    }
    if about.count != 0 {
        uint32::encode(15, &about.count, to);
    }
    draft.places[2] = to.len();
    text(16, &about.detail, to);
    Some(draft)
}

fn text(tag: u32, text: &str, to: &mut Vec<u8>) {
    if !text.is_empty() {
        encode_key(tag, WireType::LengthDelimited, to);
        encode_varint(text.len() as u64, to);
        to.extend_from_slice(text.as_bytes());
    }
}

/// What a command is about.
#[derive(Default)]
struct About<'a> {
    namespace: &'a str,
    /// A kind and a name.
    resource: Option<(&'static str, &'a str)>,
    task: u64,
    worker: u64,
    count: u32,
    detail: Cow<'a, str>,
}

fn number(id: &str) -> u64 {
    parse_id(id, "").unwrap_or_default()
}

fn about<'a>(namespace: &'a str, kind: &'static str, name: &'a str) -> About<'a> {
    About { namespace, resource: Some((kind, name)), ..About::default() }
}

fn task<'a>(namespace: &'a str, id: &str) -> About<'a> {
    About { namespace, task: number(id), ..About::default() }
}

fn describe(body: &command::Body) -> About<'_> {
    use command::Body as C;
    match body {
        C::Enqueue(r) => {
            let queue = r.tasks.first().map_or("", |task| &task.queue);
            About { count: r.tasks.len() as u32, ..about(&r.namespace, "queue", queue) }
        }
        C::CancelTask(r) => task(&r.namespace, &r.task_id),
        C::CompleteTask(r) => task(&r.namespace, &r.task_id),
        C::FailTask(r) => task(&r.namespace, &r.task_id),
        C::RequeueDead(r) => about(&r.namespace, "queue", &r.queue),
        C::PurgeQueue(r) => about(&r.namespace, "queue", &r.queue),
        C::RegisterWorker(r) => About { detail: Cow::Borrowed(&r.name), ..About::default() },
        C::DrainWorker(r) => About { worker: number(&r.worker_id), ..About::default() },
        C::LeaseTasks(r) => About { worker: number(&r.worker_id), ..About::default() },
        C::AcquireLease(r) => about(&r.namespace, "lease", &r.name),
        C::RenewLease(r) => about(&r.namespace, "lease", &r.name),
        C::ReleaseLease(r) => about(&r.namespace, "lease", &r.name),
        C::ScheduleTimer(r) => about(&r.namespace, "timer", ""),
        C::CancelTimer(r) => about(&r.namespace, "timer", &r.timer_id),
        C::CreateNamespace(r) => about(&r.name, "namespace", &r.name),
        C::UpdateNamespace(r) => about(&r.name, "namespace", &r.name),
        C::DeleteNamespace(r) => about(&r.name, "namespace", &r.name),
        C::RaiseVersion(r) => About { detail: r.version.to_string().into(), ..About::default() },
        C::StartFederation(_) | C::LeaveFederation(_) | C::PutInvitation(_) | C::ConsumeInvitation(_) => about("", "federation", "members"),
        C::ShareContext(r) => about(&r.namespace, "context", &r.context),
        C::AcceptTransfer(r) => {
            let Some(transfer) = &r.transfer else { return about("", "transfer", "") };
            let detail = format!("task {} of {}", transfer.origin_task_id, transfer.origin_name).into();
            About { detail, ..about(&transfer.namespace, "transfer", &transfer.transfer_id) }
        }
        C::ConfirmTransfer(r) => about("", "transfer", &r.transfer_id),
        C::ExtendTransfer(r) => about("", "transfer", &r.transfer_id),
        C::CloseTransfer(r) => about("", "transfer", &r.transfer_id),
        C::PutRole(r) => about("", "role", &r.name),
        C::DeleteRole(r) => about("", "role", &r.name),
        C::PutBinding(r) => bound(r.binding.as_ref()),
        C::DeleteBinding(r) => bound(r.binding.as_ref()),
        C::PutToken(r) => about("", "token", &r.principal),
        C::RevokeToken(r) => about("", "token", &r.token_id),
        C::RevokeCertificate(r) => about("", "certificate", &r.serial),
        C::PutBundle(r) => policy(&r.environment, &r.name, &r.version),
        C::ActivateBundle(r) => policy(&r.environment, &r.name, &r.version),
        C::RollbackBundle(r) => policy(&r.environment, &r.name, ""),
        C::DeactivateBundle(r) => policy(&r.environment, &r.name, ""),
        C::DeleteBundle(r) => policy(&r.environment, &r.name, &r.version),
        C::PutPolicyHandler(r) => about("", "policy-handler", &r.name),
        C::DeletePolicyHandler(r) => about("", "policy-handler", &r.name),
        C::PutPolicySettings(_) => about("", "policy-settings", ""),
        C::PutSchedulerSettings(_) => about("", "scheduler-settings", ""),
        C::PutKey(r) => context(&r.namespace, &r.context, &r.key),
        C::DeleteKey(r) => context(&r.namespace, &r.context, &r.key),
        C::SnapshotContext(r) => context(&r.namespace, &r.context, &r.snapshot),
        C::RestoreContext(r) => context(&r.namespace, &r.context, &r.snapshot),
        C::DeleteSnapshot(r) => context(&r.namespace, &r.context, &r.snapshot),
        C::DeleteContext(r) => context(&r.namespace, &r.context, ""),
        C::InstallDriver(r) => driver(&r.namespace, &r.name, r.spec.as_ref()),
        C::UpgradeDriver(r) => driver(&r.namespace, &r.name, r.spec.as_ref()),
        C::RemoveDriver(r) => about(&r.namespace, "driver", &r.name),
        C::AdvanceDriver(r) => About { count: r.tasks.len() as u32, ..about(&r.namespace, "driver", &r.name) },
        C::PutDriverSettings(_) => about("", "driver-settings", ""),
        _ => About::default(),
    }
}

fn context<'a>(namespace: &'a str, name: &'a str, part: &'a str) -> About<'a> {
    About { detail: Cow::Borrowed(part), ..about(namespace, "context", name) }
}

fn policy<'a>(environment: &str, name: &'a str, version: &str) -> About<'a> {
    About { detail: format!("{version} in {environment}").trim_start().to_owned().into(), ..about("", "policy", name) }
}

/// What was to be run, and whose signature it bears.
fn driver<'a>(namespace: &'a str, name: &'a str, spec: Option<&tarn_proto::v1::DriverSpec>) -> About<'a> {
    let said = |spec: &tarn_proto::v1::DriverSpec| {
        let signer: String = spec.signer.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let signed = if signer.is_empty() { "not signed".to_owned() } else { format!("signed by {signer}") };
        format!("{} {signed}", spec.artifact).into()
    };
    About { detail: spec.map(said).unwrap_or_default(), ..about(namespace, "driver", name) }
}

fn bound(binding: Option<&tarn_proto::v1::Binding>) -> About<'_> {
    let Some(binding) = binding else { return About::default() };
    About { detail: format!("{} in {}", binding.role, binding.namespace).into(), ..about("", "binding", &binding.principal) }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tarn_proto::v1::{CompleteTaskRequest, EnqueueRequest, GateFacts, PutKeyRequest, RaiseVersion, TaskSpec};
    use tarn_storage::MemoryEngine;

    use super::*;
    use crate::Versions;
    use crate::ids::Id;
    use crate::index::Indices;
    use crate::overlay::Overlay;
    use crate::rows::{DecisionsRow, MetaRow};

    fn records(decisions: Decisions) -> Vec<DecisionRow> {
        let (bytes, count) = decisions.into_parts();
        let row = DecisionsRow::decode(&bytes[..]).expect("records can be decoded");
        assert_eq!(row.encode_to_vec(), bytes, "they are encoded as everything else is");
        assert_eq!(row.records.len() as u64, count);
        row.records
    }

    #[test]
    fn a_record_is_encoded_as_its_row_is() {
        let (engine, mut ix) = (MemoryEngine::new(), Indices::default());
        let meta = MetaRow { version: SINCE, ..MetaRow::default() };
        let mut txn = Txn::new(Overlay::new(&engine), &mut ix, meta, Versions::CURRENT, 7);
        let (request_id, namespace) = (|| "r".to_owned(), || "n".to_owned());
        let tasks = vec![TaskSpec { queue: "q".repeat(200), ..TaskSpec::default() }; 3];
        let task_id = Id(u64::MAX).to_string();
        let bodies = [
            command::Body::Enqueue(EnqueueRequest { request_id: request_id(), namespace: namespace(), tasks }),
            command::Body::CompleteTask(CompleteTaskRequest { namespace: namespace(), task_id, ..CompleteTaskRequest::default() }),
            command::Body::PutKey(PutKeyRequest { context: "c".into(), key: "k".into(), ..PutKeyRequest::default() }),
            command::Body::RaiseVersion(RaiseVersion { version: 3, ..RaiseVersion::default() }),
        ];
        let rejection = Rejection { reason: "QUOTA_X".into(), field: "max_x".into(), ..Rejection::default() };
        let mut decisions = Decisions::default();
        for (place, body) in bodies.into_iter().enumerate() {
            let gate = (place == 2).then(|| Box::new(GateFacts { facts: "{}".into(), ..GateFacts::default() }));
            let mut command = Command { principal: "user/ada".into(), gate, body: Some(body) };
            let draft = draft(&mut txn, &mut command).expect("it is to be recorded");
            decisions.insert(0, &draft, DecisionKind::Admitted, None);
            decisions.insert(decisions.end(), &draft, DecisionKind::Refused, Some(&rejection));
        }
        let records = records(decisions);
        let kinds: Vec<DecisionKind> = records.iter().map(DecisionRow::kind).collect();
        assert_eq!(kinds, [[DecisionKind::Admitted; 4], [DecisionKind::Refused; 4]].concat());
        let expected = DecisionRow {
            kind: DecisionKind::Refused.into(),
            namespace: namespace(),
            principal: "user/ada".into(),
            action: "Enqueue".into(),
            resource: format!("queue/{}", "q".repeat(200)),
            request_id: request_id(),
            reason: "QUOTA_X".into(),
            step: "kernel".into(),
            count: 3,
            detail: "max_x".into(),
            ..DecisionRow::default()
        };
        assert_eq!(records[4], expected);
        assert!(records[5].task == u64::MAX && records[5].resource.is_empty());
        assert!(records[1].gate.is_some() && records[1].resource == "context/c" && records[1].detail == "k");
        assert!(records[0].detail == "3" && records[0].gate.is_none());
    }
}
