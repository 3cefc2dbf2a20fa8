//! What the nodes say about the cluster, and whether they agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::join_all;
use serde::Serialize;
use tarn_client::proto::GetClusterResponse;
use tokio::time::Instant;

use super::Cluster;

/// Limit on one node's answer. A node that looks for unreachable ones answers after a second.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Whether the nodes have the same state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "result")]
pub enum Agreement {
    /// Every node was seen with the digest that the others have at the same index.
    Agreed {
        /// The highest index at which all of them were compared.
        index: u64,
        /// The digest there, hexadecimal.
        digest: String,
        /// The nodes.
        nodes: Vec<u64>,
    },
    /// Two nodes have different states at one index: a violation.
    Diverged {
        /// The index.
        index: u64,
        /// The digests by node.
        digests: BTreeMap<u64, String>,
    },
    /// Not all could be compared in time.
    Unknown {
        /// Why.
        reason: String,
    },
}

impl Cluster {
    /// What one node says about the cluster.
    ///
    /// # Errors
    /// If it does not answer in time.
    pub async fn status(&self, id: u64) -> Result<GetClusterResponse> {
        let client = {
            let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
            match clients.get(&id) {
                Some(client) => client.clone(),
                None => {
                    let client = self.client(&[id])?.with_deadline(ANSWER_WITHIN);
                    clients.insert(id, client.clone());
                    client
                }
            }
        };
        client.cluster().await.with_context(|| format!("node {id} does not describe the cluster"))
    }

    /// What each node that runs and answers says.
    pub async fn statuses(&self) -> BTreeMap<u64, GetClusterResponse> {
        let paused: BTreeSet<u64> = self.paused().into_iter().collect();
        let ids = self.running().into_iter().filter(|id| !paused.contains(id));
        let answers = join_all(ids.map(|id| async move { (id, self.status(id).await) })).await;
        answers.into_iter().filter_map(|(id, answer)| Some((id, answer.ok()?))).collect()
    }

    /// Who leads, by its own word: of several who say so, the one of the latest term.
    pub async fn leader(&self) -> Option<u64> {
        let statuses = self.statuses().await;
        leader_of(&statuses)
    }

    /// The voters, by the word of whoever is furthest.
    pub async fn voters(&self) -> Option<BTreeSet<u64>> {
        let status = self.furthest().await?;
        Some(status.members.iter().filter(|member| member.voter).map(|member| member.node_id).collect())
    }

    /// All members, learners too, by the word of whoever is furthest.
    pub async fn members(&self) -> Option<BTreeSet<u64>> {
        let status = self.furthest().await?;
        Some(status.members.iter().map(|member| member.node_id).collect())
    }

    async fn furthest(&self) -> Option<GetClusterResponse> {
        let statuses = self.statuses().await;
        statuses.into_values().max_by_key(|status| (status.term, status.applied_index))
    }

