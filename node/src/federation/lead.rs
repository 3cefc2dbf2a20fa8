//! Has a hub work while this node leads and its cluster is in a federation.

use std::time::Duration;

use prost::Message as _;
use tarn_crdt::{ClusterId, Commit, FederationId, Identity, Pqcrypto, Replica, Tuning};
use tarn_machine::Machine;
use tarn_proto::v1::FederationIdentity;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handover::{self, Stays};
use super::hub::{Ended, Hub, Loaded};
use super::{Federation, now_ms, publish};
use crate::artifacts::Artifacts;

/// How long a new leader waits until it knows all that was acknowledged, before it tries again.
const CERTAIN: Duration = Duration::from_secs(10);

/// How often a leader has confirmed that it leads.
const CONFIRM_EVERY: Duration = Duration::from_secs(2);

/// After a failure it is tried again this much later.
const AGAIN: Duration = Duration::from_millis(200);

/// Between two looks at whether the cluster has joined a federation, at least.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Rows that are read at once.
const ROWS_MAX: usize = 1_024;

/// What has a hub work.
pub struct Lead {
    /// This node's part.
    pub federation: Federation,
    /// Those of tasks that are handed over.
    pub artifacts: Artifacts,
    /// Tasks that no other cluster would have.
    pub stays: Stays,
    /// For how long a task that another cluster does is waited for without a word from it.
    pub lease: Duration,
}

impl Lead {
    /// Has a hub work whenever this node leads, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let consensus = self.federation.way().consensus().clone();
        let mut leadership = consensus.leadership();
        let leading = async {
            while leadership.wait_for(|now| now.is_this_node).await.is_ok() {
                let mut ended = leadership.clone();
                tokio::select! {
                    () = self.lead() => {}
                    _ = ended.wait_for(|now| !now.is_this_node) => {}
                }
                self.federation.set_hub(None);
                self.federation.way().metrics().federation_link_up.clear();
                self.federation.way().metrics().federation_lag_milliseconds.clear();
            }
        };
        stop.run_until_cancelled(leading).await;
        self.federation.set_hub(None);
    }

    /// Dropped, it takes the hub with it.
    async fn lead(&self) {
        let way = self.federation.way().clone();
        let mut applied = way.consensus().applied();
        loop {
            // What another leader committed last must be known before the replica is made.
            while way.barrier(Instant::now() + CERTAIN).await.is_err() {
                tokio::time::sleep(AGAIN).await;
            }
            let is_member = |machine: &Machine| machine.federation().is_some();
            while !way.consensus().read(is_member).unwrap_or(false) {
                if applied.changed().await.is_err() {
                    return;
                }
                // Under load the state changes thousands of times a second.
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            let ended = match self.hub() {
                Ok(hub) => {
                    self.federation.set_hub(Some(hub.sender()));
                    let publishing = publish::run(self.federation.clone());
                    // Dropped, it ends them.
                    let mut working = JoinSet::new();
                    working.spawn(hub.run());
                    let handing = handover::run(self.federation.clone(), self.artifacts.clone(), self.stays.clone(), self.lease);
                    tokio::select! {
                        ended = working.join_next() => match ended {
                            Some(Ok(ended)) => ended,
                            failed => Ended::Unreadable(format!("the hub has failed: {failed:?}")),
                        },
                        () = publishing => continue,
                        () = handing => continue,
                        () = self.deposed() => Ended::Deposed,
                    }
                }
                Err(ended) => ended,
            };
            self.federation.set_hub(None);
            tracing::info!(%ended, "the replica of the federation's document is loaded again");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Returns when no majority confirms any more that this node leads: it may be cut off, and another one hold the links.
    async fn deposed(&self) {
        loop {
            tokio::time::sleep(CONFIRM_EVERY).await;
            if self.federation.way().barrier(Instant::now() + CERTAIN / 2).await.is_err() {
                return;
            }
        }
    }

    /// A hub for what the state holds.
    fn hub(&self) -> Result<Hub, Ended> {
        let loaded = self.federation.way().consensus().read(load);
        let loaded = loaded.map_err(|error| Ended::Unreadable(error.to_string()))??;
        Ok(Hub::new(self.federation.clone(), loaded))
    }
}

/// The cluster's key, and its copy of the document as the rows have it. Of a cluster that has just founded or joined there are none yet: the
/// hub's first commit writes them.
fn load(machine: &Machine) -> Result<Loaded, Ended> {
    let now = machine.federation().ok_or(Ended::NoFederation)?;
    let seed = machine.federation_secret().ok_or(Ended::NoFederation)?;
    let identity = Identity::from_seed(&Pqcrypto, &seed);
    let unreadable = |why: &dyn std::fmt::Display| Ended::Unreadable(why.to_string());
    let mut rows = Vec::new();
    let mut after = Vec::new();
    loop {
        let page = machine.replica_rows(&after, ROWS_MAX).map_err(|error| unreadable(&error))?;
        let Some((last, _)) = page.last() else { break };
        after.clone_from(last);
        rows.extend(page);
    }
    let (replica, commit) = match rows.is_empty() {
        true => begin(&identity, &now.identity)?,
        false => (Replica::load(&Pqcrypto, Tuning::default(), rows).map_err(|error| unreadable(&error))?, Commit::default()),
    };
    Ok(Loaded { identity, replica, revision: now.revision, commit })
}

/// The beginning of a copy: the founder's introduces the founder, any other's waits for whoever invited it.
fn begin(identity: &Identity, known: &FederationIdentity) -> Result<(Replica, Commit), Ended> {
    let unreadable = |why: &dyn std::fmt::Display| Ended::Unreadable(why.to_string());
    let card = known.card.clone().unwrap_or_default();
    match &known.inviter {
        None => {
            Replica::found(identity, &card.name, &card.encode_to_vec(), Tuning::default(), now_ms()).map_err(|error| unreadable(&error))
        }
        Some(inviter) => {
            let id = |bytes: &[u8]| Ended::Unreadable(format!("an id of {} bytes", bytes.len()));
            let federation = known.federation_id.as_ref().try_into().map_err(|_| id(&known.federation_id))?;
            let inviter = inviter.cluster_id.as_ref().try_into().map_err(|_| id(&inviter.cluster_id))?;
            Ok(Replica::join(FederationId(federation), identity, ClusterId(inviter), Tuning::default()))
        }
    }
}
