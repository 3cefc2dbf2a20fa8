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
use tokio::time::{Instant, timeout_at};

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
        let input = piggyback(stream::once(std::future::ready(first)).chain(input));
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

/// How soon after one another entries come that are expected to go on coming.
const BRISK: Duration = Duration::from_millis(2);
/// How long the news of a commitment waits for the next entries. Readers at a follower wait for that news.
const HELD: Duration = Duration::from_millis(1);

/// What is to be sent to a follower.
struct Outgoing<S> {
    input: S,
    /// The last entry that was sent, and when.
    last: Option<(LogId, Instant)>,
    /// Whether it came soon after the one before.
    is_brisk: bool,
}

/// Leaves out messages that say nothing but how far the log is committed, where the next entries are about to say it: each costs both nodes
/// as much as a message with entries. openraft tells by the log id of a reply which requests it answers.
fn piggyback<S>(input: S) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    let outgoing = Outgoing { input: input.fuse(), last: None, is_brisk: false };
    stream::unfold(outgoing, |mut outgoing| async move {
        let mut request = outgoing.input.next().await?;
        let until = Instant::now() + HELD;
        while outgoing.is_brisk && outgoing.says_only_commitment(&request) {
            match timeout_at(until, outgoing.input.next()).await {
                Ok(Some(next)) => request = next,
                Ok(None) | Err(_) => break,
            }
        }
        outgoing.note(&request);
        Some((request, outgoing))
    })
}

impl<S> Outgoing<S> {
    /// Whether the follower will have everything before the request without it. A probe asks what it has.
    fn says_only_commitment(&self, request: &AppendEntriesRequest<TypeConfig>) -> bool {
        request.entries.is_empty() && self.last.is_some_and(|(last, _)| request.prev_log_id == Some(last))
    }

    fn note(&mut self, request: &AppendEntriesRequest<TypeConfig>) {
        if let Some(last) = request.entries.last() {
            let now = Instant::now();
            self.is_brisk = self.last.is_some_and(|(_, before)| now - before < BRISK);
            self.last = Some((last.log_id, now));
        }
    }
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

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
    use futures::{SinkExt, StreamExt};
    use openraft::vote::RaftLeaderId;

    use super::*;
    use crate::types::{Entry, EntryPayload, LeaderId};

    fn id(index: u64) -> LogId {
        LogId::new(LeaderId::new(1, 1), index)
    }

    /// With so many entries behind `prev`, and the log committed so far.
    fn request(prev: u64, entries: u64, committed: u64) -> AppendEntriesRequest<TypeConfig> {
        let entries = (prev + 1..=prev + entries).map(|index| Entry { log_id: id(index), payload: EntryPayload::Blank }).collect();
        AppendEntriesRequest { vote: Vote::new_committed(1, 1), prev_log_id: Some(id(prev)), entries, leader_commit: Some(id(committed)) }
    }

    /// What of a request matters here: how many entries it has, and how far the log is committed.
    fn gist(request: &AppendEntriesRequest<TypeConfig>) -> (usize, u64) {
        (request.entries.len(), request.leader_commit.map_or(0, |id| id.index))
    }

    #[tokio::test(start_paused = true)]
    async fn the_news_of_a_commitment_goes_with_the_entries_that_follow() {
        let (mut send, requests) = mpsc::channel(16);
        let mut sent = Box::pin(piggyback(requests).map(|request| gist(&request)));
        let began = Instant::now();
        for request in [request(7, 1, 7), request(8, 1, 7), request(9, 0, 8), request(9, 2, 9), request(11, 0, 11)] {
            send.send(request).await.unwrap();
        }
        assert_eq!(sent.next().await, Some((1, 7)));
        assert_eq!(sent.next().await, Some((1, 7)));
        assert_eq!(sent.next().await, Some((2, 9)), "the news of 8 went with the two entries");
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(sent.next().await, Some((0, 11)), "nothing follows");
        assert!(began.elapsed() >= HELD && began.elapsed() <= 2 * HELD);
        drop(send);
        assert_eq!(sent.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_seldom_and_what_asks_is_sent_at_once() {
        let (mut send, requests) = mpsc::channel(16);
        let mut sent = Box::pin(piggyback(requests).map(|request| gist(&request)));
        // A probe, before anything was sent.
        send.send(request(7, 0, 5)).await.unwrap();
        assert_eq!(sent.next().await, Some((0, 5)));
        for index in 7..9 {
            send.send(request(index, 1, index)).await.unwrap();
            assert_eq!(sent.next().await, Some((1, index)));
            tokio::time::sleep(2 * BRISK).await;
        }
        let began = Instant::now();
        send.send(request(9, 0, 9)).await.unwrap();
        assert_eq!(sent.next().await, Some((0, 9)));
        // Entries come briskly again, but this follower is asked about another place.
        for (prev, entries) in [(9, 1), (10, 1), (4, 0)] {
            send.send(request(prev, entries, 9)).await.unwrap();
            assert_eq!(sent.next().await, Some((entries as usize, 9)));
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        // The stream may end while something waits for company.
        send.send(request(11, 0, 11)).await.unwrap();
        drop(send);
        assert_eq!((sent.next().await, sent.next().await), (Some((0, 11)), None));
    }
}
