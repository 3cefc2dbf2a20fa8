//! Runs the job on a cluster of its own.
//!
//! ```text
//! corpus ─► plan ─► start 3 nodes ─► put guest ─► submit in order ─► watch until done ─► fetch ─► compare ─► report
//!                                                                      └► kill, restart
//! ```

mod follow;
mod report;
mod submit;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use tarn_client::{Client, TaskState, proto};
use tarn_index::corpus::{self, Corpus, DEBIAN_FOLDERS};
use tarn_index::plan::Plan;
use tarn_index::{reference, render};
use tarn_local::LocalCluster;

use super::{Args, Kill};
use follow::Progress;

/// The queue of the job's tasks.
const QUEUE: &str = "index";
const NODES: usize = 3;
/// Results fetched at once.
const FETCHES: usize = 8;
/// How long the whole job may take before the demonstration calls it stuck.
const DONE_WITHIN: Duration = Duration::from_secs(3_600);
/// A killed node is away this long: longer than an election, so that the others are seen to go on.
const AWAY: Duration = Duration::from_secs(4);

/// Runs the demonstration.
pub async fn run(args: Args) -> Result<()> {
    let (corpus, plan) = prepare(&args)?;
    let expected = {
        let (documents, queries, plan) = (corpus.documents.clone(), args.queries.clone(), Arc::clone(&plan));
        // Computed beside the cluster's start, in this process and without tarn.
        tokio::task::spawn_blocking(move || reference::outputs(&documents, &queries, &plan))
    };

    let temporary;
    let dir = match &args.dir {
        Some(dir) => {
            std::fs::create_dir_all(dir)?;
            dir.clone()
        }
        None => {
            temporary = tempfile::Builder::new().prefix("tarn-demo-").tempdir()?;
            temporary.path().to_owned()
        }
    };
    let mut cluster = start(&args, dir).await?;
    let expected = expected.await?;
    let job = run_job(&args, &mut cluster, &plan).await?;

    let outputs = fetch(&cluster.client()?, &plan, &job.ids).await?;
    compare(&expected, &outputs)?;
    let facts = report::Facts::gather(&cluster.client()?, &job).await?;
    println!("\n{}", facts.table(&corpus));
    print!("{}", report::findings(&corpus, &plan, &outputs)?);
    println!("\nThe index computed without tarn is the same, byte for byte ({} results compared).", expected.len());
    if args.keep {
        keep(&cluster).await?;
    }
    Ok(())
}

/// What became of the job's tasks.
pub struct Done {
    /// The tasks' ids, in the order of the plan.
    ids: Vec<String>,
    /// From the first submission to the last task's end.
    took: Duration,
    /// What happened to a node in the middle, in words.
    incident: Option<String>,
}

fn prepare(args: &Args) -> Result<(Corpus, Arc<Plan>)> {
    let folders: Vec<PathBuf> =
        if args.folders.is_empty() { DEBIAN_FOLDERS.iter().map(PathBuf::from).collect() } else { args.folders.clone() };
    let corpus = corpus::collect(&folders, args.limit)?;
    ensure!(!corpus.documents.is_empty(), "there are no documents in {folders:?}");
    println!("corpus   {}", render::corpus(&corpus));
    let plan = Plan::new(&corpus.documents, &args.queries)?;
    println!("plan     {} tasks\n{}", plan.tasks().len(), render::levels(&plan));
    Ok((corpus, Arc::new(plan)))
}

async fn start(args: &Args, dir: PathBuf) -> Result<LocalCluster> {
    let began = Instant::now();
    // Every node runs tasks, and all share this machine's cores.
    let mut cluster = LocalCluster::create(&args.tarn, &dir, NODES, &[("executors.wasm_slots", "2"), ("executors.lease_ms", "5000")])?;
    cluster.start().await?;
    let leader = cluster.wait_for_leader().await?;
    println!(
        "cluster  {NODES} nodes, keys and all, in {:.1} s; node {leader} leads; data and logs in {}",
        began.elapsed().as_secs_f64(),
        dir.display()
    );
    Ok(cluster)
}

