//! Workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tarn_client::{Client, Code, Error, Job, JobError, Task, TaskState, Worker, WorkerBuilder, proto};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tonic::Status;

use crate::fake::{Fake, Fault, Node, PATIENCE, Record, State, refuse};
use crate::greetings;

/// A worker that runs, and the way to stop it.
struct Running {
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<(), Error>>,
}

impl Running {
    fn start(worker: WorkerBuilder) -> Running {
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        Running { stop: Some(stop), ended: tokio::spawn(worker.run(shutdown)) }
    }

    fn ask_to_stop(&mut self) {
        self.stop.take();
    }

    async fn end(mut self) -> Result<(), Error> {
        self.ask_to_stop();
        tokio::time::timeout(PATIENCE, self.ended).await.expect("the worker ends").unwrap()
    }
}

/// A worker whose handler waits for a permit before it succeeds, or stops when it is told to.
fn gated(client: &Client, gate: &Arc<Semaphore>) -> WorkerBuilder {
    let gate = gate.clone();
    Worker::builder(client.clone()).lease(Duration::from_secs(1)).concurrency(2).default_handler(move |job: Job| {
        let gate = gate.clone();
        async move {
            tokio::select! {
                permit = gate.acquire() => {
                    permit?.forget();
                    Ok("done")
                }
                () = job.cancelled() => Err(JobError::retryable("told to stop")),
            }
        }
    })
}

fn only(state: &State) -> &Record {
    state.tasks.values().next().unwrap()
}

fn all_are(state: TaskState) -> impl Fn(&State) -> bool {
    move |all| all.tasks.values().all(|record| record.task.state() == state)
}

#[tokio::test]
async fn the_example_runs_as_printed() {
    let (fake, _node, client) = Fake::alone().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let working = tokio::spawn(greetings::work(client.clone(), async {
        let _ = stopped.await;
    }));
    assert_eq!(greetings::greet(&client, "world").await.unwrap(), "Hello, world!");
    assert_eq!(greetings::greet(&client, "").await.unwrap_err().to_string(), "there is nobody to greet");
    drop(stop);
    working.await.unwrap().unwrap();
    fake.with(|state| {
        let (request, draining) = state.workers.values().next().unwrap();
        let capabilities = request.capabilities.clone().unwrap();
        assert_eq!((capabilities.queues, capabilities.handlers), (vec!["greetings".into()], vec!["greet".into()]));
        assert_eq!(capabilities.namespaces, ["default"]);
        assert!(draining);
    });
}

#[tokio::test]
async fn handlers_fail_in_every_way_without_harm() {
    let (fake, _node, client) = Fake::alone().await;
    let worker = Worker::builder(client.clone())
        .concurrency(3)
        .handler("panic", |job: Job| async move {
            job.log("about to panic");
            if job.attempt() > 0 {
                panic!("oh no");
            }
            Ok("")
        })
        .handler("once", |job: Job| async move {
            if job.attempt() == 1 {
                Err(std::io::Error::other("flaky"))?
            }
            job.log("second time");
            Ok(format!("attempt {}", job.attempt()))
        })
        .handler("large", |_| async { Ok(vec![0; 2000]) })
        .handler("huge", |_| async { Ok(vec![0; 100 << 20]) })
        .handler("final", |_| async { Err::<&str, _>(JobError::permanent("never ".repeat(10_000)).with_reason("UNREADABLE")) });
    let running = Running::start(worker);
    let names = ["panic", "once", "large", "huge", "final", "unheard-of"];
    let ids = client.enqueue_batch(names.map(|name| Task::new("q").handler(name))).await.unwrap();
    let mut ended = Vec::new();
    for id in &ids {
        ended.push(client.wait_task(id, PATIENCE).await.unwrap());
    }
    let reasons: Vec<_> = ended.iter().map(|task| task.error.clone().map_or("".into(), |error| error.reason)).collect();
    assert_eq!(reasons, ["HANDLER_PANICKED", "", "RESULT_TOO_LARGE", "RESULT_TOO_LARGE", "UNREADABLE", "HANDLER_UNKNOWN"]);
    assert!(ended[0].error.as_ref().unwrap().message.contains("oh no"));
    assert_eq!(ended[1].result, "attempt 2");
    assert_eq!(client.task_logs(&ids[1]).await.unwrap()[0].text, "second time\n");
    let kinds = fake.with(|state| state.tasks.values().map(|record| record.failures.len()).collect::<Vec<_>>());
    assert_eq!(kinds, [2, 1, 1, 1, 1, 2]);
    running.end().await.unwrap();
}

