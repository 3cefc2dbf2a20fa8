//! How long decisions take: remembered, made anew by a bundle of 200 rules, and replayed. Prints medians and 99th percentiles, and fails
//! if a bar is missed. The bars are those of the product: 100 µs, 1 ms, a minute.
//!
//! `cargo bench --profile dev -p tarn-policy --bench decisions`; `-- --quick` for a tenth of the rounds, `-- --report` to print without judging, for a machine with
//! other work.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::json;
use tarn_policy::{
    Bundle, Cluster, Compiled, Document, Input, Manifest, Policies, Resource, StoredDecision, StoredOutcome, Task, Version, replay,
};

const BUDGET: Duration = Duration::from_secs(1);
const RULES: usize = 200;

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let report_only = std::env::args().any(|argument| argument == "--report");
    let rounds = if quick { 2_000 } else { 20_000 };
    let bundle = generated();
    let started = Instant::now();
    let compiled = Compiled::new(&bundle).unwrap_or_else(|error| panic!("{error}"));
    println!("compile {RULES} rules: {:?}", started.elapsed());
    let policies = Policies::new(vec![compiled]).expect("one bundle");

    let mut met = remembered(&policies, rounds * 5);
    met &= made_anew(&policies, rounds);
    met &= replayed(&policies, if quick { 10_000 } else { 100_000 });
    if met || report_only { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Two hundred rules as people write them: a condition or two on the request, a look into the data, a function, a message.
fn generated() -> Bundle {
    let mut text = String::from(
        "package tarn\n\nimport data.teams\n\nmember(team) if input.principal in teams[team]\n\n\
         on_weekdays if input.cluster.clock.weekday <= 5\n\n",
    );
    for index in 0..RULES {
        text += &match index % 4 {
            0 => format!("deny contains sprintf(\"queue %s is closed\", [input.task.queue]) if input.task.queue == \"closed-{index}\"\n\n"),
            1 => format!(
                "deny contains {{\"code\": \"LABEL_{index}\", \"message\": \"not yours\"}} if {{\n\t\"label-{index}\" in \
                 input.task.requires\n\tnot member(\"team-{index}\")\n}}\n\n"
            ),
            2 => format!(
                "deny contains \"too long\" if {{\n\tstartswith(input.namespace, \"space-{index}\")\n\t\
                 input.task.attempt_timeout_ms > {index}000\n\ton_weekdays\n}}\n\n"
            ),
            _ => format!(
                "deny contains msg if {{\n\tsome key, value in input.task.annotations\n\tkey == \"key-{index}\"\n\t\
                 value != \"expected\"\n\tmsg := concat(\" \", [\"wrong\", key])\n}}\n\n"
            ),
        };
    }
    let teams: serde_json::Map<_, _> =
        (0..RULES).map(|index| (format!("team-{index}"), json!(["user/ann", format!("user/{index}")]))).collect();
    let modules = [("generated.rego".to_owned(), text)];
    let manifest = Manifest::new("generated", Version::new(1, 0, 0), "prod");
    Bundle::new(manifest, modules, &json!({ "teams": teams })).unwrap_or_else(|error| panic!("{error}"))
}

fn document(number: usize) -> Document {
    let annotations = [("team", "vision"), ("cost-center", "17"), ("key-3", "expected")];
    let task = Task {
        queue: "training".into(),
        priority: "normal".into(),
        requires: vec!["gpu".into(), "label-1".into()],
        annotations: annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        attempt_timeout_ms: 60_000,
        ..Task::default()
    };
    Document {
        principal: format!("user/{number}"),
        method: "certificate".into(),
        roles: vec!["developer".into()],
        verb: "create".into(),
        resource: Resource { kind: "task".into(), ..Resource::default() },
        namespace: "vision".into(),
        environment: "prod".into(),
        task: Some(task),
        cluster: Cluster { nodes: 3, version: 2, time_ms: 1_772_532_000_000, ..Cluster::default() },
    }
}

/// From the typed document to the decision, as the gate does it.
fn remembered(policies: &Policies, rounds: usize) -> bool {
    let documents: Vec<_> = (0..100).map(document).collect();
    let ask = |number: usize| {
        let start = Instant::now();
        let input = Input::new(&documents[number % documents.len()]).expect("small");
        let decision = policies.decide(&input, BUDGET);
        (start.elapsed(), decision.cached)
    };
    for number in 0..documents.len() {
        ask(number);
    }
    let times = (0..rounds).map(|number| {
        let (took, cached) = ask(number);
        assert!(cached);
        took
    });
    report("remembered decision", times.collect(), Duration::from_micros(100))
}

fn made_anew(policies: &Policies, rounds: usize) -> bool {
    let mut times = Vec::with_capacity(rounds);
    for number in 0..rounds {
        let start = Instant::now();
        let input = Input::new(&document(1_000_000 + number)).expect("small");
        let decision = policies.decide(&input, BUDGET);
        times.push(start.elapsed());
        assert!(!decision.cached && decision.failure().is_none());
    }
    report(&format!("decision by {RULES} rules"), times, Duration::from_millis(1))
}

fn replayed(policies: &Policies, count: usize) -> bool {
    let decisions = (0..count).map(|number| {
        let input = Input::new(&document(10_000_000 + number)).expect("small");
        StoredDecision { id: number.to_string(), facts: Some(input.json().as_bytes().to_vec()), outcome: StoredOutcome::Allowed }
    });
    let start = Instant::now();
    let summary = replay(policies, decisions, BUDGET);
    let took = start.elapsed();
    assert_eq!((summary.decisions, summary.missing), (count as u64, 0));
    let bar = Duration::from_secs(60).mul_f64(count as f64 / 100_000.0);
    println!(
        "replay of {count} different decisions: {:.1} s ({:.0} a second), bar {:.0} s",
        took.as_secs_f64(),
        count as f64 / took.as_secs_f64(),
        bar.as_secs_f64()
    );
    took < bar
}

fn report(what: &str, mut times: Vec<Duration>, bar: Duration) -> bool {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let (median, high, highest) = (at(0.5), at(0.99), at(1.0));
    println!("{what}: p50 {median:?}, p99 {high:?}, highest {highest:?}, bar for p99 {bar:?}, {} rounds", times.len());
    high < bar
}