/// Submits the plan and follows it to its end, with the incident that was asked for in the middle.
async fn run_job(args: &Args, cluster: &mut LocalCluster, plan: &Arc<Plan>) -> Result<Done> {
    let client = cluster.client()?.with_deadline(Duration::from_secs(60));
    let guest = std::fs::read(&args.guest).with_context(|| format!("the guest {} cannot be read", args.guest.display()))?;
    let artifact = client.put_artifact(guest).await?;
    println!("guest    {artifact}, on a majority of the nodes\n");

    let progress = Progress::start(&client, plan);
    let began = Instant::now();
    let submitting = tokio::spawn(submit::all(client.clone(), Arc::clone(plan), artifact, progress.registry()));
    let incident = match args.kill {
        Some(kill) => Some(incident(kill, cluster, &progress, plan.tasks().len()).await?),
        None => None,
    };
    let ids = submitting.await??;
    let ended = tokio::time::timeout(DONE_WITHIN, progress.done()).await.context("the job did not end in time")??;
    Ok(Done { ids, took: ended.duration_since(began), incident })
}

/// Waits for a third of the tasks, kills a node, and starts it again after a while.
async fn incident(kill: Kill, cluster: &mut LocalCluster, progress: &Progress, tasks: usize) -> Result<String> {
    progress.reached(tasks / 3).await?;
    let leader = cluster.wait_for_leader().await?;
    let victim = match kill {
        Kill::Leader => leader,
        Kill::Follower => cluster.ids().into_iter().find(|id| *id != leader).context("there is no follower")?,
    };
    let finished = progress.finished();
    cluster.kill_node(victim)?;
    progress.say(&format!(
        "kill -9   node {victim} ({}), after {finished} of {tasks} tasks",
        if victim == leader { "the leader" } else { "a follower" }
    ));
    tokio::time::sleep(AWAY).await;
    let meanwhile = progress.finished() - finished;
    cluster.start_node(victim)?;
    progress.say(&format!("restarted node {victim}; the others finished {meanwhile} tasks meanwhile"));
    Ok(format!(
        "node {victim} killed with SIGKILL after {finished} tasks, away for {} s while the others finished {meanwhile}",
        AWAY.as_secs()
    ))
}

/// Fetches the results that the reference has too: the index and the answers.
async fn fetch(client: &Client, plan: &Plan, ids: &[String]) -> Result<BTreeMap<usize, Vec<u8>>> {
    let wanted: Vec<usize> = plan.scores().map(|(task, _)| task).chain([plan.query()]).collect();
    futures::stream::iter(wanted)
        .map(|task| async move {
            let answer = client.get_task(&ids[task]).await?;
            ensure!(answer.state() == TaskState::Succeeded, "{}: {}", plan.tasks()[task].label, died(&answer));
            anyhow::Ok((task, answer.result.to_vec()))
        })
        .buffer_unordered(FETCHES)
        .try_collect()
        .await
}

fn died(task: &proto::Task) -> String {
    let error = task.error.clone().unwrap_or_default();
    format!("task {} is {:?}: {}: {}", task.task_id, task.state(), error.reason, error.message)
}

fn compare(expected: &BTreeMap<usize, Vec<u8>>, outputs: &BTreeMap<usize, Vec<u8>>) -> Result<()> {
    for (task, bytes) in expected {
        let output = outputs.get(task).with_context(|| format!("the result of task {task} was not fetched"))?;
        ensure!(output == bytes, "the result of task {task} differs from the reference ({} and {} bytes)", output.len(), bytes.len());
    }
    Ok(())
}

async fn keep(cluster: &LocalCluster) -> Result<()> {
    let [ca, certificate, key] = cluster.credential_files();
    println!("\nThe cluster keeps running. In another terminal:");
    println!("  export TARN_ADDRESS={}", cluster.addresses().join(","));
    println!("  export TARN_CACERT={} TARN_CERT={} TARN_KEY={}", ca.display(), certificate.display(), key.display());
    println!("  tarn cluster status; tarn queue list; tarn task list --limit 5");
    for id in cluster.ids() {
        println!("  curl http://{}/metrics", cluster.ops_address(id)?);
    }
    println!("Press Enter to end it.");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    Ok(())
}
