//! Mutual exclusion with fencing.
//!
//! A lease alone cannot exclude: a holder that was paused believes in a lease that has gone to another. What excludes is the token, given to
//! the store that the lock protects, which takes only tokens that are not older than the newest it has seen. So that two clients *believe* to
//! hold the lock is counted and is no violation; that their writes interleave in the store is one, and so is everything that would make the
//! store's rule worthless: a token given out twice, or one that does not grow.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tarn_invariants::leases::{self as rules, Holding, NO_OVERLAP};

use super::quiet::{AGREED_MS, first_clock_fault};
use super::register::{ACQUIRE, Ask, Held, RELEASE, RENEW};
use super::{Check, Findings};
use crate::history::{Event, Kind, Operation, infos, operations};

/// A client wrote to the store that the lock protects: a [`Write`]. The event's key is the lock's name.
pub const WRITE: &str = "write";

/// A client read the lease that it holds: a [`Held`]. The event's key is the lock's name.
pub const TOLD: &str = "told";
/// By how much the times of client and cluster may differ over one lease, in nanoseconds.
const ROUNDED_NS: u64 = AGREED_MS * 1_000_000;

/// A write to the protected store. The events' order is the order in which the store saw them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Write {
    /// The token that the writer showed.
    pub token: u64,
    /// Who wrote.
    pub holder: String,
    /// Whether the store took it.
    pub taken: bool,
}

/// All checks on locks.
pub fn excluded(history: &[Event]) -> Vec<Check> {
    let grants = grants(history);
    vec![
        tokens_grow(&grants),
        writes_never_interleave(history, &grants),
        leases_do_not_overlap(history, &grants),
        kept_for_its_time(history, &grants),
    ]
}

/// An acquisition that was acknowledged.
struct Grant<'a> {
    key: &'a str,
    asked: u64,
    /// When the client asked, in nanoseconds since the run began.
    asked_ns: u64,
    answered: u64,
    holder: String,
    lease: Held,
}

/// All grants. The SDK's lock does not say since when it is held; where its holder read the lease, that read tells.
fn grants(history: &[Event]) -> Vec<Grant<'_>> {
    let mut grants: Vec<Grant<'_>> = operations(history, ACQUIRE).iter().filter_map(grant).collect();
    let mut told: BTreeMap<(&str, u64), Held> = BTreeMap::new();
    for (event, held) in infos::<Held>(history, TOLD) {
        let key = event.key.as_deref().unwrap_or_default();
        told.entry((key, held.token)).or_insert(held);
    }
    for grant in grants.iter_mut().filter(|grant| grant.lease.acquired_at_ms == 0) {
        if let Some(held) = told.get(&(grant.key, grant.lease.token)) {
            grant.lease.acquired_at_ms = held.acquired_at_ms;
            grant.lease.expires_at_ms = held.expires_at_ms;
        }
    }
    grants
}

fn grant<'a>(operation: &Operation<'a>) -> Option<Grant<'a>> {
    let ask: Ask = operation.invoke.read()?;
    Some(Grant {
        key: operation.invoke.key.as_deref().unwrap_or_default(),
        asked: operation.invoke.index,
        asked_ns: operation.invoke.time_ns,
        answered: operation.ended_by()?,
        holder: ask.holder,
        lease: operation.answer()?,
    })
}

/// What a holder was told of its lease at some moment: by the answer to a renewal, or by a read.
struct Word<'a> {
    key: &'a str,
    token: u64,
    expires_at_ms: u64,
    /// The index of the event that tells it.
    index: u64,
}

/// Everything that holders were told after their grants, in the order in which they were.
fn words(history: &[Event]) -> Vec<Word<'_>> {
    let renewals = operations(history, RENEW);
    let renewed = renewals.iter().filter_map(|renewal| {
        Some(Word {
            key: renewal.invoke.key.as_deref().unwrap_or_default(),
            token: renewal.invoke.read::<Ask>()?.token,
            expires_at_ms: renewal.answer::<Held>()?.expires_at_ms,
            index: renewal.ended_by()?,
        })
    });
    let read = infos::<Held>(history, TOLD).into_iter().map(|(event, held)| Word {
        key: event.key.as_deref().unwrap_or_default(),
        token: held.token,
        expires_at_ms: held.expires_at_ms,
        index: event.index,
    });
    let mut words: Vec<Word<'_>> = renewed.chain(read).collect();
    words.sort_by_key(|word| word.index);
    words
}

