//! What lies under the keys of [`crate::keys`]: rows, as protobuf messages with stable tags.
//!
//! Rows are the kernel's own and no part of the contract. Tags are never reused; a new field must read as "as before" where it is absent.

use bytes::Bytes;
use tarn_proto::v1::{self, Isolation, NamespaceState, Progress, TaskError, TaskSpec, TaskState, TimerAction, WorkerCapabilities};

/// Where the machine stands.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct MetaRow {
    /// Index of the last entry applied; none in a new cluster.
    #[prost(uint64, optional, tag = "1")]
    pub applied: Option<u64>,
    #[prost(uint64, tag = "2")]
    pub now_ms: u64,
    /// The cluster's machine version.
    #[prost(uint32, tag = "3")]
    pub version: u32,
    /// Highest node id that a join token has given out.
    #[prost(uint64, tag = "4")]
    pub node_id: u64,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NamespaceRow {
    /// Unique for ever, so that a namespace of the same name never sees old rows.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(uint32, tag = "2")]
    pub weight: u32,
    #[prost(uint64, tag = "3")]
    pub created_at_ms: u64,
    /// Quotas. 0: none.
    #[prost(uint64, tag = "4")]
    pub max_running: u64,
    #[prost(uint64, tag = "5")]
    pub max_queued: u64,
    #[prost(uint64, tag = "6")]
    pub max_stored_bytes: u64,
    #[prost(uint64, tag = "7")]
    pub requests_per_minute: u64,
    #[prost(enumeration = "Isolation", tag = "8")]
    pub isolation: i32,
    /// Empty: [`ENVIRONMENT_DEFAULT`](crate::limits::ENVIRONMENT_DEFAULT).
    #[prost(string, tag = "9")]
    pub environment: String,
    /// Not set: active.
    #[prost(enumeration = "NamespaceState", tag = "10")]
    pub state: i32,
    /// While it goes: ended tasks up to this number are gone.
    #[prost(uint64, tag = "11")]
    pub purged_to: u64,
}

/// What a namespace uses that its live rows alone do not say. From machine version 2 on.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct UsageRow {
    /// The sum of all `stored_bytes` of its tasks and pending timers.
    #[prost(uint64, tag = "1")]
    pub stored_bytes: u64,
    /// Ended tasks that are kept and counted.
    #[prost(uint64, tag = "2")]
    pub ended: u64,
}

/// Changes at every lease, and therefore lies apart from the namespace's row.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct PassRow {
    #[prost(uint64, tag = "1")]
    pub pass: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct QueueRow {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Last use, with the precision of [`crate::limits::QUEUE_TOUCH_MS`].
    #[prost(uint64, tag = "2")]
    pub used_at_ms: u64,
}

/// What decides which workers can run a task.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct Class {
    /// Empty for workers built with an SDK.
    #[prost(string, tag = "1")]
    pub runtime: String,
    /// The handler's name; may be empty.
    #[prost(string, tag = "2")]
    pub handler: String,
    /// Labels that the worker must carry: sorted, without repeats.
    #[prost(string, repeated, tag = "3")]
    pub requires: Vec<String>,
}

/// A retry policy with its defaults filled in.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RetryRow {
    #[prost(uint32, tag = "1")]
    pub max_attempts: u32,
    #[prost(uint64, tag = "2")]
    pub initial_ms: u64,
    #[prost(uint32, tag = "3")]
    pub percent: u32,
    #[prost(uint64, tag = "4")]
    pub cap_ms: u64,
    #[prost(uint32, tag = "5")]
    pub jitter_percent: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct AttemptRow {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(uint64, tag = "2")]
    pub worker: u64,
    #[prost(uint64, tag = "3")]
    pub token: u64,
    #[prost(uint64, tag = "4")]
    pub started_at_ms: u64,
    #[prost(uint64, tag = "5")]
    pub ended_at_ms: u64,
    #[prost(message, optional, tag = "6")]
    pub error: Option<TaskError>,
    /// Hash of the report that ended the attempt, so that its repeat is recognised. Empty if time ended it.
    #[prost(bytes = "bytes", tag = "7")]
    pub report: Bytes,
    /// What the task became by that report.
    #[prost(enumeration = "TaskState", tag = "8")]
    pub became: i32,
}

