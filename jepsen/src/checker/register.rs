//! Named leases as registers that are compared and set, one per name.
//!
//! A lease that never expires during a run (the workload asks for a day) is such a register. Its value is nobody, or a holder with a token.
//! *Acquire* sets it if it is nobody's, *release* empties it if it still has the token that the client saw, *renew* tells whether it has that
//! token, *get* reads it. The token comes from the position in the log and only grows, so a value never returns, which makes lost updates and
//! stale reads visible at once, and lets the search forget operations of unknown outcome.
//!
//! Every acquisition names a holder of its own. So an acquisition whose answer was lost is found again in a later read, which tells its
//! token; and one whose token nobody ever saw can never be released, because releasing needs the token.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::linear::{self, Answer, Call, Limits, Model};
use super::{Check, Findings};
use crate::history::{Event, Kind, Operation, operations};

/// The operation's name for taking a lease; its value is an [`Ask`], its answer a [`Held`].
pub const ACQUIRE: &str = "acquire";
/// For renewing one; an [`Ask`], answered with a [`Held`].
pub const RENEW: &str = "renew";
/// For giving one up; an [`Ask`], answered with nothing.
pub const RELEASE: &str = "release";
/// For reading one; no value, answered with a [`Held`], or refused with [`NOT_FOUND`].
pub const GET: &str = "get";
/// The reason with which an acquisition is refused while somebody holds the lease.
pub const HELD: &str = "LEASE_HELD";
/// The reason with which a token is refused that is not the present holder's.
pub const STALE: &str = "STALE_TOKEN";
/// The reason with which reading is refused while nobody holds the lease.
pub const NOT_FOUND: &str = "LEASE_NOT_FOUND";

/// What an operation on a lease names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// Who would hold it; of acquisitions.
    pub holder: String,
    /// The token that the client believes in; of all others.
    pub token: u64,
}

/// A lease as an answer shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// Who holds it.
    pub holder: String,
    /// The fencing token.
    pub token: u64,
    /// Since when, in milliseconds of the cluster's time.
    pub acquired_at_ms: u64,
    /// Until when unless renewed, likewise.
    pub expires_at_ms: u64,
}

/// A lease of one name.
struct Lease;

/// A token; of an acquisition that nobody ever saw it is 0.
type Token = u64;

/// The last token given out, and the present one if somebody holds the lease.
type State = (Token, Option<Token>);

#[derive(Debug, PartialEq, Eq, Hash)]
enum Op {
    Acquire(Token),
    RefusedAsHeld,
    Release(Token),
    Confirm(Token),
    RefusedAsStale(Token),
    FoundNobody,
}

impl Model for Lease {
    type State = State;
    type Op = Op;
    /// Tokens are used once.
    const ONCE: bool = true;

    fn initial(&self) -> State {
        (0, None)
    }

    fn step(&self, state: &State, op: &Op) -> Option<State> {
        let (last, held) = *state;
        match *op {
            Op::Acquire(0) => held.is_none().then_some((last, Some(0))),
            Op::Acquire(token) => (held.is_none() && token > last).then_some((token, Some(token))),
            Op::RefusedAsHeld => held.is_some().then_some(*state),
            Op::Release(token) => (held == Some(token)).then_some((last, None)),
            Op::Confirm(token) => (held == Some(token)).then_some(*state),
            Op::RefusedAsStale(token) => (held != Some(token)).then_some(*state),
            Op::FoundNobody => held.is_none().then_some(*state),
        }
    }
}

/// Whether the leases of each name behave as one object to all clients, and no acquisition took effect twice.
pub fn linearizable(history: &[Event], limits: Limits) -> Check {
    let mut findings = Findings::new("linearizable");
    let keys = by_key(history);
    for (key, calls) in &keys {
        let tokens = tokens(key, calls, &mut findings);
        let calls: Vec<Call<Op>> = calls.iter().filter_map(|call| called(call, &tokens)).collect();
        findings.count("operations", calls.len());
        findings.count("unknown", calls.iter().filter(|call| call.returned.is_none()).count());
        match linear::check(&Lease, &calls, limits) {
            Answer::Linearizable(most) => findings.at_least("configurations", most as u64),
            Answer::Impossible(index, why) => findings.violation(format!("{key}, event {index}: {why}")),
            Answer::GaveUp(why) => findings.doubt(format!("{key}: search given up: {why}")),
        }
    }
    findings.count("keys", keys.len());
    if keys.is_empty() {
        findings.doubt("there are no operations");
    }
    findings.finish("there is an order of all operations on each key in which every answer is right")
}

