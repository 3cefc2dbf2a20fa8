//! What is not counted as it happens but looked at when somebody asks: queues, consensus, memory.

use std::sync::Arc;

use tarn_raft::{Consensus, Role as RaftRole};

use super::Metrics;
use super::metrics::{ByReason, QueueState, Role};
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
        metrics.handshakes_refused.clear();
        for (kind, count) in self.refusals.counts() {
            let reason = kind.label().to_owned();
            metrics
                .handshakes_refused
                .get_or_create(&ByReason { reason })
                .inc_by(count);
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
            metrics
                .raft_role
                .get_or_create(&Role { role })
                .set(i64::from(status.role == which));
        }
        metrics.raft_term.set(status.term);
        metrics.raft_last_log_index.set(status.last_log_index);
        metrics.raft_committed_index.set(status.committed_index);
        metrics.raft_applied_index.set(status.applied.index);
        metrics.raft_snapshot_index.set(status.snapshot_index);
        metrics.raft_purged_index.set(status.purged_index);
        metrics
            .raft_apply_lag
            .set(status.last_log_index.saturating_sub(status.applied.index));
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
                let labels = QueueState {
                    namespace: namespace.clone(),
                    queue: name.clone(),
                    state,
                };
                metrics.queue_tasks.get_or_create(&labels).inc_by(count);
            }
        }
    }
}

/// This process's memory in RAM, as Linux tells it.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1_024)
}