#[tokio::test]
async fn no_more_jobs_run_at_once_than_asked_for() {
    let (fake, _node, client) = Fake::alone().await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (now.clone(), most.clone());
    let worker = Worker::builder(client.clone()).concurrency(4).default_handler(move |_| {
        let (now, most) = counts.clone();
        async move {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok("")
        }
    });
    client.enqueue_batch((0..60).map(|_| Task::new("q"))).await.unwrap();
    let running = Running::start(worker);
    fake.until("all is done", all_are(TaskState::Succeeded)).await;
    assert_eq!(most.load(Ordering::SeqCst), 4);
    running.end().await.unwrap();
}

#[tokio::test]
async fn results_of_dependencies_are_at_hand() {
    let (_fake, _node, client) = Fake::alone().await;
    let worker = Worker::builder(client.clone()).default_handler(|job: Job| async move {
        let mut sum = job.payload().to_vec();
        for position in 0..job.dependencies().len() {
            sum.extend_from_slice(&job.dependency_result(position).await?);
        }
        assert!(job.dependency_result(9).await.is_err());
        Ok(sum)
    });
    let running = Running::start(worker);
    let first = client.enqueue(Task::new("q").payload("a")).await.unwrap();
    client.wait_task(&first, PATIENCE).await.unwrap();
    let second = client.enqueue(Task::new("q").payload("b").after(&first)).await.unwrap();
    assert_eq!(client.wait_task(second, PATIENCE).await.unwrap().result, "ba");
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_broken_stream_costs_nothing() {
    let fake = Fake::new();
    let mut nodes: Vec<Node> = vec![fake.node().await, fake.node().await];
    let client = fake.client(&[&nodes[0], &nodes[1]]).await;
    let gate = Arc::new(Semaphore::new(0));
    let running = Running::start(gated(&client, &gate));
    client.enqueue_batch((0..6).map(|_| Task::new("q"))).await.unwrap();
    fake.until("two run", |state| state.tasks.values().filter(|record| record.task.token > 0).count() == 2).await;
    fake.cut_streams();
    fake.until("the worker is back", |state| state.count("work/open") == 2).await;
    drop(nodes.remove(0));
    fake.fault("work/complete", Fault::DoThenFail(Status::unavailable("the answer is lost, and the stream with it")));
    fake.fault("work/complete", Fault::Fail(Status::unavailable("no leader")));
    gate.add_permits(6);
    fake.until("all is done", all_are(TaskState::Succeeded)).await;
    running.end().await.unwrap();
    fake.with(|state| {
        assert!(state.tasks.values().all(|record| record.outcomes == 1 && record.task.attempts_begun == 1));
        assert_eq!(state.count("register_worker"), 1);
    });
}

#[tokio::test]
async fn the_stream_leaves_a_node_that_calls_have_left() {
    let fake = Fake::new();
    let nodes = [fake.node().await, fake.node().await];
    let client = fake.client(&[&nodes[0], &nodes[1]]).await;
    let running = Running::start(gated(&client, &Arc::new(Semaphore::new(1))));
    fake.until("it is there", |state| state.count("work/open") == 1).await;
    fake.fault("heartbeat_worker", Fault::Fail(Status::unavailable("cut off")));
    fake.until("it has moved", |state| state.count("work/open") == 2).await;
    client.enqueue(Task::new("q")).await.unwrap();
    fake.until("it works there", all_are(TaskState::Succeeded)).await;
    running.end().await.unwrap();
}

#[tokio::test]
async fn a_forgotten_worker_registers_again_and_keeps_its_jobs() {
    let (fake, _node, client) = Fake::alone().await;
    let gate = Arc::new(Semaphore::new(0));
    let running = Running::start(gated(&client, &gate));
    client.enqueue(Task::new("q")).await.unwrap();
    fake.until("it runs", |state| only(state).task.token > 0).await;
    fake.with(|state| state.workers.clear());
    fake.until("the worker is back", |state| state.count("register_worker") == 2 && state.count("work/open") >= 2).await;
    gate.add_permits(1);
    fake.until("it is done", all_are(TaskState::Succeeded)).await;
    running.end().await.unwrap();
}

#[tokio::test]
async fn leases_are_kept_alive_by_one_message_and_lost_ones_end_their_jobs() {
    let (fake, _node, client) = Fake::alone().await;
    let gate = Arc::new(Semaphore::new(0));
    let running = Running::start(gated(&client, &gate));
    client.enqueue_batch([Task::new("q"), Task::new("q")]).await.unwrap();
    fake.until("both run", |state| state.tasks.values().all(|record| record.task.token > 0)).await;
    fake.until("heartbeats", |state| state.count("work/heartbeat") >= 2).await;
    // Another holder: what this worker says about the first task is stale.
    fake.with(|state| {
        let task = &mut state.tasks.values_mut().next().unwrap().task;
        task.token += 1_000_000;
        task.state = TaskState::Running.into();
    });
    client.enqueue(Task::new("q")).await.unwrap();
    // The place of the lost job goes to the third task.
    fake.until("the third runs", |state| state.tasks.values().last().unwrap().task.token > 0).await;
    gate.add_permits(2);
    fake.until("two are done", |state| state.tasks.values().filter(|record| record.task.state() == TaskState::Succeeded).count() == 2)
        .await;
    running.end().await.unwrap();
    assert_eq!(fake.with(|state| only(state).outcomes), 0);
}

#[tokio::test]
async fn a_cancelled_job_stops_and_says_so() {
    let (fake, _node, client) = Fake::alone().await;
    let running = Running::start(gated(&client, &Arc::new(Semaphore::new(0))));
    let id = client.enqueue(Task::new("q")).await.unwrap();
    fake.until("it runs", |state| only(state).task.token > 0).await;
    assert_eq!(client.cancel_task(&id).await.unwrap(), TaskState::Running);
    assert_eq!(client.wait_task(&id, PATIENCE).await.unwrap().state(), TaskState::Cancelled);
    fake.with(|state| assert_eq!(only(state).failures[0].kind(), proto::FailureKind::Cancelled));
    running.end().await.unwrap();
}

#[tokio::test]
async fn stopping_waits_for_running_jobs_and_takes_no_more() {
    let (fake, _node, client) = Fake::alone().await;
    let gate = Arc::new(Semaphore::new(0));
    let mut running = Running::start(gated(&client, &gate));
    client.enqueue_batch((0..3).map(|_| Task::new("q"))).await.unwrap();
    fake.until("two run", |state| state.tasks.values().filter(|record| record.task.token > 0).count() == 2).await;
    running.ask_to_stop();
    fake.until("it drains", |state| state.count("drain_worker") == 1).await;
    gate.add_permits(3);
    running.end().await.unwrap();
    fake.with(|state| {
        let states: Vec<_> = state.tasks.values().map(|record| record.task.state()).collect();
        assert_eq!(states, [TaskState::Succeeded, TaskState::Succeeded, TaskState::Ready]);
    });
}

#[tokio::test]
async fn a_task_that_comes_too_late_is_given_back() {
    let (fake, _node, client) = Fake::alone().await;
    let gate = Arc::new(Semaphore::new(0));
    let mut running = Running::start(gated(&client, &gate));
    client.enqueue(Task::new("q")).await.unwrap();
    fake.until("it runs", |state| only(state).task.token > 0).await;
    // The node does not learn that the worker drains, and sends it another task.
    fake.fault("drain_worker", Fault::Hang);
    running.ask_to_stop();
    fake.until("it drains", |state| state.count("drain_worker") == 1).await;
    client.enqueue(Task::new("q")).await.unwrap();
    let returned = |record: &Record| record.failures.iter().any(|failure| failure.kind() == proto::FailureKind::Returned);
    fake.until("it came back", |state| state.tasks.values().last().is_some_and(returned)).await;
    gate.add_permits(1);
    running.end().await.unwrap();
    assert_eq!(fake.with(|state| only(state).task.state()), TaskState::Succeeded);
}

#[tokio::test]
async fn grace_ends() {
    let (fake, _node, client) = Fake::alone().await;
    let mut running = Running::start(gated(&client, &Arc::new(Semaphore::new(0))).grace(Duration::from_millis(50)));
    client.enqueue(Task::new("q")).await.unwrap();
    fake.until("it runs", |state| only(state).task.token > 0).await;
    running.ask_to_stop();
    running.end().await.unwrap();
    fake.with(|state| {
        let failure = &only(state).failures[0];
        assert_eq!(failure.kind(), proto::FailureKind::Retryable);
        assert_eq!(failure.error.as_ref().unwrap().reason, "WORKER_STOPPED");
    });
}

#[tokio::test]
async fn a_drained_worker_ends_by_itself() {
    let (fake, _node, client) = Fake::alone().await;
    let running = Running::start(gated(&client, &Arc::new(Semaphore::new(0))));
    fake.until("it is there", |state| state.count("work/open") == 1).await;
    let worker = fake.with(|state| state.workers.keys().next().unwrap().clone());
    client.drain_worker(worker).await.unwrap();
    tokio::time::timeout(PATIENCE, running.ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn what_no_node_will_ever_allow_ends_the_worker() {
    let (fake, _node, client) = Fake::alone().await;
    let worker = || gated(&client, &Arc::new(Semaphore::new(0)));
    fake.fault("register_worker", Fault::Fail(refuse(Code::PermissionDenied, "FORBIDDEN", "ask for the role")));
    assert_eq!(worker().run(std::future::pending()).await.unwrap_err().reason(), "FORBIDDEN");
    fake.fault("work/open", Fault::Fail(refuse(Code::PermissionDenied, "FORBIDDEN", "ask for the role")));
    assert_eq!(worker().run(std::future::pending()).await.unwrap_err().reason(), "FORBIDDEN");
    for wrong in [worker().concurrency(0), worker().lease(Duration::ZERO), Worker::builder(client.clone())] {
        assert!(matches!(wrong.build(), Err(Error::Config(_))));
    }
}
