//! What the decision record keeps of a placement.

use tarn_proto::v1::{self, PlacementScores, ScoreParts};
use tarn_scheduler::{Explanation, Parts, Weights};

/// Why the scheduler chose as it did, on the state of this log index.
pub(super) fn scores(runtime: &str, explanation: &Explanation, weights: &Weights, revision: u64) -> PlacementScores {
    PlacementScores {
        runtime: runtime.to_owned(),
        level: explanation.level.into(),
        score_max: explanation.score_max,
        candidates: explanation
            .candidates
            .iter()
            .map(|candidate| v1::PlacementCandidate {
                worker_id: candidate.worker.clone(),
                node: candidate.node.clone(),
                score: candidate.score,
                parts: Some(parts(&candidate.parts)),
            })
            .collect(),
        eligible: explanation.eligible,
        registered: explanation.registered,
        passed_over: explanation
            .passed_over
            .iter()
            .map(|passed| v1::PassedOver { runtime: passed.runtime.clone(), reason: passed.why.code().to_owned() })
            .collect(),
        prices: explanation
            .prices
            .iter()
            .map(|price| v1::RuntimePrice { runtime: price.runtime.clone(), run_ms: price.run_ms, price: price.price })
            .collect(),
        revision,
        weights: Some(numbers(weights.all())),
        ..PlacementScores::default()
    }
}

/// The beginning of a sentence: a record has little room.
pub(super) fn bounded(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    text.chars().take(CHARS_MAX).collect()
}

fn parts(parts: &Parts) -> ScoreParts {
    numbers(parts.all())
}

/// The eight numbers, which are always in the same order.
fn numbers(all: [(&'static str, u16); 8]) -> ScoreParts {
    let [performance, cost, quality, priority, locality, dependencies, balance, thrift] = all.map(|(_, number)| number.into());
    ScoreParts { performance, cost, quality, priority, locality, dependencies, balance, thrift }
}
