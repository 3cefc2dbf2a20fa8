//! Every metric of a node, in one place. Units stand in the names; labels are few and bounded.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// A gauge of a number that is never negative, such as a log index.
pub(super) type Level = Gauge<u64, AtomicU64>;

macro_rules! labels {
    ($($Name:ident { $($key:ident: $type:ty),* })*) => {
        $(#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        pub(crate) struct $Name { $(pub $key: $type),* })*
    };
}

labels! {
    Rpc { method: String }
    RpcResult { method: String, code: &'static str }
    Refused { step: &'static str, reason: String }
    Proposed { command: &'static str, result: &'static str }
    ByReason { reason: String }
    Run { runtime: &'static str, result: String }
    QueueState { namespace: String, queue: String, state: &'static str }
    Role { role: &'static str }
    Usage { namespace: String, what: &'static str }
    QuotaLimit { namespace: String, quota: &'static str }
    Certificate { certificate: &'static str }
    KeyFile { issuer: String }
    DriverTurn { namespace: String, driver: String, what: &'static str, result: &'static str }
    FederationLink { cluster: String }
    FederationBytes { cluster: String, direction: &'static str }
    FederationRefused { reason: &'static str }
    FederationErrand { cluster: String, result: &'static str }
    KeyFileRead { issuer: String, result: &'static str }
}

/// From a tenth of a millisecond to about a minute and a half, doubling.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 20))
}

/// Every metric of a node.
pub struct Metrics {
    registry: Registry,
    pub(crate) rpcs: Family<RpcResult, Counter>,
    pub(crate) rpc_seconds: Family<Rpc, Histogram, fn() -> Histogram>,
    pub(crate) gate_refusals: Family<Refused, Counter>,
    pub(crate) refusals_unrecorded: Counter,
    pub(crate) proposals: Family<Proposed, Counter>,
    pub(crate) proposal_seconds: Histogram,
    pub(crate) reads_seconds: Histogram,
    entry_commands: Histogram,
    apply_seconds: Histogram,
    pub(crate) leases_granted: Counter,
    pub(crate) leases_empty: Counter,
    pub(crate) leases_returned: Counter,
    pub(crate) dispatch_waiters: Gauge,
    pub(crate) work_streams: Gauge,
    pub(crate) watch_streams: Gauge,
    pub(crate) handshakes_refused: Family<ByReason, Counter>,
    certificate_expiry: Family<Certificate, Gauge<f64, AtomicU64>>,
    pub(crate) jwks_keys: Family<KeyFile, Level>,
    pub(crate) jwks_reads: Family<KeyFileRead, Counter>,
    pub(crate) executor_runs: Family<Run, Counter>,
    pub(crate) executor_seconds: Histogram,
    pub(crate) executor_running: Gauge,
    pub(crate) scheduler_placements: Counter,
    pub(crate) scheduler_waiting: Gauge,
    pub(crate) driver_turns: Family<DriverTurn, Counter>,
    pub(crate) federation_link_up: Family<FederationLink, Gauge>,
    pub(crate) federation_lag_milliseconds: Family<FederationLink, Gauge>,
    pub(crate) federation_bytes: Family<FederationBytes, Counter>,
    pub(crate) federation_refused: Family<FederationRefused, Counter>,
    pub(crate) federation_last_sync: Family<FederationLink, Gauge<f64, AtomicU64>>,
    pub(crate) federation_peer_conflicts: Family<FederationLink, Gauge>,
    pub(crate) federation_errands: Family<FederationErrand, Counter>,
    pub(crate) federation_conflicts: Gauge,
    pub(crate) federation_unsigned: Gauge,
    pub(super) queue_tasks: Family<QueueState, Level>,
    pub(super) namespace_usage: Family<Usage, Level>,
    pub(super) namespace_quota_limit: Family<QuotaLimit, Level>,
    pub(super) raft_role: Family<Role, Gauge>,
    pub(super) raft_term: Level,
    pub(super) raft_last_log_index: Level,
    pub(super) raft_committed_index: Level,
    pub(super) raft_applied_index: Level,
    pub(super) raft_snapshot_index: Level,
    pub(super) raft_purged_index: Level,
    pub(super) raft_apply_lag: Level,
    pub(super) machine_version: Level,
    pub(super) process_memory: Level,
    pub(super) process_started: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tarn");
        registry.register("build", "This build", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let r = &mut registry;
        let metrics = Self {
            rpcs: add(r, "rpc_requests", "Requests answered, by method and status code"),
            rpc_seconds: Family::new_with_constructor(seconds as fn() -> Histogram),
            gate_refusals: add(r, "gate_refusals", "Requests that the gate refused, by step and reason"),
            refusals_unrecorded: add(r, "refusals_unrecorded", "Refusals of the gate that are in no record, for there were too many"),
            proposals: add(r, "proposals", "Commands proposed through this node, by command and result"),
            proposal_seconds: seconds(),
            reads_seconds: seconds(),
            // The largest is the most that a group holds.
            entry_commands: Histogram::new(exponential_buckets(1.0, 2.0, 9)),
            apply_seconds: Histogram::new(exponential_buckets(0.000_01, 2.0, 20)),
            leases_granted: add(r, "leases_granted", "Tasks leased to workers of this node"),
            leases_empty: add(r, "lease_proposals_empty", "Lease commands that found no task"),
            leases_returned: add(r, "leases_returned", "Leased tasks given back because their worker had gone"),
            dispatch_waiters: add(r, "dispatch_waiters", "Workers that wait for a task"),
            work_streams: add(r, "work_streams", "Open work streams"),
            watch_streams: add(r, "watch_streams", "Open watches"),
            handshakes_refused: add(r, "handshakes_refused", "Connections refused before a request, by reason"),
            certificate_expiry: add(r, "certificate_expiry_seconds", "When a certificate of this node ends, since the Unix epoch"),
            jwks_keys: add(r, "jwks_keys", "Keys in force, by issuer of JWTs"),
            jwks_reads: add(r, "jwks_changes", "Key files of JWT issuers that had changed, by issuer and whether they were taken"),
            executor_runs: add(r, "executor_runs", "Attempts run by this node's executors, by result"),
            executor_seconds: seconds(),
            executor_running: add(r, "executor_running", "Attempts running now"),
            scheduler_placements: add(r, "scheduler_placements", "Tasks that this node, as the leader, placed at workers"),
            scheduler_waiting: add(r, "scheduler_waiting", "Tasks for which this node, as the leader, found no worker yet"),
            driver_turns: add(
                r,
                "driver_turns",
                "Calls of drivers that run on this node, by what they were for and how they went; what \"run\" is an instance that ended badly",
            ),
            federation_link_up: add(
                r,
                "federation_link_up",
                "Whether this node, as the leader, has a link to another cluster of the federation",
            ),
            federation_lag_milliseconds: add(
                r,
                "federation_lag_milliseconds",
                "For how long this cluster and another have not had the same document; 0 while they have",
            ),
            federation_bytes: add(r, "federation_bytes", "Bytes of the shared document's synchronisation, by cluster and direction"),
            federation_last_sync: add(
                r,
                "federation_last_sync_timestamp_seconds",
                "When this cluster and another last had the same document, by cluster; 0: not since this node leads",
            ),
            federation_peer_conflicts: add(r, "federation_peer_conflicts", "Keys with a conflict of which this cluster wrote a value"),
            federation_errands: add(
                r,
                "federation_errands",
                "Tasks of this cluster that others did or were to do, by cluster and what came of it",
            ),
            federation_refused: add(r, "federation_refused", "Change sets of other clusters that were refused, by reason"),
            federation_conflicts: add(
                r,
                "federation_conflicts",
                "Keys that clusters wrote without knowing of each other, not resolved yet",
            ),
            federation_unsigned: add(r, "federation_unsigned", "Writes of this cluster that are in no signed change set yet"),
            queue_tasks: add(r, "queue_tasks", "Tasks by namespace, queue and state; the queues beyond the first few hundred together"),
            namespace_usage: add(
                r,
                "namespace_usage",
                "What namespaces have, in tasks, bytes, timers and leases; those with quotas first, those beyond the first few hundred together",
            ),
            namespace_quota_limit: add(r, "namespace_quota_limit", "What namespaces may have, where they have a quota"),
            raft_role: add(r, "raft_role", "1 for the role that this node has"),
            raft_term: add(r, "raft_term", "The highest term seen"),
            raft_last_log_index: add(r, "raft_last_log_index", "The last entry in this node's log"),
            raft_committed_index: add(r, "raft_committed_index", "The last entry that this node knows to be committed"),
            raft_applied_index: add(r, "raft_applied_index", "The last entry in this node's state"),
            raft_snapshot_index: add(r, "raft_snapshot_index", "The last entry in the newest snapshot"),
            raft_purged_index: add(r, "raft_purged_index", "The last entry removed from this node's log"),
            raft_apply_lag: add(r, "raft_apply_lag_entries", "Log entries that this node has and has not applied"),
            machine_version: add(r, "machine_version", "The machine version in force"),
            process_memory: add(r, "process_resident_memory_bytes", "Memory of this process in RAM"),
            process_started: add(r, "process_start_time_seconds", "When this process started, since the Unix epoch"),
            registry: Registry::default(),
        };
        r.register_with_unit("rpc_duration", "From a request to its answer", Unit::Seconds, metrics.rpc_seconds.clone());
        let durations = [
            ("proposal_duration", "From proposing a command to its outcome", &metrics.proposal_seconds),
            ("read_duration", "Waiting until a read is certain to see everything", &metrics.reads_seconds),
            ("raft_apply_duration", "Applying one log entry to this node's state", &metrics.apply_seconds),
            ("executor_run_duration", "Run time of attempts", &metrics.executor_seconds),
        ];
        for (name, help, histogram) in durations {
            r.register_with_unit(name, help, Unit::Seconds, histogram.clone());
        }
        r.register("raft_entry_commands", "Commands in a log entry, of those that have any", metrics.entry_commands.clone());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        metrics.process_started.set(now.as_secs_f64());
        Self { registry, ..metrics }
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// Out of memory, in effect.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn add<M>(registry: &mut Registry, name: &str, help: &str) -> M
where
    M: prometheus_client::registry::Metric + Clone + Default,
{
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// A log entry was applied to this node's state.
    pub(crate) fn applied(&self, commands: usize, took: std::time::Duration) {
        self.apply_seconds.observe(took.as_secs_f64());
        if commands > 0 {
            self.entry_commands.observe(commands as f64);
        }
    }

    /// When a certificate of this node ends.
    pub(crate) fn certificate_ends(&self, certificate: &'static str, at: std::time::SystemTime) {
        let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let gauge = self.certificate_expiry.get_or_create(&Certificate { certificate });
        gauge.set(since.as_secs_f64());
    }

    /// A proposal had an end.
    pub(crate) fn proposed(&self, command: &'static str, refusal: Option<&crate::gate::Refusal>) {
        let result = match refusal {
            None => "ok",
            Some(refusal) if refusal.reason() == "OUTCOME_UNKNOWN" => "unknown",
            Some(refusal) if refusal.passes() => "not_proposed",
            Some(_) => "rejected",
        };
        self.proposals.get_or_create(&Proposed { command, result }).inc();
    }
}

impl Metrics {
    /// A request was answered.
    pub(crate) fn answered(&self, method: String, code: tonic::Code, after: std::time::Duration) {
        let name = match code {
            tonic::Code::Ok => "OK",
            tonic::Code::Cancelled => "CANCELLED",
            tonic::Code::Unknown => "UNKNOWN",
            tonic::Code::InvalidArgument => "INVALID_ARGUMENT",
            tonic::Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
            tonic::Code::NotFound => "NOT_FOUND",
            tonic::Code::AlreadyExists => "ALREADY_EXISTS",
            tonic::Code::PermissionDenied => "PERMISSION_DENIED",
            tonic::Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            tonic::Code::FailedPrecondition => "FAILED_PRECONDITION",
            tonic::Code::Aborted => "ABORTED",
            tonic::Code::OutOfRange => "OUT_OF_RANGE",
            tonic::Code::Unimplemented => "UNIMPLEMENTED",
            tonic::Code::Internal => "INTERNAL",
            tonic::Code::Unavailable => "UNAVAILABLE",
            tonic::Code::DataLoss => "DATA_LOSS",
            tonic::Code::Unauthenticated => "UNAUTHENTICATED",
        };
        self.rpc_seconds.get_or_create(&Rpc { method: method.clone() }).observe(after.as_secs_f64());
        self.rpcs.get_or_create(&RpcResult { method, code: name }).inc();
    }
}
