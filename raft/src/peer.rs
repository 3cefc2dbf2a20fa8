//! What other nodes ask of this one.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::raft::{AppendEntriesRequest, TransferLeaderError, TransferLeaderRequest};

use crate::admin::Admin;
use crate::audit;
use crate::clock::Clock;
use crate::convert;
use crate::disk::{self, Disk};
use crate::propose::Proposer;
use crate::read::ReadGate;
use crate::snapshot::receive::Incoming;
use crate::state_machine::{StateMachine, into_raft};
use crate::transport::{Method, PeerError, TransportError};
use crate::types::{FatalFlag, NodeId, Raft, TypeConfig, Vote};
use crate::wire;

/// The receiving side of the [`Transport`](crate::Transport). Clones share it.
#[derive(Clone)]
pub(crate) struct PeerService {
    pub node_id: NodeId,
    pub build_version: String,
    pub raft: Raft,
    pub machine: StateMachine,
    pub proposer: Proposer,
    pub reads: ReadGate,
    pub admin: Admin,
    pub fatal: FatalFlag,
    pub clock: Arc<dyn Clock>,
    /// Held while a snapshot arrives: two streams into the same files would spoil them.
    pub receiving: Arc<tokio::sync::Mutex<()>>,
}

impl PeerService {
    pub async fn call(&self, from: NodeId, method: u32, body: Bytes) -> Result<Bytes, PeerError> {
        if let Some(reason) = self.fatal.reason() {
            return Err(PeerError::Stopped(reason.to_string()));
        }
        let method = Method::from_number(method)
            .ok_or_else(|| PeerError::Malformed(format!("this build knows no method {method}; upgrade this node")))?;
        match method {
            Method::Append => self.append(from, body).await,
            Method::Vote | Method::PreVote => self.vote(from, method, body).await,
            Method::TransferLeader => self.transfer_leader(from, body).await,
            Method::Propose => Ok(wire::encode(&self.proposer.serve(wire::decode(body)?).await?)),
            Method::ReadIndex => Ok(wire::encode(&self.reads.serve().await)),
            Method::NodeInfo => Ok(wire::encode(&self.info())),
            Method::Admin => match self.admin.serve(wire::decode(body)?).await {
                Some(reply) => Ok(wire::encode(&reply)),
                None => Err(PeerError::Busy("this node does not lead".into())),
            },
            Method::SnapshotOffer => self.snapshot_offer(body).await,
            Method::Diverged => {
                audit::diverged(&self.machine, &wire::decode(body)?, &self.fatal);
                Ok(Bytes::new())
            }
            Method::WallClock => Ok(wire::encode(&wire::WallClock { wall_ms: self.clock.wall_ms() })),
        }
    }

