//! Escalation: what policies found is sent to those who asked for it, by the leader's node.
//!
//! ```text
//!   state: handlers, violations ─► leader: one courier a handler ─► webhook: POST, signed ─► 2xx ─► acknowledged in the state
//!                                       └── anything else: again, later and later ◄──┘
//! ```
//!
//! Each violation that a handler asks for is sent **at least once**, in order: what has arrived is acknowledged in the replicated state, and
//! another leader goes on from there. So a violation may come twice, with the same id; receivers tell by it. A handler whose receiver does
//! not answer holds up nobody else. What waits for longer than violations are kept is lost, and a log line says so.
//!
//! Invariants: nothing is sent unsigned; no key is anywhere but in its file; redirects are never followed.

mod courier;
mod signature;
mod webhook;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tarn_raft::Consensus;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use courier::Courier;
pub use signature::{SIGNATURE_HEADER, SignatureError, sign, verify};
pub use webhook::{DELIVERY_HEADER, SendError, Webhook, WebhookError};

/// How often the handlers are looked at: far more often than anybody changes them.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What couriers need.
#[derive(Clone)]
pub struct Escalation {
    /// The state.
    pub consensus: Consensus,
    /// This node.
    pub node_id: u64,
    /// The cluster's id, for receivers that serve several.
    pub cluster: Arc<str>,
    /// Where the keys lie, one file each.
    pub secrets_dir: PathBuf,
    /// The way out.
    pub webhook: Webhook,
}

impl Escalation {
    /// Sends what is to be sent whenever this node leads, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut leadership = self.consensus.leadership();
        let leading = async {
            while leadership.wait_for(|now| now.is_this_node).await.is_ok() {
                let mut ended = leadership.clone();
                tokio::select! {
                    () = self.lead() => {}
                    _ = ended.wait_for(|now| !now.is_this_node) => {}
                }
            }
        };
        stop.run_until_cancelled(leading).await;
    }

    /// Keeps one courier for each handler. Ends with the node; dropped, it takes the couriers with it.
    async fn lead(&self) {
        let mut running = JoinSet::new();
        let mut names: BTreeMap<String, tokio::task::Id> = BTreeMap::new();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            while let Some(ended) = running.try_join_next_with_id() {
                let id = match ended {
                    Ok((id, ())) => id,
                    Err(error) => error.id(),
                };
                names.retain(|_, of| *of != id);
            }
            let Ok(handlers) = self.consensus.read(tarn_machine::Machine::policy_handlers) else {
                return;
            };
            for handler in handlers {
                names.entry(handler.name.clone()).or_insert_with(|| {
                    let courier = Courier::new(self.clone(), handler.name);
                    running.spawn(courier.run()).id()
                });
            }
        }
    }
}
