//! Two clusters of real nodes on this machine share a context, are cut off from each other, go on, and agree again.

mod wire;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use tarn_client::Client;
use tarn_client::proto::LinkState;
use tarn_local::LocalCluster;

use wire::{Target, Wire};

/// Two clusters of real nodes on this machine share a context, are cut off from each other, go on, and agree again.
#[derive(Clone, Debug, Parser)]
#[command(name = "deploy/demo --federation")]
struct Args {
    /// Nodes of each cluster
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Keys that each cluster writes during the cut
    #[arg(long, default_value_t = 200)]
    keys: usize,
    /// Where the nodes keep their data and logs; a temporary folder, removed at the end, if left out
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The tarn binary
    #[arg(long, hide = true)]
    tarn: PathBuf,
}

/// The context that both share.
const PLAN: &str = "plan";

/// How long the clusters may take to agree. Generous: the machine may be busy with a build.
const AGREED_WITHIN: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// A cluster, and the wires by which the other reaches it.
struct Side {
    name: &'static str,
    cluster: LocalCluster,
    client: Client,
    wires: Vec<Wire>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(run(args)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = args.dir.as_deref().unwrap_or(temporary.path());
    let began = Instant::now();
    let west = start("west", &args, &dir.join("west")).await?;
    let east = start("east", &args, &dir.join("east")).await?;
    say(&format!("two clusters of {} nodes each, west and east, each with keys of its own ({} s)", args.nodes, began.elapsed().as_secs()));

    join(&west, &east).await?;
    share(&west, &east).await?;
    while_cut(&west, &east, args.keys).await?;
    conflict(&west, &east).await?;
    let sides = [west, east];
    for side in &sides {
        ensure!(side.cluster.ids().len() == args.nodes, "a node of {} is missing", side.name);
    }
    say("done: nothing that either cluster acknowledged was lost, and both have the same document, byte for byte");
    Ok(())
}

async fn start(name: &'static str, args: &Args, dir: &Path) -> Result<Side> {
    std::fs::create_dir_all(dir)?;
    let mut cluster =
        LocalCluster::create_named(&args.tarn, dir, name, args.nodes, &[("executors.native", "\"off\""), ("executors.wasm", "false")])?;
    let mut wires = Vec::new();
    for id in cluster.ids() {
        let (wire, target): (Wire, Target) = Wire::new().await?;
        let gateway = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        cluster.add_setting(id, "federation.bind", &format!("{gateway:?}"))?;
        cluster.add_setting(id, "federation.advertise", &format!("{:?}", wire.address().to_string()))?;
        target.set(gateway);
        wires.push(wire);
    }
    cluster.start().await?;
    let client = cluster.client()?;
    Ok(Side { name, cluster, client, wires })
}

async fn join(west: &Side, east: &Side) -> Result<()> {
    let began = Instant::now();
    let invitation = west.client.invite_cluster(Duration::from_secs(600), vec!["context".to_owned(), "agent".to_owned()]).await?;
    say(&format!("west invites: tarn federation join {}… --at {}", &invitation.token[..24], invitation.addresses.join(",")));
    let joined = east.client.join_federation(&invitation.token, invitation.addresses).await?;
    wait_until_equal(west, east).await?;
    say(&format!(
        "east has joined the federation of {}, over mutual post-quantum TLS, and both have the same document ({} ms)",
        joined.inviter,
        began.elapsed().as_millis()
    ));
    Ok(())
}

async fn share(west: &Side, east: &Side) -> Result<()> {
    west.client.context(PLAN).put("goal", "map the tarn", None).await?;
    west.client.share_context(PLAN, true).await?;
    east.client.share_context(PLAN, true).await?;
    let began = Instant::now();
    wait_for(east, "goal", "map the tarn").await?;
    say(&format!("west shares its context {PLAN:?}, and so does east, which reads it {} ms later", began.elapsed().as_millis()));
    let mut delays = Vec::new();
    for round in 0..20 {
        let (from, to) = if round % 2 == 0 { (west, east) } else { (east, west) };
        let value = format!("round {round}");
        let began = Instant::now();
        from.client.context(PLAN).put("ping", value.clone(), None).await?;
        wait_for(to, "ping", &value).await?;
        delays.push(began.elapsed());
    }
    delays.sort();
    say(&format!(
        "20 writes to and fro: from put to visible at the other cluster {} ms in the median, {} ms at most",
        delays[10].as_millis(),
        delays[19].as_millis()
    ));
    Ok(())
}

async fn while_cut(west: &Side, east: &Side, keys: usize) -> Result<()> {
    cut(west, east, false);
    wait_for_link(west, |state| state == LinkState::Down).await?;
    say("the wires between the clusters are cut; both go on");
    for side in [west, east] {
        for number in 0..keys {
            let context = side.client.context(PLAN);
            context.put(format!("{}/{number}", side.name), format!("{} during the cut", side.name), None).await?;
        }
        side.client.context(PLAN).put("captain", side.name, None).await?;
    }
    ensure!(value(west, "east/0").await?.is_none(), "west knows what east wrote, although the wires are cut");
    say(&format!("each has acknowledged {keys} keys of its own, and both have named another captain"));
    let began = Instant::now();
    cut(west, east, true);
    wait_until_equal(west, east).await?;
    say(&format!("the wires are whole again: both have the same document after {} ms", began.elapsed().as_millis()));
    for side in [west, east] {
        for writer in [west, east] {
            for number in 0..keys {
                let found = value(side, &format!("{}/{number}", writer.name)).await?;
                ensure!(
                    found.as_deref() == Some(&format!("{} during the cut", writer.name)),
                    "{} lacks {}/{number}: {found:?}",
                    side.name,
                    writer.name
                );
            }
        }
    }
    say(&format!("all {} keys are in both clusters", 2 * keys));
    Ok(())
}

async fn conflict(west: &Side, east: &Side) -> Result<()> {
    let found = west.client.federation_conflicts().await?;
    let conflict = found.conflicts.first().context("the captains are not told of as a conflict")?;
    let winner = conflict.winner.clone().unwrap_or_default();
    let winner = String::from_utf8_lossy(&winner.value.unwrap_or_default()).into_owned();
    let (at_west, at_east) = (value(west, "captain").await?, value(east, "captain").await?);
    ensure!(at_west == at_east && at_west.as_deref() == Some(&winner), "the captain is {at_west:?} in west and {at_east:?} in east");
    say(&format!("tarn federation conflicts: {}, won by {winner:?}: {}", conflict.key, conflict.reason));
    let loser = conflict.losers.first().context("a conflict has a loser")?;
    let other = String::from_utf8_lossy(loser.value.as_deref().unwrap_or_default()).into_owned();
    west.client.resolve_conflict(&conflict.key, Some(other.clone().into_bytes())).await?;
    wait_for(east, "captain", &other).await?;
    wait_until_equal(west, east).await?;
    ensure!(east.client.federation_conflicts().await?.conflicts.is_empty(), "the conflict is still there in east");
    say(&format!("an operator of west chooses {other:?}, and east has it, too"));
    Ok(())
}

fn cut(west: &Side, east: &Side, whole: bool) {
    west.wires.iter().chain(&east.wires).for_each(|wire| wire.set_whole(whole));
}

async fn value(side: &Side, key: &str) -> Result<Option<String>> {
    let found = side.client.context(PLAN).get(key).await?;
    Ok(found.map(|found| String::from_utf8_lossy(&found.value).into_owned()))
}

async fn wait_for(side: &Side, key: &str, wanted: &str) -> Result<()> {
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

async fn wait_for_link(side: &Side, wanted: impl Fn(LinkState) -> bool) -> Result<()> {
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

/// Waits until both have signed all that was written to them, and have the same document.
async fn wait_until_equal(west: &Side, east: &Side) -> Result<()> {
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

fn say(text: &str) {
    println!("==> {text}");
}
