//! What is asked of every run, whatever its workload: it came back, it drained, its nodes agree, and none of them gave up.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::Deserialize;
use tarn_invariants::Violation;
use tarn_invariants::raft::{EQUAL_DIGESTS, equal_digests};

use crate::checker::{self, Check, Outcome, Verdict, deadlines};
use crate::faults::{self, Phase};
use crate::figures;
use crate::history::{Event, Kind, infos};
use crate::workload::Workload;

/// The event that tells how the cluster came back after the last fault.
pub const READY: &str = "ready";
/// The event that tells how accepted work ended.
pub const DRAINED: &str = "drained";
/// The event that tells whether the nodes have the same state.
pub const AGREEMENT: &str = "agreement";
/// The event that tells which nodes ended by themselves.
pub const ENDINGS: &str = "endings";

/// How something that has to happen after the last fault went.
#[derive(Deserialize)]
struct Went {
    seconds: Option<f64>,
    error: Option<String>,
}

/// As `cluster::Agreement` is written. The nodes' ids are text, as JSON has them: beside a tag serde does not turn them into numbers.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", tag = "result")]
enum Agreement {
    Agreed { index: u64, digest: String, nodes: Vec<u64> },
    Diverged { index: u64, digests: BTreeMap<String, String> },
    Unknown { reason: String },
}

#[derive(Deserialize)]
struct Ending {
    node: u64,
    how: String,
    log: String,
}

/// Judges a history: the workload's checks, and those of every run.
pub fn judge(history: &[Event], workload: &dyn Workload) -> Verdict {
    let mut checks = workload.check(history).checks;
    checks.extend([
        came_back(history),
        answered_again(history),
        deadlines::kept(history),
        drained(history),
        agreed(history),
        stayed_up(history),
    ]);
    Verdict::of(checks)
}

/// Liveness: after the last fault every node follows one leader and catches up. Not reached, it proves nothing about safety.
fn came_back(history: &[Event]) -> Check {
    went(history, READY, "every node came back", |seconds| {
        format!("every node followed one leader and had caught up {seconds:.1} s after the last fault")
    })
}

fn drained(history: &[Event]) -> Check {
    went(history, DRAINED, "drained", |seconds| format!("accepted work had ended after {seconds:.1} s"))
}

fn went(history: &[Event], op: &str, name: &str, fine: impl Fn(f64) -> String) -> Check {
    let (outcome, detail) = match infos::<Went>(history, op).pop() {
        Some((_, Went { error: None, seconds })) => (Outcome::Valid, fine(seconds.unwrap_or_default())),
        Some((_, Went { error: Some(error), .. })) => (Outcome::Unknown, error),
        None => (Outcome::Unknown, "the run did not get there".to_owned()),
    };
    check(name, outcome, detail)
}

/// How long the healed cluster must have answered nothing before that is a violation: an election and a full replay of the log are far shorter.
const SILENT_NS: u64 = 30_000_000_000;
/// Reasons of failures that are no answers.
const NO_ANSWER: [&str; 3] = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "TRANSPORT"];

/// Liveness: after the last fault an operation is answered. It is a violation if none was, in a long calm, although every node is up and nothing is
/// cut; a node that ended by itself is another check's matter.
fn answered_again(history: &[Event]) -> Check {
    let name = "answered after the last fault";
    let Some(calm) = faults::phase(history, Phase::Calm) else {
        return check(name, Outcome::Unknown, "the run did not get there".to_owned());
    };
    let operations = figures::done(history);
    let answers = operations.iter().filter(|operation| operation.kind == Kind::Ok && operation.begun_ns >= calm);
    match answers.clone().map(|operation| operation.ended_ns).min() {
        Some(first) => {
            let detail = format!("first after {:.2} s", (first - calm) as f64 / 1e9);
            Check { counts: BTreeMap::from([("answers".to_owned(), answers.count() as u64)]), ..check(name, Outcome::Valid, detail) }
        }
        None => {
            let told = "no operation that was begun then was answered".to_owned();
            check(name, silence(history, &operations, calm), told)
        }
    }
}

