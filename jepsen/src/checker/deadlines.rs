//! Deadlines: a call of the client library ends, one way or another, not long after its deadline.
//!
//! Nobody on a busy machine can ask for more than *not long*: a call that ends late is counted, and is a violation only where it took several
//! times as long as it might have, and the harness itself was awake all the while.

use std::collections::HashMap;

use super::{Check, Findings};
use crate::history::{Event, Kind, STALL, Stall, infos};

/// Calls that end later than this after their deadline are counted.
const LATE_NS: u64 = 2_000_000_000;
/// A call may take this many times its deadline.
const TIMES: u64 = 3;

/// No call takes several times as long as its deadline allows.
pub fn kept(history: &[Event]) -> Check {
    let mut findings = Findings::new("deadlines are kept");
    findings.needs("calls");
    let stalls = infos::<Stall>(history, STALL);
    let last = history.last().map_or(0, |event| event.time_ns);
    let ends: HashMap<u64, u64> = history.iter().filter_map(|event| Some((event.of?, event.time_ns))).collect();
    for call in history.iter().filter(|event| event.kind == Kind::Invoke) {
        let Some(deadline_ns) = call.deadline_ms.map(|ms| ms.saturating_mul(1_000_000)) else {
            continue;
        };
        findings.count("calls", 1);
        let end = ends.get(&call.index).copied();
        let took = end.unwrap_or(last).saturating_sub(call.time_ns);
        let stood = stalls
            .iter()
            .filter(|(event, _)| event.time_ns > call.time_ns && event.time_ns <= end.unwrap_or(last))
            .map(|(_, stall)| stall.ms.saturating_mul(1_000_000))
            .sum::<u64>();
        findings.count("late", usize::from(took > deadline_ns + LATE_NS));
        findings.at_least("latest_ms", took.saturating_sub(deadline_ns) / 1_000_000);
        if took <= deadline_ns.saturating_mul(TIMES) + LATE_NS {
            continue;
        }
        let told = format!(
            "{} in event {} {} {:.1} s, with a deadline of {:.1} s",
            call.op,
            call.index,
            if end.is_some() { "took" } else { "has not ended after" },
            took as f64 / 1e9,
            deadline_ns as f64 / 1e9
        );
        match stood {
            0 => findings.violation(told),
            _ => findings.doubt(format!("{told}; the harness stood still for {:.1} s of it", stood as f64 / 1e9)),
        }
    }
    findings.finish("no call took much longer than its deadline allows")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::checker::Outcome;
    use crate::checker::testing::{Script, told};

    /// A call with a deadline of two seconds that ends after this many milliseconds, or never.
    fn call(took_ms: Option<u64>) -> Script {
        let mut script = Script::new("key");
        let call = script.invoke("get", Value::Null);
        script.events_mut()[0].deadline_ms = Some(2_000);
        if let Some(took_ms) = took_ms {
            script.at_ms(took_ms);
            script.end(call, Kind::Unknown, Value::Null, "DEADLINE_EXCEEDED: late");
        }
        script.at_ms(20_000);
        script.info("phase", json!("end"));
        script
    }

    #[test]
    fn a_call_that_does_not_end_is_found() {
        assert_eq!(told(kept(call(Some(2_100)).events())), Outcome::Valid);
        let late = kept(call(Some(5_000)).events());
        assert_eq!((late.outcome, late.counts["late"]), (Outcome::Valid, 1));
        assert_eq!(told(kept(call(Some(9_000)).events())), Outcome::Invalid);
        assert_eq!(told(kept(call(None).events())), Outcome::Invalid);
    }

    #[test]
    fn a_harness_that_stood_still_proves_nothing() {
        let mut script = call(None);
        script.info(STALL, json!({"ms": 5_000}));
        assert_eq!(told(kept(script.events())), Outcome::Unknown);
    }

    #[test]
    fn calls_without_a_deadline_prove_nothing() {
        let mut script = call(Some(1));
        script.events_mut()[0].deadline_ms = None;
        assert_eq!(told(kept(script.events())), Outcome::Unknown);
    }
}
