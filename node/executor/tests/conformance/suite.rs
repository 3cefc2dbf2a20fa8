//! The questions. Each returns at once where the runtime or its guest cannot be had.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tarn_executor::{
    ARTIFACT_BYTES_MAX, ArtifactSource, Attempt, Command, ExecutionError, Executor, Failure, Grants, Hash, Kind, Limits, NoServices,
    Report, Source, SourceError,
};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio_util::sync::CancellationToken;

use crate::Subject;

/// Longer than anything here takes on a machine that is busy with other things. Reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(120);

/// Held by every test to read, and by those that count what the process holds to write.
static OTHERS: RwLock<()> = RwLock::const_new(());

/// Whether other tests of this process may run beside.
enum Company {
    Others { _with: RwLockReadGuard<'static, ()> },
    Alone { _without: RwLockWriteGuard<'static, ()> },
}

/// A runtime that is there, with its guest.
pub struct Bench {
    _company: Company,
    pub executor: Arc<dyn Executor>,
    pub guest: Bytes,
}

impl Bench {
    pub async fn new(subject: &dyn Subject, slots: usize) -> Option<Self> {
        let company = Company::Others { _with: OTHERS.read().await };
        Self::in_company(subject, slots, company).await
    }

    /// While no other test of this process runs.
    pub async fn alone(subject: &dyn Subject, slots: usize) -> Option<Self> {
        let company = Company::Alone { _without: OTHERS.write().await };
        Self::in_company(subject, slots, company).await
    }

    async fn in_company(subject: &dyn Subject, slots: usize, company: Company) -> Option<Self> {
        let guest = subject.guest()?;
        let executor = subject.executor(slots).await?;
        Some(Self { _company: company, executor, guest })
    }

    /// The guest with these arguments.
    pub fn attempt(&self, args: &[&str]) -> Attempt {
        attempt(&self.guest, args)
    }

    pub async fn run(&self, attempt: Attempt) -> Result<Report, Failure> {
        self.run_until(attempt, CancellationToken::new()).await
    }

    async fn run_until(&self, attempt: Attempt, cancel: CancellationToken) -> Result<Report, Failure> {
        let running = self.executor.run(attempt, cancel);
        tokio::time::timeout(PATIENCE, running).await.expect("the attempt does not end")
    }

    async fn fails(&self, attempt: Attempt) -> Failure {
        self.run(attempt).await.expect_err("the attempt should fail")
    }

    /// After whatever was done to it, the next attempt works.
    pub async fn still_works(&self) {
        let mut attempt = self.attempt(&["echo"]);
        input(&mut attempt, b"still here");
        assert_eq!(self.run(attempt).await.unwrap().output, "still here");
    }
}

fn attempt(guest: &Bytes, args: &[&str]) -> Attempt {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Attempt {
        tenant: "team-a".into(),
        artifact: Hash::of(guest),
        source: Source::Bytes(guest.clone()),
        kind: Kind::Command(Command { args, ..Command::default() }),
        limits: Limits { memory_bytes: 64 << 20, ..Limits::default() },
        grants: Grants::default(),
        services: Arc::new(NoServices),
    }
}

pub fn input(attempt: &mut Attempt, bytes: &'static [u8]) {
    if let Kind::Command(command) = &mut attempt.kind {
        command.input = Bytes::from_static(bytes);
    }
}

fn is(error: &ExecutionError, reason: &str, retryable: bool) {
    assert_eq!((error.reason(), error.retryable()), (reason, retryable), "{error}");
}

pub async fn succeeds(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 2).await else {
        return;
    };
    let mut attempt = bench.attempt(&["echo"]);
    input(&mut attempt, b"in and out");
    let report = bench.run(attempt).await.unwrap();
    assert_eq!(report.output, "in and out");
    assert!(report.usage.ran > Duration::ZERO && report.usage.memory_bytes_peak > 0, "{:?}", report.usage);

    let mut attempt = bench.attempt(&["args", "one", "two words"]);
    if let Kind::Command(command) = &mut attempt.kind {
        command.env.insert("GREETING".into(), "hello".into());
    }
    assert_eq!(bench.run(attempt).await.unwrap().output, "one\ntwo words\nhello\n");
    // Nothing of this process's own environment is handed down.
    let report = bench.run(bench.attempt(&["args"])).await.unwrap();
    assert_eq!(report.output, "none\n");
}

pub async fn non_zero_exit(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 2).await else {
        return;
    };
    let failure = bench.fails(bench.attempt(&["exit", "3"])).await;
    assert_eq!(failure.error, ExecutionError::ExitNonzero { status: 3 });
    is(&failure.error, "EXIT_NONZERO", true);
    assert_eq!(failure.logs, "giving up\n");
}