/// The part of a task that changes. What never changes is in its [`SpecRow`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct TaskRow {
    #[prost(uint64, tag = "1")]
    pub queue: u64,
    #[prost(enumeration = "TaskState", tag = "2")]
    pub state: i32,
    /// From 1, critical, to 5, background.
    #[prost(uint32, tag = "3")]
    pub priority: u32,
    #[prost(message, optional, tag = "4")]
    pub class: Option<Class>,
    #[prost(uint64, tag = "5")]
    pub created_at_ms: u64,
    /// While DELAYED, when it will be ready; afterwards, when it became ready. 0 while BLOCKED.
    #[prost(uint64, tag = "6")]
    pub eligible_at_ms: u64,
    #[prost(uint64, tag = "7")]
    pub ended_at_ms: u64,
    #[prost(uint32, tag = "8")]
    pub attempts_begun: u32,
    /// The last [`crate::limits::ATTEMPTS_KEPT`]; the running one is the last.
    #[prost(message, repeated, tag = "9")]
    pub attempts: Vec<AttemptRow>,
    /// The running attempt's worker, token and end; 0 otherwise.
    #[prost(uint64, tag = "10")]
    pub worker: u64,
    #[prost(uint64, tag = "11")]
    pub token: u64,
    #[prost(uint64, tag = "12")]
    pub lease_expires_at_ms: u64,
    #[prost(uint64, tag = "13")]
    pub attempt_ends_at_ms: u64,
    #[prost(bool, tag = "14")]
    pub cancel_requested: bool,
    #[prost(message, optional, tag = "15")]
    pub error: Option<TaskError>,
    #[prost(uint64, tag = "16")]
    pub not_before_at_ms: u64,
    /// 0: none.
    #[prost(uint64, tag = "17")]
    pub deadline_at_ms: u64,
    #[prost(uint64, tag = "18")]
    pub attempt_timeout_ms: u64,
    #[prost(message, optional, tag = "19")]
    pub retry: Option<RetryRow>,
    #[prost(uint64, tag = "20")]
    pub retention_ms: u64,
    /// Whether it has dependencies, which its [`SpecRow`] names.
    #[prost(bool, tag = "21")]
    pub depends: bool,
    /// Whether it runs although a dependency failed.
    #[prost(bool, tag = "22")]
    pub run_anyway: bool,
    /// Size of the specification with the payload, for the limit on one lease command's answer.
    #[prost(uint64, tag = "23")]
    pub spec_bytes: u64,
    /// The token under which it was last given back without having begun.
    #[prost(uint64, tag = "24")]
    pub returned_token: u64,
    /// A small result; a large one is a row of its own.
    #[prost(bytes = "bytes", tag = "25")]
    pub result: Bytes,
    #[prost(bool, tag = "26")]
    pub result_apart: bool,
    /// Attempts of which a log may be kept are those above this number minus [`crate::limits::ATTEMPTS_KEPT`]; 0 if none left one.
    #[prost(uint32, tag = "27")]
    pub last_log: u32,
    /// What the namespace's use counts for this task: specification with payload, result and logs. 0 until it is first saved under machine
    /// version 2.
    #[prost(uint64, tag = "28")]
    pub stored_bytes: u64,
    /// What the last attempt that said so said of its progress.
    #[prost(message, optional, tag = "29")]
    pub progress: Option<Progress>,
    /// The worker that the router chose. Its class is that of this worker's runtime and node then. 0: none.
    #[prost(uint64, tag = "30")]
    pub placed_worker: u64,
    /// Of a running task that came by a transfer: how long its worker asked for, though the lease may be shorter.
    #[prost(uint64, tag = "31")]
    pub lease_asked_ms: u64,
    /// Log indices of the last [`crate::limits::RECORDS_OF_TASK_KEPT`] entries that recorded a decision about it. Those that the ids of the
    /// task and of its attempts name are left out.
    #[prost(uint64, repeated, tag = "40")]
    pub decided_at: Vec<u64>,
}

