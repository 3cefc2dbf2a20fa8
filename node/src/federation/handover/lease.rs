//! The leases of tasks that another cluster does: for how long they are good, by this machine's own clock.
//!
//! A lease is good for its length from the moment at which it was asked for, not from that at which the answer came: by then the kernel's clock
//! may have run for as long. So whatever rests on it ends before the kernel gives the task to somebody else.
//!
//! The kernel is asked for twice as long, and a second more, than is relied on: its clock takes steps of up to a second and runs at up to twice
//! the speed where it has to catch up with its machines' clocks.
//!
//! It is renewed only while the other cluster is heard of: one that has vanished with the task is waited for until the lease ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tarn_proto::v1::{LeaseReport, LeaseStatus, Progress, TaskLease};
use tokio::sync::watch;
use tokio::time::Instant;

/// A lease is renewed, here and in the other cluster, so many times before it ends.
const RENEWALS: u32 = 6;

/// The steps of the kernel's clock.
const STEP: Duration = Duration::from_secs(1);

/// A change of leader, and more.
const WORKER_TTL_MS: u64 = 30_000;

/// How a lease stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hold {
    /// The task is given to nobody else before.
    pub until: Instant,
    /// Somebody asked to cancel the task.
    pub cancelled: bool,
    /// It is over, whatever `until` says.
    pub lost: bool,
}

/// A lease, as whoever works under it has it. Dropped, it is renewed no more.
pub(super) struct Lease {
    /// The task and the token.
    pub namespace: String,
    pub task_id: String,
    pub token: u64,
    hold: watch::Receiver<Hold>,
    leases: Leases,
}

/// Why the work under a lease has to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// It was not renewed in time here; another node may have done so.
    Expired,
    /// The kernel says that it has ended, whoever leads.
    Lost,
    /// It is still held, but somebody asked to cancel it.
    Cancelled,
}

impl Lease {
    /// Until when it is good, as far as is known now.
    pub fn until(&self) -> Instant {
        self.hold.borrow().until
    }

    /// How often the work under it is to tell the other cluster how long it is good.
    pub fn renew_every(&self) -> Duration {
        self.leases.renew_every()
    }

    /// Waits until the work under it has to stop.
    pub async fn over(&self) -> Over {
        let mut hold = self.hold.clone();
        loop {
            let now = *hold.borrow_and_update();
            if now.lost {
                return Over::Lost;
            }
            if now.cancelled {
                return Over::Cancelled;
            }
            tokio::select! {
                () = tokio::time::sleep_until(now.until) => return Over::Expired,
                changed = hold.changed() => if changed.is_err() { return Over::Expired },
            }
        }
    }

    /// Notes that the other cluster was heard of, or that an offer to it is under way, which ends by itself.
    pub fn heard(&self) {
        if let Some(entry) = self.leases.entries().get_mut(&self.token) {
            entry.heard = Some(Instant::now());
        }
    }

    /// Notes how far the attempt is: the next renewal tells.
    pub fn progress(&self, progress: Progress) {
        if let Some(entry) = self.leases.entries().get_mut(&self.token) {
            entry.lease.progress = Some(progress);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.entries().remove(&self.token);
    }
}

/// All leases under which this node has other clusters work. Clones share them.
#[derive(Clone)]
pub(super) struct Leases {
    /// How long each lasts unless it is renewed. A link may be cut for almost as long without an attempt's being lost.
    length: Duration,
    entries: Arc<Mutex<BTreeMap<u64, Entry>>>,
}

struct Entry {
    worker: String,
    lease: TaskLease,
    /// However often it is renewed.
    ends: Instant,
    /// When the other cluster was last heard of; `None`: not since this node works under it.
    heard: Option<Instant>,
    hold: watch::Sender<Hold>,
}

impl Leases {
    /// None yet; each is to last so long.
    pub fn new(length: Duration) -> Self {
        Self { length, entries: Arc::default() }
    }

    /// What the kernel is asked for, in milliseconds.
    pub fn asked_ms(&self) -> u64 {
        u64::try_from((2 * self.length + STEP).as_millis()).unwrap_or(u64::MAX)
    }

    /// How long a worker's registration has to last without a heartbeat: its leases end with it.
    pub fn registered_ms(&self) -> u64 {
        self.asked_ms() + WORKER_TTL_MS
    }

    /// How often they are renewed.
    pub fn renew_every(&self) -> Duration {
        self.length / RENEWALS
    }

    /// A lease that was granted just now, asked for at `asked`, of an attempt that ends at `ends` at the latest.
    pub fn add(&self, worker: &str, task: (&str, &str), token: u64, asked: Instant, ends: Instant) -> Lease {
        self.enter(worker, task, token, (asked + self.length, ends), Some(Instant::now()))
    }

    /// A lease that was granted to an earlier leader's node, of which the kernel has so much left. It is renewed only once the other cluster has
    /// been heard of: who has vanished is not waited for anew.
    pub fn take_up(&self, worker: &str, task: (&str, &str), token: u64, left: Duration, ends: Instant) -> Lease {
        let until = Instant::now() + (left.saturating_sub(STEP) / 2).min(self.length);
        self.enter(worker, task, token, (until, ends), None)
    }

