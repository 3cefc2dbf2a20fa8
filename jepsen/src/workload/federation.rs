//! Clusters that share a context: clients of each put, remove and read its keys at their own cluster, whoever else that one can reach. And they
//! submit tasks that any cluster may run.
//!
//! ```text
//!   own-P-N      written by client P alone                shared-N     written by everybody
//!   once-N       written once in each cluster, at about the same time, by its first client
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use futures::TryStreamExt as _;
use futures::future::join_all;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tarn_client::{Client, Context, Error};
use tokio::time::{Instant, sleep};

use super::outcome::{settle, settle_read};
use super::pace::{Pace, deadline};
use super::{Clients, FEDERATION, Scene, Workload, moving};
use crate::checker::Verdict;
use crate::checker::federation::converged::{WITHIN_S, converged};
use crate::checker::federation::{
    CONFLICT, CONTENT, CONVERGED, Content, Copies, DELETE, Found, GET, PUT, Told, Write, forward, handover, kept,
};
use crate::cluster::Cluster;
use crate::history::{Event, Pending, Process, Recorder};

/// The context that all share.
const CONTEXT: &str = "shared";
/// Its keys in the document.
const PREFIX: &str = "context/default/shared/";
/// What the members of the federation may do.
const SCOPE: [&str; 2] = ["context", "tasks"];
/// Operations a second of each client.
const RATE: f64 = 8.0;
/// Keys of each client alone, and of everybody.
const OWN: u32 = 3;
const SHARED: u32 = 4;
/// Clients whose own keys are read; there may be more.
const READ: u32 = 8;
/// One change in so many removes the key.
const REMOVED: u32 = 8;
/// One operation in so many is a task that any cluster may run.
const MOVING: u32 = 16;
/// How long an invitation holds.
const INVITED: Duration = Duration::from_secs(600);
/// Between two looks at whether something has come about.
const LOOK: Duration = Duration::from_millis(50);
/// Limit on each question at the end.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The workload.
pub struct Federated;

#[async_trait]
impl Workload for Federated {
    fn name(&self) -> &'static str {
        FEDERATION
    }

    /// Each cluster joins by an invitation of the one before it, and all share the context.
    async fn setup(&self, scene: &Scene) -> Result<()> {
        let clusters: Vec<&Arc<Cluster>> = scene.clusters().collect();
        for pair in clusters.windows(2) {
            join(&client(pair[0])?, &client(pair[1])?).await?;
        }
        let first = client(clusters.first().context("there is a cluster")?)?;
        first.context(CONTEXT).put("begun", "yes", None).await?;
        let everywhere = clusters.iter().map(|cluster| async {
            let client = client(cluster)?;
            moving::prepare(&client).await?;
            // It may not have heard of the context yet, nor of its own introduction.
            while let Err(error) = client.share_context(CONTEXT, true).await {
                tracing::debug!(%error, "the context is not shared yet");
                sleep(LOOK).await;
            }
            while !matches!(client.context(CONTEXT).get("begun").await, Ok(Some(_))) {
                sleep(LOOK).await;
            }
            anyhow::Ok(())
        });
        join_all(everywhere).await.into_iter().collect::<Result<()>>()?;
        first.context(CONTEXT).delete("begun", None).await?;
        Ok(())
    }

    async fn work(&self, process: u32, scene: &Scene) -> Result<()> {
        let clusters: Vec<&Arc<Cluster>> = scene.clusters().collect();
        let count = u32::try_from(clusters.len())?;
        let cluster = clusters[(process % count) as usize];
        let (client, _) = Clients::new(cluster.clone()).client(process / count)?;
        let mut user = User::new(client.with_deadline(deadline(process)), cluster.name(), process, &scene.recorder);
        let mut pace = Pace::new(scene, process, RATE);
        while pace.next().await {
            if pace.rng.random_range(0..MOVING) == 0 {
                user.submit(&mut pace.rng).await;
                continue;
            }
            let (own, shared) = (pace.rng.random_range(0..OWN), pace.rng.random_range(0..SHARED));
            let remove = pace.rng.random_range(0..REMOVED) == 0;
            match pace.rng.random_range(0..10) {
                0..4 => user.change(&format!("own-{process}-{own}"), remove).await,
                4..6 => user.change(&format!("shared-{shared}"), remove).await,
                6 if process < count => user.once().await,
                6..8 => user.get(&format!("own-{}-{own}", pace.rng.random_range(0..READ))).await,
                _ => user.get(&format!("shared-{shared}")).await,
            }
        }
        Ok(())
    }

    /// Waits until all tasks have ended and all copies are equal, and records what each cluster has.
    async fn drain(&self, scene: &Scene) -> Result<()> {
        for cluster in scene.clusters() {
            moving::account(&client(cluster)?.with_deadline(ANSWER_WITHIN), cluster.name(), &scene.recorder).await?;
        }
        scene.recorder.info(CONVERGED, json!(agreement(scene).await?));
        for cluster in scene.clusters() {
            let client = client(cluster)?.with_deadline(ANSWER_WITHIN);
            let content = Content { cluster: cluster.name().to_owned(), entries: entries(&client.context(CONTEXT)).await? };
            scene.recorder.info(CONTENT, json!(content));
            for told in conflicts(&client, cluster.name()).await? {
                scene.recorder.info(CONFLICT, json!(told));
            }
        }
        Ok(())
    }

    fn check(&self, history: &[Event]) -> Verdict {
        let mut checks = vec![converged(history), kept::kept(history), forward::forward(history)];
        checks.extend(handover::once(history));
        Verdict::of(checks)
    }
}

