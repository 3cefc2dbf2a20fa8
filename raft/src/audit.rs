//! Compares the states of the nodes.
//!
//! The same entries must make the same state everywhere. Each node remembers the digest of its state at certain log
//! indexes; the leader collects them now and then. Where they differ at one index, a majority of the voters is taken to
//! be right, and whoever differs from it stops before it answers another question.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::admin::Admin;
use crate::state_machine::StateMachine;
use crate::transport::Method;
use crate::types::{FatalFlag, NodeId};
use crate::wire::{self, DigestAt};

/// Compares as long as this node runs; only the leader does anything.
pub(crate) async fn run(admin: Admin, machine: StateMachine, fatal: FatalFlag) {
    loop {
        tokio::time::sleep(admin.timings.audit).await;
        if !admin.leadership.borrow().is_this_node {
            continue;
        }
        let Some(verdict) = compare(&admin, &machine).await else {
            continue;
        };
        for node in &verdict.odd {
            tracing::error!(node, index = verdict.right.index, "the node's state differs from the majority's");
            if *node == admin.node_id {
                fatal.raise(describe(&verdict.right));
            } else if let Some(peer) = admin.peer(*node) {
                let body = wire::encode(&verdict.right);
                let sent = admin.transport.call(&peer, Method::Diverged, body, admin.timings.election_max).await;
                if let Err(error) = sent {
                    tracing::error!(node, %error, "the node could not be told to stop");
                }
            }
        }
    }
}

/// Takes the leader's word that the state differs from the majority's, if it really does at that index.
pub(crate) fn diverged(machine: &StateMachine, right: &DigestAt, fatal: &FatalFlag) {
    let own = machine.digests().into_iter().find(|(index, _)| *index == right.index);
    if own.is_some_and(|(_, digest)| digest != right.digest) {
        fatal.raise(describe(right));
    }
}

fn describe(right: &DigestAt) -> String {
    format!(
        "this node's state differs from the majority's at log index {}; remove its data directory and let it catch up from the others",
        right.index
    )
}

struct Verdict {
    right: DigestAt,
    odd: Vec<NodeId>,
}

async fn compare(admin: &Admin, machine: &StateMachine) -> Option<Verdict> {
    let own: BTreeMap<u64, Bytes> = machine.digests().into_iter().collect();
    let mut reports = BTreeMap::from([(admin.node_id, own)]);
    for (peer, _) in admin.members().into_iter().filter(|(peer, _)| peer.id != admin.node_id) {
        if let Some(info) = admin.node_info(&peer).await {
            let digests = info.digests.into_iter().map(|at| (at.index, at.digest)).collect();
            reports.insert(peer.id, digests);
        }
    }
    judge(&reports)
}

/// Finds an index at which a strict majority of those that know it agrees and somebody does not.
fn judge(reports: &BTreeMap<NodeId, BTreeMap<u64, Bytes>>) -> Option<Verdict> {
    let mut by_index: BTreeMap<u64, BTreeMap<&Bytes, Vec<NodeId>>> = BTreeMap::new();
    for (node, digests) in reports {
        for (index, digest) in digests {
            by_index.entry(*index).or_default().entry(digest).or_default().push(*node);
        }
    }
    for (index, camps) in by_index {
        if camps.len() < 2 {
            continue;
        }
        let known: usize = camps.values().map(Vec::len).sum();
        let majority = camps.iter().find(|(_, nodes)| nodes.len() * 2 > known);
        let Some((digest, _)) = majority else {
            tracing::error!(index, ?camps, "the nodes' states differ, and no majority agrees");
            continue;
        };
        let right = DigestAt { index, digest: (*digest).clone() };
        let odd = camps.iter().filter(|(other, _)| *other != digest).flat_map(|(_, nodes)| nodes.clone());
        return Some(Verdict { odd: odd.collect(), right });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(digests: &[(u64, &'static str)]) -> BTreeMap<u64, Bytes> {
        digests.iter().map(|(index, digest)| (*index, Bytes::from_static(digest.as_bytes()))).collect()
    }

    #[test]
    fn the_odd_one_out_is_found() {
        let same = [(64, "a"), (128, "b")];
        let reports = BTreeMap::from([(1, report(&same)), (2, report(&same)), (3, report(&[(64, "a")]))]);
        assert!(judge(&reports).is_none());

        let reports = BTreeMap::from([(1, report(&same)), (2, report(&same)), (3, report(&[(128, "x")]))]);
        let verdict = judge(&reports).unwrap();
        assert_eq!((verdict.right.index, verdict.odd), (128, vec![3]));
    }

    #[test]
    fn without_a_majority_nobody_is_judged() {
        let reports = BTreeMap::from([(1, report(&[(64, "a")])), (2, report(&[(64, "b")]))]);
        assert!(judge(&reports).is_none());
    }
}
