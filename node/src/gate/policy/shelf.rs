//! The active bundles, compiled, as of one revision of the state.
//!
//! A task compiles them as soon as they change, off the way of requests. A request that comes in between compiles them itself: nothing is
//! ever admitted by an older set than this node has applied.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tarn_machine::ActiveBundle;
use tarn_policy::{Bundle, Compiled, Digest};
use tarn_raft::Consensus;
use tokio_util::sync::CancellationToken;

/// Between two looks at the state, at least.
const PAUSE: Duration = Duration::from_millis(20);

/// What judges in one environment: its bundles, or why there is nothing that could.
pub(super) type Bench = Result<Arc<tarn_policy::Policies>, Broken>;

/// An active bundle that this build cannot use. Whoever asks is refused.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub name: Arc<str>,
    pub version: Arc<str>,
    pub why: Arc<str>,
}

/// The compiled bundles of all environments that have any.
#[derive(Default)]
pub(super) struct Set {
    revision: u64,
    environments: BTreeMap<Arc<str>, Bench>,
}

impl Set {
    /// What judges in this environment; `None` if nothing does.
    pub fn of(&self, environment: &str) -> Option<&Bench> {
        self.environments.get(environment)
    }
}

/// Keeps the latest set. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Shelf(Arc<Inner>);

#[derive(Default)]
struct Inner {
    set: RwLock<Arc<Set>>,
    /// Held by whoever compiles.
    compiling: Mutex<()>,
}

impl Shelf {
    fn latest(&self) -> Arc<Set> {
        self.0.set.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The set, if it is as new as this state.
    pub fn ready(&self, state: &tarn_machine::Policies) -> Option<Arc<Set>> {
        Some(self.latest()).filter(|set| set.revision >= state.revision)
    }

    /// The set as of this state or a later one. Blocks while bundles are compiled, if they have to be.
    pub fn compiled(&self, state: &tarn_machine::Policies) -> Arc<Set> {
        if let Some(set) = self.ready(state) {
            return set;
        }
        let _alone = self.0.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.latest();
        if before.revision >= state.revision {
            return before;
        }
        let set = Arc::new(compile(state, &before));
        *self.0.set.write().unwrap_or_else(PoisonError::into_inner) = set.clone();
        set
    }

    /// Compiles whatever becomes active, as soon as it does, until `stop`.
    pub async fn follow(self, consensus: Consensus, stop: CancellationToken) {
        let mut applied = consensus.applied();
        let following = async {
            loop {
                let Ok(state) = consensus.read(tarn_machine::Machine::policies) else {
                    return;
                };
                if self.ready(&state).is_none() {
                    let shelf = self.clone();
                    // It has its own threads and limits, and may be waited for.
                    let _ = tokio::task::spawn_blocking(move || shelf.compiled(&state)).await;
                }
                if applied.changed().await.is_err() {
                    return;
                }
                // Under load the state changes thousands of times a second; whoever asks meanwhile compiles what is not ready.
                tokio::time::sleep(PAUSE).await;
                applied.mark_unchanged();
            }
        };
        stop.run_until_cancelled(following).await;
    }
}

fn compile(state: &tarn_machine::Policies, before: &Set) -> Set {
    let environments = state.active.iter().map(|(environment, bundles)| {
        let bench = bench(bundles, before.of(environment));
        if let Err(Broken { name, version, why }) = &bench {
            tracing::error!(%environment, policy = %name, %version, %why, "an active policy cannot be used: everything in its environment is refused");
        }
        (environment.clone(), bench)
    });
    Set { revision: state.revision, environments: environments.collect() }
}

/// One environment's bundles. What has not changed is taken over, with the decisions that it remembers.
fn bench(bundles: &BTreeMap<Arc<str>, ActiveBundle>, before: Option<&Bench>) -> Bench {
    let before = before.and_then(|bench| bench.as_ref().ok());
    let known = before.map_or(&[][..], |bench| bench.bundles());
    let digest = |bundle: &ActiveBundle| <[u8; 32]>::try_from(bundle.digest.as_ref()).ok().map(Digest);
    let same =
        known.len() == bundles.len() && known.iter().zip(bundles.values()).all(|(known, bundle)| Some(known.digest()) == digest(bundle));
    if let Some(before) = before.filter(|_| same) {
        return Ok(before.clone());
    }
    let mut compiled = Vec::with_capacity(bundles.len());
    for (name, bundle) in bundles {
        let broken =
            |error: tarn_policy::Error| Broken { name: name.clone(), version: bundle.version.clone(), why: error.to_string().into() };
        compiled.push(match known.iter().find(|known| Some(known.digest()) == digest(bundle)) {
            Some(known) => known.clone(),
            None => {
                let bundle = Bundle::from_bytes(&bundle.content).map_err(broken)?;
                Compiled::new(&bundle).map_err(broken)?
            }
        });
    }
    let set = tarn_policy::Policies::new(compiled);
    set.map(Arc::new).map_err(|error| Broken { name: "".into(), version: "".into(), why: error.to_string().into() })
}
