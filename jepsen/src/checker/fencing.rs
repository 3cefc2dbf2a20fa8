//! Mutual exclusion with fencing.
//!
//! A lease alone cannot exclude: a holder that was paused believes in a lease that has gone to another. What excludes is the token, given to
//! the store that the lock protects, which takes only tokens that are not older than the newest it has seen. So that two clients *believe* to
//! hold the lock is counted and is no violation; that their writes interleave in the store is one, and so is everything that would make the
//! store's rule worthless: a token given out twice, or one that does not grow.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tarn_invariants::leases::{self as rules, Holding, NO_OVERLAP};

use super::register::{ACQUIRE, Ask, Held, RELEASE, RENEW};
use super::{Check, Findings};
use crate::history::{Event, Kind, Operation, infos, operations};

/// A client wrote to the store that the lock protects: a [`Write`]. The event's key is the lock's name.
pub const WRITE: &str = "write";

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
    ]
}

/// An acquisition that was acknowledged.
struct Grant<'a> {
    key: &'a str,
    asked: u64,
    answered: u64,
    holder: String,
    lease: Held,
}

fn grants(history: &[Event]) -> Vec<Grant<'_>> {
    operations(history, ACQUIRE).iter().filter_map(grant).collect()
}

fn grant<'a>(operation: &Operation<'a>) -> Option<Grant<'a>> {
    let ask: Ask = operation.invoke.read()?;
    Some(Grant {
        key: operation.invoke.key.as_deref().unwrap_or_default(),
        asked: operation.invoke.index,
        answered: operation.ended_by()?,
        holder: ask.holder,
        lease: operation.answer()?,
    })
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
            findings.judge(grown, || {
                format!(
                    "asked for in event {}, the other given in event {}",
                    grant.asked, earlier.answered
                )
            });
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
    let given: BTreeMap<(&str, u64), &str> = grants
        .iter()
        .map(|grant| ((grant.key, grant.lease.token), grant.holder.as_str()))
        .collect();
    let mut newest: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (event, write) in infos::<Write>(history, WRITE) {
        let key = event.key.as_deref().unwrap_or_default();
        let (token, at) = newest.get(key).copied().unwrap_or_default();
        if !write.taken {
            findings.count("refused", 1);
            if write.token >= token {
                findings.violation(format!(
                    "{key}: event {} was refused though no newer token had written",
                    event.index
                ));
            }
            continue;
        }
        findings.count("taken", 1);
        findings.judge(rules::writes_never_interleave(key, token, write.token), || {
            format!("events {} and {at}", event.index)
        });
        if given
            .get(&(key, write.token))
            .is_none_or(|holder| *holder != write.holder)
        {
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
    // The latest end that anybody was told, by key and token.
    let mut ends: BTreeMap<(&str, u64), (u64, u64)> = BTreeMap::new();
    for grant in grants {
        ends.insert(
            (grant.key, grant.lease.token),
            (grant.lease.expires_at_ms, grant.answered),
        );
    }
    for renewal in operations(history, RENEW) {
        let (Some(ask), Some(held)) = (renewal.invoke.read::<Ask>(), renewal.answer::<Held>()) else {
            continue;
        };
        findings.count("renewals", 1);
        let key = renewal.invoke.key.as_deref().unwrap_or_default();
        let end = ends.entry((key, ask.token)).or_default();
        if held.expires_at_ms > end.0 {
            *end = (held.expires_at_ms, renewal.ended_by().unwrap_or_default());
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
        let early = released
            .get(&(one.key, one.lease.token))
            .is_some_and(|asked| *asked < next.answered);
        // The SDK's lock does not say since when it is held.
        let untimed = next.lease.acquired_at_ms == 0;
        if one.key != next.key || one.lease.token == next.lease.token || early || untimed {
            continue;
        }
        findings.count("successions", 1);
        let (end, told) = ends[&(one.key, one.lease.token)];
        findings.judge(rules::no_overlap(holding(one, end), holding(next, u64::MAX)), || {
            format!(
                "event {told} tells the former's end, event {} the latter's beginning",
                next.answered
            )
        });
    }
    findings.finish("no lease began before the one before it had ended")
}

/// A grant as the invariant has it, by the cluster's time.
fn holding<'a>(grant: &'a Grant<'_>, until: u64) -> Holding<'a> {
    Holding {
        name: grant.key,
        holder: &grant.holder,
        token: grant.lease.token,
        from: grant.lease.acquired_at_ms,
        until,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::checker::Outcome;
    use crate::checker::testing::{Lie, Script, refute, worst};

    fn judge(script: &Script) -> Outcome {
        worst(excluded(script.events()))
    }

    fn lease(holder: &str, token: u64, from: u64, to: u64) -> Value {
        json!({"holder": holder, "token": token, "acquired_at_ms": from, "expires_at_ms": to})
    }

    fn write(script: &mut Script, holder: &str, token: u64, taken: bool) {
        script.info(WRITE, json!({"holder": holder, "token": token, "taken": taken}));
    }

    /// The first holder releases, the second lets it expire and writes too late.
    fn good() -> Script {
        let mut script = Script::new("lock");
        script.ok(ACQUIRE, json!({"holder": "a"}), lease("a", 10, 1_000, 3_000));
        write(&mut script, "a", 10, true);
        script.ok(RENEW, json!({"token": 10}), lease("a", 10, 1_000, 4_000));
        script.ok(RELEASE, json!({"token": 10}), Value::Null);
        script.ok(ACQUIRE, json!({"holder": "b"}), lease("b", 20, 2_000, 4_000));
        write(&mut script, "b", 20, true);
        script.ok(ACQUIRE, json!({"holder": "c"}), lease("c", 30, 4_000, 6_000));
        write(&mut script, "c", 30, true);
        write(&mut script, "b", 20, false);
        write(&mut script, "c", 30, true);
        script
    }

    #[test]
    fn one_holder_after_the_other_is_valid() {
        assert_eq!(judge(&good()), Outcome::Valid);
    }

    #[test]
    fn every_class_of_broken_exclusion_is_found() {
        let bad: [Lie; 8] = [
            ("protected writes never interleave", "a stale write is taken", |s| {
                write(s, "b", 20, true)
            }),
            ("protected writes never interleave", "a good write is refused", |s| {
                write(s, "c", 30, false)
            }),
            (
                "protected writes never interleave",
                "a token that was never given",
                |s| write(s, "d", 99, true),
            ),
            ("tokens grow", "a token given twice", |s| {
                s.ok(ACQUIRE, json!({"holder": "d"}), lease("d", 30, 6_000, 9_000));
            }),
            ("tokens grow", "a token of another lease", |s| {
                s.key("another lock");
                s.ok(ACQUIRE, json!({"holder": "c"}), lease("c", 30, 6_000, 9_000));
            }),
            ("tokens grow", "a token that does not grow", |s| {
                s.ok(ACQUIRE, json!({"holder": "d"}), lease("d", 25, 6_000, 9_000));
            }),
            ("leases do not overlap", "a lease that begins too early", |s| {
                s.ok(ACQUIRE, json!({"holder": "d"}), lease("d", 40, 5_999, 9_000));
            }),
            (
                "leases do not overlap",
                "a lease renewed for one who has lost it",
                |s| {
                    s.ok(ACQUIRE, json!({"holder": "d"}), lease("d", 40, 6_000, 9_000));
                    s.ok(RENEW, json!({"token": 30}), lease("c", 30, 4_000, 7_000));
                },
            ),
        ];
        refute(&good(), &bad, excluded);
    }

    #[test]
    fn a_lock_that_nobody_got_proves_nothing() {
        assert_eq!(judge(&Script::new("lock")), Outcome::Unknown);
    }
}