/// The part of a task that never changes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpecRow {
    /// As submitted; without the payload if that lies apart.
    #[prost(message, optional, boxed, tag = "1")]
    pub spec: Option<Box<TaskSpec>>,
    /// All dependencies, in order.
    #[prost(uint64, repeated, tag = "2")]
    pub dependencies: Vec<u64>,
    #[prost(bool, tag = "3")]
    pub payload_apart: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct NamedLeaseRow {
    #[prost(string, tag = "1")]
    pub holder: String,
    #[prost(uint64, tag = "2")]
    pub token: u64,
    #[prost(uint64, tag = "3")]
    pub acquired_at_ms: u64,
    #[prost(uint64, tag = "4")]
    pub expires_at_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TimerRow {
    #[prost(uint64, tag = "1")]
    pub due_at_ms: u64,
    /// Later than `due_at_ms` if firing was refused for want of room.
    #[prost(uint64, tag = "2")]
    pub wake_at_ms: u64,
    /// 0 while pending.
    #[prost(uint64, tag = "3")]
    pub fired_at_ms: u64,
    #[prost(uint64, tag = "4")]
    pub task: u64,
    #[prost(message, optional, tag = "5")]
    pub action: Option<TimerAction>,
    /// What the namespace's use counts for this timer while it is pending.
    #[prost(uint64, tag = "6")]
    pub stored_bytes: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct WorkerRow {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub capabilities: Option<WorkerCapabilities>,
    #[prost(bool, tag = "3")]
    pub draining: bool,
    #[prost(uint64, tag = "4")]
    pub registered_at_ms: u64,
    #[prost(uint64, tag = "5")]
    pub heartbeat_at_ms: u64,
    #[prost(uint64, tag = "6")]
    pub expires_at_ms: u64,
    #[prost(uint64, tag = "7")]
    pub ttl_ms: u64,
    /// Empty if it was registered before machine version 2.
    #[prost(string, tag = "8")]
    pub registered_by: String,
}

/// What a request id was used for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestRow {
    /// Hash of the command's body.
    #[prost(bytes = "bytes", tag = "1")]
    pub body: Bytes,
    /// The encoded `v1::Outcome`; empty where `leases` stands for it.
    #[prost(bytes = "bytes", tag = "2")]
    pub outcome: Bytes,
    /// Leases that the command granted: the answer is made again from the tasks, not stored with their payloads.
    #[prost(message, repeated, tag = "3")]
    pub leases: Vec<LeaseRef>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LeaseRef {
    #[prost(uint64, tag = "1")]
    pub namespace: u64,
    #[prost(uint64, tag = "2")]
    pub task: u64,
    #[prost(uint64, tag = "3")]
    pub token: u64,
}

/// The request ids that one entry used, which therefore expire together.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RequestExpiryRow {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub hashes: Vec<Bytes>,
}

/// A context. Written with every change in it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContextRow {
    /// Unique for ever, so that a context of the same name never sees old rows.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// That have a value.
    #[prost(uint64, tag = "2")]
    pub keys: u64,
    /// What the namespace's use counts for it: each value that is kept, with its key.
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// Of the last change.
    #[prost(uint64, tag = "4")]
    pub version: u64,
    #[prost(uint64, tag = "5")]
    pub created_at_ms: u64,
    #[prost(uint64, tag = "6")]
    pub updated_at_ms: u64,
    /// Versions of its snapshots, ascending.
    #[prost(uint64, repeated, tag = "7")]
    pub snapshots: Vec<u64>,
    /// A restore that is not written into every key yet.
    #[prost(message, optional, tag = "8")]
    pub restore: Option<RestoreRow>,
    /// While its keys are walked through in the background: the last one that was.
    #[prost(string, optional, tag = "9")]
    pub walked: Option<String>,
    /// Whether it is shared with the federation.
    #[prost(bool, tag = "10")]
    pub shared: bool,
    /// While what it held before it was shared goes into the outbox in the background: the last key that did.
    #[prost(string, optional, tag = "11")]
    pub sharing: Option<String>,
}