/// A client that knows all nodes of this cluster.
fn client(cluster: &Arc<Cluster>) -> Result<Client> {
    Clients::new(cluster.clone()).all()
}

async fn join(inviter: &Client, cluster: &Client) -> Result<()> {
    let invitation = inviter.invite_cluster(INVITED, SCOPE.map(str::to_owned).to_vec()).await.context("no invitation was made")?;
    cluster.join_federation(&invitation.token, invitation.addresses).await.context("the invitation was not taken")?;
    Ok(())
}

/// A client of the context, at its own cluster.
struct User {
    client: Client,
    context: Context,
    cluster: String,
    process: u32,
    recorder: Recorder,
    written: u32,
    once: u32,
}

impl User {
    fn new(client: Client, cluster: &str, process: u32, recorder: &Recorder) -> Self {
        let recorder = recorder.with_deadline(client.deadline());
        Self { context: client.context(CONTEXT), client, cluster: cluster.to_owned(), process, recorder, written: 0, once: 0 }
    }

    fn invoke(&self, op: &str, key: &str, value: Option<String>) -> Pending {
        let asked = Write { cluster: self.cluster.clone(), value };
        self.recorder.invoke(Process::Client(self.process), op, Some(key), json!(asked))
    }

    async fn change(&mut self, key: &str, remove: bool) {
        match remove {
            true => self.delete(key).await,
            false => self.put(key).await,
        }
    }

    /// Sets a key to a value that is written once in a run.
    async fn put(&mut self, key: &str) {
        self.written += 1;
        let value = format!("{}-{}-{}", self.cluster, self.process, self.written);
        let pending = self.invoke(PUT, key, Some(value.clone()));
        let result = self.context.put(key, value, None).await;
        settle(pending, &result, |_| Value::Null);
    }

    async fn delete(&mut self, key: &str) {
        let pending = self.invoke(DELETE, key, None);
        let result = self.context.delete(key, None).await;
        settle(pending, &result, |_| Value::Null);
    }

    async fn submit(&self, rng: &mut StdRng) {
        moving::submit(&self.client, &self.cluster, self.process, &self.recorder, rng).await;
    }

