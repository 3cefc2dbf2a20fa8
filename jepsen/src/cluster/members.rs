//! The membership changes, as an operator would change it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tarn_client::proto::AddMemberRequest;
use tokio::time::Instant;

use super::{Cluster, text};

/// Limit on each command that changes the membership.
const CHANGE_WITHIN: Duration = Duration::from_secs(30);
/// How long a node may take from its start to its vote.
const VOTES_WITHIN: Duration = Duration::from_secs(60);
/// How long a new node may take until it listens.
const LISTENS_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at the membership.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

impl Cluster {
    /// Has a new machine join with a one-time token, and waits until it votes. Returns its id, which the cluster chose.
    ///
    /// # Errors
    /// If the cluster cannot do it now. A node that got an identity belongs to the cluster then and goes on asking for its vote.
    pub async fn add(&self) -> Result<u64> {
        let _one_at_a_time = self.changing.lock().await;
        let id = self.join().await?;
        self.start_idle(&[id])?;
        self.wait_until_votes(id).await?;
        Ok(id)
    }

    /// Exchanges a token for an identity at a new place.
    async fn join(&self) -> Result<u64> {
        let place = self.net.place()?;
        let aside = self.dir().join(format!("joining-{}", place.bind.ip()));
        let mut call = self.connection_flags()?;
        call.extend(["--deadline".to_owned(), format!("{}s", CHANGE_WITHIN.as_secs())]);
        let token = self.tarn_aside(&[&["node", "token", "-o", "text"][..], &refs(&call)].concat()).await?;
        let addresses = self.addresses()?;
        let answer = self
            .tarn_aside(&[
                "node",
                "join",
                "--token",
                token.trim(),
                "--address",
                &addresses,
                "--advertise",
                &place.advertise.to_string(),
                "--data-dir",
                &text(&aside),
                "-o",
                "json",
            ])
            .await?;
        let joined: serde_json::Value = serde_json::from_str(&answer).context("tarn node join printed no JSON")?;
        let id = joined["node_id"].as_u64().context("tarn node join named no node")?;
        ensure!(!self.all_ids().contains(&id), "the cluster gave out the id {id} although there was a node {id} before");
        std::fs::rename(&aside, self.home(id))?;
        self.settle(id, place, None)?;
        Ok(id)
    }

    /// Removes a node from the cluster and ends its process.
    ///
    /// # Errors
    /// If the cluster does not do it now. What became of the change is unknown then; asked again, the cluster says so.
    pub async fn remove(&self, id: u64) -> Result<()> {
        let _one_at_a_time = self.changing.lock().await;
        let others: Vec<u64> = self.running().into_iter().filter(|other| *other != id).collect();
        ensure!(!others.is_empty(), "the last node cannot be removed");
        self.client(&others)?.with_deadline(CHANGE_WITHIN).remove_member(id).await.with_context(|| format!("node {id} was not removed"))?;
        self.retire(id, None).await
    }

    /// Puts a new node with keys of the authority in the place of one that is dead, in one change, and returns its id.
    ///
    /// # Errors
    /// If the node still runs, or the cluster does not do it now. The new node belongs to the cluster only if it was done.
    pub async fn replace(&self, dead: u64) -> Result<u64> {
        let _one_at_a_time = self.changing.lock().await;
        let running = self.running();
        ensure!(!running.contains(&dead), "node {dead} still runs");
        let id = self.all_ids().last().map_or(1, |last| last + 1);
        let place = self.net.place()?;
        let address = place.advertise.to_string();
        self.issue_key(id)?;
        self.settle(id, place, None)?;
        self.start_idle(&[id])?;
        self.wait_until_listens(id).await?;
        let request = AddMemberRequest { node_id: id, address, learner: false, replaces: dead };
        let added = self.client(&running)?.with_deadline(VOTES_WITHIN).add_member(request).await;
        match added.with_context(|| format!("node {dead} was not replaced by node {id}")) {
            Ok(()) => {
                self.retire(dead, Some(id)).await?;
                Ok(id)
            }
            // The change may have happened all the same: the membership decides, if it can be read.
            Err(error) => match self.voters().await {
                Some(voters) if voters.contains(&id) && !voters.contains(&dead) => {
                    self.retire(dead, Some(id)).await?;
                    Ok(id)
                }
                Some(voters) if !voters.contains(&id) => {
                    self.retire(id, None).await?;
                    Err(error)
                }
                // Nobody can say: who asks later ends what does not belong to the cluster.
                _ => Err(error),
            },
        }
    }

