//! What the job came to: the table at the end, and a look into the index.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use tarn_client::{Client, proto::ListTasksRequest};
use tarn_index::corpus::Corpus;
use tarn_index::plan::Plan;
use tarn_index::render;
use tarn_index::results::{Scored, read_answers, read_scores};

use super::{Done, QUEUE};

/// Documents whose top terms are shown.
const SHOWN_DOCUMENTS: usize = 5;
/// Top terms shown of each.
const SHOWN_TERMS: usize = 6;
/// Answers shown to each query.
const SHOWN_ANSWERS: usize = 3;

/// Facts about the job, as the cluster itself tells them.
pub struct Facts<'a> {
    done: &'a Done,
    /// Attempts beyond each task's first.
    retries: u64,
    /// From accepted to ended, in milliseconds, sorted.
    latencies_ms: Vec<u64>,
    /// Tasks that each worker finished.
    by_worker: BTreeMap<String, usize>,
}

impl<'a> Facts<'a> {
    /// Asks the cluster about every task of the job.
    pub async fn gather(client: &Client, done: &'a Done) -> Result<Facts<'a>> {
        let mut facts = Facts { done, retries: 0, latencies_ms: Vec::new(), by_worker: BTreeMap::new() };
        let names: BTreeMap<String, String> =
            client.list_workers().await?.into_iter().map(|worker| (worker.worker_id, worker.name)).collect();
        let request = ListTasksRequest { queue: QUEUE.into(), page_size: 1_000, ..Default::default() };
        let mut tasks = std::pin::pin!(client.list_tasks(request));
        while let Some(task) = tasks.try_next().await? {
            facts.retries += u64::from(task.attempts_begun.saturating_sub(1));
            facts.latencies_ms.push(task.ended_at_ms.saturating_sub(task.created_at_ms));
            if let Some(attempt) = task.attempts.last() {
                let name = names.get(&attempt.worker).unwrap_or(&attempt.worker);
                *facts.by_worker.entry(name.clone()).or_default() += 1;
            }
        }
        facts.latencies_ms.sort_unstable();
        Ok(facts)
    }

    fn latency(&self, percent: usize) -> String {
        let rank = (self.latencies_ms.len() * percent).div_ceil(100).max(1) - 1;
        match self.latencies_ms.get(rank) {
            Some(ms) => format!("{}.{:03} s", ms / 1_000, ms % 1_000),
            None => "-".into(),
        }
    }

    /// The table at the end of the demonstration.
    pub fn table(&self, corpus: &Corpus) -> String {
        let tasks = self.latencies_ms.len();
        let seconds = self.done.took.as_secs_f64();
        let workers: Vec<String> = self.by_worker.iter().map(|(worker, tasks)| format!("{worker}: {tasks}")).collect();
        let mut rows = vec![
            ("documents", corpus.documents.len().to_string()),
            ("tasks", tasks.to_string()),
            ("retries", self.retries.to_string()),
            ("took", format!("{seconds:.1} s")),
            ("throughput", format!("{:.0} tasks/s", tasks as f64 / seconds)),
            ("accepted to done, p50", self.latency(50)),
            ("accepted to done, p99", self.latency(99)),
            ("tasks by worker", workers.join(", ")),
        ];
        if let Some(incident) = &self.done.incident {
            rows.push(("incident", incident.clone()));
        }
        rows.iter().fold(String::new(), |mut text, (title, value)| {
            writeln!(text, "{title:<22} {value}").expect("writing to a string cannot fail");
            text
        })
    }
}

/// The top terms of a few documents, and the answers.
pub fn findings(corpus: &Corpus, plan: &Plan, outputs: &BTreeMap<usize, Vec<u8>>) -> Result<String> {
    let mut scored: Vec<Scored> = Vec::new();
    for (task, _) in plan.scores() {
        scored.extend(read_scores(&outputs[&task])?);
    }
    let step = (scored.len() / SHOWN_DOCUMENTS).max(1);
    let few = scored.iter().step_by(step).take(SHOWN_DOCUMENTS);
    let answers = read_answers(outputs.get(&plan.query()).context("there is no answer")?)?;
    Ok(format!(
        "\ntop terms of a few documents\n{}\nanswers\n{}",
        render::top_terms(&corpus.documents, few, SHOWN_TERMS),
        render::answers(&corpus.documents, &answers, SHOWN_ANSWERS)
    ))
}
