//! A worker's registration, kept alive.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::client::Client;
use crate::error::{Error, WORKER_NOT_FOUND};
use crate::proto;
use crate::time::millis;

/// A registration. Dropping it stops its heartbeats; it ends by itself then.
pub(super) struct Registration {
    client: Client,
    pub(super) worker_id: Arc<str>,
    /// Ends when the cluster knows the worker no more.
    pub(super) gone: CancellationToken,
    /// Ends when the cluster asks the worker to drain.
    pub(super) draining: CancellationToken,
    _heartbeats: AbortOnDropHandle<()>,
    drain: Option<AbortOnDropHandle<()>>,
}

impl Registration {
    pub(super) async fn new(
        client: &Client,
        name: &str,
        capabilities: &proto::WorkerCapabilities,
        ttl: Duration,
    ) -> Result<Registration, Error> {
        let request = proto::RegisterWorkerRequest {
            request_id: String::new(),
            name: name.to_owned(),
            capabilities: Some(capabilities.clone()),
            ttl_ms: millis(ttl),
        };
        let worker_id: Arc<str> = client.register_worker(request).await?.worker_id.into();
        tracing::debug!(worker = %worker_id, "registered");
        let (gone, draining) = (CancellationToken::new(), CancellationToken::new());
        let beating = keep_alive(client.clone(), worker_id.clone(), ttl, gone.clone(), draining.clone());
        Ok(Registration {
            client: client.clone(),
            worker_id,
            gone,
            draining,
            _heartbeats: AbortOnDropHandle::new(tokio::spawn(beating)),
            drain: None,
        })
    }

    /// Tells the cluster, in the background and once, that the worker takes no more tasks.
    pub(super) fn drain(&mut self) {
        if self.drain.is_none() {
            let (client, worker_id) = (self.client.clone(), self.worker_id.clone());
            let call: JoinHandle<()> = tokio::spawn(async move {
                if let Err(error) = client.drain_worker(&*worker_id).await {
                    tracing::debug!(%error, "the cluster could not be told that the worker drains");
                }
            });
            self.drain = Some(AbortOnDropHandle::new(call));
        }
    }
}

async fn keep_alive(client: Client, worker_id: Arc<str>, ttl: Duration, gone: CancellationToken, draining: CancellationToken) {
    loop {
        tokio::time::sleep(ttl / 3).await;
        match client.heartbeat_worker(&*worker_id).await {
            Ok(answer) if answer.state() == proto::WorkerState::Draining => draining.cancel(),
            Ok(_) => {}
            Err(error) if error.reason() == WORKER_NOT_FOUND => {
                gone.cancel();
                return;
            }
            Err(error) => tracing::debug!(%error, "a worker's heartbeat was not taken"),
        }
    }
}
