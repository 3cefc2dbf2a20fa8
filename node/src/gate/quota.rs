//! Has the namespace asked too often? A token bucket for each namespace that has a quota on requests; every other quota is the kernel's.
//!
//! Each node allows its share: the quota divided by the number of voters, whichever node clients prefer. So no node has to ask another, and
//! the cluster as a whole never lets more through than the quota; where clients ask one node alone, it lets through less. A bucket holds the
//! share of one minute, and at least one request, so that a small quota does not divide into nothing.
//!
//! What counts is every command and read that names a namespace. What ends or keeps something that is held does not, because refusing it
//! would lose work: what workers say about attempts, and renewals and releases of named leases. Nor does what is asked about the namespace
//! itself, or nobody could raise a quota that is used up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tarn_machine::Tenants;
use tarn_proto::v1;
use tarn_proto::v1::command::Body;
use tonic::Code;

use super::{Ask, Proof, Step, What};

/// The step, with the buckets of this node.
pub(super) struct Quota {
    began: Instant,
    buckets: Mutex<Buckets>,
}

impl Quota {
    /// All buckets are full.
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), buckets: Mutex::default() }
    }
}

impl Step for Quota {
    fn name(&self) -> &'static str {
        "quota"
    }

    fn admit(&self, ask: &Ask<'_>) -> Result<(), v1::Rejection> {
        if ask.caller.proof == Proof::Own {
            return Ok(());
        }
        let Some(namespace) = counts_for(&ask.what) else {
            return Ok(());
        };
        let mut buckets = self.buckets.lock().expect("no holder of this lock panics");
        buckets.take(&ask.state.tenants, ask.state.voters, namespace, self.began.elapsed())
    }
}

/// The namespace that a request counts for, if it counts.
fn counts_for<'a>(what: &What<'a>) -> Option<&'a str> {
    match what {
        What::Act(wish) => wish.namespace.filter(|_| wish.kind != "namespace"),
        What::Command(command) => match command.body.as_ref()? {
            Body::Enqueue(r) => Some(&r.namespace),
            Body::CancelTask(r) => Some(&r.namespace),
            Body::RequeueDead(r) => Some(&r.namespace),
            Body::PurgeQueue(r) => Some(&r.namespace),
            Body::AcquireLease(r) => Some(&r.namespace),
            Body::ScheduleTimer(r) => Some(&r.namespace),
            Body::CancelTimer(r) => Some(&r.namespace),
            Body::PutKey(r) => Some(&r.namespace),
            Body::DeleteKey(r) => Some(&r.namespace),
            Body::SnapshotContext(r) => Some(&r.namespace),
            Body::RestoreContext(r) => Some(&r.namespace),
            Body::DeleteSnapshot(r) => Some(&r.namespace),
            Body::DeleteContext(r) => Some(&r.namespace),
            // Everything else ends or keeps what is held, or is about the cluster.
            _ => None,
        },
    }
}

/// A request in the unit in which buckets count: what a quota of one a minute brings in a millisecond is one.
const MINUTE_MS: u128 = 60_000;

/// How much is in a namespace's bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// In parts of a request: so many that a millisecond adds a whole number of them.
    level: u128,
    at: Duration,
    /// The quota and the number of voters that `level` is measured by.
    limit: u64,
    voters: u64,
}

impl Bucket {
    fn full(limit: u64, voters: u64, now: Duration) -> Self {
        let mut bucket = Self { level: 0, at: now, limit, voters };
        bucket.level = bucket.capacity();
        bucket
    }

    /// What one request takes.
    fn request(&self) -> u128 {
        MINUTE_MS * u128::from(self.voters)
    }

    /// The share of a minute, at least one request.
    fn capacity(&self) -> u128 {
        (MINUTE_MS * u128::from(self.limit)).max(self.request())
    }

