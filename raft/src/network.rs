//! openraft's network over a [`Transport`].

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{BasicNode, OptionalSend};

use crate::convert;
use crate::disk;
use crate::snapshot::{SnapshotDir, send};
use crate::state_machine::StateMachine;
use crate::transport::{Method, Peer, PeerError, ReplyStream, Transport, TransportError};
use crate::types::{LogId, NodeId, TypeConfig, Vote};
use crate::wire;

/// Makes the links to the other nodes.
pub(crate) struct Network {
    pub transport: Arc<dyn Transport>,
    pub machine: StateMachine,
    /// A pipeline whose oldest message waits longer than this for its reply is broken.
    pub stall: Duration,
}

/// The way to one other node.
pub(crate) struct Link {
    transport: Arc<dyn Transport>,
    machine: StateMachine,
    peer: Peer,
    stall: Duration,
    /// Heartbeats are single calls: opening a pipeline for each would cost more than they do.
    heartbeat: bool,
}

impl Network {
    fn link(&self, id: NodeId, node: &BasicNode, heartbeat: bool) -> Link {
        Link { transport: self.transport.clone(), machine: self.machine.clone(), peer: Peer::new(&id, node), stall: self.stall, heartbeat }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Link {
        self.link(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &BasicNode) -> Link {
        self.link(target, node, true)
    }
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl Link {
    async fn call(&self, method: Method, body: Bytes, timeout: Duration) -> Rpc<Bytes> {
        self.transport.call(&self.peer, method, body, timeout).await.map_err(|error| convert::rpc_error(&error))
    }

    async fn open_pipeline<S>(&self, mut input: S) -> Rpc<BoxStream<'static, Rpc<StreamAppendResult<TypeConfig>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // The pause after a failure is in the requests' stream: who connects before the first request is there, and fails, is asked to
        // connect again at once, for ever.
        let Some(first) = input.next().await else {
            return Ok(Box::pin(stream::empty()));
        };
        let input = stream::once(std::future::ready(first)).chain(input);
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let requests = input.map(move |request| {
            counted.fetch_add(1, Ordering::Relaxed);
            wire::encode(&convert::append_to_wire(&request))
        });
        let replies = tokio::time::timeout(self.stall, self.transport.replicate(&self.peer, Box::pin(requests)))
            .await
            .unwrap_or(Err(TransportError::Timeout))
            .map_err(|error| convert::rpc_error(&error))?;
        let pipeline = Pipeline { replies, sent, received: 0, stall: self.stall };
        Ok(Box::pin(stream::unfold(Some(pipeline), |pipeline| async move {
            let mut pipeline = pipeline?;
            match pipeline.next().await {
                None => None,
                Some(Ok(result)) => {
                    let go_on = result.is_ok();
                    Some((Ok(result), go_on.then_some(pipeline)))
                }
                Some(Err(error)) => Some((Err(convert::rpc_error(&error)), None)),
            }
        })))
    }

    async fn send_snapshot(&self, vote: &Vote, snapshot: Arc<SnapshotDir>, option: &RPCOption) -> Result<Vote, TransportError> {
        let offer = wire::SnapshotOffer { manifest: snapshot.manifest_bytes.clone() };
        let progress = self.transport.call(&self.peer, Method::SnapshotOffer, wire::encode(&offer), option.soft_ttl()).await?;
        let received = wire::decode::<wire::SnapshotProgress>(progress).map_err(misunderstood)?.received;
        tracing::info!(
            peer = self.peer.id,
            received = received.iter().sum::<u64>(),
            bytes = snapshot.manifest.files.iter().map(|file| file.bytes).sum::<u64>(),
            "sending a snapshot"
        );
        let reply = self.transport.send_snapshot(&self.peer, send::frames(snapshot, vote, received, self.machine.disk().clone())).await?;
        let reply = wire::decode::<wire::SnapshotReply>(reply).map_err(misunderstood)?;
        convert::vote_from_wire(reply.vote).map_err(misunderstood)
    }
}

impl Link {
    /// A receiver did not take a snapshot. If that is because it is damaged here, it would not take it the next time either: this node stops.
    async fn doubt(&self, snapshot: Arc<SnapshotDir>) {
        let compared = disk::blocking(self.machine.disk().as_ref(), move || snapshot.doubt()).await;
        if let Ok(Err(error)) = compared {
            self.machine.fail(format!("the snapshot of the state is damaged: {error}"));
        }
    }
}

fn misunderstood(error: PeerError) -> TransportError {
    TransportError::Remote(error.to_string())
}

fn decoded<T>(result: Result<T, PeerError>) -> Rpc<T> {
    result.map_err(|error| convert::rpc_error(&misunderstood(error)))
}

/// The replies of an open pipeline.
struct Pipeline {
    replies: ReplyStream,
    sent: Arc<AtomicU64>,
    received: u64,
    stall: Duration,
}

impl Pipeline {
    /// The next reply. Waits as long as nothing is owed.
    async fn next(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, TransportError>> {
        loop {
            let owed = self.sent.load(Ordering::Relaxed) > self.received;
            match tokio::time::timeout(self.stall, self.replies.next()).await {
                Ok(None) => return None,
                Ok(Some(Err(error))) => return Some(Err(error)),
                Ok(Some(Ok(reply))) => {
                    self.received += 1;
                    let result = wire::decode(reply).and_then(convert::append_result_from_wire);
                    return Some(result.map_err(misunderstood));
                }
                Err(_) if owed => return Some(Err(TransportError::Timeout)),
                Err(_) => {}
            }
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = Arc<SnapshotDir>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let body = wire::encode(&convert::append_to_wire(&request));
        let reply = self.call(Method::Append, body, option.soft_ttl()).await?;
        let result = decoded(wire::decode(reply).and_then(convert::append_result_from_wire))?;
        Ok(result.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.heartbeat {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let replies: BoxStream<'s, _> = self.open_pipeline(input).await?;
            Ok(replies)
        })
    }

    async fn vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        let body = wire::encode(&convert::vote_request_to_wire(&request));
        let reply = self.call(Method::Vote, body, option.soft_ttl()).await?;
        decoded(wire::decode(reply).and_then(convert::vote_reply_from_wire))
    }

    async fn pre_vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        let body = wire::encode(&convert::vote_request_to_wire(&request));
        let reply = self.call(Method::PreVote, body, option.soft_ttl()).await?;
        decoded(wire::decode(reply).and_then(convert::vote_reply_from_wire))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, Arc<SnapshotDir>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(&vote, snapshot.snapshot.clone(), &option) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => {
                    if let TransportError::Remote(_) = error {
                        self.doubt(snapshot.snapshot).await;
                    }
                    Err(convert::streaming_error(&error))
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let body = wire::TransferRequest {
            from: Some(convert::vote_to_wire(request.from_leader())),
            to: *request.to_node_id(),
            last_log_id: request.last_log_id().map(convert::log_id_to_wire),
        };
        let reply = self.call(Method::TransferLeader, wire::encode(&body), option.soft_ttl()).await?;
        let reply = decoded(wire::decode::<wire::TransferReply>(reply))?;
        let expected_log: Option<LogId> = request.last_log_id().copied();
        Ok(match reply.result {
            None | Some(wire::TransferResult::Accepted(wire::Empty {})) => Ok(()),
            Some(wire::TransferResult::VoteChanged(vote)) => Err(TransferLeaderError::VoteChanged {
                expected: *request.from_leader(),
                actual: decoded(convert::vote_from_wire(Some(vote)))?,
            }),
            Some(wire::TransferResult::Behind(matched)) => {
                Err(TransferLeaderError::LogNotFlushed { expected: expected_log, actual: matched.log_id.map(convert::log_id_from_wire) })
            }
        })
    }
}