fn by_key(history: &[Event]) -> BTreeMap<&str, Vec<Operation<'_>>> {
    let mut keys: BTreeMap<&str, Vec<Operation<'_>>> = BTreeMap::new();
    for op in [ACQUIRE, RENEW, RELEASE, GET] {
        for operation in operations(history, op) {
            let key = operation.invoke.key.as_deref().unwrap_or_default();
            keys.entry(key).or_default().push(operation);
        }
    }
    keys
}

/// Which token each holder got, as far as any answer tells. A holder with two tokens is an acquisition that took effect twice.
fn tokens<'a>(key: &str, calls: &[Operation<'a>], findings: &mut Findings) -> HashMap<String, Token> {
    let mut tokens: HashMap<String, (Token, u64)> = HashMap::new();
    for call in calls {
        let (Some(held), Some(end)) = (call.answer::<Held>(), call.end) else {
            continue;
        };
        if held.token == 0 {
            continue;
        }
        let (token, first) = *tokens.entry(held.holder.clone()).or_insert((held.token, end.index));
        if token != held.token {
            findings.violation(format!(
                "{key}: {} holds it with token {token} in event {first} and with token {} in event {}: it was acquired twice",
                held.holder, held.token, end.index
            ));
        }
    }
    tokens.into_iter().map(|(holder, (token, _))| (holder, token)).collect()
}

