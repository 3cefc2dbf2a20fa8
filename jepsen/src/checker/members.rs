//! The cluster as its nodes describe it: leaders that follow each other, the same state at the same index, and the members that were
//! acknowledged.
//!
//! A description is what one node believes, and may be old; but no two descriptions, however old, may contradict each other about the digest
//! of an index, and no node may go back to a leader that it had given up for another.
//!
//! That two nodes name different leaders of one term is no contradiction: openraft tells leaderships apart by term and id, and may elect a
//! second leader in a term, of a higher id, whom whoever accepts it never leaves for the first again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tarn_invariants::raft::{self as rules, ELECTION_SAFETY, EQUAL_DIGESTS};

use super::{Check, Findings};
use crate::history::{Event, Kind, Process, infos, operations};

/// A node's description of the cluster: a [`View`].
pub const VIEW: &str = "view";
/// The same after everything was healed and no more work comes, from each node: a [`View`].
pub const LAST_VIEW: &str = "last_view";
/// The operation of adding a member: its answer is the id that the cluster gave it.
pub const ADD: &str = "add_member";
/// The operation of removing one: its value is its id.
pub const REMOVE: &str = "remove_member";

/// What a node says about the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct View {
    /// The node that says it.
    pub node: u64,
    /// Its term.
    pub term: u64,
    /// Who leads in that term; 0 if it knows of none.
    pub leader: u64,
    /// Up to which index it has applied the log.
    pub applied: u64,
    /// The digest of its state there.
    pub digest: String,
    /// The members' ids.
    pub members: Vec<u64>,
}

/// All checks on descriptions that were recorded during a run.
pub fn consistent(history: &[Event]) -> Vec<Check> {
    let views: Vec<(&Event, View)> = [VIEW, LAST_VIEW].iter().flat_map(|op| infos(history, op)).collect();
    vec![leaders_only_advance(&views), equal_digests(&views)]
}

/// Election safety, as far as descriptions tell: a node that follows one leader never again follows an earlier one. What one client hears from
/// one node comes in the order in which the node said it; what two clients hear may not.
fn leaders_only_advance(views: &[(&Event, View)]) -> Check {
    let mut findings = Findings::new("leaders only advance").asking(&[ELECTION_SAFETY]);
    let mut views: Vec<&(&Event, View)> = views.iter().filter(|(_, view)| view.leader != 0).collect();
    views.sort_by_key(|(event, _)| event.index);
    let mut last: BTreeMap<(Process, u64), (u64, u64)> = BTreeMap::new();
    let mut leaders: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (event, view) in &views {
        let now = (view.term, view.leader);
        let before = last.insert((event.process, view.node), now);
        findings.judge(rules::leaders_only_advance(view.node, before, now), || format!("event {}", event.index));
        leaders.entry(view.term).or_default().insert(view.leader);
    }
    findings.count("views", views.len());
    findings.count("terms", leaders.len());
    let shared = leaders.values().filter(|leaders| leaders.len() > 1);
    findings.count("terms_with_a_second_leader", shared.count());
    if leaders.is_empty() {
        findings.doubt("no node described a cluster with a leader");
    }
    findings.finish("no node went back to an earlier leader")
}

/// State-machine safety (Raft paper, section 5.4.3), as far as descriptions tell: nodes that applied the same entries have the same state.
fn equal_digests(views: &[(&Event, View)]) -> Check {
    let mut findings = Findings::new("equal digests at equal index").asking(&[EQUAL_DIGESTS]);
    findings.needs("compared");
    let mut digests: BTreeMap<u64, (&str, u64, u64)> = BTreeMap::new();
    for (event, view) in views.iter().filter(|(_, view)| !view.digest.is_empty()) {
        let (digest, node, first) = *digests.entry(view.applied).or_insert((&view.digest, view.node, event.index));
        findings.count("compared", usize::from(first != event.index));
        let (known, said) = ((node, digest.as_bytes()), (view.node, view.digest.as_bytes()));
        findings.judge(rules::equal_digests(view.applied, known, said), || {
            format!("{digest} in event {first}, {} in event {}", view.digest, event.index)
        });
    }
    findings.count("indices", digests.len());
    findings.finish("no two nodes had different states at one index")
}

