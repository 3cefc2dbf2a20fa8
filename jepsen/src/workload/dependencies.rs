//! Tasks that wait for each other: chains, diamonds and fans, within one submission and across several, some with a member that dies.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use rand::Rng;
use tarn_client::Task;
use tokio::sync::Mutex;

use super::hands::Book;
use super::pace::{Pace, deadline};
use super::queue::{begin_watching, drain_tasks, finish_watching, hand, keep_watching};
use super::submit::{Submitter, plain_item, task_of};
use super::watcher::Recording;
use super::{Scene, Workload};
use crate::checker::facts::{Fate, Item};
use crate::checker::{Verdict, dependencies, tasks};
use crate::history::Event;

/// Graphs a second of each producer.
const RATE: f64 = 1.5;
/// The most inputs of the last task of a fan.
const FAN_MAX: usize = 5;

/// The workload.
#[derive(Default)]
pub struct Dependencies {
    book: Arc<Book>,
    watcher: Mutex<Option<Recording>>,
}

#[async_trait]
impl Workload for Dependencies {
    fn name(&self) -> &'static str {
        "dependencies"
    }

    async fn setup(&self, scene: &Scene) -> Result<()> {
        begin_watching(scene, &self.watcher).await
    }

    async fn work(&self, process: u32, scene: &Scene) -> Result<()> {
        if process == 0 {
            let (produced, ()) = tokio::join!(produce(process, scene), keep_watching(scene, &self.watcher));
            return produced;
        }
        let hand = hand(scene, process, &self.book)?;
        match process % 4 {
            1 => hand.run_sdk(&scene.stop).await,
            2 => hand.run_calls(&scene.stop, &mut Pace::new(scene, process, 2.0), true).await,
            _ => produce(process, scene).await,
        }
    }

    async fn drain(&self, scene: &Scene) -> Result<()> {
        drain_tasks(scene, &self.book).await?;
        finish_watching(scene, &self.watcher).await
    }

    fn check(&self, history: &[Event]) -> Verdict {
        let mut checks = tasks::exactly_once(history);
        checks.extend(dependencies::respected(history));
        Verdict::of(checks)
    }
}

async fn produce(process: u32, scene: &Scene) -> Result<()> {
    let (client, node) = scene.clients.client(process)?;
    let submitter = Submitter::new(client.with_deadline(deadline(process)), scene.recorder.clone(), process, node);
    let mut pace = Pace::new(scene, process, RATE);
    let mut place = 0;
    while pace.next().await {
        let graph = graph(&mut pace, process, &mut place);
        if pace.chance(0.5) {
            let _recorded = submitter.submit(&items(&graph), at_once(&graph)).await;
        } else {
            one_by_one(&submitter, &graph).await;
        }
    }
    Ok(())
}

/// An item and the positions of those that it waits for.
type Node = (Item, Vec<usize>);

/// A graph of a random form, in an order in which inputs come first.
fn graph(pace: &mut Pace, process: u32, place: &mut u64) -> Vec<Node> {
    let form: Vec<Vec<usize>> = match pace.rng.random_range(0..3) {
        // A chain.
        0 => (0..pace.rng.random_range(2..5)).map(|at: usize| at.checked_sub(1).into_iter().collect()).collect(),
        // A diamond.
        1 => vec![vec![], vec![0], vec![0], vec![1, 2]],
        // A fan.
        _ => {
            let width = pace.rng.random_range(2..=FAN_MAX);
            let mut form = vec![Vec::new(); width];
            form.push((0..width).collect());
            form
        }
    };
    let mut graph: Vec<Node> = Vec::new();
    for inputs in form {
        let fate = match pace.rng.random_range(0..100) {
            0..80 => Fate::Succeed,
            80..90 => Fate::Retry(1),
            _ => Fate::Final,
        };
        let item = Item {
            fate,
            after: inputs.iter().map(|input| graph[*input].0.name.clone()).collect(),
            run_anyway: !inputs.is_empty() && pace.chance(0.4),
            ..plain_item(process, *place)
        };
        *place += 1;
        graph.push((item, inputs));
    }
    graph
}

fn items(graph: &[Node]) -> Vec<Item> {
    graph.iter().map(|(item, _)| item.clone()).collect()
}

fn base(item: &Item) -> Task {
    let task = task_of(item);
    if item.run_anyway { task.run_anyway() } else { task }
}

/// All tasks of the graph for one submission.
fn at_once(graph: &[Node]) -> Vec<Task> {
    let task = |(item, inputs): &Node| {
        inputs.iter().fold(base(item), |task, input| task.after_in_batch(u32::try_from(*input).expect("graphs are small")))
    };
    graph.iter().map(task).collect()
}

/// Each task of the graph in a submission of its own, as long as the ids of its inputs are known.
async fn one_by_one(submitter: &Submitter, graph: &[Node]) {
    let mut ids: Vec<String> = Vec::new();
    for (item, inputs) in graph {
        let task = inputs.iter().fold(base(item), |task, input| task.after(ids[*input].clone()));
        match submitter.submit(std::slice::from_ref(item), vec![task]).await {
            Ok(mut id) => ids.append(&mut id),
            Err(_) => return,
        }
    }
}