/// The operation as the model has it; `None` where it neither had an effect nor tells anything.
fn called(operation: &Operation<'_>, tokens: &HashMap<String, Token>) -> Option<Call<Op>> {
    let ask: Ask = operation.invoke.read().unwrap_or_default();
    let held = operation.answer::<Held>();
    let (outcome, reason) = (operation.outcome(), operation.reason());
    let op = match (operation.invoke.op.as_str(), outcome) {
        (ACQUIRE, Kind::Ok) => Op::Acquire(held?.token),
        (ACQUIRE, Kind::Unknown) => Op::Acquire(tokens.get(&ask.holder).copied().unwrap_or(0)),
        (ACQUIRE, Kind::Fail) if reason == HELD => Op::RefusedAsHeld,
        (RELEASE, Kind::Ok | Kind::Unknown) => Op::Release(ask.token),
        (RENEW, Kind::Ok) => Op::Confirm(ask.token),
        (RELEASE | RENEW, Kind::Fail) if reason == STALE => Op::RefusedAsStale(ask.token),
        (GET, Kind::Ok) => Op::Confirm(held?.token),
        (GET, Kind::Fail) if reason == NOT_FOUND => Op::FoundNobody,
        _ => return None,
    };
    Some(Call { op, invoked: operation.invoke.index, returned: operation.ended_by() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::checker::Outcome;
    use crate::checker::testing::{Lie, Script, refute, told};

    fn judge(script: &Script) -> Outcome {
        told(linearizable(script.events(), Limits::default()))
    }

    fn held(holder: &str, token: u64) -> serde_json::Value {
        json!({"holder": holder, "token": token})
    }

    /// One after the other: acquired, read, released, found empty.
    fn good() -> Script {
        let mut script = Script::new("k");
        script.ok(ACQUIRE, json!({"holder": "a"}), held("a", 5));
        script.ok(GET, json!(null), held("a", 5));
        script.fail(ACQUIRE, json!({"holder": "b"}), "LEASE_HELD: by a");
        script.ok(RENEW, json!({"token": 5}), held("a", 5));
        script.ok(RELEASE, json!({"token": 5}), json!(null));
        script.fail(RELEASE, json!({"token": 5}), "STALE_TOKEN: gone");
        script.fail(GET, json!(null), "LEASE_NOT_FOUND: nobody");
        script
    }

    #[test]
    fn good_histories_are_valid() {
        assert_eq!(judge(&good()), Outcome::Valid);
        let mut lost = good();
        lost.unknown(ACQUIRE, json!({"holder": "c"}));
        lost.fail(GET, json!(null), "LEASE_NOT_FOUND: nobody");
        lost.ok(GET, json!(null), held("c", 9));
        lost.unknown(RELEASE, json!({"token": 9}));
        lost.ok(GET, json!(null), held("c", 9));
        lost.ok(ACQUIRE, json!({"holder": "d"}), held("d", 11));
        assert_eq!(judge(&lost), Outcome::Valid);
        let mut never = good();
        never.unknown(ACQUIRE, json!({"holder": "c"}));
        never.unknown(ACQUIRE, json!({"holder": "d"}));
        never.fail(ACQUIRE, json!({"holder": "e"}), "LEASE_HELD: by c");
        assert_eq!(judge(&never), Outcome::Valid, "one of the two may hold it");
    }

    #[test]
    fn an_empty_history_proves_nothing() {
        assert_eq!(judge(&Script::new("k")), Outcome::Unknown);
    }

    #[test]
    fn every_class_of_wrong_answer_is_found() {
        let bad: [Lie; 11] = [
            ("linearizable", "stale read", |s| s.ok(GET, json!(null), held("a", 5))),
            ("linearizable", "read of what nobody wrote", |s| s.ok(GET, json!(null), held("x", 77))),
            ("linearizable", "renewed though nobody holds it", |s| {
                s.ok(RENEW, json!({"token": 5}), held("a", 5));
            }),
            ("linearizable", "its holder is refused as stale", |s| {
                s.ok(ACQUIRE, json!({"holder": "b"}), held("b", 6));
                s.fail(RENEW, json!({"token": 6}), "STALE_TOKEN: gone");
            }),
            ("linearizable", "nobody found though it is held", |s| {
                s.ok(ACQUIRE, json!({"holder": "b"}), held("b", 6));
                s.fail(GET, json!(null), "LEASE_NOT_FOUND: nobody");
            }),
            ("linearizable", "refused though nobody holds it", |s| s.fail(ACQUIRE, json!({"holder": "b"}), "LEASE_HELD: by a")),
            ("linearizable", "two holders", |s| {
                s.ok(ACQUIRE, json!({"holder": "b"}), held("b", 6));
                s.ok(ACQUIRE, json!({"holder": "c"}), held("c", 7));
            }),
            ("linearizable", "token goes back", |s| s.ok(ACQUIRE, json!({"holder": "b"}), held("b", 4))),
            ("linearizable", "acquired twice", |s| {
                s.unknown(ACQUIRE, json!({"holder": "b"}));
                s.ok(GET, json!(null), held("b", 6));
                s.ok(RELEASE, json!({"token": 6}), json!(null));
                s.ok(GET, json!(null), held("b", 8));
            }),
            ("linearizable", "a failed one is seen", |s| {
                s.fail(ACQUIRE, json!({"holder": "b"}), "UNAVAILABLE: nothing was done");
                s.ok(GET, json!(null), held("b", 6));
            }),
            ("linearizable", "released with a stale token", |s| {
                s.ok(ACQUIRE, json!({"holder": "b"}), held("b", 6));
                s.ok(RELEASE, json!({"token": 5}), json!(null));
            }),
        ];
        refute(&good(), &bad, |history| vec![linearizable(history, Limits::default())]);
    }

    #[test]
    fn ten_thousand_operations_on_three_keys_are_decided_with_little_work() {
        let mut script = Script::new("k");
        for round in 0..3_500u64 {
            script.key(&format!("k{}", round % 3));
            let (holder, token) = (format!("h{round}"), round + 1);
            if round % 10 == 0 {
                script.unknown(ACQUIRE, json!({"holder": holder}));
            } else {
                script.ok(ACQUIRE, json!({"holder": holder}), held(&holder, token));
            }
            script.ok(GET, json!(null), held(&holder, token));
            script.unknown(RENEW, json!({"token": token}));
            match round % 7 {
                0 => {
                    script.unknown(RELEASE, json!({"token": token}));
                    script.fail(GET, json!(null), "LEASE_NOT_FOUND: nobody");
                }
                _ => script.ok(RELEASE, json!({"token": token}), json!(null)),
            }
        }
        // Each event costs at most as much as there are configurations, so their number bounds the work.
        let limits = Limits { configurations: 1_000, time: std::time::Duration::from_secs(3_600) };
        let check = linearizable(script.events(), limits);
        assert!(check.counts["operations"] >= 10_000, "{check:?}");
        assert_eq!(told(check), Outcome::Valid);
        script.key("k1");
        script.ok(GET, json!(null), held("h1", 2));
        assert_eq!(told(linearizable(script.events(), limits)), Outcome::Invalid, "long given up");
    }
}
