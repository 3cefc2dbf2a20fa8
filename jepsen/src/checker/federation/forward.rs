//! Nobody sees a writer's key go back.

use std::collections::{BTreeMap, BTreeSet};

use super::{Key, Saw, keys};
use crate::checker::{Check, Findings};
use crate::history::Event;

/// What one client alone writes, each cluster shows in the order in which it was written: whoever has read a value reads no earlier one of the
/// same cluster afterwards.
pub fn forward(history: &[Event]) -> Check {
    let mut findings = Findings::new("nobody sees a key go back");
    for (name, key) in keys(history).iter().filter(|(_, key)| has_one_writer(key)) {
        let places: BTreeMap<&str, usize> =
            key.writes.iter().enumerate().filter_map(|(place, wrote)| Some((wrote.value.as_deref()?, place))).collect();
        let clusters: BTreeSet<&str> = key.reads.iter().map(|saw| saw.cluster.as_str()).collect();
        for cluster in clusters {
            judge(name, key, cluster, &places, &mut findings);
        }
    }
    findings.needs("reads");
    findings.finish("of keys with one writer each cluster showed later values after earlier ones only")
}

fn has_one_writer(key: &Key) -> bool {
    key.writes.iter().map(|wrote| wrote.process).collect::<BTreeSet<_>>().len() == 1
}

fn judge(name: &str, key: &Key, cluster: &str, places: &BTreeMap<&str, usize>, findings: &mut Findings) {
    let of_cluster = |saw: &&Saw| saw.cluster == cluster && saw.value.is_some();
    let mut by_end: Vec<&Saw> = key.reads.iter().filter(of_cluster).collect();
    let mut by_beginning = by_end.clone();
    by_end.sort_by_key(|saw| saw.done);
    by_beginning.sort_by_key(|saw| saw.begun);
    let (mut ended, mut latest) = (by_end.into_iter().peekable(), None);
    for saw in by_beginning {
        while let Some(earlier) = ended.next_if(|earlier| earlier.done < saw.begun) {
            latest = latest.max(earlier.value.as_deref().and_then(|value| places.get(value)).map(|place| (*place, earlier.done)));
        }
        findings.count("reads", 1);
        let place = saw.value.as_deref().and_then(|value| places.get(value).copied());
        let Some(place) = place else {
            findings.violation(format!("{cluster} shows {:?} for {name}, which nobody wrote (event {})", saw.value, saw.done));
            continue;
        };
        // One whose outcome is unknown may have come after those that were written later.
        let certain = key.writes.get(place).is_some_and(|wrote| wrote.done.is_some());
        if let Some((_, event)) = latest.filter(|(latest, _)| certain && *latest > place) {
            findings.violation(format!("{cluster} shows {:?} for {name} after a later value (events {event} and {})", saw.value, saw.done));
        }
    }
}