/// What it means that no operation succeeded after everything was healed.
fn silence(history: &[Event], operations: &[figures::Done<'_>], calm: u64) -> Outcome {
    let all_up = infos::<Vec<Ending>>(history, ENDINGS).pop().is_some_and(|(_, endings)| endings.is_empty());
    let last = history.last().map_or(0, |event| event.time_ns);
    // Clients work until they are told to stop; what is asked later is not theirs.
    let stop = faults::phase(history, Phase::Stop).unwrap_or(last);
    let mut asked = operations.iter().filter(|operation| operation.begun_ns >= calm && operation.begun_ns < stop).peekable();
    let silent = asked.peek().is_some() && asked.all(|operation| operation.kind == Kind::Unknown || NO_ANSWER.contains(&operation.reason));
    match all_up && silent && stop.saturating_sub(calm) >= SILENT_NS {
        true => Outcome::Invalid,
        false => Outcome::Unknown,
    }
}

/// The invariant [`EQUAL_DIGESTS`], after everything has been healed: of each cluster, where there are several.
fn agreed(history: &[Event]) -> Check {
    let found = infos::<Agreement>(history, AGREEMENT).into_iter().map(|(event, agreement)| {
        let (outcome, detail) = agreement_of(agreement);
        let cluster = event.key.as_ref().map_or(String::new(), |name| format!("{name}: "));
        (outcome, format!("{cluster}{detail}"))
    });
    let none = (Outcome::Unknown, "the run did not get there".to_owned());
    let (outcome, detail) = found
        .reduce(|one, other| match one.0.cmp(&other.0) {
            Ordering::Less => other,
            Ordering::Equal => (one.0, format!("{}; {}", one.1, other.1)),
            Ordering::Greater => one,
        })
        .unwrap_or(none);
    Check { invariants: vec![EQUAL_DIGESTS.name.to_owned()], ..check("nodes agree", outcome, detail) }
}

fn agreement_of(agreement: Agreement) -> (Outcome, String) {
    match agreement {
        Agreement::Agreed { index, digest, nodes } => {
            let short = digest.get(..12).unwrap_or(&digest);
            (Outcome::Valid, format!("nodes {nodes:?} have the digest {short}… at index {index}"))
        }
        Agreement::Diverged { index, digests } => {
            let evidence = format!("the digests are {digests:?}");
            (Outcome::Invalid, checker::told(&difference(index, &digests), &evidence))
        }
        Agreement::Unknown { reason } => (Outcome::Unknown, reason),
    }
}

/// The first pair of nodes that the invariant finds to differ.
fn difference(index: u64, digests: &BTreeMap<String, String>) -> Violation {
    let seen: Vec<(u64, &[u8])> = digests.iter().map(|(node, digest)| (node.parse().unwrap_or(0), digest.as_bytes())).collect();
    seen.windows(2)
        .find_map(|pair| equal_digests(index, pair[0], pair[1]).err())
        .unwrap_or_else(|| EQUAL_DIGESTS.violated(format!("the nodes were found to differ at index {index}")))
}

/// A node ends when it is killed or asked to, and stops itself only where going on could lose data, which nothing but a damaged disk should
/// bring about.
fn stayed_up(history: &[Event]) -> Check {
    let name = "no node gave up";
    let Some((_, endings)) = infos::<Vec<Ending>>(history, ENDINGS).pop() else {
        return check(name, Outcome::Unknown, "the run did not get there".to_owned());
    };
    let Some(first) = endings.first() else {
        return check(name, Outcome::Valid, "none ended unless it was made to".to_owned());
    };
    let all: Vec<String> = endings.iter().map(|ending| format!("node {}: {}", ending.node, ending.how)).collect();
    let last = first.log.lines().last().unwrap_or_default();
    check(name, Outcome::Invalid, format!("{}; the first wrote: {last}", all.join(", ")))
}

fn check(name: &str, outcome: Outcome, detail: String) -> Check {
    Check { name: name.to_owned(), invariants: Vec::new(), outcome, detail, counts: BTreeMap::new() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::history::Process;

    fn info(op: &str, value: Value) -> Event {
        Event { op: op.to_owned(), value, process: Process::Nemesis, kind: Kind::Info, ..Event::default() }
    }

    #[test]
    fn a_run_that_did_not_get_to_the_end_proves_nothing() {
        for check in [came_back(&[]), answered_again(&[]), drained(&[]), agreed(&[]), stayed_up(&[])] {
            assert_eq!(check.outcome, Outcome::Unknown, "{}", check.name);
        }
        let stuck = [info(DRAINED, json!({"error": "3 tasks still wait"}))];
        assert_eq!(drained(&stuck).outcome, Outcome::Unknown);
        assert!(drained(&stuck).detail.contains("3 tasks"));
    }

    #[test]
    fn different_digests_and_nodes_that_gave_up_are_violations() {
        let differ = crate::cluster::Agreement::Diverged { index: 7, digests: BTreeMap::from([(1, "a".to_owned()), (2, "b".to_owned())]) };
        let check = agreed(&[info(AGREEMENT, json!(differ))]);
        assert_eq!(check.outcome, Outcome::Invalid);
        assert!(check.detail.contains("equal digests") && check.detail.contains("nodes 1 and 2"), "{}", check.detail);
        let ending = crate::cluster::Ending {
            node: 2,
            how: "exit code 70".to_owned(),
            code: Some(70),
            signal: None,
            log: "begin\nthe log is damaged".to_owned(),
        };
        let gave_up = stayed_up(&[info(ENDINGS, json!([ending]))]);
        assert_eq!(gave_up.outcome, Outcome::Invalid);
        assert!(gave_up.detail.contains("exit code 70") && gave_up.detail.contains("the log is damaged"));
    }

    #[test]
    fn a_healed_cluster_that_answers_nothing_is_a_violation() {
        let at = |seconds: u64, event: Event| Event { time_ns: seconds * 1_000_000_000, ..event };
        let asked = |kind: Kind, error: &str| {
            let call = |index: u64, kind: Kind, of: Option<u64>, error: Option<&str>| Event {
                index,
                of,
                kind,
                op: "get".to_owned(),
                process: Process::Client(1),
                error: error.map(str::to_owned),
                ..Event::default()
            };
            [call(7, Kind::Invoke, None, None), call(8, kind, Some(7), Some(error))]
        };
        let run = |calm_s: u64, answer: [Event; 2], endings: Value| {
            let [invoke, end] = answer;
            let history = [
                at(10, info("phase", json!("calm"))),
                at(11, invoke),
                at(15, end),
                at(10 + calm_s, info("phase", json!("stop"))),
                at(90, info(ENDINGS, endings)),
            ];
            answered_again(&history).outcome
        };
        let late = || asked(Kind::Unknown, "DEADLINE_EXCEEDED: late");
        assert_eq!(run(60, late(), json!([])), Outcome::Invalid);
        assert_eq!(run(60, asked(Kind::Fail, "UNAVAILABLE: nobody"), json!([])), Outcome::Invalid);
        assert_eq!(run(5, late(), json!([])), Outcome::Unknown, "too short");
        let ended = json!([{"node": 1, "how": "exit code 70", "log": ""}]);
        assert_eq!(run(60, late(), ended), Outcome::Unknown, "a node ended");
        assert_eq!(run(60, asked(Kind::Fail, "LEASE_HELD: by b"), json!([])), Outcome::Unknown, "a refusal is an answer");
        assert_eq!(run(60, asked(Kind::Ok, ""), json!([])), Outcome::Valid);
    }

    #[test]
    fn a_run_that_came_through_is_valid() {
        let agreement = crate::cluster::Agreement::Agreed { index: 9, digest: "0123456789abcdef".to_owned(), nodes: vec![1, 2, 3] };
        let history = [
            info(READY, json!({"leader": 1, "seconds": 0.5})),
            info(DRAINED, json!({"seconds": 1.5})),
            info(AGREEMENT, json!(agreement)),
            info(ENDINGS, json!([])),
        ];
        for check in [came_back(&history), drained(&history), agreed(&history), stayed_up(&history)] {
            assert_eq!(check.outcome, Outcome::Valid, "{}: {}", check.name, check.detail);
        }
    }
}
