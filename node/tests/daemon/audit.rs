//! What was decided: recorded, found again, whole, and explained.

use std::collections::BTreeSet;

use tarn::config::Config;
use tarn::daemon::{self, prepare_dev};
use tarn_client::tls::{Credentials, PrincipalKind};
use tarn_machine::keys::Key;
use tarn_proto::v1::access_service_client::AccessServiceClient;
use tarn_proto::v1::audit_service_client::AuditServiceClient;
use tarn_proto::v1::cluster_service_client::ClusterServiceClient;
use tarn_proto::v1::task_service_client::TaskServiceClient;
use tarn_proto::v1::{self, Decision, DecisionKind, ExplainLevel, ListDecisionsRequest};
use tarn_storage::{Batch, Durability, Engine, Keyspace, Profile, RocksEngine, RocksOptions};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::common::{Node, cluster, dial, eventually, fact, node, reason, task, until};

fn user(name: &str) -> PrincipalKind {
    PrincipalKind::User { name: name.into() }
}

fn audit(channel: &Channel) -> AuditServiceClient<Channel> {
    AuditServiceClient::new(channel.clone())
}

async fn list(channel: &Channel, request: ListDecisionsRequest) -> Vec<Decision> {
    audit(channel).list_decisions(request).await.unwrap().into_inner().decisions
}

fn of_kind(kind: DecisionKind) -> ListDecisionsRequest {
    ListDecisionsRequest { kinds: vec![kind.into()], page_size: 1_000, ..ListDecisionsRequest::default() }
}

fn traced<T>(trace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("tarn-trace-id", trace.parse().unwrap());
    request
}

fn cancel(task_id: &str) -> v1::CancelTaskRequest {
    v1::CancelTaskRequest { task_id: task_id.into(), ..v1::CancelTaskRequest::default() }
}

async fn give(node: &Node, principal: &str, role: &str, namespace: &str) {
    let request = v1::PutBindingRequest {
        binding: Some(v1::Binding { principal: principal.into(), role: role.into(), namespace: namespace.into() }),
        ..v1::PutBindingRequest::default()
    };
    AccessServiceClient::new(node.channel.clone()).put_binding(request).await.unwrap();
}

async fn explain_task(channel: &Channel, id: &str, level: ExplainLevel) -> Result<String, tonic::Status> {
    let request = v1::ExplainTaskRequest { task_id: id.into(), level: level.into(), ..v1::ExplainTaskRequest::default() };
    let answer = audit(channel).explain_task(request).await?.into_inner();
    Ok(answer.sentences.into_iter().map(|sentence| sentence.text + "\n").collect())
}

