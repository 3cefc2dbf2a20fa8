//! The demonstration: two clusters share a context, hand work over, are cut off from each other, go on, and agree again.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use tarn_client::proto::LinkState;

use crate::side::{self, PLAN, Side, cut, join, value, wait_for, wait_for_link, wait_until_equal};
use crate::work;

/// What the demonstration is like.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Nodes of each cluster
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Keys that each cluster writes during the cut
    #[arg(long, default_value_t = 200)]
    keys: usize,
    /// Where the nodes keep their data and logs; a temporary folder, removed at the end, if left out
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Shows it.
///
/// # Errors
/// If something is not as it should be, with the ends of the logs.
pub async fn run(tarn: &Path, args: &DemoArgs) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let dir = args.dir.as_deref().unwrap_or(temporary.path());
    let began = Instant::now();
    let west = side::start(tarn, "west", args.nodes, &dir.join("west"), false).await?;
    let east = side::start(tarn, "east", args.nodes, &dir.join("east"), true).await?;
    say(&format!("two clusters of {} nodes each, west and east, each with keys of its own ({} s)", args.nodes, began.elapsed().as_secs()));

    invite(&west, &east).await?;
    share(&west, &east).await?;
    work::hand_over(&west.client, say).await?;
    let long = work::Long::begin(&west.client).await?;
    say("west submits a task that takes a while; it runs in east");
    while_cut(&west, &east, args.keys).await?;
    let result = long.end(&west.client).await?;
    say(&format!("the task that ran in east during the cut has come home, after one attempt: {result}"));
    conflict(&west, &east).await?;
    let sides = [west, east];
    for side in &sides {
        ensure!(side.cluster.ids().len() == args.nodes, "a node of {} is missing", side.name);
    }
    say("done: nothing that either cluster acknowledged was lost, and both have the same document, byte for byte");
    Ok(())
}

async fn invite(west: &Side, east: &Side) -> Result<()> {
    let began = Instant::now();
    let (invitation, joined) = join(west, east).await?;
    say(&format!("west invites: tarn federation join {}… --at {}", &invitation.token[..24], invitation.addresses.join(",")));
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

fn say(text: &str) {
    println!("==> {text}");
}