/// This cluster in its federation.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FederationRow {
    #[prost(message, optional, tag = "1")]
    pub identity: Option<v1::FederationIdentity>,
    /// Whether the cluster has left, and what is kept here goes in the background.
    #[prost(bool, tag = "2")]
    pub leaving: bool,
}

/// How far the federation's document has come here. Apart from [`FederationRow`], which is large and never changes.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct FederationBooksRow {
    /// Of the document's copy: grows with every commit, and begins anew in no federation.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// The number of the last write that came into the outbox.
    #[prost(uint64, tag = "2")]
    pub written: u64,
    /// Pieces of a commit whose last one has not come yet.
    #[prost(uint32, tag = "3")]
    pub staged: u32,
    /// Clusters that were admitted here.
    #[prost(uint64, tag = "4")]
    pub admitted: u64,
    /// Which shared sections this cluster may write, a bit for each of [`crate::limits::SHARED_SECTIONS`].
    #[prost(uint32, tag = "5")]
    pub scope: u32,
    /// The others have withdrawn their trust in this cluster.
    #[prost(bool, tag = "6")]
    pub removed: bool,
    /// Bytes that this cluster may still write into shared sections, those in the outbox counted in.
    #[prost(uint64, tag = "7")]
    pub room: u64,
    /// Whose pieces are staged.
    #[prost(uint64, tag = "8")]
    pub hub: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct InvitationRow {
    #[prost(uint64, tag = "1")]
    pub expires_at_ms: u64,
    #[prost(string, repeated, tag = "2")]
    pub scope: Vec<String>,
    /// Empty until used.
    #[prost(bytes = "bytes", tag = "3")]
    pub cluster_id: Bytes,
}

/// A key whose last version is older than `version` is what it was at `to`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct RestoreRow {
    #[prost(uint64, tag = "1")]
    pub version: u64,
    #[prost(uint64, tag = "2")]
    pub to: u64,
    #[prost(uint64, tag = "3")]
    pub at_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct SnapshotRow {
    #[prost(uint64, tag = "1")]
    pub version: u64,
    #[prost(uint64, tag = "2")]
    pub keys: u64,
    #[prost(uint64, tag = "3")]
    pub at_ms: u64,
}

