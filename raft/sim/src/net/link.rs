//! One node's way to the others: the `Transport` that the shipped code gets.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use tarn_raft::{ByteStream, Method, Peer, PeerError, ReplyStream, Transport, TransportError};

use super::{Lost, Net, Party};
use crate::dice::hash;

/// The longest that a snapshot may take, in simulated time.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(60);

/// The transport of one node.
pub struct Link {
    /// The network.
    pub net: Net,
    /// Whose transport it is.
    pub from: Party,
}

impl Link {
    fn send(&self, to: Party, method: Method, body: Bytes) -> tokio::sync::oneshot::Receiver<Result<Result<Bytes, PeerError>, Lost>> {
        let from = self.from;
        let what = format!("{method:?} {} {:016x}", body.len(), hash(&body));
        self.net.request(from, to, &what, move |door| async move { door.consensus.handle_call(from, method.number(), body).await }.boxed())
    }
}

/// Whether a second arrival is something that the sender must reckon with anyway, because it sends the same again by itself.
///
/// What goes through a stream never arrives twice or out of order, here as there: the real transport's streams lie in one TCP connection each, which
/// loses, repeats and reorders nothing; it breaks, and then the sender opens another and sends again from where it must.
fn may_arrive_twice(method: Method) -> bool {
    match method {
        Method::Append
        | Method::Vote
        | Method::PreVote
        | Method::Propose
        | Method::ReadIndex
        | Method::NodeInfo
        | Method::WallClock
        | Method::SnapshotOffer => true,
        Method::TransferLeader | Method::Admin | Method::Diverged => false,
    }
}

#[async_trait]
impl Transport for Link {
    async fn call(&self, target: &Peer, method: Method, body: Bytes, timeout: Duration) -> Result<Bytes, TransportError> {
        let answer = self.send(target.id, method, body.clone());
        if may_arrive_twice(method) && self.net.duplicates(self.from, target.id) {
            // The second answer finds nobody.
            drop(self.send(target.id, method, body));
        }
        match tokio::time::timeout(timeout, answer).await {
            Err(_) => Err(TransportError::Timeout),
            Ok(Ok(Ok(answer))) => answer.map_err(|error| TransportError::Remote(error.to_string())),
            Ok(Ok(Err(Lost::Refused))) => Err(TransportError::Unreachable("nobody is there".into())),
            Ok(Ok(Err(Lost::Broken)) | Err(_)) => Err(TransportError::Broken("the connection broke".into())),
        }
    }

    async fn replicate(&self, target: &Peer, requests: ByteStream) -> Result<ReplyStream, TransportError> {
        let from = self.from;
        self.net
            .connect(from, target.id, "replicate", requests, move |door, requests| {
                Box::pin(door.consensus.handle_replicate(from, requests))
            })
            .await
    }

    async fn send_snapshot(&self, target: &Peer, chunks: ByteStream) -> Result<Bytes, TransportError> {
        let from = self.from;
        let connected = self.net.connect(from, target.id, "snapshot", chunks, move |door, chunks| {
            let answer = async move { door.consensus.handle_snapshot(from, chunks).await };
            Box::pin(futures::stream::once(answer))
        });
        let sent = async {
            let mut replies = connected.await?;
            let answer = futures::StreamExt::next(&mut replies).await;
            answer.unwrap_or(Err(TransportError::Broken("no answer".into())))
        };
        tokio::time::timeout(SNAPSHOT_TIMEOUT, sent).await.unwrap_or(Err(TransportError::Timeout))
    }
}