    async fn once(&mut self) {
        self.once += 1;
        self.put(&format!("once-{}", self.once)).await;
    }

    async fn get(&mut self, key: &str) {
        let pending = self.invoke(GET, key, None);
        let result = self.context.get(key).await;
        let text = |found: &tarn_client::proto::GetKeyResponse| String::from_utf8_lossy(&found.value).into_owned();
        settle_read(pending, &result, |found| json!(Found { value: found.as_ref().map(text) }));
    }
}

/// Waits until every cluster has signed what was written to it, and all copies are equal; for as long as the checker allows.
async fn agreement(scene: &Scene) -> Result<Copies> {
    let clusters = scene.clusters().map(|cluster| Ok((cluster.name(), client(cluster)?))).collect::<Result<Vec<_>>>()?;
    let began = Instant::now();
    loop {
        let asked = clusters.iter().map(|(name, client)| async move { (*name, client.federation_status().await) });
        let answers = tokio::time::timeout(ANSWER_WITHIN, join_all(asked)).await.unwrap_or_default();
        let mut copies = Copies { seconds: began.elapsed().as_secs_f64(), ..Copies::default() };
        for (name, status) in answers {
            // A node that has only just begun to lead answers without a digest.
            if let Ok(status) = status.map(|status| (status.digest, status.unsigned_writes))
                && !status.0.is_empty()
            {
                copies.digests.insert(name.to_owned(), status.0);
                copies.unsigned.insert(name.to_owned(), status.1);
            }
        }
        copies.missing = missing(&copies, clusters.len());
        if copies.missing.is_empty() || began.elapsed() >= Duration::from_secs(WITHIN_S) {
            return Ok(copies);
        }
        sleep(LOOK).await;
    }
}

/// What keeps the clusters from having the same; empty if nothing does.
fn missing(copies: &Copies, clusters: usize) -> String {
    let mut digests: Vec<&String> = copies.digests.values().collect();
    digests.dedup();
    if copies.digests.len() < clusters {
        format!("only {:?} answered", copies.digests.keys())
    } else if copies.unsigned.values().any(|writes| *writes > 0) {
        format!("writes that are not signed yet: {:?}", copies.unsigned)
    } else if digests.len() > 1 {
        format!("the copies differ: {:?}", copies.digests)
    } else {
        String::new()
    }
}

/// All that a cluster has of the context.
async fn entries(context: &Context) -> Result<BTreeMap<String, String>, Error> {
    let keys: Vec<_> = context.keys("", None).try_collect().await?;
    let mut entries = BTreeMap::new();
    for key in keys {
        if let Some(found) = context.get(key.key.clone()).await? {
            entries.insert(key.key, String::from_utf8_lossy(&found.value).into_owned());
        }
    }
    Ok(entries)
}

async fn conflicts(client: &Client, cluster: &str) -> Result<Vec<Told>, Error> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let told = |conflict: tarn_client::proto::SharedConflict| {
        let value = |version: tarn_client::proto::ConflictingValue| version.value.as_deref().map(text);
        Some(Told {
            cluster: cluster.to_owned(),
            key: conflict.key.strip_prefix(PREFIX)?.to_owned(),
            winner: conflict.winner.and_then(value),
            losers: conflict.losers.into_iter().map(value).collect(),
        })
    };
    Ok(client.federation_conflicts().await?.conflicts.into_iter().filter_map(told).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let mut copies = Copies { digests: [("a".to_owned(), "d".to_owned())].into(), ..Copies::default() };
        assert!(missing(&copies, 2).contains("answered"));
        copies.digests.insert("b".to_owned(), "d".to_owned());
        assert_eq!(missing(&copies, 2), "");
        copies.unsigned.insert("b".to_owned(), 3);
        assert!(missing(&copies, 2).contains("signed"));
        copies.unsigned.clear();
        copies.digests.insert("b".to_owned(), "e".to_owned());
        assert!(missing(&copies, 2).contains("differ"));
    }
}