/// After everything was healed all nodes stand at one index with one digest, and know the same members.
pub fn agreement(history: &[Event]) -> Check {
    let mut findings = Findings::new("all nodes agree at the end").asking(&[EQUAL_DIGESTS]);
    let last: BTreeMap<u64, View> = infos::<View>(history, LAST_VIEW).into_iter().map(|(_, view)| (view.node, view)).collect();
    findings.count("nodes", last.len());
    if last.is_empty() {
        findings.doubt("the nodes were not asked at the end");
    }
    let indices: BTreeSet<u64> = last.values().map(|view| view.applied).collect();
    if indices.len() > 1 {
        findings.doubt(format!("the nodes stand at different indices: {indices:?}"));
    } else if let Some(first) = last.values().next() {
        for view in last.values() {
            let (known, said) = ((first.node, first.digest.as_bytes()), (view.node, view.digest.as_bytes()));
            findings.judge(rules::equal_digests(view.applied, known, said), || format!("{} and {}", first.digest, view.digest));
        }
    }
    let described: BTreeSet<BTreeSet<u64>> = last.values().map(|view| view.members.iter().copied().collect()).collect();
    if indices.len() == 1 && described.len() > 1 {
        findings.violation(format!("the nodes know different members: {described:?}"));
    }
    findings.finish("all nodes stand at one index, with one digest and one membership")
}

/// The members at the end are those whose addition was acknowledged, without those whose removal was; what was never answered may be either.
/// Judges only members that the workload alone added or removed, one change at a time; those that a nemesis had its hands on are left out.
pub fn acknowledged_changes(history: &[Event]) -> Check {
    let mut findings = Findings::new("members are those acknowledged");
    // Whether a member may be in, and whether it may be out.
    let mut possible: BTreeMap<u64, (bool, bool)> = BTreeMap::new();
    let mut changes: Vec<_> = operations(history, ADD).into_iter().map(|change| (change, true)).collect();
    changes.extend(operations(history, REMOVE).into_iter().map(|change| (change, false)));
    changes.sort_by_key(|(change, _)| change.invoke.index);
    for (change, adds) in changes {
        // Of an addition without an answer nobody knows the id.
        let id: Option<u64> = if adds { change.answer() } else { change.invoke.read() };
        let Some(id) = id else { continue };
        let state = possible.entry(id).or_insert((false, true));
        match change.outcome() {
            Kind::Ok => {
                findings.count("acknowledged", 1);
                *state = (adds, !adds);
            }
            Kind::Unknown => {
                findings.count("unknown", 1);
                *state = (state.0 || adds, state.1 || !adds);
            }
            _ => findings.count("refused", 1),
        }
    }
    let meddled = meddled_with(history);
    findings.count("left_out", possible.keys().filter(|id| meddled.contains(id)).count());
    possible.retain(|id, _| !meddled.contains(id));
    let views = infos::<View>(history, LAST_VIEW);
    if views.is_empty() {
        findings.doubt("the nodes were not asked at the end");
    }
    for (event, view) in views {
        for (id, (may_be_in, may_be_out)) in &possible {
            let is_in = view.members.contains(id);
            if (is_in && !may_be_in) || (!is_in && !may_be_out) {
                let what = if is_in { "a member" } else { "no member" };
                findings.violation(format!(
                    "in event {} node {} says that {id} is {what}, against what was acknowledged",
                    event.index, view.node
                ));
            }
        }
    }
    findings.finish("the membership is what the acknowledged changes made it")
}

/// The nodes that a nemesis added, removed or replaced, or tried to: every number in what it says that it did.
fn meddled_with(history: &[Event]) -> BTreeSet<u64> {
    let mut ids = BTreeSet::new();
    for (_, fault) in infos::<Value>(history, "fault") {
        if fault["nemesis"] == "membership" {
            numbers(&fault["what"], &mut ids);
        }
    }
    ids
}

