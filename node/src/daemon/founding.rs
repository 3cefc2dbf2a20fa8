//! The version of a new cluster: its first leader raises it to the highest that its build has, before any user's command.
//!
//! An old cluster keeps its version until somebody runs `tarn cluster upgrade`, so that every node can still go back.

use std::time::Duration;

use tarn_machine::{Machine, Versions};
use tarn_proto::v1::{Command, RaiseVersion, command};
use tarn_raft::{Consensus, Instant};
use tokio_util::sync::CancellationToken;

/// Limit on one try.
const TRY: Duration = Duration::from_secs(5);

/// Pause between tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until this node leads; if nothing was applied in this cluster yet, makes its version known. Ends when something was.
pub async fn found_version(consensus: Consensus, stop: CancellationToken) {
    let mut leadership = consensus.leadership();
    let founding = async {
        while leadership.wait_for(|now| now.is_this_node).await.is_ok() {
            let deadline = Instant::now() + TRY;
            // Whoever leads has every entry; the barrier says that they are applied.
            if consensus.read_barrier(deadline).await.is_ok() {
                match consensus.read(Machine::is_fresh) {
                    Ok(true) => raise(&consensus, deadline).await,
                    Ok(false) | Err(_) => return,
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    stop.run_until_cancelled(founding).await;
}

async fn raise(consensus: &Consensus, deadline: Instant) {
    let version = Versions::CURRENT.max;
    let command = Command {
        principal: "cluster/founding".into(),
        gate: None,
        body: Some(command::Body::RaiseVersion(RaiseVersion { version, keep_access: false })),
    };
    match consensus.propose(command, deadline).await {
        Ok(_) => tracing::info!(version, "this is a new cluster"),
        // Tried again as long as nothing is applied.
        Err(error) => tracing::warn!(%error, "the new cluster's version could not be made known yet"),
    }
}