    /// Adds what the time since the last look brought. A clock that stands still or goes back brings nothing.
    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at);
        let whole_ms = passed.as_millis();
        self.level = (self.level + whole_ms * u128::from(self.limit)).min(self.capacity());
        self.at += Duration::from_millis(u64::try_from(whole_ms).unwrap_or(u64::MAX));
    }

    /// Takes one request out, or says how long it is until there is one, in milliseconds.
    fn take(&mut self) -> Result<(), u64> {
        let missing = self.request().saturating_sub(self.level);
        if missing > 0 {
            return Err(u64::try_from(missing.div_ceil(u128::from(self.limit))).unwrap_or(u64::MAX));
        }
        self.level -= self.request();
        Ok(())
    }
}

/// The buckets of namespaces that have a quota: never more than there are such namespaces.
#[derive(Default)]
struct Buckets(HashMap<Arc<str>, Bucket>);

impl Buckets {
    fn take(&mut self, tenants: &Tenants, voters: u64, namespace: &str, now: Duration) -> Result<(), v1::Rejection> {
        let Some((name, tenant)) = tenants.get_key_value(namespace) else {
            return Ok(());
        };
        let (limit, voters) = (tenant.requests_per_minute, voters.max(1));
        if limit == 0 {
            self.0.remove(name);
            return Ok(());
        }
        if !self.0.contains_key(name) {
            self.0.retain(|known, _| tenants.get(known).is_some_and(|tenant| tenant.requests_per_minute > 0));
        }
        let bucket = self.0.entry(name.clone()).or_insert_with(|| Bucket::full(limit, voters, now));
        bucket.fill(now);
        if (bucket.limit, bucket.voters) != (limit, voters) {
            // What is left of the old share is as much of the new one.
            let (level, capacity) = (bucket.level, bucket.capacity());
            *bucket = Bucket::full(limit, voters, bucket.at);
            bucket.level = bucket.level * (level * 1_000 / capacity) / 1_000;
        }
        bucket.take().map_err(|retry_after_ms| refusal(namespace, limit, voters, retry_after_ms))
    }
}

fn refusal(namespace: &str, limit: u64, voters: u64, retry_after_ms: u64) -> v1::Rejection {
    v1::Rejection {
        code: Code::ResourceExhausted as u32,
        reason: "QUOTA_REQUESTS_PER_MINUTE".into(),
        message: format!(
            "namespace {namespace:?} has used this node's share, one of {voters}, of its quota of {limit} requests per minute: try again in {retry_after_ms} ms, or another node"
        ),
        field: "requests_per_minute".into(),
        limit,
        retry_after_ms,
        ..v1::Rejection::default()
    }
}

#[cfg(test)]
mod tests {
    use tarn_machine::Tenant;

    use super::*;