    fn enter(&self, worker: &str, task: (&str, &str), token: u64, times: (Instant, Instant), heard: Option<Instant>) -> Lease {
        let ((namespace, task_id), (until, ends)) = (task, times);
        let (sender, hold) = watch::channel(Hold { until: until.min(ends), cancelled: false, lost: false });
        let lease = TaskLease { namespace: namespace.to_owned(), task_id: task_id.to_owned(), token, progress: None };
        self.entries().insert(token, Entry { worker: worker.to_owned(), lease, ends, heard, hold: sender });
        Lease { namespace: namespace.to_owned(), task_id: task_id.to_owned(), token, hold, leases: self.clone() }
    }

    /// Whether somebody works under this lease.
    pub fn has(&self, token: u64) -> bool {
        self.entries().contains_key(&token)
    }

    /// The leases of one worker that are to be renewed: those whose clusters were heard of lately. What attempts said of their progress is in it once.
    pub fn of(&self, worker: &str) -> Vec<TaskLease> {
        let lately = 2 * self.renew_every();
        let mut entries = self.entries();
        let own = entries.values_mut().filter(|entry| entry.worker == worker && entry.heard.is_some_and(|at| at.elapsed() <= lately));
        own.map(|entry| TaskLease { progress: entry.lease.progress.take(), ..entry.lease.clone() }).collect()
    }

    /// Tells the work under the leases of workers that are gone that it has to stop: their leases have ended with them.
    pub fn keep_only(&self, workers: &std::collections::BTreeSet<String>) {
        for entry in self.entries().values().filter(|entry| !workers.contains(&entry.worker)) {
            entry.hold.send_modify(|hold| hold.lost = true);
        }
    }

    /// Takes the answer to a renewal that was asked for at `asked`.
    pub fn renewed(&self, reports: &[LeaseReport], asked: Instant) {
        let entries = self.entries();
        for report in reports {
            let Some(entry) = entries.get(&report.token) else { continue };
            let until = entry.ends.min(asked + self.length);
            entry.hold.send_modify(|hold| match report.status() {
                LeaseStatus::Held => hold.until = until,
                LeaseStatus::CancelRequested => (hold.until, hold.cancelled) = (until, true),
                LeaseStatus::Lost | LeaseStatus::Unspecified => hold.lost = true,
            });
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn report(token: u64, status: LeaseStatus) -> LeaseReport {
        LeaseReport { token, status: status.into(), ..LeaseReport::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_good_from_when_it_was_asked_for() {
        let (leases, asked) = (Leases::new(LEASE), Instant::now());
        let lease = leases.add("w", ("default", "t"), 7, asked, asked + 10 * LEASE);
        assert!(leases.has(7) && leases.of("w").len() == 1 && leases.of("other").is_empty());
        tokio::time::advance(LEASE / 2).await;
        let renewed = Instant::now();
        tokio::time::advance(LEASE / 4).await;
        leases.renewed(&[report(7, LeaseStatus::Held), report(8, LeaseStatus::Lost)], renewed);
        assert_eq!(lease.until(), renewed + LEASE);
        assert_eq!(lease.over().await, Over::Expired);
        assert_eq!(Instant::now(), renewed + LEASE);
        assert!(leases.of("w").is_empty(), "the other cluster was not heard of for so long");
        lease.heard();
        lease.progress(Progress { permille: 5, ..Progress::default() });
        assert_eq!(leases.of("w")[0].progress.as_ref().map(|told| told.permille), Some(5));
        assert_eq!(leases.of("w")[0].progress, None, "once");
        drop(lease);
        assert!(!leases.has(7));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_the_attempt_does_or_somebody_says_so() {
        let (leases, asked) = (Leases::new(LEASE), Instant::now());
        let taken = leases.take_up("w", ("default", "u"), 9, 2 * LEASE / 3 + STEP, asked + 10 * LEASE);
        assert_eq!((taken.until(), leases.of("w").len()), (asked + LEASE / 3, 0), "it is not renewed before the other cluster is heard of");
        taken.heard();
        assert_eq!(leases.of("w").len(), 1);
        drop(taken);
        let short = leases.add("w", ("default", "t"), 1, asked, asked + LEASE / 3);
        leases.renewed(&[report(1, LeaseStatus::Held)], asked);
        assert_eq!(short.until(), asked + LEASE / 3);
        let cancelled = leases.add("w", ("default", "t"), 2, asked, asked + 10 * LEASE);
        leases.renewed(&[report(2, LeaseStatus::CancelRequested)], asked);
        assert_eq!(cancelled.over().await, Over::Cancelled);
        leases.keep_only(&["w".to_owned()].into());
        assert_eq!(cancelled.over().await, Over::Cancelled);
        leases.keep_only(&["other".to_owned()].into());
        assert_eq!(cancelled.over().await, Over::Lost);
        assert_eq!(Instant::now(), asked);
    }
}