    /// Ends nodes that the membership does not have any more, and removes members that were ended already: a change whose answer was lost may
    /// have happened. Returns whom this concerned.
    ///
    /// # Errors
    /// If nobody can say what the membership is, the cluster does not remove them now, or a process does not end.
    pub async fn retire_removed(&self) -> Result<Vec<u64>> {
        let _one_at_a_time = self.changing.lock().await;
        let members = self.members().await.context("nobody knows the membership")?;
        let gone: Vec<u64> = self.ids().into_iter().filter(|id| !members.contains(id)).collect();
        for id in &gone {
            self.retire(*id, None).await?;
        }
        let own = self.ids();
        let ghosts: Vec<u64> = members.into_iter().filter(|id| !own.contains(id)).collect();
        for id in &ghosts {
            let removed = self.client(&self.running())?.with_deadline(CHANGE_WITHIN).remove_member(*id).await;
            removed.with_context(|| format!("node {id}, which was ended, was not removed"))?;
        }
        Ok(gone.into_iter().chain(ghosts).collect())
    }

    /// A removed node's process ends, and it counts no more. Who dials it reaches its heir: the one that was named, or the newest.
    async fn retire(&self, id: u64, heir: Option<u64>) -> Result<()> {
        let gone = self.with(id, |node| {
            node.removed = true;
            Ok(node.place.clone())
        })?;
        self.kill(&[id]).await?;
        if let Some(heir) = heir.or_else(|| self.ids().last().copied()) {
            let heir = self.with(heir, |node| Ok(node.place.clone()))?;
            self.net.inherit(&gone, &heir)?;
        }
        Ok(())
    }

    async fn wait_until_listens(&self, id: u64) -> Result<()> {
        let bind = self.with(id, |node| Ok(node.place.bind))?;
        let end = Instant::now() + LISTENS_WITHIN;
        while tokio::net::TcpStream::connect(bind).await.is_err() {
            ensure!(Instant::now() < end && self.running().contains(&id), "node {id} does not listen:\n{}", self.log_end(id));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn wait_until_votes(&self, id: u64) -> Result<()> {
        let end = Instant::now() + VOTES_WITHIN;
        loop {
            if self.voters().await.is_some_and(|voters| voters.contains(&id)) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "node {id} does not vote after {VOTES_WITHIN:?}:\n{}", self.log_end(id));
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The nodes that run, for a command line.
    fn addresses(&self) -> Result<String> {
        let addresses = self.running().into_iter().map(|id| self.address(id)).collect::<Result<Vec<_>>>()?;
        Ok(addresses.join(","))
    }

    fn connection_flags(&self) -> Result<Vec<String>> {
        let [ca, certificate, key] = self.credential_files();
        let flags = [("--address", self.addresses()?), ("--cacert", text(&ca)), ("--cert", text(&certificate)), ("--key", text(&key))];
        Ok(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect())
    }

    /// A `tarn` command that may take a while, beside everything else.
    async fn tarn_aside(&self, args: &[&str]) -> Result<String> {
        let output = tokio::process::Command::new(&self.options.tarn)
            .args(args)
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("{} cannot be run", self.options.tarn.display()))?;
        ensure!(
            output.status.success(),
            "tarn {} failed: {}",
            args.iter().take(2).copied().collect::<Vec<_>>().join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn refs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}
