//! Tasks that leave it to the router where they run. Workers besides the node's own are played: they say what they have, and the test leases
//! for them, or does not.

use tarn_proto::v1::scheduler_service_client::SchedulerServiceClient;
use tarn_proto::v1::{self, DecisionKind, IsolationLevel, TaskState};
use tonic::transport::Channel;

use crate::common::{Node, eventually, node, node_with, reason, task};

const ANSWER: &str = r#"(module (func (export "answer") (result i32) i32.const 42))"#;

async fn answer(node: &Node) -> v1::WasmSpec {
    let chunk = v1::PutArtifactRequest { artifact: String::new(), chunk: ANSWER.as_bytes().to_vec().into() };
    let artifact = node.artifacts().put_artifact(tokio_stream::iter([chunk])).await.unwrap().into_inner().artifact;
    v1::WasmSpec { artifact, export: "answer".into(), ..Default::default() }
}

/// A task with a part for WASM and one for processes. The artifact of the latter is nowhere: nobody here runs it.
fn either(wasm: &v1::WasmSpec, placement: v1::Placement) -> v1::TaskSpec {
    let native = v1::NativeSpec { artifact: wasm.artifact.clone(), ..Default::default() };
    v1::TaskSpec { native: Some(native), ..only_wasm(wasm, placement) }
}

fn only_wasm(wasm: &v1::WasmSpec, placement: v1::Placement) -> v1::TaskSpec {
    v1::TaskSpec { runtime: "auto".into(), wasm: Some(wasm.clone()), placement: Some(placement), ..task("jobs", b"") }
}

pub fn resources(node: &str) -> v1::WorkerResources {
    v1::WorkerResources {
        node: node.into(),
        slots: 1,
        memory_bytes: 1 << 30,
        isolation: IsolationLevel::Sandbox.into(),
        cost_per_second: 1,
        ..Default::default()
    }
}

/// Registers a worker that the test plays.
pub async fn play(node: &Node, runtime: &str, labels: &[&str], resources: v1::WorkerResources) -> String {
    let capabilities = v1::WorkerCapabilities {
        runtimes: vec![runtime.into()],
        labels: labels.iter().map(ToString::to_string).collect(),
        resources: Some(resources),
        ..Default::default()
    };
    let request = v1::RegisterWorkerRequest {
        name: format!("played/{runtime}"),
        capabilities: Some(capabilities),
        ttl_ms: 3_600_000,
        ..Default::default()
    };
    node.workers().register_worker(request).await.unwrap().into_inner().worker_id
}

pub async fn get(node: &Node, id: &str) -> v1::Task {
    let get = v1::GetTaskRequest { task_id: id.into(), ..Default::default() };
    node.tasks().get_task(get).await.unwrap().into_inner().task.unwrap()
}

/// Waits until the task is placed at this worker.
async fn placed_at(node: &Node, id: &str, worker: &str) {
    eventually(|| async { get(node, id).await.placed_worker == worker }).await;
}

fn scheduler(channel: &Channel) -> SchedulerServiceClient<Channel> {
    SchedulerServiceClient::new(channel.clone())
}

pub async fn explained(node: &Node, id: &str) -> v1::ExplainTaskResponse {
    let question = v1::ExplainTaskRequest { task_id: id.into(), level: v1::ExplainLevel::Technical.into(), ..Default::default() };
    let mut audit = v1::audit_service_client::AuditServiceClient::new(node.channel.clone());
    audit.explain_task(question).await.unwrap().into_inner()
}

