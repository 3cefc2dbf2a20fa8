//! What another policy would have said.

mod support;

use std::time::{Duration, Instant};

use support::{BUDGET, compiled, document};
use tarn_policy::{Input, Policies, StoredDecision, StoredOutcome, limits, replay};

fn candidate(text: &str) -> Policies {
    Policies::new(vec![compiled(text)]).unwrap()
}

fn stored(number: u32, outcome: StoredOutcome) -> StoredDecision {
    let mut document = document();
    document.principal = format!("user/{number}");
    document.cluster.time_ms += u64::from(number) * 1_000;
    let facts = Input::new(&document).unwrap().json().as_bytes().to_vec();
    StoredDecision { id: format!("decision-{number}"), facts: Some(facts), outcome }
}

#[test]
fn changes_are_counted_and_listed() {
    let candidate = candidate("package tarn\n\ndeny contains \"odd\" if input.principal in {\"user/3\", \"user/5\"}\n");
    let decisions = (0..10).map(|number| {
        let refused = number == 5 || number == 8;
        stored(number, if refused { StoredOutcome::Refused } else { StoredOutcome::Allowed })
    });
    let summary = replay(&candidate, decisions, BUDGET);
    assert_eq!((summary.decisions, summary.same, summary.missing), (10, 8, 0));
    assert_eq!((summary.newly_refused, summary.newly_allowed, summary.changed()), (1, 1, 2));
    let changes: Vec<_> = summary.changes.iter().map(|change| (change.id.as_str(), change.would_be)).collect();
    assert_eq!(changes, [("decision-3", StoredOutcome::Refused), ("decision-8", StoredOutcome::Allowed)]);
    assert_eq!(summary.changes[0].reason, "POLICY_DENIED");
    assert_eq!(summary.changes[0].message, "the policy example 1.0.0 refuses it: odd");
    assert_eq!(summary.changes[1].reason, "");
}

#[test]
fn missing_facts_are_counted_and_not_judged() {
    let candidate = candidate("package tarn\n\ndeny contains \"x\" if input.cluster.clock.hour >= 0\n");
    let old = br#"{"principal":"user/ann","verb":"create","cluster":{"nodes":3,"version":2},"task":null}"#;
    let decision = |id: &str, facts: Option<&[u8]>| StoredDecision {
        id: id.into(),
        facts: facts.map(<[u8]>::to_vec),
        outcome: StoredOutcome::Allowed,
    };
    let decisions = [
        decision("none", None),
        decision("empty", Some(b"")),
        decision("broken", Some(b"{")),
        decision("list", Some(b"[]")),
        decision("old", Some(old)),
        stored(1, StoredOutcome::Allowed),
    ];
    let summary = replay(&candidate, decisions.into_iter(), BUDGET);
    assert_eq!((summary.decisions, summary.missing, summary.newly_refused), (6, 5, 1));
    assert_eq!(summary.missing_fields["input"], 4);
    assert_eq!(summary.missing_fields["input.cluster.clock"], 1);
    // A candidate that does not ask for what is missing judges.
    let modest = self::candidate("package tarn\n\ndeny contains \"x\" if input.principal == \"user/ann\"\n");
    let summary = replay(&modest, [decision("old", Some(old))].into_iter(), BUDGET);
    assert_eq!((summary.missing, summary.newly_refused), (0, 1));
}

#[test]
fn a_candidate_that_fails_would_refuse() {
    let candidate = candidate("package tarn\n\ndeny contains \"x\" if to_number(input.verb) == 1\n");
    let summary = replay(&candidate, (0..3).map(|number| stored(number, StoredOutcome::Allowed)), BUDGET);
    assert_eq!((summary.newly_refused, summary.failures["POLICY_FAILED"]), (3, 3));
    assert_eq!(summary.changes[0].reason, "POLICY_FAILED");
}

#[test]
fn lists_are_bounded_and_counts_are_whole() {
    let candidate = candidate("package tarn\n\ndeny contains \"x\" if input.verb == \"create\"\n");
    let count = u32::try_from(limits::CHANGES_MAX).unwrap() * 3;
    let summary = replay(&candidate, (0..count).map(|number| stored(number, StoredOutcome::Allowed)), BUDGET);
    assert_eq!(summary.newly_refused, u64::from(count));
    assert_eq!(summary.changes.len(), limits::CHANGES_MAX);
    let first: Vec<_> = (0..limits::CHANGES_MAX).map(|number| format!("decision-{number}")).collect();
    assert_eq!(summary.changes.iter().map(|change| change.id.clone()).collect::<Vec<_>>(), first);
}

#[test]
fn nothing_to_replay_is_fine() {
    let summary = replay(&Policies::none(), std::iter::empty(), BUDGET);
    assert_eq!((summary.decisions, summary.changed()), (0, 0));
}

/// The bar: 100,000 decisions in under a minute. Here a tenth of them, each with another time, so that none is remembered.
#[test]
fn it_is_fast() {
    let candidate = candidate("package tarn\n\ndeny contains \"x\" if input.cluster.time_ms == 1\n");
    let start = Instant::now();
    let summary = replay(&candidate, (0..10_000).map(|number| stored(number, StoredOutcome::Allowed)), BUDGET);
    assert_eq!(summary.same, 10_000);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}