pub async fn crash(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 2).await else {
        return;
    };
    let failure = bench.fails(bench.attempt(&["crash"])).await;
    is(&failure.error, subject.crash_reason(), false);
    assert!(failure.logs.starts_with(b"before\n"), "{:?}", failure.logs);
    bench.still_works().await;
}

pub async fn time_out(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 1).await else {
        return;
    };
    let mut attempt = bench.attempt(&["loop"]);
    attempt.limits.time_ms = 50;
    let failure = bench.fails(attempt).await;
    is(&failure.error, "TIME_LIMIT", true);
    assert!(failure.usage.ran >= Duration::from_millis(50), "{:?}", failure.usage);
    bench.still_works().await;
}

pub async fn memory_limit(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 1).await else {
        return;
    };
    let mut attempt = bench.attempt(&["allocate"]);
    attempt.limits.memory_bytes = 32 << 20;
    let failure = bench.fails(attempt).await;
    is(&failure.error, "MEMORY_LIMIT", false);
    bench.still_works().await;
}

pub async fn output_limit(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 1).await else {
        return;
    };
    let mut attempt = bench.attempt(&["flood"]);
    attempt.limits.output_bytes = 10_000;
    let failure = bench.fails(attempt).await;
    assert_eq!(failure.error, ExecutionError::OutputLimit { limit_bytes: 10_000 });
    bench.still_works().await;
    // Up to the last byte it may.
    let mut attempt = bench.attempt(&["echo"]);
    input(&mut attempt, b"0123456789");
    attempt.limits.output_bytes = 10;
    assert_eq!(bench.run(attempt).await.unwrap().output, "0123456789");
}

pub async fn logs_are_bounded(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 1).await else {
        return;
    };
    let mut attempt = bench.attempt(&["chatter"]);
    attempt.limits.log_bytes = 100;
    let report = bench.run(attempt).await.unwrap();
    assert_eq!(report.output, "done", "what is not kept stops nobody");
    let logs = String::from_utf8(report.logs.to_vec()).unwrap();
    assert!(logs.starts_with("line 0\nline 1\n") && logs.contains("the limit log_bytes is 100"), "{logs}");
}

pub async fn logs_without_end_are_stopped_by_time(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 1).await else {
        return;
    };
    let mut attempt = bench.attempt(&["shout"]);
    (attempt.limits.log_bytes, attempt.limits.time_ms) = (1_000, 50);
    loop {
        let failure = bench.fails(attempt.clone()).await;
        is(&failure.error, "TIME_LIMIT", true);
        assert!(failure.logs.len() < 1_200, "{} bytes", failure.logs.len());
        // How long a runtime takes to get that far, only trying tells.
        if failure.logs.ends_with(b"more bytes dropped, the limit log_bytes is 1000]\n") {
            break;
        }
        attempt.limits.time_ms *= 2;
        assert!(attempt.limits.time_ms < 60_000, "it never begins to run");
    }
    bench.still_works().await;
}

pub async fn cancellation(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 1).await else {
        return;
    };
    // Before it begins.
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let failure = bench.run_until(bench.attempt(&["hang"]), cancelled).await.unwrap_err();
    is(&failure.error, "CANCELLED", true);

    // While it runs: its logs tell that it did. How long a runtime takes to get there, only trying tells.
    let mut delay = Duration::from_millis(20);
    loop {
        let cancel = CancellationToken::new();
        let later = async {
            tokio::time::sleep(delay).await;
            cancel.cancel();
        };
        let (ended, ()) = tokio::join!(bench.run_until(bench.attempt(&["hang"]), cancel.clone()), later);
        let failure = ended.unwrap_err();
        is(&failure.error, "CANCELLED", true);
        if failure.logs == "running\n" {
            break;
        }
        delay *= 2;
        assert!(delay < PATIENCE, "it never begins to run");
    }
    bench.still_works().await;
}

pub async fn a_dropped_attempt_gives_its_slot_back(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 1).await else {
        return;
    };
    let dropped = bench.executor.run(bench.attempt(&["hang"]), CancellationToken::new());
    let _ = tokio::time::timeout(Duration::from_millis(200), dropped).await;
    // There is one slot, and no time limit of the first would have freed it by now.
    bench.still_works().await;
}

