//! What is not counted as it happens but looked at when somebody asks: queues, consensus, memory.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use tarn_proto::v1::{NamespaceUsage, QuotaUse};
use tarn_raft::{Consensus, Role as RaftRole};

use super::Metrics;
use super::metrics::{ByReason, QueueState, QuotaLimit, Role, Usage};
use crate::identity::Refusals;

/// Queues with series of their own. The others are added up under the name `_other`, so that whoever makes queues cannot make a scraper's
/// disk full.
const QUEUES_MAX: usize = 200;

/// Looks at this node when somebody asks.
pub struct Sampler {
    consensus: Consensus,
    refusals: Arc<Refusals>,
}

impl Sampler {
    /// Looks at this consensus and at what this listener refused.
    #[must_use]
    pub fn new(consensus: Consensus, refusals: Arc<Refusals>) -> Self {
        Self { consensus, refusals }
    }

    /// Brings the gauges up to date.
    pub fn sample(&self, metrics: &Metrics) {
        self.raft(metrics);
        self.queues(metrics);
        if let Ok(usage) = self.consensus.read(tarn_machine::Machine::usage) {
            namespaces(metrics, usage);
        }
        metrics.handshakes_refused.clear();
        for (kind, count) in self.refusals.counts() {
            let reason = kind.label().to_owned();
            metrics.handshakes_refused.get_or_create(&ByReason { reason }).inc_by(count);
        }
        metrics.process_memory.set(resident_bytes().unwrap_or(0));
    }

    fn raft(&self, metrics: &Metrics) {
        let Ok(status) = self.consensus.status() else { return };
        let roles = [
            ("learner", RaftRole::Learner),
            ("follower", RaftRole::Follower),
            ("candidate", RaftRole::Candidate),
            ("leader", RaftRole::Leader),
        ];
        for (role, which) in roles {
            metrics.raft_role.get_or_create(&Role { role }).set(i64::from(status.role == which));
        }
        metrics.raft_term.set(status.term);
        metrics.raft_last_log_index.set(status.last_log_index);
        metrics.raft_committed_index.set(status.committed_index);
        metrics.raft_applied_index.set(status.applied.index);
        metrics.raft_snapshot_index.set(status.snapshot_index);
        metrics.raft_purged_index.set(status.purged_index);
        metrics.raft_apply_lag.set(status.last_log_index.saturating_sub(status.applied.index));
        metrics.machine_version.set(u64::from(status.applied.version));
    }

    fn queues(&self, metrics: &Metrics) {
        let everything = tarn_proto::v1::ListQueuesRequest::default();
        let Ok(Ok(answer)) = self.consensus.read(|machine| machine.list_queues(&everything)) else {
            return;
        };
        metrics.queue_tasks.clear();
        for (position, queue) in answer.queues.into_iter().enumerate() {
            let (namespace, name) = match position < QUEUES_MAX {
                true => (queue.namespace, queue.queue),
                false => ("_other".to_owned(), "_other".to_owned()),
            };
            let states = [
                ("blocked", queue.blocked),
                ("delayed", queue.delayed),
                ("ready", queue.ready),
                ("running", queue.running),
                ("dead", queue.dead),
            ];
            for (state, count) in states {
                let labels = QueueState { namespace: namespace.clone(), queue: name.clone(), state };
                metrics.queue_tasks.get_or_create(&labels).inc_by(count);
            }
        }
    }
}

/// Namespaces with series of their own; the others are added up, as queues are.
const NAMESPACES_MAX: usize = 200;

type Usages = BTreeMap<Arc<str>, (NamespaceUsage, Vec<QuotaUse>)>;

/// What namespaces have and may have: those that have a quota first, then those that have most tasks.
fn namespaces(metrics: &Metrics, usages: Usages) {
    metrics.namespace_usage.clear();
    metrics.namespace_quota_limit.clear();
    let mut all: Vec<_> = usages.into_iter().collect();
    let limited = |quotas: &[QuotaUse]| quotas.iter().any(|quota| quota.limit > 0);
    all.sort_by_key(|(_, (usage, quotas))| {
        let tasks = usage.blocked + usage.delayed + usage.ready + usage.running + usage.dead + usage.ended;
        (!limited(quotas), Reverse(tasks))
    });
    for (position, (name, (usage, quotas))) in all.into_iter().enumerate() {
        let own = position < NAMESPACES_MAX;
        let namespace = if own { name.to_string() } else { "_other".to_owned() };
        let counts = [
            ("queued_tasks", usage.blocked + usage.delayed + usage.ready + usage.running),
            ("running_tasks", usage.running),
            ("dead_tasks", usage.dead),
            ("ended_tasks", usage.ended),
            ("stored_bytes", usage.stored_bytes),
            ("pending_timers", usage.pending_timers),
            ("named_leases", usage.named_leases),
            ("contexts", usage.contexts),
        ];
        for (what, count) in counts {
            let namespace = namespace.clone();
            metrics.namespace_usage.get_or_create(&Usage { namespace, what }).inc_by(count);
        }
        // The sum of limits would say nothing.
        for quota in quotas.into_iter().filter(|quota| own && quota.limit > 0) {
            let label = QuotaLimit { namespace: namespace.clone(), quota: quota_name(&quota.quota) };
            metrics.namespace_quota_limit.get_or_create(&label).set(quota.limit);
        }
    }
}

fn quota_name(name: &str) -> &'static str {
    match name {
        "max_running" => "max_running",
        "max_queued" => "max_queued",
        "max_stored_bytes" => "max_stored_bytes",
        _ => "requests_per_minute",
    }
}

/// This process's memory in RAM, as Linux tells it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_with_quotas_have_series_of_their_own_and_the_many_others_share_one() {
        let usage = |ready| NamespaceUsage { ready, ..Default::default() };
        let quota = |limit| vec![QuotaUse { quota: "max_queued".into(), limit, used: 0 }];
        let mut usages: Usages = (0..1_000u64).map(|number| (format!("tenant-{number:04}").into(), (usage(number), quota(0)))).collect();
        usages.insert("paying".into(), (usage(1), quota(50)));
        let metrics = Metrics::new();
        for _ in 0..2 {
            namespaces(&metrics, usages.clone());
        }
        let text = metrics.encode().expect("it encodes");
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("tarn_namespace_usage{")).collect();
        assert_eq!(lines.len(), (NAMESPACES_MAX + 1) * 8);
        assert!(text.contains("tarn_namespace_usage{namespace=\"paying\",what=\"queued_tasks\"} 1"), "{text}");
        assert!(text.contains("tarn_namespace_usage{namespace=\"tenant-0999\",what=\"queued_tasks\"} 999"));
        let others: u64 = (0..801).sum();
        assert!(text.contains(&format!("tarn_namespace_usage{{namespace=\"_other\",what=\"queued_tasks\"}} {others}")));
        let limits: Vec<&str> = text.lines().filter(|line| line.starts_with("tarn_namespace_quota_limit{")).collect();
        assert_eq!(limits, ["tarn_namespace_quota_limit{namespace=\"paying\",quota=\"max_queued\"} 50"]);
    }
}
