//! Linearizable reads on any node.
//!
//! A reader waits until this node has applied everything that was committed when it asked. Up to which index that is,
//! only the leader can say, and only after it has made sure that it still leads. Readers that come while one question is
//! under way share the next one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::consensus::Tasks;
use crate::leadership::{self, Leadership};
use crate::options::ReadMode;
use crate::state_machine::Applied;
use crate::transport::{Method, Transport};
use crate::types::Raft;
use crate::wire;

/// Readers that may wait for the next question. When full, more of them wait before the queue until their deadline.
const QUEUE: usize = 4_096;

/// Why a reader cannot be sure to see everything.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// No leader could prove itself, or this node did not catch up, before the deadline. Try again, perhaps elsewhere.
    #[error("no leader confirmed the read before its deadline")]
    NotConfirmed,
    /// This node has stopped. Ask another one.
    #[error("this node is stopping; ask another one")]
    Stopped,
}

type Waiter = oneshot::Sender<Option<u64>>;

/// The way to ask. Clones share it.
#[derive(Clone)]
pub(crate) struct ReadGate {
    queue: mpsc::Sender<Waiter>,
    leadership: watch::Receiver<Leadership>,
    applied: watch::Receiver<Applied>,
}

impl ReadGate {
    pub fn spawn(
        raft: Raft,
        transport: Arc<dyn Transport>,
        leadership: watch::Receiver<Leadership>,
        applied: watch::Receiver<Applied>,
        mode: ReadMode,
        round_timeout: Duration,
        tasks: &mut Tasks,
    ) -> Self {
        let (queue, waiters) = mpsc::channel(QUEUE);
        let asker = Asker { raft, transport, leadership: leadership.clone(), mode, round_timeout };
        tasks.spawn(asker.run(waiters));
        Self { queue, leadership, applied }
    }

    /// Returns when this node's state contains everything that was committed when this was called, and up to which index
    /// that is at least.
    pub async fn barrier(&self, deadline: Instant) -> Result<u64, ReadError> {
        let mut leadership = self.leadership.clone();
        let index = loop {
            let seen = leadership.borrow_and_update().clone();
            if seen.leader.is_some()
                && let Some(index) = self.ask(deadline).await?
            {
                break index;
            }
            if !leadership::pause(&mut leadership, &seen, deadline).await {
                return Err(ReadError::NotConfirmed);
            }
        };
        let mut applied = self.applied.clone();
        match timeout_at(deadline, applied.wait_for(|applied| applied.index >= index)).await {
            Ok(Ok(_)) => Ok(index),
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::NotConfirmed),
        }
    }

    /// Serves another node's question.
    pub async fn serve(&self) -> wire::ReadIndexReply {
        // Only a leader answers: passing the question on could go in circles.
        let leads = self.leadership.borrow().is_this_node;
        let index = match leads {
            true => self.enqueue().await,
            false => None,
        };
        wire::ReadIndexReply { confirmed: index.is_some(), index: index.unwrap_or(0) }
    }

    async fn ask(&self, deadline: Instant) -> Result<Option<u64>, ReadError> {
        if self.queue.is_closed() {
            return Err(ReadError::Stopped);
        }
        timeout_at(deadline, self.enqueue()).await.map_err(|_| ReadError::NotConfirmed)
    }

    async fn enqueue(&self) -> Option<u64> {
        let (waiter, answer) = oneshot::channel();
        self.queue.send(waiter).await.ok()?;
        answer.await.ok().flatten()
    }
}

struct Asker {
    raft: Raft,
    transport: Arc<dyn Transport>,
    leadership: watch::Receiver<Leadership>,
    mode: ReadMode,
    round_timeout: Duration,
}

impl Asker {
    async fn run(self, mut queue: mpsc::Receiver<Waiter>) {
        let mut waiters = Vec::new();
        while queue.recv_many(&mut waiters, QUEUE).await > 0 {
            let index = timeout(self.round_timeout, self.round()).await.ok().flatten();
            for waiter in waiters.drain(..) {
                // Whoever asked may have given up.
                let _ = waiter.send(index);
            }
        }
    }

    async fn round(&self) -> Option<u64> {
        let leadership = self.leadership.borrow().clone();
        if leadership.is_this_node {
            let policy = match self.mode {
                ReadMode::ReadIndex => ReadPolicy::ReadIndex,
                ReadMode::Lease => ReadPolicy::LeaseRead,
            };
            let linearizer = self.raft.get_read_linearizer(policy).await.ok()?;
            return Some(linearizer.read_log_id().index());
        }
        let leader = leadership.leader?;
        let reply = self.transport.call(&leader, Method::ReadIndex, Bytes::new(), self.round_timeout).await.ok()?;
        let reply: wire::ReadIndexReply = wire::decode(reply).ok()?;
        reply.confirmed.then_some(reply.index)
    }
}