/// No token is given to two holders, and whoever asks after another was answered gets a greater one.
fn tokens_grow(grants: &[Grant<'_>]) -> Check {
    let mut findings = Findings::new("tokens grow").asking(&[NO_OVERLAP]);
    findings.count("grants", grants.len());
    let mut owners: BTreeMap<u64, &Grant<'_>> = BTreeMap::new();
    for grant in grants {
        let first = *owners.entry(grant.lease.token).or_insert(grant);
        let (known, given) = ((first.key, first.holder.as_str()), (grant.key, grant.holder.as_str()));
        findings.judge(rules::one_holder_a_token(grant.lease.token, Some(known), given), || {
            format!("events {} and {}", grant.answered, first.answered)
        });
    }
    // Of all grants answered before one was asked for, the newest token.
    let mut by_answer: Vec<&Grant<'_>> = grants.iter().collect();
    by_answer.sort_by_key(|grant| grant.answered);
    let mut by_ask: Vec<&Grant<'_>> = grants.iter().collect();
    by_ask.sort_by_key(|grant| grant.asked);
    let mut answered = by_answer.into_iter().peekable();
    let mut newest: BTreeMap<&str, &Grant<'_>> = BTreeMap::new();
    for grant in by_ask {
        while let Some(earlier) = answered.next_if(|earlier| earlier.answered < grant.asked) {
            let known = newest.entry(earlier.key).or_insert(earlier);
            if earlier.lease.token > known.lease.token {
                *known = earlier;
            }
        }
        if let Some(earlier) = newest.get(grant.key) {
            let grown = rules::tokens_grow(grant.key, earlier.lease.token, grant.lease.token);
            findings.judge(grown, || format!("asked for in event {}, the other given in event {}", grant.asked, earlier.answered));
        }
    }
    if grants.is_empty() {
        findings.doubt("no lock was ever taken");
    }
    findings.finish("tokens were given once each, and grew")
}

/// The store took no write with a token older than one that it had taken, and none with a token that was never given to its writer.
fn writes_never_interleave(history: &[Event], grants: &[Grant<'_>]) -> Check {
    let mut findings = Findings::new("protected writes never interleave").asking(&[NO_OVERLAP]);
    findings.needs("taken");
    let given: BTreeMap<(&str, u64), &str> = grants.iter().map(|grant| ((grant.key, grant.lease.token), grant.holder.as_str())).collect();
    let mut newest: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (event, write) in infos::<Write>(history, WRITE) {
        let key = event.key.as_deref().unwrap_or_default();
        let (token, at) = newest.get(key).copied().unwrap_or_default();
        if !write.taken {
            findings.count("refused", 1);
            if write.token >= token {
                findings.violation(format!("{key}: event {} was refused though no newer token had written", event.index));
            }
            continue;
        }
        findings.count("taken", 1);
        findings.judge(rules::writes_never_interleave(key, token, write.token), || format!("events {} and {at}", event.index));
        if given.get(&(key, write.token)).is_none_or(|holder| *holder != write.holder) {
            findings.violation(format!(
                "{key}: {} wrote in event {} with token {}, which it was not given",
                write.holder, event.index, write.token
            ));
        }
        if write.token >= token {
            newest.insert(key, (write.token, event.index));
        }
    }
    findings.finish("the store saw one holder after the other")
}

/// By the cluster's own time, a lease begins only after the one before it was given up or had ended; and who is told of a renewal holds it.
fn leases_do_not_overlap(history: &[Event], grants: &[Grant<'_>]) -> Check {
    let mut findings = Findings::new("leases do not overlap").asking(&[NO_OVERLAP]);
    findings.needs("successions");
    // The latest end that anybody was told, by key and token.
    let mut ends: BTreeMap<(&str, u64), (u64, u64)> = BTreeMap::new();
    for grant in grants {
        ends.insert((grant.key, grant.lease.token), (grant.lease.expires_at_ms, grant.answered));
    }
    for word in words(history) {
        findings.count("renewals", 1);
        let end = ends.entry((word.key, word.token)).or_default();
        if word.expires_at_ms > end.0 {
            *end = (word.expires_at_ms, word.index);
        }
    }
    // A release that was not refused may have ended the lease early.
    let released: BTreeMap<(&str, u64), u64> = operations(history, RELEASE)
        .iter()
        .filter(|release| release.outcome() != Kind::Fail)
        .filter_map(|release| {
            let ask: Ask = release.invoke.read()?;
            let key = release.invoke.key.as_deref().unwrap_or_default();
            Some(((key, ask.token), release.invoke.index))
        })
        .collect();
    let mut order: Vec<&Grant<'_>> = grants.iter().collect();
    order.sort_by_key(|grant| (grant.key, grant.lease.token));
    for pair in order.windows(2) {
        let [one, next] = [pair[0], pair[1]];
        let early = released.get(&(one.key, one.lease.token)).is_some_and(|asked| *asked < next.answered);
        if one.key != next.key || one.lease.token == next.lease.token {
            continue;
        }
        if one.lease.acquired_at_ms == 0 || next.lease.acquired_at_ms == 0 {
            // The SDK's lock, and its holder did not get to read the lease.
            findings.count("untimed", 1);
            continue;
        }
        findings.count("successions", 1);
        if early {
            findings.count("given_up", 1);
            continue;
        }
        let (end, told) = ends[&(one.key, one.lease.token)];
        findings.judge(rules::no_overlap(holding(one, end), holding(next, u64::MAX)), || {
            format!("event {told} tells the former's end, event {} the latter's beginning", next.answered)
        });
    }
    findings.finish("no lease began before the one before it had ended")
}

/// A lease is its holder's for as long as it was told: a write within that time, by the holder's own clock, is not refused by the store. The time
/// is counted from before the lease was asked for, so that the cluster counts at least as long. Judged up to the first clock fault: from there on
/// the cluster's time and the holder's are two things.
fn kept_for_its_time(history: &[Event], grants: &[Grant<'_>]) -> Check {
    let mut findings = Findings::new("leases are kept for their time").asking(&[NO_OVERLAP]);
    let until = first_clock_fault(history);
    if until.is_none() {
        findings.needs("within");
    }
    let given: BTreeMap<(&str, u64), &Grant<'_>> =
        grants.iter().filter(|grant| grant.lease.acquired_at_ms != 0).map(|grant| ((grant.key, grant.lease.token), grant)).collect();
    let mut ends: BTreeMap<(&str, u64), u64> = given.iter().map(|(place, grant)| (*place, grant.lease.expires_at_ms)).collect();
    let mut words = words(history).into_iter().peekable();
    for (event, write) in infos::<Write>(history, WRITE) {
        while let Some(word) = words.next_if(|word| word.index < event.index) {
            let end = ends.entry((word.key, word.token)).or_default();
            *end = word.expires_at_ms.max(*end);
        }
        let place = (event.key.as_deref().unwrap_or_default(), write.token);
        let Some(grant) = given.get(&place).filter(|_| until.is_none_or(|until| event.time_ns < until)) else {
            findings.count("not_judged", 1);
            continue;
        };
        let lasts_ms = ends[&place].saturating_sub(grant.lease.acquired_at_ms);
        let end_ns = grant.asked_ns + lasts_ms * 1_000_000;
        if event.time_ns + ROUNDED_NS >= end_ns {
            findings.count("after", 1);
            continue;
        }
        findings.count("within", 1);
        if !write.taken {
            let told = format!(
                "{}: the lease of {} under token {} went to another {:.3} s before its end",
                place.0,
                write.holder,
                write.token,
                (end_ns - event.time_ns) as f64 / 1e9
            );
            findings.judge(Err(NO_OVERLAP.violated(told)), || format!("event {} is refused by the store", event.index));
        }
    }
    findings.finish("no write was refused within the time that its holder had been told")
}

/// A grant as the invariant has it, by the cluster's time.
fn holding<'a>(grant: &'a Grant<'_>, until: u64) -> Holding<'a> {
    Holding { name: grant.key, holder: &grant.holder, token: grant.lease.token, from: grant.lease.acquired_at_ms, until }
}

#[cfg(test)]
#[path = "fencing_tests.rs"]
mod tests;
