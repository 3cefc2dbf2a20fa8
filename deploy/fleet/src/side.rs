//! A cluster, and what the other knows of it.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use tarn_client::Client;
use tarn_client::proto::{InviteClusterResponse, JoinFederationResponse, LinkState};
use tarn_local::LocalCluster;

use crate::wire::{Target, Wire};

/// The context that both share.
pub const PLAN: &str = "plan";

/// How long the clusters may take to agree. Generous: the machine may be busy with a build.
const AGREED_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A cluster, and the wires by which the other reaches it.
pub struct Side {
    pub name: &'static str,
    pub cluster: LocalCluster,
    pub client: Client,
    pub wires: Vec<Wire>,
}

/// Starts a cluster of this name whose gateways are behind wires; with an executor for WASM, or with none.
///
/// # Errors
/// If a node cannot be started or no leader is elected.
pub async fn start(tarn: &Path, name: &'static str, nodes: usize, dir: &Path, executes: bool) -> Result<Side> {
    std::fs::create_dir_all(dir)?;
    let wasm = if executes { "true" } else { "false" };
    let settings = [("executors.native", "\"off\""), ("executors.microvm", "\"off\""), ("executors.wasm", wasm)];
    let mut cluster = LocalCluster::create_named(tarn, dir, name, nodes, &settings)?;
    let (mut wires, mut held) = (Vec::new(), Vec::new());
    for id in cluster.ids() {
        let (wire, target): (Wire, Target) = Wire::new().await?;
        // An address that nothing else here uses, and held until all have one: a port that was free a moment ago may be somebody else's.
        let listener = TcpListener::bind("127.0.0.3:0")?;
        let gateway = listener.local_addr()?.to_string();
        held.push(listener);
        cluster.add_setting(id, "federation.bind", &format!("{gateway:?}"))?;
        cluster.add_setting(id, "federation.advertise", &format!("{:?}", wire.address().to_string()))?;
        target.set(gateway);
        wires.push(wire);
    }
    drop(held);
    cluster.start().await?;
    let client = cluster.client()?;
    Ok(Side { name, cluster, client, wires })
}

/// Has `east` join by an invitation of `west`, and waits until both have the same.
///
/// # Errors
/// If either refuses.
pub async fn join(west: &Side, east: &Side) -> Result<(InviteClusterResponse, JoinFederationResponse)> {
    let invitation =
        west.client.invite_cluster(Duration::from_secs(600), ["context", "agent", "tasks"].map(str::to_owned).to_vec()).await?;
    let joined = east.client.join_federation(&invitation.token, invitation.addresses.clone()).await?;
    wait_until_equal(west, east).await?;
    Ok((invitation, joined))
}

/// Cuts all wires between them, or makes them whole.
pub fn cut(west: &Side, east: &Side, whole: bool) {
    west.wires.iter().chain(&east.wires).for_each(|wire| wire.set_whole(whole));
}

/// What a key has here.
///
/// # Errors
/// If the cluster does not answer.
pub async fn value(side: &Side, key: &str) -> Result<Option<String>> {
    let found = side.client.context(PLAN).get(key).await?;
    Ok(found.map(|found| String::from_utf8_lossy(&found.value).into_owned()))
}

/// Waits until a key has this value here.
///
/// # Errors
/// If it does not come.
pub async fn wait_for(side: &Side, key: &str, wanted: &str) -> Result<()> {
    let end = Instant::now() + AGREED_WITHIN;
    while Instant::now() < end {
        // The context comes into being with the first of its keys that arrives.
        if value(side, key).await.is_ok_and(|found| found.as_deref() == Some(wanted)) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    anyhow::bail!("{} does not have {key} = {wanted:?} within {AGREED_WITHIN:?}\n{}", side.name, side.cluster.log_ends())
}

/// Waits until the links are so.
///
/// # Errors
/// If they do not become so.
pub async fn wait_for_link(side: &Side, wanted: impl Fn(LinkState) -> bool) -> Result<()> {
    let end = Instant::now() + AGREED_WITHIN;
    while Instant::now() < end {
        let status = side.client.federation_status().await;
        if status.is_ok_and(|status| status.links.iter().all(|link| wanted(link.state()))) {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    anyhow::bail!("the link of {} is not as it should be within {AGREED_WITHIN:?}\n{}", side.name, side.cluster.log_ends())
}

/// Waits until both have signed all that was written to them.
///
/// # Errors
/// If they do not.
pub async fn wait_until_signed(sides: &[Side; 2]) -> Result<()> {
    for side in sides {
        let end = Instant::now() + AGREED_WITHIN;
        while !side.client.federation_status().await.is_ok_and(|status| !status.digest.is_empty() && status.unsigned_writes == 0) {
            anyhow::ensure!(Instant::now() < end, "{} has not signed all within {AGREED_WITHIN:?}\n{}", side.name, side.cluster.log_ends());
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// Waits until both have signed all that was written to them, and have the same document.
///
/// # Errors
/// If they do not come to agree.
pub async fn wait_until_equal(west: &Side, east: &Side) -> Result<()> {
    let end = Instant::now() + AGREED_WITHIN;
    while Instant::now() < end {
        if let (Ok(at_west), Ok(at_east)) = (west.client.federation_status().await, east.client.federation_status().await) {
            let settled = at_west.unsigned_writes == 0 && at_east.unsigned_writes == 0;
            let known = at_west.links.len() == 1 && at_east.links.len() == 1;
            if settled && known && !at_west.digest.is_empty() && at_west.digest == at_east.digest {
                return Ok(());
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    anyhow::bail!("the clusters do not agree within {AGREED_WITHIN:?}\n{}{}", west.cluster.log_ends(), east.cluster.log_ends())
}
