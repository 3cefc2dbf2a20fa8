//! The tasks that a host holds, by the fencing tokens of their leases.
//!
//! By token and not by task, because a task can come back under a new lease before the attempt under the old one has ended.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tarn_proto::v1;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a host holds.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HashMap<u64, Holding>>);

#[derive(Debug)]
struct Holding {
    lease: v1::TaskLease,
    cancel: CancellationToken,
    /// The task may be somebody else's from then on.
    until: Instant,
    /// Set before `cancel` is: why.
    lost: bool,
}

impl Held {
    /// An attempt begins under this lease, which is good until then unless it is renewed; `cancel` stops it.
    pub fn add(&self, lease: v1::TaskLease, cancel: CancellationToken, until: Instant) {
        let (token, lost) = (lease.token, false);
        self.lock().insert(token, Holding { lease, cancel, until, lost });
    }

    /// Takes the answer to a renewal that was asked for at `asked`: each lease is good for what the cluster's time leaves of it.
    pub fn renewed(&self, answer: &v1::HeartbeatTasksResponse, asked: Instant) {
        let mut held = self.lock();
        for report in answer.leases.iter().filter(|_| answer.now_ms > 0) {
            if let Some(holding) = held.get_mut(&report.token) {
                holding.until = asked + Duration::from_millis(report.lease_expires_at_ms.saturating_sub(answer.now_ms));
            }
        }
    }

    /// Stops the attempts whose leases have run out without the cluster's being heard of: it may be unreachable, and give them to others.
    pub fn expire(&self) {
        let now = Instant::now();
        for holding in self.lock().values_mut().filter(|holding| holding.until <= now && !holding.lost) {
            tracing::warn!(task = holding.lease.task_id, "an attempt is stopped: its lease has ended, and was not renewed");
            holding.lost = true;
            holding.cancel.cancel();
        }
    }

    /// The attempt under this token has ended, and was reported.
    pub fn remove(&self, token: u64) {
        self.lock().remove(&token);
    }

    /// The attempt under this token says how far it is. The next heartbeat passes it on.
    pub fn progress(&self, token: u64, progress: v1::Progress) {
        if let Some(holding) = self.lock().get_mut(&token) {
            holding.lease.progress = Some(progress);
        }
    }

    /// Every lease, to be renewed. What attempts said of their progress is in it once.
    pub fn leases(&self) -> Vec<v1::TaskLease> {
        let mut held = self.lock();
        let leases = held.values_mut().map(|holding| v1::TaskLease { progress: holding.lease.progress.take(), ..holding.lease.clone() });
        leases.collect()
    }

    /// Stops an attempt that somebody cancelled, or whose lease was lost.
    pub fn obey(&self, report: &v1::LeaseReport) {
        let mut held = self.lock();
        let Some(holding) = held.get_mut(&report.token) else {
            return;
        };
        match report.status() {
            v1::LeaseStatus::CancelRequested => holding.cancel.cancel(),
            v1::LeaseStatus::Lost => {
                holding.lost = true;
                holding.cancel.cancel();
            }
            v1::LeaseStatus::Held | v1::LeaseStatus::Unspecified => {}
        }
    }

    /// Whether the lease is gone, so that nobody wants to hear of the attempt.
    pub fn is_lost(&self, token: u64) -> bool {
        self.lock().get(&token).is_none_or(|holding| holding.lost)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Holding>> {
        self.0.lock().expect("no holder of this lock panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_attempts_at_one_task_are_two_things() {
        let held = Held::default();
        let lease = |token| v1::TaskLease { task_id: "t".into(), token, ..v1::TaskLease::default() };
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        let until = Instant::now() + Duration::from_secs(60);
        held.add(lease(7), first.clone(), until);
        held.add(lease(9), second.clone(), until);
        let mut report = v1::LeaseReport { task_id: "t".into(), token: 7, ..v1::LeaseReport::default() };
        report.set_status(v1::LeaseStatus::Lost);
        held.obey(&report);
        assert!(first.is_cancelled() && held.is_lost(7));
        assert!(!second.is_cancelled() && !held.is_lost(9));

        // The end of the first attempt does not make the second one's lease lapse.
        held.remove(7);
        assert!(held.is_lost(7) && !held.is_lost(9));
        assert_eq!(held.leases(), [lease(9)]);
        let half = v1::Progress { permille: 500, message: "half".into() };
        held.progress(9, half.clone());
        held.progress(7, half.clone());
        assert_eq!(held.leases()[0].progress, Some(half), "of the attempt that is held");
        assert_eq!(held.leases(), [lease(9)], "once");
        report.token = 9;
        report.set_status(v1::LeaseStatus::CancelRequested);
        held.obey(&report);
        assert!(second.is_cancelled() && !held.is_lost(9));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_stops_when_its_lease_has_run_out() {
        let (held, asked) = (Held::default(), Instant::now());
        let lease = |token| v1::TaskLease { token, ..v1::TaskLease::default() };
        let (first, second) = (CancellationToken::new(), CancellationToken::new());
        held.add(lease(1), first.clone(), asked + Duration::from_secs(10));
        held.add(lease(2), second.clone(), asked + Duration::from_secs(10));
        let report = v1::LeaseReport { token: 2, lease_expires_at_ms: 1_015_000, ..v1::LeaseReport::default() };
        held.renewed(&v1::HeartbeatTasksResponse { leases: vec![report], now_ms: 1_000_000 }, asked);
        tokio::time::advance(Duration::from_secs(10)).await;
        held.expire();
        assert!(first.is_cancelled() && held.is_lost(1));
        assert!(!second.is_cancelled() && !held.is_lost(2));
        tokio::time::advance(Duration::from_secs(5)).await;
        held.expire();
        assert!(second.is_cancelled());
    }
}
