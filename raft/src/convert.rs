//! Between openraft's types and the messages of [`wire`](crate::wire).

use std::collections::{BTreeMap, BTreeSet};

use openraft::BasicNode;
use openraft::errors::{RPCError, StreamingError, Unreachable};
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult, VoteRequest, VoteResponse};
use openraft::vote::RaftLeaderId;
use tarn_invariants::raft::EntryId;

use crate::transport::{PeerError, TransportError};
use crate::types::{Entry, EntryPayload, LeaderId, LogId, Membership, Payload, StoredMembership, TypeConfig, Vote};
use crate::wire;

fn missing(what: &str) -> PeerError {
    PeerError::Malformed(format!("{what} is missing"))
}

pub(crate) fn log_id_to_wire(id: &LogId) -> wire::LogId {
    wire::LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

/// The entry's place, as the invariants name it.
pub(crate) fn entry_id(id: &LogId) -> EntryId {
    EntryId { term: id.leader_id.term, index: id.index }
}

pub(crate) fn log_id_from_wire(id: wire::LogId) -> LogId {
    LogId::new(LeaderId::new(id.term, id.node), id.index)
}

pub(crate) fn vote_to_wire(vote: &Vote) -> wire::Vote {
    wire::Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

pub(crate) fn vote_from_wire(vote: Option<wire::Vote>) -> Result<Vote, PeerError> {
    let vote = vote.ok_or_else(|| missing("the vote"))?;
    Ok(match vote.committed {
        true => Vote::new_committed(vote.term, vote.node),
        false => Vote::new(vote.term, vote.node),
    })
}

pub(crate) fn membership_to_wire(membership: &Membership) -> wire::Membership {
    wire::Membership {
        configs: membership.get_joint_config().iter().map(|ids| wire::NodeSet { ids: ids.iter().copied().collect() }).collect(),
        nodes: membership.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
    }
}

pub(crate) fn membership_from_wire(membership: wire::Membership) -> Result<Membership, PeerError> {
    let configs: Vec<BTreeSet<u64>> = membership.configs.into_iter().map(|set| set.ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, BasicNode> = membership.nodes.into_iter().map(|(id, address)| (id, BasicNode::new(address))).collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| PeerError::Malformed(error.to_string()))
}

pub(crate) fn stored_to_wire(stored: &StoredMembership) -> wire::StoredMembership {
    wire::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(stored.membership())),
    }
}

pub(crate) fn stored_from_wire(stored: Option<wire::StoredMembership>) -> Result<StoredMembership, PeerError> {
    let stored = stored.ok_or_else(|| missing("the membership"))?;
    let membership = stored.membership.ok_or_else(|| missing("the membership"))?;
    Ok(StoredMembership::new(stored.log_id.map(log_id_from_wire), membership_from_wire(membership)?))
}

pub(crate) fn entry_to_wire(entry: &Entry) -> wire::LogEntry {
    wire::LogEntry {
        format: wire::LOG_FORMAT,
        log_id: Some(log_id_to_wire(&entry.log_id)),
        payload: Some(match &entry.payload {
            EntryPayload::Blank => wire::Payload::Blank(wire::Empty {}),
            EntryPayload::Normal(payload) => wire::Payload::Normal(payload.0.clone()),
            EntryPayload::Membership(membership) => wire::Payload::Membership(membership_to_wire(membership)),
        }),
    }
}

pub(crate) fn entry_from_wire(entry: wire::LogEntry) -> Result<Entry, PeerError> {
    if entry.format != wire::LOG_FORMAT {
        return Err(PeerError::Malformed(format!(
            "a log record has format {}, and this build knows only format {}; upgrade this node",
            entry.format,
            wire::LOG_FORMAT
        )));
    }
    let log_id = entry.log_id.ok_or_else(|| missing("a record's position"))?;
    let payload = match entry.payload.ok_or_else(|| missing("a record's content"))? {
        wire::Payload::Blank(wire::Empty {}) => EntryPayload::Blank,
        wire::Payload::Normal(bytes) => EntryPayload::Normal(Payload(bytes)),
        wire::Payload::Membership(membership) => EntryPayload::Membership(membership_from_wire(membership)?),
    };
    Ok(Entry { log_id: log_id_from_wire(log_id), payload })
}

pub(crate) fn append_to_wire(request: &AppendEntriesRequest<TypeConfig>) -> wire::AppendRequest {
    wire::AppendRequest {
        vote: Some(vote_to_wire(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_wire),
        entries: request.entries.iter().map(entry_to_wire).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_wire),
    }
}

