//! Tells the listeners and links what the cluster has revoked.

use std::time::Duration;

use tarn_raft::Consensus;
use tokio_util::sync::CancellationToken;

use crate::identity::Revoked;

/// The state changes thousands of times a second under load; what is revoked takes effect within this time.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection that stands on a certificate that was just revoked gets this long to hear why from the gate, which refuses all that it asks.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// Follows the state until `stop`.
pub(super) async fn watch_revocations(consensus: Consensus, revoked: Revoked, stop: CancellationToken) {
    let mut applied = consensus.applied();
    loop {
        applied.borrow_and_update();
        let changed = async {
            if tell(&consensus, &revoked) {
                tokio::time::sleep(LAST_WORDS).await;
                revoked.cut();
            }
            tokio::time::sleep(PAUSE).await;
            applied.changed().await
        };
        if !matches!(stop.run_until_cancelled(changed).await, Some(Ok(()))) {
            return;
        }
    }
}

/// Tells what is revoked now, and whether that has changed.
pub(super) fn tell(consensus: &Consensus, revoked: &Revoked) -> bool {
    let access = consensus.read(|machine| machine.access());
    access.is_ok_and(|access| revoked.update(access))
}
