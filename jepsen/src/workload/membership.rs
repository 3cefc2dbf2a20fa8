//! Membership: nodes join and leave while clients work, and every node is asked again and again how it sees the cluster.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use rand::Rng;
use serde_json::{Value, json};
use tarn_client::proto;
use tokio::time::Instant;

use super::pace::{Pace, deadline};
use super::register::{DAY, User};
use super::{Scene, Workload};
use crate::checker::linear::Limits;
use crate::checker::members::{ADD, LAST_VIEW, REMOVE, VIEW, View, acknowledged_changes, agreement, consistent};
use crate::checker::{Verdict, register};
use crate::history::{Event, Process};

/// Looks a second of each client.
const RATE: f64 = 6.0;
/// Between two changes of the membership.
const CHANGE_EVERY: Duration = Duration::from_secs(8);
/// Nodes that were added and not yet removed, at most.
const ADDED_MAX: usize = 2;
/// How long after healing the nodes may take to agree.
const DRAIN_WITHIN: Duration = Duration::from_secs(90);
/// Registers that are written to meanwhile.
const KEYS: u32 = 2;

/// The workload.
pub struct Membership;

#[async_trait]
impl Workload for Membership {
    fn name(&self) -> &'static str {
        "membership"
    }

    async fn setup(&self, scene: &Scene) -> Result<()> {
        scene.clients.all()?.cluster().await.context("the cluster does not answer").map(drop)
    }

    async fn work(&self, process: u32, scene: &Scene) -> Result<()> {
        match process {
            0 => change(scene).await,
            _ if process % 2 == 1 => look(process, scene).await,
            _ => write(process, scene).await,
        }
    }

    async fn drain(&self, scene: &Scene) -> Result<()> {
        let end = Instant::now() + DRAIN_WITHIN;
        loop {
            let ids = scene.cluster.ids();
            let views: Vec<View> = scene.cluster.statuses().await.into_values().map(view).collect();
            let together = views.windows(2).all(|pair| pair[0].applied == pair[1].applied);
            if together && views.len() == ids.len() {
                for view in views {
                    scene.recorder.info(LAST_VIEW, json!(view));
                }
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("the nodes {ids:?} did not get to one index within {DRAIN_WITHIN:?}: {views:?}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn check(&self, history: &[Event]) -> Verdict {
        let mut checks = consistent(history);
        checks.push(agreement(history));
        checks.push(acknowledged_changes(history));
        checks.push(register::linearizable(history, Limits::default()));
        Verdict::of(checks)
    }
}

/// Adds and removes nodes, one after the other, and hands leadership on.
async fn change(scene: &Scene) -> Result<()> {
    let mut pace = Pace::new(scene, 0, 1.0);
    let mut added: Vec<u64> = Vec::new();
    let client = scene.clients.all()?.with_deadline(Duration::from_secs(5));
    loop {
        let pause = CHANGE_EVERY.mul_f64(pace.rng.random_range(0.5..1.5));
        if !pace.wait(pause).await {
            return Ok(());
        }
        let process = Process::Client(0);
        if pace.chance(0.3) {
            // Whether it worked does not matter: the views show what came of it.
            let _handed_on = client.transfer_leader(None).await;
        } else if added.len() < ADDED_MAX && (added.is_empty() || pace.chance(0.5)) {
            let pending = scene.recorder.invoke(process, ADD, None, Value::Null);
            match scene.cluster.add().await {
                Ok(id) => {
                    pending.ok(json!(id));
                    added.push(id);
                }
                Err(error) => pending.unknown(format!("NOT_ADDED: {error:#}")),
            }
        } else {
            let id = added[pace.rng.random_range(0..added.len())];
            let pending = scene.recorder.invoke(process, REMOVE, None, json!(id));
            match scene.cluster.remove(id).await {
                Ok(()) => {
                    pending.ok(Value::Null);
                    added.retain(|other| *other != id);
                }
                Err(error) => pending.unknown(format!("NOT_REMOVED: {error:#}")),
            }
        }
    }
}

/// Asks nodes in turns how they see the cluster.
async fn look(process: u32, scene: &Scene) -> Result<()> {
    let mut pace = Pace::new(scene, process, RATE);
    while pace.next().await {
        let ids = scene.cluster.running();
        if ids.is_empty() {
            continue;
        }
        let id = ids[pace.rng.random_range(0..ids.len())];
        if let Ok(status) = scene.cluster.status(id).await {
            scene.recorder.info_by(Process::Client(process), VIEW, None, json!(view(status)));
        }
    }
    Ok(())
}

async fn write(process: u32, scene: &Scene) -> Result<()> {
    let (client, node) = scene.clients.client(process)?;
    let mut user = User::new(client.with_deadline(deadline(process)), scene.recorder.clone(), process, node);
    let mut pace = Pace::new(scene, process, RATE);
    while pace.next().await {
        let key = format!("register-{}", pace.rng.random_range(0..KEYS));
        match pace.rng.random_range(0..3) {
            0 => user.get(&key).await,
            1 => user.acquire(&key, DAY).await,
            _ => user.release(&key).await,
        }
    }
    Ok(())
}

fn view(status: proto::GetClusterResponse) -> View {
    View {
        node: status.answering_node_id,
        term: status.term,
        leader: status.leader_id,
        applied: status.applied_index,
        digest: status.digest,
        members: status.members.iter().map(|member| member.node_id).collect(),
    }
}
