//! Why the router chose as it did.

use tarn_proto::v1::{Decision, PlacementCandidate, PlacementScores, ScoreParts, TaskStory};

use super::task::worker_by_id;
use super::{Level, Teller, words};

/// Tells of a placement.
pub fn tell(teller: &mut Teller, story: &TaskStory, decision: &Decision) {
    let none = PlacementScores::default();
    let scores = decision.placement.as_ref().unwrap_or(&none);
    let mut say = |level, text: String| teller.tell(level, "PLACED", text, decision.at_ms, decision.index);
    let on = worker_by_id(story, &decision.worker);
    match scores.cluster.as_str() {
        "" => say(Level::Detailed, format!("The router chose the runtime {} on {on}.{}", scores.runtime, passed_over(scores))),
        cluster => {
            let why = scores.why_not_here.trim_end_matches('.');
            let text = format!(
                "The router had cluster {cluster} run it, with the runtime {}, as here {why}.{}",
                scores.runtime,
                passed_over(scores)
            );
            say(Level::Brief, text);
        }
    }
    if scores.eligible > 0 {
        let text = format!(
            "Of {} that the router chooses among, {} of this runtime met every requirement; it counted as of priority {}.",
            words::count(scores.registered.into(), "worker"),
            scores.eligible,
            words::priority(scores.level)
        );
        say(Level::Technical, text);
    }
    if let Some(text) = prices(scores) {
        say(Level::Technical, text);
    }
    for (place, candidate) in scores.candidates.iter().enumerate() {
        say(Level::Technical, candidate_of(scores, candidate, place));
    }
}

/// Runtimes that the task would have liked better.
fn passed_over(scores: &PlacementScores) -> String {
    let why = |reason: &str| match reason {
        "LOST" => "no worker could run it there".to_owned(),
        "RETURNING" => "it was only just back".to_owned(),
        "BUSY" => "it was busy for too long".to_owned(),
        other => other.to_owned(),
    };
    let passed = scores.passed_over.iter().map(|passed| format!("{} ({})", passed.runtime, why(&passed.reason)));
    let passed: Vec<String> = passed.collect();
    if passed.is_empty() { String::new() } else { format!(" Passed over: {}.", words::list(&passed)) }
}

fn prices(scores: &PlacementScores) -> Option<String> {
    let prices =
        scores.prices.iter().map(|price| format!("{} {} for {}", price.runtime, thousandths(price.price), words::span(price.run_ms)));
    let prices: Vec<String> = prices.collect();
    (!prices.is_empty()).then(|| format!("Expected cost by runtime, the cheapest first: {}.", words::list(&prices)))
}

fn thousandths(number: u64) -> String {
    format!("{}.{:03}", number / 1_000, number % 1_000)
}

fn candidate_of(scores: &PlacementScores, candidate: &PlacementCandidate, place: usize) -> String {
    let rank = if place == 0 { "Chosen" } else { "Next" };
    let (parts, weights) = (candidate.parts.unwrap_or_default(), scores.weights.unwrap_or_default());
    let parts: Vec<String> = named(&parts)
        .iter()
        .zip(named(&weights))
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|((name, value), (_, weight))| format!("{name} {value}×{weight}"))
        .collect();
    format!(
        "{rank}: worker {} on node {} with {} of {}: {}.",
        candidate.worker_id,
        candidate.node,
        candidate.score,
        scores.score_max,
        parts.join(", ")
    )
}

fn named(parts: &ScoreParts) -> [(&'static str, u32); 8] {
    [
        ("performance", parts.performance),
        ("cost", parts.cost),
        ("quality", parts.quality),
        ("priority", parts.priority),
        ("locality", parts.locality),
        ("dependencies", parts.dependencies),
        ("balance", parts.balance),
        ("thrift", parts.thrift),
    ]
}