fn numbers(value: &Value, found: &mut BTreeSet<u64>) {
    match value {
        Value::Number(number) => found.extend(number.as_u64()),
        Value::Array(values) => values.iter().for_each(|value| numbers(value, found)),
        Value::Object(fields) => fields.values().for_each(|value| numbers(value, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checker::Outcome;
    use crate::checker::testing::{Lie, Script, refute, worst};

    fn judged(history: &[Event]) -> Vec<Check> {
        let mut checks = consistent(history);
        checks.extend([agreement(history), acknowledged_changes(history)]);
        checks
    }

    fn judge(script: &Script) -> Outcome {
        worst(judged(script.events()))
    }

    fn view(script: &mut Script, op: &str, node: u64, term: u64, leader: u64, applied: u64, digest: &str) {
        let members = json!([1, 2, 3, 900]);
        script.info(op, json!({"node": node, "term": term, "leader": leader, "applied": applied, "digest": digest, "members": members}));
    }

    fn good() -> Script {
        let mut script = Script::new("");
        script.ok(ADD, Value::Null, 900);
        script.unknown(ADD, Value::Null);
        script.ok(ADD, Value::Null, 903);
        script.ok(REMOVE, 903, Value::Null);
        script.unknown(REMOVE, 900);
        view(&mut script, VIEW, 1, 1, 1, 10, "aa");
        view(&mut script, VIEW, 2, 1, 0, 10, "aa");
        view(&mut script, VIEW, 2, 2, 2, 12, "bb");
        for node in 1..=3 {
            view(&mut script, LAST_VIEW, node, 2, 2, 20, "cc");
        }
        script
    }

    #[test]
    fn a_cluster_that_agrees_is_valid() {
        assert_eq!(judge(&good()), Outcome::Valid);
    }

    #[test]
    fn every_class_of_disagreement_is_found() {
        let bad: [Lie; 9] = [
            ("leaders only advance", "back to an earlier term", |s| view(s, VIEW, 2, 1, 3, 15, "dd")),
            ("leaders only advance", "back to an earlier leader of the term", |s| view(s, VIEW, 2, 2, 1, 15, "dd")),
            ("equal digests at equal index", "different digests on the way", |s| view(s, VIEW, 3, 2, 2, 12, "dd")),
            ("equal digests at equal index", "different digests in another's view", |s| {
                view(s, VIEW, 1, 2, 2, 20, "dd");
            }),
            ("all nodes agree at the end", "different members at the end", |s| {
                s.info(LAST_VIEW, json!({"node": 3, "term": 2, "leader": 2, "applied": 20, "digest": "cc", "members": [1, 2, 3]}));
            }),
            ("all nodes agree at the end", "different digests at the end", |s| view(s, LAST_VIEW, 3, 2, 2, 20, "dd")),
            ("members are those acknowledged", "an acknowledged addition is gone", |s| s.ok(ADD, Value::Null, 904)),
            ("members are those acknowledged", "a removed member is there", |s| s.ok(REMOVE, 900, Value::Null)),
            ("members are those acknowledged", "a member whose removal was refused is gone", |s| {
                s.ok(ADD, Value::Null, 905);
                s.fail(REMOVE, 905, "UNAVAILABLE: nothing was done");
            }),
        ];
        refute(&good(), &bad, judged);
    }

    /// openraft may elect a second leader in a term, of a higher id; another node may not have heard of it yet.
    #[test]
    fn a_second_leader_of_a_term_with_a_higher_id_is_none_of_them() {
        let mut script = good();
        view(&mut script, VIEW, 3, 2, 3, 15, "dd");
        view(&mut script, VIEW, 1, 2, 2, 15, "dd");
        let check = &consistent(script.events())[0];
        assert_eq!(check.outcome, Outcome::Valid, "{check:?}");
        assert_eq!(check.counts["terms_with_a_second_leader"], 1);
    }

    #[test]
    fn what_a_nemesis_removed_is_not_held_against_the_cluster() {
        let mut script = good();
        script.ok(ADD, Value::Null, 905);
        assert_eq!(judge(&script), Outcome::Invalid, "nobody removed it");
        script.info("fault", json!({"nemesis": "membership", "what": {"steps": [{"removed": 905}]}}));
        assert_eq!(judge(&script), Outcome::Valid);
    }

    #[test]
    fn nodes_at_different_indices_prove_nothing() {
        let mut script = good();
        view(&mut script, LAST_VIEW, 3, 2, 2, 19, "xx");
        assert_eq!(judge(&script), Outcome::Unknown);
    }
}