/// A key of a context: its versions that are kept, ascending. The values lie apart.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyRow {
    #[prost(message, repeated, tag = "1")]
    pub versions: Vec<VersionRow>,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct VersionRow {
    #[prost(uint64, tag = "1")]
    pub version: u64,
    /// The version under which the value lies: an earlier one's where a restore brought it back. 0: there is no value.
    #[prost(uint64, tag = "2")]
    pub value: u64,
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    #[prost(uint64, tag = "4")]
    pub at_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EventsRow {
    #[prost(message, repeated, tag = "1")]
    pub events: Vec<v1::Event>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct JoinTokenRow {
    #[prost(uint64, tag = "1")]
    pub expires_at_ms: u64,
    /// 0 until used.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub node_key_hash: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct RoleRow {
    #[prost(message, repeated, tag = "1")]
    pub rules: Vec<v1::Rule>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct TokenRow {
    #[prost(bytes = "bytes", tag = "1")]
    pub secret_hash: Bytes,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub principal: String,
    #[prost(message, repeated, tag = "4")]
    pub scopes: Vec<v1::Rule>,
    #[prost(uint64, tag = "5")]
    pub created_at_ms: u64,
    #[prost(uint64, tag = "6")]
    pub expires_at_ms: u64,
    #[prost(string, tag = "7")]
    pub created_by: String,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RevocationRow {
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(string, tag = "2")]
    pub revoked_by: String,
    #[prost(uint64, tag = "3")]
    pub revoked_at_ms: u64,
    #[prost(uint64, tag = "4")]
    pub expires_at_ms: u64,
}

/// A version of a bundle of policies.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BundleRow {
    /// BLAKE3 of `content`.
    #[prost(bytes = "bytes", tag = "1")]
    pub digest: Bytes,
    #[prost(uint64, tag = "2")]
    pub size: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub signature: Bytes,
    /// BLAKE3 of the public key that signed it; empty if nobody did.
    #[prost(bytes = "bytes", tag = "4")]
    pub signer: Bytes,
    #[prost(uint64, tag = "5")]
    pub put_at_ms: u64,
    #[prost(string, tag = "6")]
    pub put_by: String,
    #[prost(bool, tag = "7")]
    pub active: bool,
    #[prost(uint64, tag = "8")]
    pub activated_at_ms: u64,
    #[prost(string, tag = "9")]
    pub activated_by: String,
    /// Grows with each version that is left for another: where a rollback leads. 0 if it leads not here.
    #[prost(uint64, tag = "10")]
    pub left: u64,
    /// Empty in indices.
    #[prost(bytes = "bytes", tag = "11")]
    pub content: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PolicySettingsRow {
    /// The log index at which these settings, or what is active, last changed.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(message, optional, tag = "2")]
    pub settings: Option<v1::PolicySettings>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HandlerRow {
    /// Empty: all.
    #[prost(string, tag = "1")]
    pub environment: String,
    /// Empty: all.
    #[prost(string, tag = "2")]
    pub policy: String,
    #[prost(string, tag = "3")]
    pub url: String,
    #[prost(enumeration = "v1::PolicySeverity", tag = "4")]
    pub min_severity: i32,
    /// The name of a key, never the key.
    #[prost(string, tag = "5")]
    pub secret: String,
    #[prost(uint64, tag = "6")]
    pub put_at_ms: u64,
    #[prost(string, tag = "7")]
    pub put_by: String,
    /// Violations up to this id have been sent.
    #[prost(uint64, tag = "8")]
    pub sent_up_to: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ViolationRow {
    #[prost(uint64, tag = "1")]
    pub at_ms: u64,
    /// Without id and time.
    #[prost(message, optional, tag = "2")]
    pub violation: Option<v1::Violation>,
}

/// A driver, but for what changes all the time.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DriverRow {
    #[prost(message, optional, tag = "1")]
    pub spec: Option<v1::DriverSpec>,
    /// Grows with each upgrade.
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    #[prost(uint64, tag = "3")]
    pub installed_at_ms: u64,
    #[prost(string, tag = "4")]
    pub installed_by: String,
    #[prost(uint64, tag = "5")]
    pub upgraded_at_ms: u64,
    #[prost(string, tag = "6")]
    pub upgraded_by: String,
}

/// How far a driver has come.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DriverProgressRow {
    /// Events up to this log index are handled.
    #[prost(uint64, tag = "1")]
    pub cursor: u64,
    /// Grows with whatever the driver changes.
    #[prost(uint64, tag = "2")]
    pub step: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub state: Bytes,
    /// Of the entry after that, events with a lower ordinal are handled too.
    #[prost(uint32, tag = "4")]
    pub ordinal: u32,
}

/// A task that another cluster hands over: held, then a task, then closed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TransferRow {
    /// Without the specification once there is a task.
    #[prost(message, optional, tag = "1")]
    pub transfer: Option<v1::Transfer>,
    /// BLAKE3 of the transfer as it came.
    #[prost(bytes = "bytes", tag = "2")]
    pub digest: Bytes,
    #[prost(uint64, tag = "3")]
    pub accepted_at_ms: u64,
    #[prost(uint64, tag = "4")]
    pub hold_until_ms: u64,
    /// The number of the task's namespace, and the task; 0 while there is none.
    #[prost(uint64, tag = "5")]
    pub ns: u64,
    #[prost(uint64, tag = "6")]
    pub task: u64,
    /// Closed, and kept for as long as it would have been held, so that the same offer that comes late does not begin it again.
    #[prost(bool, tag = "7")]
    pub closed: bool,
}

/// The records of one entry. Its row begins with the hash of the row before.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DecisionsRow {
    /// Rows up to this one.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    #[prost(uint64, tag = "2")]
    pub at_ms: u64,
    /// How many records there are, for whoever does not read them.
    #[prost(uint64, tag = "3")]
    pub count: u64,
    #[prost(message, repeated, tag = "4")]
    pub records: Vec<DecisionRow>,
}

/// What a [`DecisionsRow`] begins with.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct DecisionsHead {
    #[prost(uint64, tag = "1")]
    pub number: u64,
    #[prost(uint64, tag = "2")]
    pub at_ms: u64,
    #[prost(uint64, tag = "3")]
    pub count: u64,
}

