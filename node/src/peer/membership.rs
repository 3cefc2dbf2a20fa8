//! How a node that has joined becomes a member: it asks, again and again, until it is what it wants to be.
//!
//! The node drives its own admission, so nothing has to be remembered about half-added nodes: whoever crashes in the middle,
//! the next question continues.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tarn_proto::v1::{PeerMembership, PeerMembershipRequest};
use tarn_raft::{AdminError, Consensus, NodeId, Peer};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::fault::Fault;
use super::links::{Links, Traffic};
use super::seeds::{Seeds, SeedsError};

/// The most voters. More would make each decision slower and hardly safer: seven survive the loss of three. Further nodes are
/// learners.
pub const VOTERS_MAX: usize = 7;

/// How long one question may change the membership.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one question waits for the node to catch up. The node asks again.
const CATCH_UP_WAIT: Duration = Duration::from_secs(3);

/// Limit on the answer to one question: the two above and the way.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Between questions, while catching up.
const AGAIN_PAUSE: Duration = Duration::from_millis(250);

/// Between rounds in which nobody answered: from the first to the second, doubling.
const ROUND_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Answers one question: adds the node as a learner, and promotes it if it has caught up and wants that.
///
/// # Errors
/// What keeps the node from ever becoming a member; what passes is answered with "not complete".
pub async fn grant(consensus: &Consensus, node: NodeId, request: PeerMembershipRequest) -> Result<PeerMembership, AdminError> {
    let status = consensus.status().map_err(|_| AdminError::NotDone)?;
    let voters = status.members.iter().filter(|member| member.voter).count();
    let member = status.members.iter().find(|member| member.peer.id == node);
    let is_voter = member.is_some_and(|member| member.voter);
    if is_voter {
        return Ok(PeerMembership { complete: true });
    }
    consensus.add_learner(node, request.address, Instant::now() + CHANGE_TIMEOUT).await?;
    if request.learner || voters >= VOTERS_MAX {
        return Ok(PeerMembership { complete: true });
    }
    match consensus.promote(node, Instant::now() + CATCH_UP_WAIT).await {
        Ok(()) => Ok(PeerMembership { complete: true }),
        Err(AdminError::NotDone | AdminError::InProgress | AdminError::Unreachable { .. } | AdminError::NotCaughtUp { .. }) => {
            Ok(PeerMembership { complete: false })
        }
        Err(error) => Err(error),
    }
}

/// Why a node is no member.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The cluster will not have it like this.
    #[error("the cluster refused this node: {}", .0.message())]
    Refused(Status),
    /// That it is one could not be written down.
    #[error(transparent)]
    Seeds(#[from] SeedsError),
    /// The node is stopping.
    #[error("this node is stopping")]
    Stopped,
}

/// Makes a node that came by joining a member, and remembers in its data directory that it is one: a node that was removed
/// afterwards should not ask again, because it would be refused. Neither the log nor the membership can tell these two apart, because a
/// node that was stopped right after it was added may know as little of itself as one that was removed.
///
/// Call it when consensus runs and the peer service answers, because the leader then begins to send the log.
///
/// # Errors
/// [`MembershipError`]. Where the data directory cannot be written, the node is a member and asks once more at its next start.
pub async fn become_member(
    links: &Arc<Links>,
    mut seeds: Seeds,
    data_dir: &Path,
    request: PeerMembershipRequest,
    stop: &CancellationToken,
) -> Result<(), MembershipError> {
    if seeds.is_member {
        return Ok(());
    }
    ask(links, &seeds.peers(), request, stop).await?;
    seeds.is_member = true;
    seeds.store(data_dir)?;
    Ok(())
}

/// Asks `peers` to make this node a member, until it is one.
async fn ask(links: &Arc<Links>, peers: &[Peer], request: PeerMembershipRequest, stop: &CancellationToken) -> Result<(), MembershipError> {
    let asking = async {
        let mut pause = ROUND_PAUSE.0;
        loop {
            for peer in peers {
                match ask_until_complete(links, peer, &request).await {
                    Ok(()) => return Ok(()),
                    Err(Fault::Refused(status)) if is_final(&status) => return Err(MembershipError::Refused(status)),
                    Err(fault) => tracing::info!(peer = peer.id, %fault, "the node could not be asked for membership"),
                }
            }
            tracing::warn!("no node of the cluster makes this node a member; asking again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(ROUND_PAUSE.1);
        }
    };
    stop.run_until_cancelled(asking).await.unwrap_or(Err(MembershipError::Stopped))
}

async fn ask_until_complete(links: &Arc<Links>, peer: &Peer, request: &PeerMembershipRequest) -> Result<(), Fault> {
    loop {
        let request = request.clone();
        let answered = links
            .exchange(peer, Traffic::Control, ANSWER_TIMEOUT, |mut client| async move { client.request_membership(request).await })
            .await?;
        if answered.body.complete {
            return Ok(());
        }
        tracing::debug!(peer = peer.id, "this node is a learner and catches up");
        tokio::time::sleep(AGAIN_PAUSE).await;
    }
}

fn is_final(status: &Status) -> bool {
    !matches!(status.code(), Code::Unavailable | Code::Aborted | Code::ResourceExhausted | Code::Unimplemented)
}
