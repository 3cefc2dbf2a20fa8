//! Keeps one runner for each driver while this node leads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tarn_executor::DriverEngine;
use tarn_proto::v1::DriverSpec;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Id;
use super::ask::Drivers;
use super::desk::Desk;
use super::runner::{Runner, load};
use super::world::World;

/// Looks at which drivers there are lie at least this far apart.
const LOOK_APART: Duration = Duration::from_millis(20);
/// How long a new leader waits until it knows all that was acknowledged, before it tries again.
const CERTAIN: Duration = Duration::from_secs(10);

/// A node that stops refuses at once: it is not asked again at once.
const AGAIN: Duration = Duration::from_millis(200);

/// What runs the drivers.
pub struct Lead {
    /// Where they are found.
    pub drivers: Drivers,
}

/// A driver that has a runner.
struct Running {
    task: tokio::task::AbortHandle,
    generation: u64,
    at_hand: watch::Sender<u64>,
}

impl Lead {
    /// Runs the drivers whenever this node leads, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let consensus = self.drivers.way().consensus().clone();
        let mut leadership = consensus.leadership();
        let leading = async {
            while leadership.wait_for(|now| now.is_this_node).await.is_ok() {
                let mut ended = leadership.clone();
                tokio::select! {
                    () = self.lead() => {}
                    _ = ended.wait_for(|now| !now.is_this_node) => {}
                }
                self.drivers.close();
            }
        };
        stop.run_until_cancelled(leading).await;
        self.drivers.close();
    }

    /// Dropped, it takes the runners with it.
    async fn lead(&self) {
        let way = self.drivers.way().clone();
        // What another leader wrote down last must be known before anything is done again.
        while way.barrier(Instant::now() + CERTAIN).await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
        let world = self.drivers.world();
        let mut tasks = JoinSet::new();
        let mut running: BTreeMap<Id, Running> = BTreeMap::new();
        let mut seen = 0;
        loop {
            while let Some(ended) = tasks.try_join_next_with_id() {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(error) => error.id(),
                };
                running.retain(|_, of| of.task.id() != id);
            }
            let Ok(found) = way.look(|machine| Ok(machine.driver_generations())) else {
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            let is_there = |id: &Id| found.iter().any(|(ns, name, _)| *ns == id.namespace && *name == id.name);
            self.drivers.retain(is_there);
            // Another driver of the same name gets a runner of its own.
            running.retain(|id, of| {
                is_there(id) || {
                    of.task.abort();
                    false
                }
            });
            for (namespace, name, generation) in found {
                let id = Id::new(&namespace, &name);
                match running.get_mut(&id) {
                    Some(known) if known.generation == generation => {}
                    Some(known) => {
                        known.generation = generation;
                        let (engine, world, at_hand) = (self.drivers.engine(), world.clone(), known.at_hand.clone());
                        tasks.spawn(bring(engine, world, id, generation, at_hand));
                    }
                    None => {
                        let known = self.start(&mut tasks, id.clone(), generation, world.clone());
                        running.insert(id, known);
                    }
                }
            }
            tokio::select! {
                now = world.applied_after(seen) => seen = now,
                // A runner that panicked is started again.
                Some(_) = next_ended(&mut tasks, &mut running) => {}
            }
            tokio::time::sleep(LOOK_APART).await;
        }
    }

    fn start(&self, tasks: &mut JoinSet<()>, id: Id, generation: u64, world: Arc<dyn World>) -> Running {
        let (desk, calls) = Desk::new(id, self.drivers.node_id(), self.drivers.way().metrics().clone());
        self.drivers.open(desk.clone());
        let (at_hand, arrived) = watch::channel(generation);
        let runner = Runner { world, engine: self.drivers.engine(), desk, calls, at_hand: arrived };
        Running { task: tasks.spawn(runner.run()), generation, at_hand }
    }
}

async fn next_ended(tasks: &mut JoinSet<()>, running: &mut BTreeMap<Id, Running>) -> Option<()> {
    let id = match tasks.join_next_with_id().await? {
        Ok((id, ())) => id,
        Err(error) => {
            if error.is_panic() {
                tracing::error!(%error, "a task of a driver failed");
            }
            error.id()
        }
    };
    running.retain(|_, of| of.task.id() != id);
    Some(())
}

/// Brings another generation of a driver to hand, compiled. Where it cannot be, the runner finds out why.
async fn bring(engine: Arc<DriverEngine>, world: Arc<dyn World>, id: Id, generation: u64, at_hand: watch::Sender<u64>) {
    let spec: DriverSpec = world.record(&id).and_then(|record| record.driver.spec).unwrap_or_default();
    if let Ok((artifact, bytes)) = load(&*world, &spec).await
        && let Err(error) = engine.prepare(artifact, bytes).await
    {
        tracing::warn!(driver = id.name, namespace = id.namespace, %error, "an upgraded driver cannot be compiled");
    }
    at_hand.send_if_modified(|known| {
        let newer = generation > *known;
        *known = generation.max(*known);
        newer
    });
}