/// A [`v1::Decision`], as small as it can be: most are of leases.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DecisionRow {
    #[prost(enumeration = "v1::DecisionKind", tag = "1")]
    pub kind: i32,
    #[prost(string, tag = "2")]
    pub namespace: String,
    #[prost(uint64, tag = "3")]
    pub task: u64,
    #[prost(uint64, tag = "4")]
    pub worker: u64,
    #[prost(uint32, tag = "5")]
    pub attempt: u32,
    #[prost(message, optional, tag = "6")]
    pub scores: Option<v1::Scores>,
    #[prost(string, tag = "7")]
    pub principal: String,
    #[prost(string, tag = "8")]
    pub action: String,
    #[prost(string, tag = "9")]
    pub resource: String,
    #[prost(string, tag = "10")]
    pub reason: String,
    #[prost(string, tag = "11")]
    pub step: String,
    #[prost(string, tag = "12")]
    pub request_id: String,
    #[prost(message, optional, tag = "13")]
    pub gate: Option<v1::GateFacts>,
    #[prost(uint64, tag = "14")]
    pub delay_ms: u64,
    #[prost(uint32, tag = "15")]
    pub count: u32,
    #[prost(string, tag = "16")]
    pub detail: String,
    #[prost(string, repeated, tag = "17")]
    pub traces: Vec<String>,
    #[prost(message, optional, tag = "18")]
    pub placement: Option<v1::PlacementScores>,
}

/// Where the chain of decisions begins and ends.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ChainRow {
    /// The last row: its log index, its hash, and how many there were with it.
    #[prost(uint64, tag = "1")]
    pub head_index: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub head_hash: Bytes,
    #[prost(uint64, tag = "3")]
    pub head_rows: u64,
    /// The last row that was dropped, likewise.
    #[prost(uint64, tag = "4")]
    pub start_index: u64,
    #[prost(bytes = "bytes", tag = "5")]
    pub start_hash: Bytes,
    #[prost(uint64, tag = "6")]
    pub start_rows: u64,
    /// Records and bytes of the rows that are kept.
    #[prost(uint64, tag = "7")]
    pub records: u64,
    #[prost(uint64, tag = "8")]
    pub bytes: u64,
    /// When the oldest row that is kept was written.
    #[prost(uint64, tag = "9")]
    pub oldest_ms: u64,
}

impl NamespaceRow {
    /// Which policies judge what is asked of it.
    pub fn environment_name(&self) -> &str {
        match self.environment.as_str() {
            "" => crate::limits::ENVIRONMENT_DEFAULT,
            name => name,
        }
    }

    /// Whether it takes nothing new, and goes when it can.
    pub fn is_draining(&self) -> bool {
        matches!(self.state(), NamespaceState::Draining | NamespaceState::Cancelling)
    }
}

impl TransferRow {
    /// What it holds of a task that does not exist yet.
    pub fn spec_bytes(&self) -> u64 {
        let spec = self.transfer.as_ref().and_then(|transfer| transfer.spec.as_ref());
        spec.map_or(0, |spec| prost::Message::encoded_len(spec) as u64)
    }
}

impl TaskRow {
    /// The class; every row has one.
    pub fn class(&self) -> Class {
        self.class.clone().unwrap_or_default()
    }
}