    async fn append(&self, from: NodeId, body: Bytes) -> Result<Bytes, PeerError> {
        let request = convert::append_from_wire(wire::decode(body)?)?;
        own_vote(from, &request.vote)?;
        let (prev, last) = (request.prev_log_id, request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id));
        let response = self.raft.append_entries(request).await.map_err(stopped)?;
        let result = match response.is_conflict() && prev.is_none() {
            // Nothing can conflict with the beginning of the log; openraft's own conversion would panic.
            true => Ok(None),
            false => response.into_stream_result(prev, last),
        };
        Ok(wire::encode(&convert::append_result_to_wire(&result)))
    }

    async fn vote(&self, from: NodeId, method: Method, body: Bytes) -> Result<Bytes, PeerError> {
        let request = convert::vote_request_from_wire(wire::decode(body)?)?;
        own_vote(from, &request.vote)?;
        let reply = match method {
            Method::PreVote => self.raft.pre_vote(request).await,
            _ => self.raft.vote(request).await,
        };
        Ok(wire::encode(&convert::vote_reply_to_wire(&reply.map_err(stopped)?)))
    }

    async fn transfer_leader(&self, from: NodeId, body: Bytes) -> Result<Bytes, PeerError> {
        let request: wire::TransferRequest = wire::decode(body)?;
        let vote = convert::vote_from_wire(request.from)?;
        own_vote(from, &vote)?;
        let request = TransferLeaderRequest::new(vote, request.to, request.last_log_id.map(convert::log_id_from_wire));
        let result = match self.raft.handle_transfer_leader(request).await.map_err(stopped)? {
            Ok(()) => wire::TransferResult::Accepted(wire::Empty {}),
            Err(TransferLeaderError::VoteChanged { actual, .. }) => wire::TransferResult::VoteChanged(convert::vote_to_wire(&actual)),
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                wire::TransferResult::Behind(wire::Matched { log_id: actual.as_ref().map(convert::log_id_to_wire) })
            }
        };
        Ok(wire::encode(&wire::TransferReply { result: Some(result) }))
    }

    pub fn info(&self) -> wire::NodeInfo {
        let versions = self.machine.versions();
        wire::NodeInfo {
            node_id: self.node_id,
            build_version: self.build_version.clone(),
            machine_version_min: versions.min,
            machine_version_max: versions.max,
            applied_index: self.machine.applied().borrow().index,
            digests: self.machine.digests().into_iter().map(|(index, digest)| wire::DigestAt { index, digest }).collect(),
        }
    }

    /// A pipeline of appends, answered in order. Ends at the first message that cannot be understood.
    pub fn replicate(
        &self,
        from: NodeId,
        requests: impl Stream<Item = Result<Bytes, TransportError>> + Send + 'static,
    ) -> impl Stream<Item = Result<Bytes, PeerError>> + Send + 'static {
        let failure: Arc<Mutex<Option<PeerError>>> = Arc::default();
        let failed = failure.clone();
        let appends = requests.map(move |request| -> Result<AppendEntriesRequest<TypeConfig>, PeerError> {
            let request = request.map_err(|error| PeerError::Malformed(error.to_string()))?;
            let request = convert::append_from_wire(wire::decode(request)?)?;
            own_vote(from, &request.vote)?;
            Ok(request)
        });
        let appends = appends.scan((), move |(), append| {
            let good = append.map_err(|error| {
                *failed.lock().expect("no holder of this lock panics") = Some(error);
            });
            std::future::ready(good.ok())
        });
        let replies = self.raft.stream_append(appends).map(|result| match result {
            Ok(result) => Ok(wire::encode(&convert::append_result_to_wire(&result))),
            Err(fatal) => Err(PeerError::Stopped(fatal.to_string())),
        });
        let last = stream::once(async move { failure.lock().expect("no holder of this lock panics").take() });
        replies.chain(last.filter_map(|failure| std::future::ready(failure.map(Err))))
    }

    async fn snapshot_offer(&self, body: Bytes) -> Result<Bytes, PeerError> {
        let offer: wire::SnapshotOffer = wire::decode(body)?;
        let _receiving = self.begin_receiving()?;
        let machine = self.machine.clone();
        let (manifest, received) = blocking(self.machine.disk().as_ref(), move || machine.snapshots().offered(offer.manifest)).await?;
        self.machine.check_readable(&manifest).map_err(PeerError::Stopped)?;
        Ok(wire::encode(&wire::SnapshotProgress { received }))
    }

    fn begin_receiving(&self) -> Result<tokio::sync::OwnedMutexGuard<()>, PeerError> {
        let receiving = self.receiving.clone().try_lock_owned();
        receiving.map_err(|_| PeerError::Busy("a snapshot is arriving already".into()))
    }

    /// Receives a snapshot and installs it.
    pub async fn snapshot(
        &self,
        from: NodeId,
        frames: impl Stream<Item = Result<Bytes, TransportError>> + Send + 'static,
    ) -> Result<Bytes, PeerError> {
        let _receiving = self.begin_receiving()?;
        let mut frames = Box::pin(frames);
        let first = next_frame(&mut frames).await?;
        let machine = self.machine.clone();
        let mut incoming: Incoming = blocking(self.machine.disk().as_ref(), move || machine.snapshots().receive(first)).await?;
        own_vote(from, &incoming.vote)?;
        self.machine.check_readable(incoming.manifest()).map_err(PeerError::Stopped)?;

        loop {
            let frame = next_frame(&mut frames).await?;
            let (taken, last) = blocking(self.machine.disk().as_ref(), move || {
                let last = incoming.frame(frame)?;
                Ok((incoming, last))
            })
            .await?;
            incoming = taken;
            if last {
                break;
            }
        }
        let vote = incoming.vote;
        let snapshot = blocking(self.machine.disk().as_ref(), move || incoming.finish()).await?;
        tracing::info!(from, last = ?snapshot.meta().last_log_id, "a snapshot has arrived");
        let reply = self
            .raft
            .install_full_snapshot(vote, into_raft(Arc::new(snapshot)))
            .await
            .map_err(|fatal| PeerError::Stopped(fatal.to_string()))?;
        Ok(wire::encode(&wire::SnapshotReply { vote: Some(convert::vote_to_wire(&reply.vote)) }))
    }
}

async fn next_frame<S>(frames: &mut S) -> Result<Bytes, PeerError>
where
    S: Stream<Item = Result<Bytes, TransportError>> + Unpin,
{
    match frames.next().await {
        Some(Ok(frame)) => Ok(frame),
        Some(Err(error)) => Err(PeerError::Damaged(format!("the stream broke: {error}"))),
        None => Err(PeerError::Damaged("the stream ended early".into())),
    }
}

async fn blocking<T: Send + 'static>(
    disk: &dyn Disk,
    work: impl FnOnce() -> Result<T, PeerError> + Send + 'static,
) -> Result<T, PeerError> {
    match disk::blocking(disk, work).await {
        Ok(result) => result,
        Err(error) => Err(PeerError::Stopped(error.to_string())),
    }
}

/// A node speaks for itself only: its certificate says who it is.
fn own_vote(from: NodeId, vote: &Vote) -> Result<(), PeerError> {
    let claimed = vote.leader_id.node_id;
    match claimed == from {
        true => Ok(()),
        false => Err(PeerError::Impostor { sender: from, claimed }),
    }
}

fn stopped(error: impl std::fmt::Display) -> PeerError {
    PeerError::Stopped(error.to_string())
}