pub fn said(response: &v1::ExplainTaskResponse) -> String {
    response.sentences.iter().map(|sentence| format!("{}\n", sentence.text)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_where_it_is_cheapest_and_the_record_says_why() {
    let node = node_with(|config| config.executors.wasm_slots = 2).await;
    let wasm = answer(&node).await;
    let dear = v1::WorkerResources { cost_per_second: 1_000, ..resources("dear") };
    play(&node, "native", &[], dear).await;
    let id = node.submit(either(&wasm, v1::Placement::default())).await;
    let ended = node.ended(&id).await;
    assert_eq!(ended.state(), TaskState::Succeeded, "{:?}", ended.attempts);
    assert_eq!((&ended.result[..], ended.placed_runtime.as_str()), (&b"42"[..], "wasm"));
    assert_eq!(ended.spec.unwrap().runtime, "auto", "what was submitted stays as it was");

    let response = explained(&node, &id).await;
    let story = response.story.clone().unwrap();
    let record = story.decisions.iter().find(|decision| decision.kind() == DecisionKind::Placed).unwrap();
    let scores = record.placement.clone().unwrap();
    assert_eq!((scores.runtime.as_str(), record.worker.as_str()), ("wasm", ended.placed_worker.as_str()));
    let prices: Vec<&str> = scores.prices.iter().map(|price| price.runtime.as_str()).collect();
    assert_eq!(prices, ["wasm", "native"], "the cheapest first");
    assert!(scores.candidates[0].score > 0 && scores.weights.is_some(), "{scores:?}");
    let said = said(&response);
    assert!(said.contains("The router chose the runtime wasm on worker node-1/wasm"), "{said}");
    assert!(said.contains("Expected cost by runtime"), "{said}");
    assert!(node.metric("tarn_scheduler_placements_total").await >= 1.0);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_passes_over_what_is_lost_or_busy() {
    let node = node_with(|config| config.executors.wasm_slots = 2).await;
    let wasm = answer(&node).await;
    let chain = |patience_ms| v1::Placement {
        runtimes: vec!["native".into(), "wasm".into()],
        patience_ms: Some(patience_ms),
        ..Default::default()
    };
    let passed_over = |response: v1::ExplainTaskResponse| {
        let decisions = response.story.unwrap().decisions;
        let scores = decisions.into_iter().find_map(|decision| decision.placement).unwrap();
        scores.passed_over.into_iter().map(|passed| (passed.runtime, passed.reason)).collect::<Vec<_>>()
    };
    let id = node.submit(either(&wasm, chain(3_600_000))).await;
    assert_eq!(node.ended(&id).await.placed_runtime, "wasm", "nobody runs processes");
    assert_eq!(passed_over(explained(&node, &id).await), [("native".to_owned(), "LOST".to_owned())]);

    // One slot, which the first one takes; the second does not hold out for it.
    let settle = v1::SchedulerSettings { settle_ms: Some(0), ..Default::default() };
    let request = v1::PutSchedulerSettingsRequest { settings: Some(settle), ..Default::default() };
    scheduler(&node.channel).put_scheduler_settings(request).await.unwrap();
    let native = play(&node, "native", &[], resources("other")).await;
    let first = node.submit(either(&wasm, chain(3_600_000))).await;
    placed_at(&node, &first, &native).await;
    let leased = node.lease(&native, 5).await;
    assert_eq!(leased.len(), 1);
    let spec = leased[0].spec.clone().unwrap();
    assert!(spec.runtime == "native" && spec.native.is_some() && spec.wasm.is_none(), "its own part alone: {spec:?}");
    let second = node.submit(either(&wasm, chain(50))).await;
    assert_eq!(node.ended(&second).await.placed_runtime, "wasm");
    assert_eq!(passed_over(explained(&node, &second).await), [("native".to_owned(), "BUSY".to_owned())]);
    // A third one holds out, and gets the slot when it is free.
    let third = node.submit(either(&wasm, chain(3_600_000))).await;
    node.complete(&leased[0], b"done").await;
    placed_at(&node, &third, &native).await;
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_worker_satisfies_waits_and_says_why() {
    let node = node_with(|config| {
        config.executors.wasm_slots = 2;
        config.executors.wasm_memory_bytes = 128 << 20;
    })
    .await;
    let wasm = answer(&node).await;
    let large = v1::WasmSpec { memory_bytes: 256 << 20, ..wasm.clone() };
    let apart = v1::Placement { isolation: IsolationLevel::Machine.into(), ..Default::default() };
    let here = v1::Placement { data: vec![format!("blake3:{}", "0".repeat(64))], ..Default::default() };
    let mut labelled = only_wasm(&wasm, v1::Placement::default());
    labelled.requires = vec!["zone=moon".into()];
    let cases = [
        (only_wasm(&large, v1::Placement::default()), "it has less memory than the task asks for"),
        (only_wasm(&wasm, apart), "it isolates by sandbox"),
        (labelled, "zone=moon"),
    ];
    let nowhere = node.submit(only_wasm(&wasm, here)).await;
    let told = said(&explained(&node, &nowhere).await);
    assert!(told.contains("may lack data") && !told.contains("as soon as"), "{told}");
    for (spec, why) in cases {
        let id = node.submit(spec).await;
        let said = said(&explained(&node, &id).await);
        assert!(said.contains(why), "{why}: {said}");
        assert_eq!(get(&node, &id).await.state(), TaskState::Ready);
    }
    // Whoever comes later is not held up by them, in whatever order they are.
    let id = node.submit(only_wasm(&wasm, v1::Placement::default())).await;
    assert_eq!(node.ended(&id).await.state(), TaskState::Succeeded);
    assert_eq!(get(&node, &nowhere).await.state(), TaskState::Ready, "its data lies nowhere");
    // A worker that satisfies one of them gets it.
    let strong = v1::WorkerResources { isolation: IsolationLevel::Machine.into(), ..resources("strong") };
    let strong = play(&node, "microvm", &[], strong).await;
    assert_eq!(node.lease(&strong, 9).await.len(), 1);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_placed_at_a_worker_that_goes_is_placed_again() {
    let node = node().await;
    let wasm = answer(&node).await;
    let first = play(&node, "wasm", &[], resources("a")).await;
    let id = node.submit(only_wasm(&wasm, v1::Placement::default())).await;
    placed_at(&node, &id, &first).await;
    let second = play(&node, "wasm", &[], resources("b")).await;
    let drain = v1::DrainWorkerRequest { worker_id: first, ..Default::default() };
    node.workers().drain_worker(drain).await.unwrap();
    placed_at(&node, &id, &second).await;
    let leased = node.lease(&second, 5).await;
    // An attempt that fails leaves it open again: the only worker left gets it again, though it has failed there.
    let fail = v1::FailTaskRequest {
        namespace: "default".into(),
        task_id: id.clone(),
        token: leased[0].token,
        kind: v1::FailureKind::Returned.into(),
        ..Default::default()
    };
    node.workers().fail_task(fail).await.unwrap();
    assert_eq!(node.lease(&second, 5).await[0].task_id, id);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_tunes_the_weights() {
    let node = node().await;
    let wasm = answer(&node).await;
    // One is near to what the task prefers, the other is cheap.
    let near = v1::WorkerResources { cost_per_second: 100, slots: 4, ..resources("a") };
    let near = play(&node, "wasm", &["ssd"], near).await;
    let cheap = play(&node, "wasm", &[], v1::WorkerResources { slots: 4, ..resources("b") }).await;
    let prefers = v1::Placement { prefers: vec!["ssd".into()], ..Default::default() };
    let id = node.submit(only_wasm(&wasm, prefers.clone())).await;
    placed_at(&node, &id, &cheap).await;
    let weights = v1::SchedulerWeights { cost: Some(0), locality: Some(100), ..Default::default() };
    let settings = Some(v1::SchedulerSettings { weights: Some(weights), ..Default::default() });
    let put = |settings| v1::PutSchedulerSettingsRequest { settings, ..Default::default() };
    scheduler(&node.channel).put_scheduler_settings(put(settings)).await.unwrap();
    let id = node.submit(only_wasm(&wasm, prefers)).await;
    placed_at(&node, &id, &near).await;
    let read = scheduler(&node.channel).get_scheduler_settings(v1::GetSchedulerSettingsRequest {}).await.unwrap();
    assert_eq!(read.into_inner().settings, settings);

    let wild = v1::SchedulerWeights { cost: Some(101), ..Default::default() };
    let wild = v1::SchedulerSettings { weights: Some(wild), ..Default::default() };
    let refused = scheduler(&node.channel).put_scheduler_settings(put(Some(wild))).await.unwrap_err();
    assert_eq!(reason(&refused), "OUT_OF_RANGE");
    let refused = scheduler(&node.channel).put_scheduler_settings(put(None)).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_SETTINGS");
    let eve = node.dial_as(tarn_client::tls::PrincipalKind::User { name: "eve".into() }).await;
    let refused = scheduler(&eve).put_scheduler_settings(put(settings)).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED");
    node.running.shutdown().await;
}