    /// Waits until every node of the cluster runs, follows one leader and has caught up with it, and returns the leader.
    ///
    /// # Errors
    /// What is still missing when the time is up, with the ends of the logs.
    pub async fn wait_ready(&self, within: Duration) -> Result<u64> {
        let end = Instant::now() + within;
        let mut goal = 0;
        loop {
            let statuses = self.statuses().await;
            goal = goal.max(leader_of(&statuses).map_or(0, |leader| statuses[&leader].applied_index));
            match unready(&self.ids(), &statuses, goal) {
                None => return leader_of(&statuses).context("a cluster that is ready has a leader"),
                Some(reason) if Instant::now() >= end => {
                    let logs: Vec<String> = self.ids().into_iter().map(|id| format!("--- node {id} ---\n{}", self.log_end(id))).collect();
                    bail!("not ready within {within:?}: {reason}\n{}", logs.join("\n"));
                }
                Some(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Compares the states of all nodes: for each, a digest at an index at which another's is known too. Healed clusters without load get
    /// there in a moment.
    pub async fn agreement(&self, within: Duration) -> Agreement {
        let end = Instant::now() + within;
        let mut seen = Seen::default();
        loop {
            for (id, status) in self.statuses().await {
                seen.note(id, status.applied_index, status.digest);
            }
            if let Some(result) = seen.judge(&self.ids()) {
                return result;
            }
            if Instant::now() >= end {
                return Agreement::Unknown {
                    reason: format!("within {within:?} there was no index at which all nodes were seen: {seen:?}"),
                };
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Who of them leads, by its own word: of several who say so, the one of the latest term.
pub fn leader_of(statuses: &BTreeMap<u64, GetClusterResponse>) -> Option<u64> {
    let leaders = statuses.iter().filter(|(id, status)| status.leader_id == **id);
    leaders.max_by_key(|(_, status)| status.term).map(|(id, _)| *id)
}

/// What keeps these nodes from being ready; `None` if nothing does.
fn unready(ids: &[u64], statuses: &BTreeMap<u64, GetClusterResponse>, goal: u64) -> Option<String> {
    let Some(leader) = leader_of(statuses) else {
        return Some("nobody leads".to_owned());
    };
    for id in ids {
        let Some(status) = statuses.get(id) else {
            return Some(format!("node {id} does not answer"));
        };
        if status.leader_id != leader {
            return Some(format!("node {id} takes {} for the leader, not {leader}", status.leader_id));
        }
        if status.applied_index < goal {
            return Some(format!("node {id} has applied {}, and the leader {goal}", status.applied_index));
        }
        if !status.members.iter().any(|member| member.node_id == *id && member.voter) {
            return Some(format!("node {id} does not vote"));
        }
    }
    None
}

/// Digests by index and node.
#[derive(Debug, Default)]
struct Seen {
    digests: BTreeMap<u64, BTreeMap<u64, String>>,
}

impl Seen {
    fn note(&mut self, id: u64, index: u64, digest: String) {
        self.digests.entry(index).or_default().insert(id, digest);
    }

    fn judge(&self, ids: &[u64]) -> Option<Agreement> {
        let differ = |digests: &BTreeMap<u64, String>| digests.values().collect::<BTreeSet<_>>().len() > 1;
        if let Some((index, digests)) = self.digests.iter().find(|(_, digests)| differ(digests)) {
            return Some(Agreement::Diverged { index: *index, digests: digests.clone() });
        }
        let all = |digests: &&BTreeMap<u64, String>| ids.iter().all(|id| digests.contains_key(id));
        let (index, digests) = self.digests.iter().rev().find(|(_, digests)| all(digests))?;
        Some(Agreement::Agreed { index: *index, digest: digests.values().next().cloned()?, nodes: ids.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use tarn_client::proto::Member;

    use super::*;

    #[test]
    fn nodes_agree_when_all_were_seen_at_one_index_and_never_with_two_digests() {
        let mut seen = Seen::default();
        seen.note(1, 10, "a".into());
        seen.note(2, 11, "b".into());
        assert_eq!(seen.judge(&[1, 2]), None);
        seen.note(1, 11, "b".into());
        let agreed = Agreement::Agreed { index: 11, digest: "b".into(), nodes: vec![1, 2] };
        assert_eq!(seen.judge(&[1, 2]), Some(agreed));
        assert_eq!(seen.judge(&[1, 2, 3]), None);
        seen.note(3, 10, "x".into());
        assert!(matches!(seen.judge(&[1, 2]), Some(Agreement::Diverged { index: 10, .. })));
    }

    fn status(leader_id: u64, term: u64, applied_index: u64) -> GetClusterResponse {
        let member = |node_id| Member { node_id, voter: true, ..Member::default() };
        GetClusterResponse { leader_id, term, applied_index, members: [1, 2].map(member).to_vec(), ..GetClusterResponse::default() }
    }

    #[test]
    fn a_cluster_is_ready_when_all_follow_one_leader_and_have_caught_up() {
        let mut statuses = BTreeMap::from([(1, status(1, 4, 9)), (2, status(2, 5, 12))]);
        assert_eq!(leader_of(&statuses), Some(2), "who led an earlier term does not know yet that it leads no more");
        assert!(unready(&[1, 2], &statuses, 12).unwrap().contains("node 1 takes 1"));
        statuses.insert(1, status(2, 5, 9));
        assert!(unready(&[1, 2], &statuses, 12).unwrap().contains("applied 9"));
        statuses.insert(1, status(2, 5, 12));
        assert_eq!(unready(&[1, 2], &statuses, 12), None);
        assert!(unready(&[1, 2, 3], &statuses, 12).unwrap().contains("node 3 does not answer"));
        assert!(unready(&[1], &BTreeMap::new(), 0).unwrap().contains("nobody leads"));
    }
}