/// Refuses entries that do not follow each other and what they are said to follow: openraft takes the sender's word for it, and a log with a hole
/// in it would be taken for one without.
pub(crate) fn append_from_wire(request: wire::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, PeerError> {
    let entries: Vec<Entry> = request.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?;
    let prev_log_id = request.prev_log_id.map(log_id_from_wire);
    let first = prev_log_id.as_ref().map_or(0, |id: &LogId| id.index + 1);
    for (next, entry) in (first..).zip(&entries) {
        let found = entry.log_id.index;
        if found != next {
            return Err(PeerError::Malformed(format!("log entry {found} where {next} should be")));
        }
    }
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(request.vote)?,
        prev_log_id,
        entries,
        leader_commit: request.leader_commit.map(log_id_from_wire),
    })
}

pub(crate) fn append_result_to_wire(result: &StreamAppendResult<TypeConfig>) -> wire::AppendReply {
    let result = match result {
        Ok(matched) => wire::AppendResult::Matched(wire::Matched { log_id: matched.as_ref().map(log_id_to_wire) }),
        Err(StreamAppendError::Conflict(id)) => wire::AppendResult::Conflict(log_id_to_wire(id)),
        Err(StreamAppendError::HigherVote(vote)) => wire::AppendResult::HigherVote(vote_to_wire(vote)),
    };
    wire::AppendReply { result: Some(result) }
}

pub(crate) fn append_result_from_wire(reply: wire::AppendReply) -> Result<StreamAppendResult<TypeConfig>, PeerError> {
    Ok(match reply.result.ok_or_else(|| missing("the result"))? {
        wire::AppendResult::Matched(matched) => Ok(matched.log_id.map(log_id_from_wire)),
        wire::AppendResult::Conflict(id) => Err(StreamAppendError::Conflict(log_id_from_wire(id))),
        wire::AppendResult::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote_from_wire(Some(vote))?)),
    })
}

pub(crate) fn vote_request_to_wire(request: &VoteRequest<TypeConfig>) -> wire::VoteRequest {
    wire::VoteRequest {
        vote: Some(vote_to_wire(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_wire),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from_wire(request: wire::VoteRequest) -> Result<VoteRequest<TypeConfig>, PeerError> {
    let mut decoded = VoteRequest::new(vote_from_wire(request.vote)?, request.last_log_id.map(log_id_from_wire));
    decoded.leadership_transfer = request.leadership_transfer;
    Ok(decoded)
}

pub(crate) fn vote_reply_to_wire(reply: &VoteResponse<TypeConfig>) -> wire::VoteReply {
    wire::VoteReply {
        vote: Some(vote_to_wire(&reply.vote)),
        granted: reply.vote_granted,
        last_log_id: reply.last_log_id.as_ref().map(log_id_to_wire),
    }
}

pub(crate) fn vote_reply_from_wire(reply: wire::VoteReply) -> Result<VoteResponse<TypeConfig>, PeerError> {
    Ok(VoteResponse::new(vote_from_wire(reply.vote)?, reply.last_log_id.map(log_id_from_wire), reply.granted))
}

/// openraft backs off after an unreachable peer and tries again at once after other errors.
pub(crate) fn rpc_error(error: &TransportError) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

pub(crate) fn streaming_error(error: &TransportError) -> StreamingError<TypeConfig> {
    StreamingError::Unreachable(Unreachable::from_string(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(prev: Option<u64>, indexes: &[u64]) -> wire::AppendRequest {
        let id = |index| LogId::new(LeaderId::new(1, 1), index);
        let entry = |index: &u64| entry_to_wire(&Entry { log_id: id(*index), payload: EntryPayload::Blank });
        wire::AppendRequest {
            vote: Some(vote_to_wire(&Vote::new_committed(1, 1))),
            prev_log_id: prev.map(|index| log_id_to_wire(&id(index))),
            entries: indexes.iter().map(entry).collect(),
            leader_commit: None,
        }
    }

    #[test]
    fn entries_that_do_not_follow_each_other_are_refused() {
        for (prev, indexes) in [(None, &[0, 1][..]), (Some(4), &[5, 6, 7]), (Some(4), &[]), (None, &[])] {
            assert!(append_from_wire(append(prev, indexes)).is_ok(), "{prev:?} {indexes:?}");
        }
        for (prev, indexes) in
            [(Some(30_102), &[30_160, 30_161][..]), (Some(4), &[4]), (Some(4), &[5, 7]), (Some(4), &[6, 5]), (None, &[1])]
        {
            let refused = append_from_wire(append(prev, indexes));
            assert!(matches!(refused, Err(PeerError::Malformed(_))), "{prev:?} {indexes:?}");
        }
    }
}
