//! The middle of a run: clients work while faults come and go, then everything is healed and drained.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::future::try_join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{RunOptions, judge, say};
use crate::cluster::Ending;
use crate::faults::{self, Moment, Phase};
use crate::history::Process;
use crate::nemesis::{Injected, Nemesis, Rhythm};
use crate::schedule::{self, Step};
use crate::workload::{Scene, Workload};

/// How long a workload may take to prepare the cluster, which nothing disturbs then.
const SETUP_WITHIN: Duration = Duration::from_secs(60);
/// How long a nemesis may take to make a fault or to take it back. Some restart every node or move the membership meanwhile.
const NEMESIS_WITHIN: Duration = Duration::from_secs(300);
/// How long clients go on after everything was healed and the cluster is ready.
const CALM: Duration = Duration::from_secs(3);
/// How long a healed cluster may take until every node follows one leader and has caught up.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long clients may take to finish their last operation: longer than any deadline of theirs.
const STOP_WITHIN: Duration = Duration::from_secs(90);
/// How long accepted work may take to end. Retries with back-off and leases that run out lie within it.
const DRAIN_WITHIN: Duration = Duration::from_secs(300);
/// The same where nodes did not come back: what has ended tells more about what is broken.
const DRAIN_BROKEN_WITHIN: Duration = Duration::from_secs(20);
/// How long the nodes may take to be seen at one index.
const AGREE_WITHIN: Duration = Duration::from_secs(60);

/// Does everything from the workload's preparation to the comparison of digests, and records it.
///
/// # Errors
/// Failures of the harness.
pub async fn attack(
    options: &RunOptions,
    scene: &Arc<Scene>,
    workload: Arc<dyn Workload>,
    mut nemeses: Vec<Box<dyn Nemesis>>,
) -> Result<()> {
    let recorder = &scene.recorder;
    faults::begin(recorder, Phase::Setup);
    timeout(SETUP_WITHIN, workload.setup(scene))
        .await
        .with_context(|| format!("the workload was not set up within {SETUP_WITHIN:?}"))??;

    faults::begin(recorder, Phase::Work);
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for process in 0..options.clients {
        let (workload, scene) = (workload.clone(), scene.clone());
        clients.spawn(async move { workload.work(process, &scene).await });
    }
    tokio::select! {
        harmed = harm(options, scene, &mut nemeses, began) => harmed?,
        failed = first_failure(&mut clients) => return failed,
    }

    faults::begin(recorder, Phase::Calm);
    say(&format!("[{:>4.0} s] healed; waiting until every node is back", began.elapsed().as_secs_f64()));
    let ready = calm(scene).await?;
    faults::begin(recorder, Phase::Stop);
    scene.stop.cancel();
    timeout(STOP_WITHIN, all_ended(&mut clients)).await.with_context(|| format!("the clients did not stop within {STOP_WITHIN:?}"))??;

    faults::begin(recorder, Phase::Drain);
    say(&format!("[{:>4.0} s] draining", began.elapsed().as_secs_f64()));
    // A cluster that did not come back will hardly drain, and the run cannot be valid any more.
    let within = if ready { DRAIN_WITHIN } else { DRAIN_BROKEN_WITHIN };
    drain(scene, workload.as_ref(), within).await?;
    faults::begin(recorder, Phase::End);
    Ok(())
}

/// Makes the faults, each nemesis on its own, and returns when the time is over and all is taken back.
async fn harm(options: &RunOptions, scene: &Scene, nemeses: &mut [Box<dyn Nemesis>], began: Instant) -> Result<()> {
    let rhythms: Vec<Rhythm> = nemeses.iter().map(|nemesis| nemesis.plan()).collect();
    let plan = schedule::draw(options.seed, options.time, &rhythms);
    let (from, to) = plan.quiet;
    say(&format!(
        "{} clients; {} faults in {:.0} s, none from {:.0} s to {:.0} s",
        options.clients,
        plan.steps.len(),
        options.time.as_secs_f64(),
        from.as_secs_f64(),
        to.as_secs_f64()
    ));
    let numbers = AtomicU64::new(0);
    let haunts = nemeses.iter_mut().enumerate().map(|(at, nemesis)| {
        let steps = plan.steps.iter().filter(move |step| step.nemesis == at).cloned().collect();
        let haunt = Haunt {
            scene,
            began,
            numbers: &numbers,
            // Each nemesis draws by itself: what one of them does cannot change another's targets.
            rng: StdRng::seed_from_u64(options.seed.wrapping_add(1 + at as u64)),
        };
        haunt.through(nemesis.as_mut(), steps)
    });
    try_join_all(haunts).await?;
    sleep_until(began + options.time).await;
    Ok(())
}

