//! What the clusters have at the end is right: nothing that was acknowledged is lost, and nothing else is there.

use super::{CONFLICT, CONTENT, Content, Key, Told, Wrote, keys};
use crate::checker::{Check, Findings};
use crate::history::{Event, infos};

/// Every key has a value that somebody wrote and that no acknowledged write has seen; so has every loser of a conflict. An acknowledged write
/// that nothing can have seen is there: with one writer to a key, the writer's last.
pub fn kept(history: &[Event]) -> Check {
    let mut findings = Findings::new("acknowledged writes are kept");
    let contents: Vec<Content> = infos(history, CONTENT).into_iter().map(|(_, content)| content).collect();
    if contents.is_empty() {
        findings.doubt("the run did not get there");
    }
    let keys = keys(history);
    for (name, key) in &keys {
        findings.count("acknowledged", key.writes.iter().filter(|wrote| wrote.done.is_some()).count());
        findings.count("unknown", key.writes.iter().filter(|wrote| wrote.done.is_none()).count());
        for content in &contents {
            judge(name, key, content, &mut findings);
        }
    }
    for content in &contents {
        for strange in content.entries.keys().filter(|name| !keys.contains_key(*name)) {
            findings.violation(format!("{} has {strange}, which nobody wrote", content.cluster));
        }
    }
    for (event, told) in infos::<Told>(history, CONFLICT) {
        let Some(key) = keys.get(&told.key) else { continue };
        for loser in told.losers.iter().filter(|loser| !key.may_have(loser.as_deref())) {
            let evidence = format!("{} tells {loser:?} for a loser of {}", told.cluster, told.key);
            findings.violation(format!("{evidence}: {} (event {})", why(key, loser.as_deref()), event.index));
        }
    }
    findings.needs("acknowledged");
    findings.finish("every key has a value that nothing acknowledged has seen, and so has every loser of a conflict")
}

fn judge(name: &str, key: &Key, content: &Content, findings: &mut Findings) {
    let has = content.entries.get(name).map(String::as_str);
    if !key.may_have(has) {
        findings.violation(format!("{name} is {has:?} in {}: {}", content.cluster, why(key, has)));
        return;
    }
    if let Some(last) = last(key).filter(|last| last.value.as_deref() != has) {
        let evidence = format!("{name} is {has:?} in {}, and {:?} was acknowledged", content.cluster, last.value);
        findings.violation(format!("{evidence} after everything else had been seen (event {})", last.begun));
    }
}

/// The acknowledged write that has seen all others, if there is one: nothing can be in its place.
fn last(key: &Key) -> Option<&Wrote> {
    let has_seen_all = |wrote: &&Wrote| key.writes.iter().all(|other| other.begun == wrote.begun || key.has_seen(wrote, other));
    key.writes.iter().filter(|wrote| wrote.done.is_some()).find(has_seen_all)
}

/// Why a key cannot have this value.
fn why(key: &Key, value: Option<&str>) -> String {
    let Some(wrote) = key.writes.iter().find(|wrote| wrote.value.as_deref() == value) else {
        return match value {
            Some(_) => "nobody wrote that, or whoever did was refused".to_owned(),
            None => "it was acknowledged, and nobody has removed it".to_owned(),
        };
    };
    let late = key.writes.iter().find(|late| late.done.is_some() && late.begun != wrote.begun && key.has_seen(late, wrote));
    let late = late.map_or(String::new(), |late| format!(", which {:?} of {} (event {}) has seen", late.value, late.cluster, late.begun));
    format!("that is of event {}{late}", wrote.begun)
}
