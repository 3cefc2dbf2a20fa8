//! Tells the listeners and links what the cluster has revoked.

use std::time::Duration;

use tarn_raft::Consensus;
use tokio_util::sync::CancellationToken;

use crate::identity::Revoked;

/// The state changes thousands of times a second under load; what is revoked takes effect within this time.
const PAUSE: Duration = Duration::from_millis(50);

/// Follows the state until `stop`.
pub(super) async fn watch_revocations(consensus: Consensus, revoked: Revoked, stop: CancellationToken) {
    let mut applied = consensus.applied();
    loop {
        applied.borrow_and_update();
        tell(&consensus, &revoked);
        let changed = async {
            tokio::time::sleep(PAUSE).await;
            applied.changed().await
        };
        if !matches!(stop.run_until_cancelled(changed).await, Some(Ok(()))) {
            return;
        }
    }
}

/// Tells what is revoked now.
pub(super) fn tell(consensus: &Consensus, revoked: &Revoked) {
    if let Ok(access) = consensus.read(|machine| machine.access()) {
        revoked.update(access);
    }
}