/// What one nemesis needs to do its steps.
struct Haunt<'a> {
    scene: &'a Scene,
    began: Instant,
    numbers: &'a AtomicU64,
    rng: StdRng,
}

impl Haunt<'_> {
    async fn through(mut self, nemesis: &mut dyn Nemesis, steps: Vec<Step>) -> Result<()> {
        for step in steps {
            sleep_until(self.began + step.at).await;
            let end = self.began + step.at + step.on;
            // A fault before this one took so long that this one's time is over.
            if Instant::now() < end {
                self.fault(nemesis, end).await?;
            }
        }
        Ok(())
    }

    async fn fault(&mut self, nemesis: &mut dyn Nemesis, end: Instant) -> Result<()> {
        let Haunt { scene, began, .. } = *self;
        let cluster = &*scene.struck(&mut self.rng);
        let (recorder, name) = (&scene.recorder, nemesis.name());
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let note = |moment, what: &Result<serde_json::Value>| {
            let what = what.as_ref().map_err(|error| format!("{error:#}"));
            faults::record(recorder, name, number, moment, what.cloned());
        };

        note(Moment::Injecting, &Ok(json!(null)));
        let made = within(name, nemesis.inject(cluster, &mut self.rng)).await.map(|injected| injected.at(cluster.name()));
        let told = made.as_ref().map_err(|error| format!("{error:#}"));
        faults::injected(recorder, name, number, told.cloned());
        if let Ok(Injected { made, what }) = &made {
            let nothing = if *made { "" } else { "nothing done: " };
            say(&format!("[{:>4.0} s] {name}: {nothing}{what}", began.elapsed().as_secs_f64()));
            sleep_until(end).await;
        }
        note(Moment::Healing, &Ok(json!(null)));
        let healed = within(name, nemesis.heal(cluster)).await;
        note(Moment::Healed, &healed);
        if let Ok(what) = &healed
            && !what.is_null()
        {
            say(&format!("[{:>4.0} s] {name}, taken back: {what}", began.elapsed().as_secs_f64()));
        }
        made.and(healed.map(drop)).with_context(|| format!("nemesis {name}"))
    }
}

async fn within<T>(name: &str, what: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(NEMESIS_WITHIN, what).await.with_context(|| format!("{name} was not done within {NEMESIS_WITHIN:?}"))?
}

/// Ends when a client fails, which none should.
async fn first_failure(clients: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = clients.join_next().await {
        ended.context("a client panicked")?.context("a client failed")?;
    }
    // All have ended early and without a failure: the workload is done, and faults go on.
    std::future::pending().await
}

async fn all_ended(clients: &mut JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = clients.join_next().await {
        ended.context("a client panicked")?.context("a client failed")?;
    }
    Ok(())
}

/// Heals what is left and lets clients work on until every node is back. False: not all came back.
async fn calm(scene: &Scene) -> Result<bool> {
    scene.clusters().try_for_each(|cluster| cluster.heal()).context("the cluster could not be healed")?;
    let began = Instant::now();
    let ready = try_join_all(scene.clusters().map(|cluster| cluster.wait_ready(READY_WITHIN))).await;
    let told = match ready.as_deref() {
        Ok([leader]) => json!({ "leader": leader, "seconds": began.elapsed().as_secs_f64() }),
        Ok(leaders) => json!({ "leaders": leaders, "seconds": began.elapsed().as_secs_f64() }),
        Err(error) => json!({ "error": format!("{error:#}") }),
    };
    scene.recorder.info(judge::READY, told);
    sleep(CALM).await;
    Ok(ready.is_ok())
}

/// Waits until accepted work has ended, and records what the nodes are like then.
async fn drain(scene: &Scene, workload: &dyn Workload, within: Duration) -> Result<()> {
    let began = Instant::now();
    let drained = match timeout(within, workload.drain(scene)).await {
        Ok(Ok(())) => json!({ "seconds": began.elapsed().as_secs_f64() }),
        Ok(Err(error)) => json!({ "error": format!("{error:#}") }),
        Err(_) => json!({ "error": format!("not within {within:?}") }),
    };
    scene.recorder.info(judge::DRAINED, drained);
    for cluster in scene.clusters() {
        let key = Some(cluster.name()).filter(|name| !name.is_empty());
        scene.recorder.info_by(Process::Nemesis, judge::AGREEMENT, key, json!(cluster.agreement(AGREE_WITHIN).await));
    }
    let endings: Vec<Ending> = scene.clusters().flat_map(|cluster| cluster.endings()).collect();
    scene.recorder.info(judge::ENDINGS, json!(endings));
    Ok(())
}
