//! Following a job by the cluster's events, with a progress bar for each stage.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tarn_client::{Client, proto::EventKind};
use tarn_index::plan::{Plan, Stage};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::QUEUE;

/// Where no terminal can show bars, a line is printed each time so many percent more are done.
const LINE_EVERY_PERCENT: usize = 10;

/// Which task has which id, and what is known of each.
#[derive(Clone)]
pub struct Registry(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    /// The stage of each task, in the plan's order.
    stages: Vec<Stage>,
    /// The place in the plan, by id.
    places: BTreeMap<String, usize>,
    /// Ids whose success was seen before their submission was acknowledged.
    early: BTreeSet<String>,
    finished: usize,
}

impl Registry {
    /// Notes the ids of tasks that were accepted, the first of which has this place in the plan.
    pub fn submitted(&self, first: usize, ids: &[String]) {
        let mut known = self.0.lock().expect("no holder of this lock panics");
        for (offset, id) in ids.iter().enumerate() {
            known.places.insert(id.clone(), first + offset);
        }
    }

    /// Notes a success; gives the stage once the task's place is known.
    fn succeeded(&self, id: &str) -> (Vec<Stage>, usize) {
        let mut known = self.0.lock().expect("no holder of this lock panics");
        known.early.insert(id.to_owned());
        let placed: Vec<String> = known.early.iter().filter(|id| known.places.contains_key(*id)).cloned().collect();
        let mut stages = Vec::new();
        for id in placed {
            known.early.remove(&id);
            stages.push(known.stages[known.places[&id]]);
        }
        known.finished += stages.len();
        (stages, known.finished + known.early.len())
    }
}

/// The progress of a job.
pub struct Progress {
    registry: Registry,
    finished: watch::Receiver<usize>,
    bars: MultiProgress,
    /// Gives the moment at which the last task was seen to succeed.
    follower: Mutex<Option<JoinHandle<Result<Instant>>>>,
}

impl Progress {
    /// Begins to follow, from now on.
    pub fn start(client: &Client, plan: &Plan) -> Progress {
        let stages: Vec<Stage> = plan.tasks().iter().map(|task| task.stage).collect();
        let total = stages.len();
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let bar_of = Stage::ALL
            .into_iter()
            .filter_map(|stage| {
                let count = stages.iter().filter(|other| **other == stage).count();
                (count > 0).then(|| (stage.verb(), bars.add(bar(stage, count))))
            })
            .collect();
        let registry = Registry(Arc::new(Mutex::new(Known { stages, ..Default::default() })));
        let (sender, finished) = watch::channel(0);
        let follower = tokio::spawn(follow(client.clone(), registry.clone(), bar_of, sender, total));
        Progress { registry, finished, bars, follower: Mutex::new(Some(follower)) }
    }

    /// For the submitter, to note ids.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// Tasks that succeeded so far.
    pub fn finished(&self) -> usize {
        *self.finished.borrow()
    }

    /// Waits until so many tasks have succeeded.
    pub async fn reached(&self, count: usize) -> Result<()> {
        let mut finished = self.finished.clone();
        if finished.wait_for(|finished| *finished >= count).await.is_err() {
            self.done().await?;
        }
        Ok(())
    }

    /// Waits until all tasks have succeeded, and says when the last one did.
    ///
    /// # Errors
    /// As soon as one of them dies.
    pub async fn done(&self) -> Result<Instant> {
        let follower = self.follower.lock().expect("no holder of this lock panics").take();
        follower.context("the job was given up earlier")?.await?
    }

    /// Prints a line above the bars.
    pub fn say(&self, line: &str) {
        if std::io::stdout().is_terminal() {
            let _ = self.bars.println(line);
        } else {
            println!("{line}");
        }
    }
}

fn bar(stage: Stage, count: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:<6} [{bar:40}] {pos:>5}/{len:<5} {per_sec} {elapsed}")
        .expect("the template is well-formed")
        .progress_chars("=> ");
    ProgressBar::new(count as u64).with_style(style).with_message(stage.verb())
}

/// Reads events until every task has succeeded.
async fn follow(
    client: Client,
    registry: Registry,
    bars: BTreeMap<&'static str, ProgressBar>,
    finished: watch::Sender<usize>,
    total: usize,
) -> Result<Instant> {
    // The queue is the job's own, so that every event since the cluster's start belongs to it.
    let mut events = client.watch().queue(QUEUE).after(0).start();
    let mut retries = 0;
    let terminal = std::io::stdout().is_terminal();
    let mut line_at = LINE_EVERY_PERCENT;
    while *finished.borrow() < total {
        let event = events.next().await?;
        match event.kind() {
            EventKind::TaskSucceeded => {
                let (stages, count) = registry.succeeded(&event.subject);
                for stage in stages {
                    bars[stage.verb()].inc(1);
                }
                finished.send_replace(count);
                if !terminal && count * 100 >= total * line_at {
                    println!("{count} of {total} tasks done");
                    line_at += LINE_EVERY_PERCENT;
                }
            }
            EventKind::TaskDead => bail!("task {} died: {}", event.subject, event.detail),
            EventKind::TaskRetried => retries += 1,
            _ => {}
        }
        if retries > total * 10 {
            bail!("tasks fail again and again, the last one with {}", event.detail);
        }
    }
    let ended = Instant::now();
    for bar in bars.values() {
        bar.set_position(bar.length().unwrap_or(0));
        bar.finish();
    }
    Ok(ended)
}