pub async fn bad_artifacts(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 1).await else {
        return;
    };
    let garbage = Bytes::from_static(b"\x7fELF, or so it says");
    is(&bench.fails(attempt(&garbage, &[])).await.error, subject.garbage_reason(), false);
    let empty = Bytes::new();
    is(&bench.fails(attempt(&empty, &[])).await.error, subject.garbage_reason(), false);

    let mut lies = attempt(&garbage, &[]);
    lies.artifact = Hash::of(b"something else");
    is(&bench.fails(lies).await.error, "HASH_MISMATCH", true);
    let mut absent = attempt(&garbage, &[]);
    absent.artifact = Hash::of(b"nobody has this");
    absent.source = Source::Prepared;
    is(&bench.fails(absent).await.error, "ARTIFACT_UNAVAILABLE", true);

    let hash = Hash::of(&bench.guest);
    bench.executor.prepare(&hash, bench.guest.clone()).await.unwrap();
    let mut prepared = bench.attempt(&["exit", "0"]);
    prepared.source = Source::Prepared;
    bench.run(prepared).await.unwrap();
    let refused = bench.executor.prepare(&Hash::of(b"another"), bench.guest.clone()).await;
    is(&refused.unwrap_err(), "HASH_MISMATCH", true);
}

/// A source that gives whatever it holds, for any artifact.
struct Gives(Result<Option<Bytes>, &'static str>);

#[async_trait]
impl ArtifactSource for Gives {
    async fn load(&self, _hash: &Hash) -> Result<Option<Bytes>, SourceError> {
        Ok(self.0.clone()?)
    }
}

pub async fn bad_sources(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 1).await else {
        return;
    };
    let from = |given| {
        let mut attempt = bench.attempt(&["exit", "0"]);
        attempt.source = Source::Provider(Arc::new(Gives(given)));
        attempt
    };
    is(&bench.fails(from(Ok(None))).await.error, "ARTIFACT_UNAVAILABLE", true);
    is(&bench.fails(from(Err("the peer is gone"))).await.error, "ARTIFACT_UNAVAILABLE", true);
    is(&bench.fails(from(Ok(Some(bench.guest.slice(1..))))).await.error, "HASH_MISMATCH", true);
    let large = Bytes::from(vec![0; usize::try_from(ARTIFACT_BYTES_MAX).unwrap() + 1]);
    is(&bench.fails(from(Ok(Some(large.clone())))).await.error, "ARTIFACT_TOO_LARGE", false);
    let refused = bench.executor.prepare(&Hash::of(&large), large).await;
    is(&refused.unwrap_err(), "ARTIFACT_TOO_LARGE", false);
    // What failed for one source is tried again with the next.
    bench.run(from(Ok(Some(bench.guest.clone())))).await.unwrap();
}

/// How many damaged guests are tried.
const DAMAGED: usize = 8;

/// Guests of which something is missing or changed, each under its right name. Some still work, some do anything; no more than themselves
/// is lost.
pub async fn damaged_programs(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 2).await else {
        return;
    };
    for number in 0..DAMAGED {
        let place = bench.guest.len() * number / DAMAGED;
        let mut flipped = bench.guest.to_vec();
        flipped[place] ^= 1 << (number % 8);
        let short = bench.guest[..place].to_vec();
        for damaged in [flipped, short] {
            let mut attempt = attempt(&damaged.into(), &["echo"]);
            (attempt.limits.time_ms, attempt.limits.output_bytes) = (200, 1_000);
            if let Err(failure) = bench.run(attempt).await {
                let reason = failure.error.reason();
                assert!(!["EXECUTOR_BROKEN", "MICROVM_FAULT"].contains(&reason), "{number}: {failure}");
            }
        }
    }
    bench.still_works().await;
}

pub async fn bad_limits(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 1).await else {
        return;
    };
    let mut attempt = bench.attempt(&["echo"]);
    attempt.limits.time_ms = 0;
    is(&bench.fails(attempt).await.error, "LIMIT_OUT_OF_RANGE", false);
    let mut attempt = bench.attempt(&["echo", "zero\0byte"]);
    attempt.limits.memory_bytes = 64 << 20;
    let failure = bench.fails(attempt).await;
    assert!(!failure.error.retryable() && failure.error.reason().ends_with("BAD_ARGUMENTS"), "{failure}");
    let mut attempt = bench.attempt(&["echo"]);
    attempt.kind = Kind::Export { name: "no_such_function".into(), params: Vec::new() };
    assert!(!bench.fails(attempt).await.error.retryable());
    bench.still_works().await;
}

pub async fn a_hundred_at_once(subject: &dyn Subject) {
    let Some(bench) = Bench::new(subject, 100).await else {
        return;
    };
    let attempts = (0..100).map(|number| {
        let args = ["args".to_owned(), format!("guest {number}")];
        bench.run(bench.attempt(&[&args[0], &args[1]]))
    });
    for (number, ended) in futures::future::join_all(attempts).await.into_iter().enumerate() {
        assert_eq!(ended.unwrap().output, format!("guest {number}\nnone\n"));
    }
}
