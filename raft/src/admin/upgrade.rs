//! Raising the machine version: never before every voter can run it.

use futures::future::join_all;
use tarn_proto::v1::{self, command, outcome};
use tokio::time::Instant;

use super::{Admin, AdminError, Failure, LaggingNode};
use crate::propose::ProposeError;

impl Admin {
    /// Asks every voter, and proposes the version if all of them support it. Returns the version in force.
    pub(super) async fn raise_version(&self, version: u32, deadline: Instant) -> Result<u64, Failure> {
        let current = self.applied.borrow().version;
        if version == current {
            return Ok(u64::from(current));
        }
        if version < current {
            let text = format!("the cluster runs machine version {current}, and versions never go back");
            return Err(AdminError::Refused(text).into());
        }
        let nodes = self.lagging(version).await;
        if !nodes.is_empty() {
            return Err(AdminError::VersionNotSupported { version, nodes }.into());
        }

        // What every user may do today they may do afterwards, until somebody gives out roles and ends this.
        let body = command::Body::RaiseVersion(v1::RaiseVersion { version, keep_access: true });
        let command = v1::Command { principal: "cluster".into(), gate: None, body: Some(body) };
        match self.proposer.propose(command, false, deadline).await {
            Ok(outcome) => match outcome.body {
                Some(outcome::Body::RaiseVersion(raised)) => Ok(u64::from(raised.version)),
                Some(outcome::Body::Rejected(rejection)) => Err(AdminError::Refused(rejection.message).into()),
                other => {
                    tracing::error!(?other, "raising the version had a strange answer");
                    Err(AdminError::Refused("the kernel gave a strange answer; the node's log has it".into()).into())
                }
            },
            Err(ProposeError::NotProposed | ProposeError::OutcomeUnknown) => Err(AdminError::NotDone.into()),
            Err(error @ (ProposeError::TooLarge { .. } | ProposeError::Stopped { .. })) => {
                Err(AdminError::Refused(error.to_string()).into())
            }
        }
    }

    /// The voters that cannot run a version, this node included.
    async fn lagging(&self, version: u32) -> Vec<LaggingNode> {
        let voters = self.voters();
        let answers = join_all(voters.iter().map(|voter| async move {
            let version_max = match voter.id == self.node_id {
                true => Some(self.version_max),
                false => self.node_info(voter).await.map(|info| info.machine_version_max),
            };
            LaggingNode { id: voter.id, version_max }
        }))
        .await;
        answers.into_iter().filter(|node| node.version_max.is_none_or(|max| max < version)).collect()
    }
}
