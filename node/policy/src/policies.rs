//! The active bundles of one environment, as the gate asks them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    Compiled, Digest, Error, FailureKind, Input, Verdict, Violation,
    cache::{Cache, Key},
    limits::{ACTIVE_MAX, CACHE_ENTRIES, CACHED_BYTES_MAX},
    reads::Reads,
};

/// The active bundles of one environment, with the decisions that they made lately. Does not change: when a bundle is activated, a new one
/// takes its place, and with it an empty cache.
///
/// All bundles must let a command pass. Without any, everything passes.
pub struct Policies {
    bundles: Vec<Compiled>,
    reads: Reads,
    /// Digest over the bundles' digests.
    versions: Digest,
    cache: Cache<Judged>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What was decided, without how.
#[derive(Debug)]
struct Judged {
    allowed: bool,
    verdicts: Vec<Verdict>,
}

/// What all active bundles say about one input.
#[derive(Clone, Debug)]
pub struct Decision {
    judged: Arc<Judged>,
    /// Digest of the bundles and of what they were shown of the input. Equal digests have equal decisions.
    pub input_digest: Digest,
    /// Whether it was remembered.
    pub cached: bool,
    /// Time that it took to decide, or to remember.
    pub elapsed: Duration,
}

/// How the cache does, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CacheStats {
    /// Decisions that are remembered.
    pub entries: usize,
    /// Decisions that were remembered when asked for, since the start.
    pub hits: u64,
    /// Decisions that had to be made, since the start.
    pub misses: u64,
}

impl Policies {
    /// The active bundles, in any order.
    ///
    /// # Errors
    /// More than [`ACTIVE_MAX`], or two of the same name.
    pub fn new(bundles: Vec<Compiled>) -> Result<Self, Error> {
        Self::with_cache(bundles, CACHE_ENTRIES)
    }

    /// The same, with a cache of about `entries` decisions. 0 remembers none.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_cache(mut bundles: Vec<Compiled>, entries: usize) -> Result<Self, Error> {
        Error::at_most("the number of active bundles", ACTIVE_MAX, bundles.len())?;
        bundles.sort_by(|one, other| one.name().cmp(other.name()));
        if let Some(twice) = bundles.windows(2).find(|pair| pair[0].name() == pair[1].name()) {
            return Err(Error::malformed(twice[0].name(), "is active in two versions; at most one can be"));
        }
        let mut reads = Reads::default();
        bundles.iter().for_each(|bundle| reads.merge(bundle.reads()));
        let digests: Vec<u8> = bundles.iter().flat_map(|bundle| bundle.digest().0).collect();
        Ok(Self {
            bundles,
            reads,
            versions: Digest::of(&digests),
            cache: Cache::new(entries),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    /// No bundles: everything passes.
    pub fn none() -> Self {
        Self::new(Vec::new()).expect("no bundles are not too many")
    }

    /// Whether there is no bundle.
    pub fn is_empty(&self) -> bool {
        self.bundles.is_empty()
    }

    /// The bundles, in ascending order of names.
    pub fn bundles(&self) -> &[Compiled] {
        &self.bundles
    }

    /// Digest over the active bundles: it changes with every activation that changes what judges.
    pub fn versions(&self) -> Digest {
        self.versions
    }

    /// What the bundles are shown of an input, as canonical JSON: the facts that a decision rests on.
    pub fn shown(&self, input: &Input) -> String {
        self.reads.project(input.value())
    }

    /// Judges an input; each bundle has `budget`. What is remembered takes microseconds; else it blocks the calling thread as
    /// [`Compiled::evaluate`] does, once for each bundle. Whatever goes wrong refuses. Only answers are remembered: a failure is tried again.
    pub fn decide(&self, input: &Input, budget: Duration) -> Decision {
        let start = Instant::now();
        let shown = self.shown(input);
        let key = self.key(&shown);
        if let Some(judged) = self.cache.get(&key) {
            self.hits.fetch_add(1, Relaxed);
            return Decision { judged, input_digest: Digest(key), cached: true, elapsed: start.elapsed() };
        }
        self.misses.fetch_add(1, Relaxed);
        let judged = Arc::new(self.judge(&shown.into(), budget));
        if judged.is_lasting() && judged.weight() <= CACHED_BYTES_MAX {
            self.cache.put(key, Arc::clone(&judged));
        }
        Decision { judged, input_digest: Digest(key), cached: false, elapsed: start.elapsed() }
    }

    /// The decision on an input if it is remembered. Never blocks, so that tasks of an asynchronous runtime may ask before they hand
    /// [`decide`](Self::decide) to a thread that may block.
    pub fn remembered(&self, input: &Input) -> Option<Decision> {
        let start = Instant::now();
        let key = self.key(&self.shown(input));
        let judged = self.cache.get(&key)?;
        self.hits.fetch_add(1, Relaxed);
        Some(Decision { judged, input_digest: Digest(key), cached: true, elapsed: start.elapsed() })
    }

    fn key(&self, shown: &str) -> Key {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.versions.0).update(shown.as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// Asks all, also after one has refused: every violation is wanted. After a failure there is nothing to add.
    fn judge(&self, shown: &Arc<str>, budget: Duration) -> Judged {
        let mut verdicts = Vec::with_capacity(self.bundles.len());
        for bundle in &self.bundles {
            let verdict = bundle.evaluate_shown(Arc::clone(shown), budget);
            let failed = verdict.error.is_some();
            verdicts.push(verdict);
            if failed {
                break;
            }
        }
        Judged { allowed: verdicts.iter().all(|verdict| verdict.allowed), verdicts }
    }

    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }

    /// How the cache does.
    pub fn cache_stats(&self) -> CacheStats {
        CacheStats { entries: self.cache.len(), hits: self.hits.load(Relaxed), misses: self.misses.load(Relaxed) }
    }
}

impl Default for Policies {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policies").field("bundles", &self.bundles).field("versions", &self.versions).finish_non_exhaustive()
    }
}

impl Judged {
    fn is_lasting(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.error.is_none())
    }

    /// Bytes that it takes, about.
    fn weight(&self) -> usize {
        let violation = |violation: &Violation| size_of::<Violation>() + violation.code.len() + violation.message.len();
        let verdict = |verdict: &Verdict| size_of::<Verdict>() + verdict.violations.iter().map(violation).sum::<usize>();
        self.verdicts.iter().map(verdict).sum()
    }
}

impl Decision {
    /// Whether every bundle lets it pass.
    pub fn allowed(&self) -> bool {
        self.judged.allowed
    }

    /// What each bundle says, in ascending order of names. After a bundle that failed, further ones were not asked. Their `elapsed` is
    /// of the time when they were asked, also if the decision is remembered.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.judged.verdicts
    }

    /// The verdict that refuses: the first failure, else the first refusal.
    pub fn refusal(&self) -> Option<&Verdict> {
        let refused = || self.verdicts().iter().filter(|verdict| !verdict.allowed);
        refused().find(|verdict| verdict.error.is_some()).or_else(|| refused().next())
    }

    /// Every violation with the bundle that found it.
    pub fn violations(&self) -> impl Iterator<Item = (&Verdict, &Violation)> {
        self.verdicts().iter().flat_map(|verdict| verdict.violations.iter().map(move |violation| (verdict, violation)))
    }

    /// Why there was no answer, if a bundle gave none.
    pub fn failure(&self) -> Option<FailureKind> {
        self.refusal()?.error.as_ref().map(|failure| failure.kind)
    }
}
