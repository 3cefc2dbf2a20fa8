//! Heartbeats: of the worker's registration, and of every lease it holds.

use std::sync::Arc;
use std::time::Duration;

use tarn_proto::v1;
use tokio::time::Instant;

use super::{Shared, WORKER_TTL_MS};

/// Leases in one heartbeat: the kernel's limit.
const LEASES_MAX: usize = 256;

/// Three heartbeats in the time that a lease lasts: two may be lost.
const BEATS: u64 = 3;

/// Beats until the cluster does not know the worker any more.
pub(super) async fn beat(shared: Arc<Shared>, worker: String) {
    let period = Duration::from_millis(shared.options.lease_ms.min(WORKER_TTL_MS) / BEATS);
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        ticks.tick().await;
        let resources = shared.resources();
        let news = resources.clone().filter(|_| resources != told);
        let request = v1::HeartbeatWorkerRequest { worker_id: worker.clone(), resources: news };
        match shared.command(request).await {
            Ok(_) => told = resources,
            Err(refusal) if refusal.reason() == "WORKER_NOT_FOUND" => return,
            Err(_) => {}
        }
        renew(&shared, &worker).await;
    }
}

/// How often attempts are stopped whose leases have run out.
const EXPIRE_EVERY: Duration = Duration::from_millis(100);

/// Stops attempts whose leases have run out, whatever the cluster says or does not say; until it is dropped.
pub(super) async fn expire(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(EXPIRE_EVERY).await;
        shared.held.expire();
    }
}

/// Extends every lease, and stops what the answers say to stop.
async fn renew(shared: &Shared, worker: &str) {
    for leases in shared.held.leases().chunks(LEASES_MAX) {
        let request =
            v1::HeartbeatTasksRequest { worker_id: worker.to_owned(), leases: leases.to_vec(), lease_ms: shared.options.lease_ms };
        let asked = Instant::now();
        match shared.command(request).await {
            Ok(response) => {
                shared.held.renewed(&response, asked);
                response.leases.iter().for_each(|report| shared.held.obey(report));
            }
            Err(refusal) => tracing::debug!(reason = refusal.reason(), "leases were not renewed"),
        }
    }
}
