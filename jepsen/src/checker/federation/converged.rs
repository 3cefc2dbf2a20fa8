//! All clusters have the same at the end.

use std::collections::BTreeMap;

use super::{CONFLICT, CONTENT, CONVERGED, Content, Copies, Told};
use crate::checker::{Check, Findings};
use crate::history::{Event, infos};

/// How long healed clusters may take until their copies are equal, in seconds. On an idle machine they take less than one; here two cores
/// run all of them, and whoever was cut off dials again every five seconds.
pub const WITHIN_S: u64 = 60;

/// The copies of the document have one digest within [`WITHIN_S`] after healing, and the context has the same keys and values everywhere,
/// conflicts included.
pub fn converged(history: &[Event]) -> Check {
    let mut findings = Findings::new("clusters agree");
    let Some((event, copies)) = infos::<Copies>(history, CONVERGED).pop() else {
        findings.doubt("the run did not get there");
        return findings.finish("");
    };
    let contents: Vec<Content> = infos(history, CONTENT).into_iter().map(|(_, content)| content).collect();
    findings.count("clusters", contents.len());
    findings.count("keys", contents.first().map_or(0, |content| content.entries.len()));
    findings.needs("keys");
    judge_copies(&copies, contents.len(), event.index, &mut findings);
    if let Some((first, others)) = contents.split_first() {
        for other in others {
            judge_contents(first, other, &mut findings);
        }
    }
    if contents.len() < 2 {
        findings.doubt("not every cluster's keys were read");
    }
    judge_conflicts(history, &contents, &mut findings);
    findings
        .finish(&format!("all copies had one digest {:.2} s after the clients had stopped, and the same keys and values", copies.seconds))
}

fn judge_copies(copies: &Copies, clusters: usize, event: u64, findings: &mut Findings) {
    if copies.missing.is_empty() {
        let mut digests: Vec<&String> = copies.digests.values().collect();
        digests.dedup();
        if digests.len() != 1 {
            findings.violation(format!("the copies were said to be equal, and are not: {:?} (event {event})", copies.digests));
        }
        return;
    }
    let told = format!("after {:.0} s: {} (event {event})", copies.seconds, copies.missing);
    // Who does not answer at all is the matter of another check.
    match copies.seconds >= WITHIN_S as f64 && copies.digests.len() == clusters {
        true => findings.violation(told),
        false => findings.doubt(told),
    }
}

fn judge_contents(one: &Content, other: &Content, findings: &mut Findings) {
    let keys: std::collections::BTreeSet<&String> = one.entries.keys().chain(other.entries.keys()).collect();
    for key in keys {
        let (here, there) = (one.entries.get(key), other.entries.get(key));
        if here != there {
            findings.violation(format!("{key} is {here:?} in {} and {there:?} in {}", one.cluster, other.cluster));
        }
    }
}

/// Each cluster tells the same conflicts, and each is won by what the key has.
fn judge_conflicts(history: &[Event], contents: &[Content], findings: &mut Findings) {
    let mut by_cluster: BTreeMap<String, BTreeMap<String, Told>> =
        contents.iter().map(|content| (content.cluster.clone(), BTreeMap::new())).collect();
    for (event, mut told) in infos::<Told>(history, CONFLICT) {
        let content = contents.iter().find(|content| content.cluster == told.cluster);
        let has = content.and_then(|content| content.entries.get(&told.key));
        if content.is_some() && has != told.winner.as_ref() {
            let evidence = format!("{} is {has:?} in {}, which tells {:?} for the winner", told.key, told.cluster, told.winner);
            findings.violation(format!("{evidence} (event {})", event.index));
        }
        told.losers.sort();
        by_cluster.entry(std::mem::take(&mut told.cluster)).or_default().insert(told.key.clone(), told);
    }
    findings.count("conflicts", by_cluster.values().next().map_or(0, BTreeMap::len));
    let mut all = by_cluster.iter();
    if let Some((first, conflicts)) = all.next() {
        for (other, others) in all.filter(|(_, others)| *others != conflicts) {
            let differs = conflicts.keys().chain(others.keys()).find(|key| conflicts.get(*key) != others.get(*key));
            findings.violation(format!("{first} and {other} tell different conflicts, of {differs:?} first"));
        }
    }
}