    fn tenants(limits: &[(&str, u64)]) -> Tenants {
        let tenant = |(name, limit): &(&str, u64)| {
            let tenant = Tenant { environment: "prod".into(), requests_per_minute: *limit };
            (Arc::from(*name), tenant)
        };
        limits.iter().map(tenant).collect()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// How many requests of so many are let through at one moment.
    fn passes(buckets: &mut Buckets, tenants: &Tenants, voters: u64, now: Duration, tries: usize) -> usize {
        (0..tries).filter(|_| buckets.take(tenants, voters, "a", now).is_ok()).count()
    }

    #[test]
    fn a_node_allows_its_share_and_no_more() {
        let (tenants, mut buckets) = (tenants(&[("a", 60)]), Buckets::default());
        assert_eq!(passes(&mut buckets, &tenants, 3, ms(0), 100), 20);
        let refused = buckets.take(&tenants, 3, "a", ms(0)).expect_err("the share is used up");
        assert_eq!(refused.reason, "QUOTA_REQUESTS_PER_MINUTE");
        assert_eq!((refused.field.as_str(), refused.limit), ("requests_per_minute", 60));
        assert_eq!(refused.retry_after_ms, 3_000, "twenty a minute is one every three seconds");
        assert!(buckets.take(&tenants, 3, "a", ms(2_999)).is_err());
        assert!(buckets.take(&tenants, 3, "a", ms(3_000)).is_ok());
        assert!(buckets.take(&tenants, 3, "a", ms(3_000)).is_err());
        assert_eq!(passes(&mut buckets, &tenants, 3, ms(10 * 60_000), 100), 20, "what is not used is not saved up");
    }

    #[test]
    fn over_an_hour_it_is_exactly_the_share_however_often_it_is_asked() {
        let (tenants, mut buckets) = (tenants(&[("a", 100)]), Buckets::default());
        let first = passes(&mut buckets, &tenants, 3, ms(0), 1_000);
        let later: usize = (1..=3_600_000 / 7).map(|step| passes(&mut buckets, &tenants, 3, ms(step * 7), 1)).sum();
        assert_eq!((first, later), (33, 2_000), "a third of a hundred a minute");
    }

    #[test]
    fn a_share_below_one_is_one_now_and_then() {
        let (tenants, mut buckets) = (tenants(&[("a", 1)]), Buckets::default());
        assert_eq!(passes(&mut buckets, &tenants, 7, ms(0), 10), 1);
        assert_eq!(passes(&mut buckets, &tenants, 7, ms(6 * 60_000), 10), 0);
        assert_eq!(passes(&mut buckets, &tenants, 7, ms(7 * 60_000), 10), 1);
    }

    #[test]
    fn a_changed_quota_keeps_what_was_used() {
        let mut buckets = Buckets::default();
        assert_eq!(passes(&mut buckets, &tenants(&[("a", 100)]), 1, ms(0), 50), 50);
        assert_eq!(passes(&mut buckets, &tenants(&[("a", 1_000)]), 1, ms(0), 5_000), 500);
        assert_eq!(passes(&mut buckets, &tenants(&[("a", 1_000)]), 5, ms(0), 5_000), 0);
        assert_eq!(passes(&mut buckets, &tenants(&[("a", 0)]), 5, ms(0), 5_000), 5_000, "none is no limit");
    }

    #[test]
    fn the_largest_numbers_do_not_overflow_and_a_clock_that_goes_back_brings_nothing() {
        let (tenants, mut buckets) = (tenants(&[("a", u64::MAX)]), Buckets::default());
        assert!(buckets.take(&tenants, u64::MAX, "a", Duration::from_secs(1 << 40)).is_ok());
        let tenants = self::tenants(&[("a", 1)]);
        let mut buckets = Buckets::default();
        assert!(buckets.take(&tenants, 1, "a", ms(90_000)).is_ok());
        assert!(buckets.take(&tenants, 1, "a", ms(10)).is_err());
        assert!(buckets.take(&tenants, 1, "a", ms(149_999)).is_err());
        assert!(buckets.take(&tenants, 1, "a", ms(150_000)).is_ok());
    }

    #[test]
    fn there_are_never_more_buckets_than_namespaces_with_a_quota() {
        let mut buckets = Buckets::default();
        for round in 0..100 {
            let name = format!("tenant-{round}");
            let tenants = tenants(&[(&name, 10), ("free", 0)]);
            assert!(buckets.take(&tenants, 1, &name, ms(round)).is_ok());
            assert!(buckets.take(&tenants, 1, "free", ms(round)).is_ok());
            assert!(buckets.take(&tenants, 1, "nobody", ms(round)).is_ok(), "the kernel says that it does not exist");
            assert!(buckets.0.len() <= 1, "{}", buckets.0.len());
        }
    }

    #[test]
    fn what_ends_or_keeps_something_never_counts() {
        let counts = |body: Body| {
            let command = v1::Command { body: Some(body), ..v1::Command::default() };
            counts_for(&What::Command(&command)).map(str::to_owned)
        };
        let namespace = || "a".to_owned();
        let enqueue = v1::EnqueueRequest { namespace: namespace(), ..Default::default() };
        assert_eq!(counts(Body::Enqueue(enqueue)), Some("a".into()));
        let complete = v1::CompleteTaskRequest { namespace: namespace(), ..Default::default() };
        assert_eq!(counts(Body::CompleteTask(complete)), None);
        let renew = v1::RenewLeaseRequest { namespace: namespace(), ..Default::default() };
        assert_eq!(counts(Body::RenewLease(renew)), None);
        assert_eq!(counts(Body::HeartbeatTasks(v1::HeartbeatTasksRequest::default())), None);
        let update = v1::UpdateNamespaceRequest { name: namespace(), ..Default::default() };
        assert_eq!(counts(Body::UpdateNamespace(update)), None, "or nobody could raise the quota");
    }
}