async fn explain_request(channel: &Channel, id: &str) -> String {
    let request = v1::ExplainRequestRequest { id: id.into(), level: ExplainLevel::Audit.into() };
    let answer = audit(channel).explain_request(request).await.unwrap().into_inner();
    answer.sentences.into_iter().map(|sentence| sentence.text + "\n").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_recorded_and_found_by_its_trace_while_equal_ones_are_counted() {
    let node = node().await;
    let eve = node.dial_as(user("eve")).await;
    for number in 0..20 {
        let request = traced(&format!("trace-{number}"), cancel("0000000000007"));
        let status = TaskServiceClient::new(eve.clone()).cancel_task(request).await.unwrap_err();
        assert_eq!(reason(&status), "PERMISSION_DENIED");
    }
    eventually(|| async {
        let refused = list(&node.channel, of_kind(DecisionKind::Refused)).await;
        refused.iter().map(|record| record.count.max(1)).sum::<u32>() == 20
    })
    .await;
    let refused = list(&node.channel, of_kind(DecisionKind::Refused)).await;
    assert!(refused.len() < 20, "equal ones are folded: {}", refused.len());
    let first = &refused[0];
    assert_eq!((first.principal.as_str(), first.step.as_str()), ("user/eve", "role"));
    assert_eq!((first.action.as_str(), first.resource.as_str()), ("CancelTask", "task/0000000000007"));
    assert_eq!(first.gate.as_ref().unwrap().method, "certificate");

    // Any of them is found, by an auditor and not by another tenant; and by whoever has a role, if it was their own.
    let text = explain_request(&node.channel, "trace-0").await;
    assert!(text.contains("user/eve asked for CancelTask of task/0000000000007 in namespace default and was refused"), "{text}");
    assert!(text.contains("tarn role bind user/eve ROLE"), "{text}");
    let status = audit(&eve).explain_request(v1::ExplainRequestRequest { id: "trace-0".into(), level: 0 }).await.unwrap_err();
    assert_eq!(reason(&status), "PERMISSION_DENIED");
    give(&node, "user/eve", "viewer", "other").await;
    assert!(explain_request(&eve, "trace-0").await.contains("user/eve asked for CancelTask"));
    give(&node, "user/bob", "viewer", "other").await;
    let bob = node.dial_as(user("bob")).await;
    assert!(explain_request(&bob, "trace-0").await.starts_with("No record names trace-0."));
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_turned_away_at_the_second_door_is_recorded_too() {
    let node = node().await;
    let mut tasks = TaskServiceClient::new(node.web(None).await);
    let status = tasks.cancel_task(traced("stranger", cancel("0000000000007"))).await;
    assert_eq!(reason(&status.unwrap_err()), "BEARER_REQUIRED");
    eventually(|| async { !list(&node.channel, of_kind(DecisionKind::Refused)).await.is_empty() }).await;
    let refused = list(&node.channel, of_kind(DecisionKind::Refused)).await;
    let [record] = &refused[..] else { panic!("one record: {refused:?}") };
    assert_eq!((record.principal.as_str(), record.step.as_str()), ("unknown", "identity"));
    assert_eq!(record.reason, "BEARER_REQUIRED");
    assert_eq!(record.gate.as_ref().unwrap().trace, "stranger");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_members_are_recorded_with_who_asked() {
    let nodes = cluster(3).await;
    let mut service = ClusterServiceClient::new(nodes[0].channel.clone());
    let gone = nodes[2].running.node_id();
    let request = v1::RemoveMemberRequest { node_id: gone };
    service.remove_member(traced("goodbye", request)).await.unwrap();
    // What Raft did is in the batch of its own entry; who asked for it follows.
    let members = list(&nodes[0].channel, of_kind(DecisionKind::Members)).await;
    assert_eq!(members.last().unwrap().detail, "voters 1, 2");
    let asked = || async {
        let admitted = list(&nodes[0].channel, of_kind(DecisionKind::Admitted)).await;
        admitted.into_iter().find(|record| record.action == "RemoveMember")
    };
    eventually(|| async { asked().await.is_some() }).await;
    let record = asked().await.unwrap();
    assert_eq!((record.principal.as_str(), record.resource.as_str()), ("user/admin", "node/3"));
    assert_eq!(record.gate.unwrap().trace, "goodbye");
    for node in nodes {
        node.running.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_for_auditors_and_only_those_of_their_namespaces() {
    let node = node().await;
    let ann = node.dial_as(user("ann")).await;
    give(&node, "user/ann", "auditor", "default").await;
    node.submit(task("q", b"x")).await;
    let own = ListDecisionsRequest { namespace: "default".into(), ..ListDecisionsRequest::default() };
    let records = list(&ann, own.clone()).await;
    assert!(records.iter().all(|record| record.namespace == "default") && !records.is_empty());
    let status = audit(&ann).list_decisions(ListDecisionsRequest::default()).await.unwrap_err();
    assert_eq!(reason(&status), "PERMISSION_DENIED");
    let status = audit(&ann).verify_decisions(v1::VerifyDecisionsRequest::default()).await.unwrap_err();
    assert_eq!(reason(&status), "PERMISSION_DENIED");
    let export = |filter| v1::ExportDecisionsRequest { filter: Some(filter), follow: false };
    let status = audit(&ann).export_decisions(export(ListDecisionsRequest::default())).await.unwrap_err();
    assert_eq!(reason(&status), "PERMISSION_DENIED");
    let mut stream = audit(&ann).export_decisions(export(own)).await.unwrap().into_inner();
    let mut exported = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        exported.extend(message.decisions);
    }
    assert_eq!(exported, records);

    // What only nodes may say is not taken from users.
    let forged = v1::Command {
        body: Some(v1::command::Body::RecordDecisions(v1::RecordDecisions {
            decisions: vec![Decision::default()],
            ..v1::RecordDecisions::default()
        })),
        ..v1::Command::default()
    };
    let request = v1::PipelineRequest { command: Some(forged), ..v1::PipelineRequest::default() };
    let mut service = v1::command_service_client::CommandServiceClient::new(node.channel.clone());
    let mut answers = service.pipeline(tokio_stream::once(request)).await.unwrap().into_inner();
    let outcome = answers.message().await.unwrap().unwrap().outcome.unwrap();
    assert!(matches!(outcome.body, Some(v1::outcome::Body::Rejected(_))), "{outcome:?}");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_story_of_a_task_from_no_worker_to_its_end() {
    let node = node().await;
    let id = node.submit(v1::TaskSpec { requires: vec!["gpu".into()], ..task("mail", b"x") }).await;
    let text = explain_task(&node.channel, &id, ExplainLevel::Brief).await.unwrap();
    assert!(text.contains("No worker is registered."), "{text}");
    let plain = node.register().await;
    let text = explain_task(&node.channel, &id, ExplainLevel::Brief).await.unwrap();
    assert!(text.contains("there is none with label gpu"), "{text}");
    let able = v1::RegisterWorkerRequest {
        name: "big".into(),
        capabilities: Some(v1::WorkerCapabilities { labels: vec!["gpu".into()], ..v1::WorkerCapabilities::default() }),
        ..v1::RegisterWorkerRequest::default()
    };
    let able = node.workers().register_worker(able).await.unwrap().into_inner().worker_id;
    let text = explain_task(&node.channel, &id, ExplainLevel::Detailed).await.unwrap();
    assert!(text.contains("nothing stands before it, and 1 worker could take it"), "{text}");
    assert!(text.contains("user/admin submitted it to queue/mail."), "{text}");
    let leased = node.lease(&able, 1).await.remove(0);
    let text = explain_task(&node.channel, &id, ExplainLevel::Technical).await.unwrap();
    assert!(text.contains("The task is running: attempt 1") && text.contains("on worker big"), "{text}");
    assert!(text.contains("It was the next in line: no other namespace had a task for this worker"), "{text}");
    assert!(text.contains("User/admin proved who it was by certificate"), "{text}");
    node.complete(&leased, b"done").await;
    let text = explain_task(&node.channel, &id, ExplainLevel::Audit).await.unwrap();
    assert!(text.contains("The task succeeded at") && text.contains("ADMITTED, by user/admin, action Enqueue"), "{text}");
    assert_ne!(plain, able);

    // Who may read the task gets its story; the records behind it are for auditors.
    let vic = node.dial_as(user("vic")).await;
    let status = explain_task(&vic, &id, ExplainLevel::Brief).await.unwrap_err();
    assert_eq!(reason(&status), "PERMISSION_DENIED");
    give(&node, "user/vic", "viewer", "default").await;
    assert!(explain_task(&vic, &id, ExplainLevel::Technical).await.is_ok());
    let status = explain_task(&vic, &id, ExplainLevel::Audit).await.unwrap_err();
    assert_eq!(reason(&status), "PERMISSION_DENIED");
    let status = explain_task(&node.channel, "0000000000007", ExplainLevel::Brief).await.unwrap_err();
    assert_eq!(reason(&status), "TASK_NOT_FOUND");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_do_not_learn_each_others_names() {
    let node = node().await;
    let make = v1::CreateNamespaceRequest { name: "secret".into(), ..v1::CreateNamespaceRequest::default() };
    node.namespaces().create_namespace(make).await.unwrap();
    let elsewhere = v1::EnqueueRequest { namespace: "secret".into(), tasks: vec![task("q", b"x")], ..v1::EnqueueRequest::default() };
    node.tasks().enqueue(elsewhere).await.unwrap();
    let id = node.submit(task("q", b"x")).await;
    node.register().await;
    let vic = node.dial_as(user("vic")).await;
    give(&node, "user/vic", "viewer", "default").await;
    let told = explain_task(&node.channel, &id, ExplainLevel::Technical).await.unwrap();
    assert!(told.contains("secret"), "{told}");
    let hidden = explain_task(&vic, &id, ExplainLevel::Technical).await.unwrap();
    assert!(!hidden.contains("secret"), "{hidden}");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_follows_what_comes() {
    let node = node().await;
    let request = v1::ExportDecisionsRequest { filter: Some(of_kind(DecisionKind::Admitted)), follow: true };
    let mut stream = audit(&node.channel).export_decisions(request).await.unwrap().into_inner();
    let mut seen = BTreeSet::new();
    let mut index = 0;
    for queue in ["a", "b", "c"] {
        node.submit(task(queue, b"x")).await;
        let wanted = format!("queue/{queue}");
        while !seen.contains(&wanted) {
            let message = stream.message().await.unwrap().expect("it goes on");
            assert!(message.index >= index, "it only goes on");
            index = message.index;
            seen.extend(message.decisions.into_iter().map(|record| record.resource));
        }
    }
    drop(stream);
    // It goes on where it was: nothing before comes again.
    let request = v1::ExportDecisionsRequest {
        filter: Some(ListDecisionsRequest { after_index: index, ..of_kind(DecisionKind::Admitted) }),
        follow: false,
    };
    let mut stream = audit(&node.channel).export_decisions(request).await.unwrap().into_inner();
    while let Some(message) = stream.message().await.unwrap() {
        assert!(message.decisions.iter().all(|record| record.index > index));
    }
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_agree_about_their_chains() {
    let nodes = cluster(3).await;
    for number in 0..5 {
        nodes[number % 3].submit(task("q", b"x")).await;
    }
    let settings = audit(&nodes[0].channel).get_audit_settings(v1::GetAuditSettingsRequest {}).await;
    let through_index = settings.unwrap().into_inner().chain.unwrap().head_index;
    let mut hashes = BTreeSet::new();
    for node in &nodes {
        let request = v1::VerifyDecisionsRequest { through_index };
        let report = audit(&node.channel).verify_decisions(request).await.unwrap().into_inner();
        assert!(report.faults.is_empty(), "{report:?}");
        assert_eq!((report.node_id, report.through_index), (node.running.node_id(), through_index));
        hashes.insert(report.through_hash);
    }
    assert_eq!(hashes.len(), 1);
    for node in nodes {
        node.running.shutdown().await;
    }
}

/// The state of a node that is down: the generation of it that is in use.
fn open_state(config: &Config) -> RocksEngine {
    let keyspaces = [tarn_machine::STATE, Keyspace::new("raft")];
    let options = RocksOptions { keyspaces: &keyspaces, profile: Profile::State };
    let dir = config.node.data_dir.join("raft/state");
    let current = std::fs::read_to_string(dir.join("CURRENT")).unwrap();
    RocksEngine::open(&dir.join(current.trim()), options).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_was_changed_while_the_node_was_down_is_found_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let dev = prepare_dev(dir.path(), any, any).unwrap();
    let mut config = dev.config;
    config.executors.wasm = false;
    let credentials = Credentials::from_files(&dev.ca, &dev.certificate, &dev.key).unwrap();

    let running = daemon::start(config.clone()).await.unwrap();
    until(|| running.is_ready()).await;
    let channel = dial(&running, &credentials).await;
    for number in 0..4 {
        let request = v1::EnqueueRequest { tasks: vec![task(&format!("q{number}"), b"x")], ..v1::EnqueueRequest::default() };
        TaskServiceClient::new(channel.clone()).enqueue(request).await.unwrap();
    }
    let records = list(&channel, of_kind(DecisionKind::Admitted)).await;
    let index = records.iter().find(|record| record.resource == "queue/q1").expect("it is recorded").index;
    running.shutdown().await;

    for place in [0, 31, 33, 40, 60] {
        let flip = move |config: &Config| {
            let engine = open_state(config);
            let key = Key::Decisions { index }.encode();
            let mut row = engine.get(tarn_machine::STATE, &key).unwrap().expect("the row is there");
            row[place] ^= 0x10;
            let mut batch = Batch::new();
            batch.put(tarn_machine::STATE, &key, &row);
            engine.write(batch, Durability::Synced).unwrap();
        };
        let of = config.clone();
        tokio::task::spawn_blocking(move || flip(&of)).await.unwrap();
        let running = daemon::start(config.clone()).await.unwrap();
        until(|| running.is_ready()).await;
        let channel = dial(&running, &credentials).await;
        let report = audit(&channel).verify_decisions(v1::VerifyDecisionsRequest::default()).await;
        let report = report.unwrap().into_inner();
        assert_eq!(report.faults.len(), 1, "byte {place}: {report:?}");
        assert_eq!(report.faults[0].index, index, "byte {place}: {report:?}");
        running.shutdown().await;
        let of = config.clone();
        tokio::task::spawn_blocking(move || flip(&of)).await.unwrap();
    }
    let running = daemon::start(config).await.unwrap();
    until(|| running.is_ready()).await;
    let channel = dial(&running, &credentials).await;
    let report = audit(&channel).verify_decisions(v1::VerifyDecisionsRequest::default()).await;
    assert!(report.unwrap().into_inner().faults.is_empty());
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_questions_have_clear_answers() {
    let node = node().await;
    let mut service = audit(&node.channel);
    for id in [String::new(), "x".repeat(129)] {
        let status = service.explain_request(v1::ExplainRequestRequest { id, level: 0 }).await.unwrap_err();
        assert_eq!((status.code(), fact(&status, "field")), (Code::InvalidArgument, "id".into()));
    }
    let token = ListDecisionsRequest { page_token: "../x".into(), ..ListDecisionsRequest::default() };
    assert_eq!(reason(&service.list_decisions(token).await.unwrap_err()), "INVALID_PAGE_TOKEN");
    let settings = v1::PutAuditSettingsRequest {
        settings: Some(v1::AuditSettings { retention_ms: 1, ..v1::AuditSettings::default() }),
        ..v1::PutAuditSettingsRequest::default()
    };
    assert_eq!(reason(&service.put_audit_settings(settings).await.unwrap_err()), "OUT_OF_RANGE");
    node.running.shutdown().await;
}
