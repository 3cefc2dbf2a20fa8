//! Stored decisions, judged again by a candidate.

use std::path::PathBuf;
use std::time::Duration;

use futures::TryStreamExt as _;
use tarn_client::Client;
use tarn_policy::{Compiled, Policies, StoredDecision, StoredOutcome, Summary};
use tarn_proto::v1::{Decision, DecisionKind, ListDecisionsRequest};
use tokio::sync::mpsc;

use super::super::exit::Failure;
use super::super::output::Printer;
use super::local::json;
use super::violations::ago;
use super::{bundle, said};

/// Entries of the log that are read at once.
const PAGE: u32 = 1_000;
/// Decisions that are read ahead of what is judged.
const AHEAD: usize = 4_096;

/// Replays.
pub async fn replay(client: &Client, paths: &[PathBuf], since: Duration, budget: Duration, printer: Printer) -> Result<(), Failure> {
    let bundles: Vec<_> = paths.iter().map(|path| bundle(path)).collect::<Result<_, _>>()?;
    let environment = bundles.first().map_or("", |bundle| bundle.environment()).to_owned();
    if bundles.iter().any(|bundle| bundle.environment() != environment) {
        return Err(Failure::Usage("the bundles are for different environments, and never judge together".into()));
    }
    let compiled: Result<Vec<_>, _> = bundles.iter().map(Compiled::new).collect();
    let candidate = Policies::new(compiled.map_err(said)?).map_err(said)?;

    let (decisions, mut read) = mpsc::channel(AHEAD);
    let judging = tokio::task::spawn_blocking(move || {
        let stored = std::iter::from_fn(move || read.blocking_recv());
        tarn_policy::replay(&candidate, stored, budget)
    });
    fetch(client, &environment, ago(since), &decisions).await?;
    drop(decisions);
    let summary = judging.await.map_err(anyhow::Error::from)?;
    printer.value(&json(&summary)?, || text(&summary, &environment))
}

/// Reads the decisions in which policies of an environment had a part.
async fn fetch(client: &Client, environment: &str, since_ms: u64, decisions: &mpsc::Sender<StoredDecision>) -> Result<(), Failure> {
    let filter = ListDecisionsRequest {
        kinds: vec![DecisionKind::Admitted.into(), DecisionKind::Refused.into()],
        since_ms,
        page_size: PAGE,
        ..ListDecisionsRequest::default()
    };
    let mut records = std::pin::pin!(client.list_decisions(filter));
    while let Some(decision) = records.try_next().await? {
        for stored in stored(&decision, environment) {
            if decisions.send(stored).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A record as what was judged: of a batch each of its tasks. None if policies had no part in it.
fn stored(decision: &Decision, environment: &str) -> Vec<StoredDecision> {
    let Some(gate) = decision.gate.as_ref().filter(|gate| gate.environment == environment) else {
        return Vec::new();
    };
    let outcome = match (decision.kind(), decision.step.as_str()) {
        (DecisionKind::Admitted, _) => StoredOutcome::Allowed,
        (DecisionKind::Refused, "policy") => StoredOutcome::Refused,
        // A later step or the kernel refused what policies had let pass.
        (DecisionKind::Refused, _) => StoredOutcome::Allowed,
        _ => return Vec::new(),
    };
    let id = match decision.request_id.as_str() {
        "" => format!("{}/{}", decision.index, decision.ordinal),
        id => id.to_owned(),
    };
    let mut parts = parts(&gate.facts);
    let last = parts.pop();
    // Whoever refuses a batch has let pass what came before.
    let passed = parts.into_iter().map(|facts| (Some(facts), StoredOutcome::Allowed));
    let all = passed.chain([(last, outcome)]);
    all.map(|(facts, outcome)| StoredDecision { id: id.clone(), facts, outcome }).collect()
}

/// The inputs in a record's facts: one, or a list.
fn parts(facts: &[u8]) -> Vec<Vec<u8>> {
    if !facts.starts_with(b"[") {
        return if facts.is_empty() { Vec::new() } else { vec![facts.to_vec()] };
    }
    let list: Vec<serde_json::Value> = serde_json::from_slice(facts).unwrap_or_default();
    list.iter().map(|part| part.to_string().into_bytes()).collect()
}

fn text(summary: &Summary, environment: &str) -> String {
    let mut lines = vec![format!(
        "{} decisions of policies in {environment}: {} would be the same, {} would be refused now, {} would be let in now",
        summary.decisions, summary.same, summary.newly_refused, summary.newly_allowed
    )];
    if summary.missing > 0 {
        lines.push(format!("{} could not be judged, because facts are missing:", summary.missing));
        lines.extend(summary.missing_fields.iter().map(|(field, count)| format!("  {field}  {count}")));
    }
    for (reason, count) in &summary.failures {
        lines.push(format!("{count} got no answer: {reason}"));
    }
    for change in &summary.changes {
        let would_be = match change.would_be {
            StoredOutcome::Allowed => "let in".to_owned(),
            StoredOutcome::Refused => format!("refused: {}", change.message),
        };
        lines.push(format!("{}  would be {would_be}", change.id));
    }
    let more = summary.changed().saturating_sub(summary.changes.len() as u64);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.push(format!("in {} ms", summary.elapsed_ms));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tarn_proto::v1::GateFacts;

    fn decision(kind: DecisionKind, step: &str, facts: &str) -> Decision {
        Decision {
            kind: kind.into(),
            step: step.into(),
            request_id: "r".into(),
            gate: Some(GateFacts { environment: "prod".into(), facts: facts.to_owned().into(), ..GateFacts::default() }),
            ..Decision::default()
        }
    }

    #[test]
    fn a_batch_is_judged_task_by_task() {
        let outcomes =
            |decision: &Decision| -> Vec<_> { stored(decision, "prod").into_iter().map(|one| (one.facts, one.outcome)).collect() };
        let (allowed, refused) = (StoredOutcome::Allowed, StoredOutcome::Refused);
        let (one, two) = (Some(br#"{"a":1}"#.to_vec()), Some(br#"{"a":2}"#.to_vec()));
        let batch = r#"[{"a":1},{"a":2}]"#;
        assert_eq!(outcomes(&decision(DecisionKind::Refused, "policy", batch)), [(one.clone(), allowed), (two.clone(), refused)]);
        assert_eq!(outcomes(&decision(DecisionKind::Admitted, "", batch)), [(one.clone(), allowed), (two, allowed)]);
        assert_eq!(outcomes(&decision(DecisionKind::Refused, "quota", r#"{"a":1}"#)), [(one, allowed)]);
        assert_eq!(outcomes(&decision(DecisionKind::Refused, "policy", "")), [(None, refused)]);
        assert!(stored(&decision(DecisionKind::Admitted, "", batch), "dev").is_empty());
    }
}
