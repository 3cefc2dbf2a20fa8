//! Commands over a standing stream: each with an answer of its own, whatever becomes of its neighbours.

use std::collections::BTreeMap;

use tarn_proto::v1::command::Body;
use tarn_proto::v1::command_service_client::CommandServiceClient;
use tarn_proto::v1::outcome;
use tarn_proto::{LEADER_HEADER, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::common::{Node, PATIENCE, cluster, eventually, node, task};

struct Pipeline {
    send: mpsc::Sender<v1::PipelineRequest>,
    receive: Streaming<v1::PipelineResponse>,
}

impl Pipeline {
    async fn open(node: &Node) -> Self {
        let (send, requests) = mpsc::channel(2_048);
        let mut service = CommandServiceClient::new(node.channel.clone());
        let receive = service.pipeline(ReceiverStream::new(requests)).await.unwrap();
        Self { send, receive: receive.into_inner() }
    }

    async fn say(&self, correlation: u64, body: Option<Body>) {
        let command = v1::Command { principal: String::new(), gate: None, body };
        self.say_raw(correlation, Some(command)).await;
    }

    async fn say_raw(&self, correlation: u64, command: Option<v1::Command>) {
        let request = v1::PipelineRequest { correlation, timeout_ms: 20_000, command };
        self.send.send(request).await.unwrap();
    }

    async fn hear(&mut self) -> v1::PipelineResponse {
        let heard = tokio::time::timeout(PATIENCE, self.receive.message()).await;
        heard.expect("silence").unwrap().expect("the stream goes on")
    }

    async fn outcome(&mut self) -> outcome::Body {
        self.hear().await.outcome.unwrap().body.unwrap()
    }

    async fn rejection(&mut self) -> v1::Rejection {
        match self.outcome().await {
            outcome::Body::Rejected(rejection) => rejection,
            other => panic!("{other:?}"),
        }
    }
}

fn enqueue(request_id: &str, queue: &str) -> Option<Body> {
    Some(Body::Enqueue(v1::EnqueueRequest { request_id: request_id.into(), namespace: String::new(), tasks: vec![task(queue, b"x")] }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_commands_at_once_have_each_their_answer() {
    let node = node().await;
    let mut pipeline = Pipeline::open(&node).await;
    for number in 0..1_000 {
        // One in ten has no queue to go to.
        let queue = if number % 10 == 0 { "" } else { "q" };
        pipeline.say(number, enqueue("", queue)).await;
    }
    let mut answers = BTreeMap::new();
    for _ in 0..1_000 {
        let answer = pipeline.hear().await;
        assert_eq!(answer.leader, "", "this node leads");
        let accepted = matches!(answer.outcome.unwrap().body, Some(outcome::Body::Enqueue(_)));
        assert!(answers.insert(answer.correlation, accepted).is_none(), "answered twice");
    }
    assert!(answers.iter().all(|(number, accepted)| *accepted == (number % 10 != 0)));
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_first_answer() {
    let node = node().await;
    let mut pipeline = Pipeline::open(&node).await;
    pipeline.say(1, enqueue("once", "q")).await;
    let first = pipeline.outcome().await;
    pipeline.say(2, enqueue("once", "q")).await;
    assert_eq!(pipeline.outcome().await, first);
    pipeline.say(3, enqueue("once", "other")).await;
    assert_eq!(pipeline.rejection().await.reason, "REQUEST_ID_REUSED");
    node.running.shutdown().await;
}

fn batch(request_id: &str, bodies: impl IntoIterator<Item = Option<Body>>) -> Option<Body> {
    let commands = bodies.into_iter().map(|body| v1::Command { body, ..v1::Command::default() }).collect();
    Some(Body::Batch(v1::CommandBatch { request_id: request_id.into(), commands }))
}

fn outcomes(answer: outcome::Body) -> Vec<outcome::Body> {
    let outcome::Body::Batch(answer) = answer else { panic!("{answer:?}") };
    answer.outcomes.into_iter().filter_map(|outcome| outcome.body).collect()
}

fn put(key: &str, expected_version: Option<u64>) -> Option<Body> {
    let (context, key) = ("memory".into(), key.into());
    Some(Body::PutKey(v1::PutKeyRequest { context, key, value: b"v".as_ref().into(), expected_version, ..v1::PutKeyRequest::default() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_an_outcome_for_each_of_its_commands_and_is_carried_out_once() {
    let node = node().await;
    let mut pipeline = Pipeline::open(&node).await;
    let commands = || [enqueue("", "q"), put("a", Some(7)), put("a", None), enqueue("", "q")];
    pipeline.say(1, batch("once", commands())).await;
    let first = outcomes(pipeline.outcome().await);
    let [outcome::Body::Enqueue(_), outcome::Body::Rejected(conflict), outcome::Body::PutKey(_), outcome::Body::Enqueue(_)] = &first[..]
    else {
        panic!("{first:?}")
    };
    assert_eq!(conflict.reason, "VERSION_CONFLICT");

    pipeline.say(2, batch("once", commands())).await;
    let again = outcomes(pipeline.outcome().await);
    assert_eq!((&again[0], &again[2..]), (&first[0], &first[2..]));
    let outcome::Body::Rejected(remembered) = &again[1] else { panic!("{again:?}") };
    assert_eq!((&remembered.reason, remembered.actual_version), (&conflict.reason, conflict.actual_version));
    let queues = node.queues().list_queues(v1::ListQueuesRequest::default()).await.unwrap().into_inner().queues;
    assert_eq!(queues.iter().map(|queue| queue.ready).sum::<u64>(), 2);
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_a_command_that_the_gate_refuses_has_no_effect() {
    let node = node().await;
    let mut pipeline = Pipeline::open(&node).await;
    let principal = v1::Command { principal: "somebody else".into(), gate: None, body: enqueue("", "q") };
    let forged = v1::CommandBatch { request_id: "r".into(), commands: vec![principal] };
    let nested = batch("", [enqueue("", "q")]);
    let batches = [
        (batch("b1", [enqueue("", "q"), enqueue("", "no queue has this name")]), "INVALID_NAME"),
        (batch("b2", [enqueue("", "q"), None]), "NOT_FOR_A_BATCH"),
        (batch("b3", [enqueue("", "q"), nested]), "NOT_FOR_A_BATCH"),
        (batch("b4", [enqueue("its own", "q")]), "NOT_FOR_A_BATCH"),
        (
            batch("b5", [enqueue("", "q"), Some(Body::RaiseVersion(v1::RaiseVersion { version: 99, keep_access: false }))]),
            "NOT_FOR_A_BATCH",
        ),
        (batch("b6", (0..257).map(|_| put("a", None))), "TOO_MANY_COMMANDS"),
        (batch("b7", []), "NO_COMMAND"),
        (Some(Body::Batch(forged)), "NOT_FOR_A_BATCH"),
    ];
    for (body, reason) in batches {
        pipeline.say(1, body).await;
        assert_eq!(pipeline.rejection().await.reason, reason);
    }
    let queues = node.queues().list_queues(v1::ListQueuesRequest::default()).await.unwrap().into_inner().queues;
    assert!(queues.is_empty(), "{queues:?}");
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_may_not_send_is_refused_and_the_stream_goes_on() {
    let node = node().await;
    let mut pipeline = Pipeline::open(&node).await;
    let refused = [
        None,
        Some(Body::LeaseTasks(v1::LeaseTasksRequest::default())),
        Some(Body::RaiseVersion(v1::RaiseVersion { version: 2, ..Default::default() })),
        Some(Body::PutJoinToken(v1::PutJoinToken::default())),
        Some(Body::ConsumeJoinToken(v1::ConsumeJoinToken::default())),
    ];
    for body in refused {
        pipeline.say(0, body).await;
        let rejection = pipeline.rejection().await;
        assert_eq!((&*rejection.reason, &*rejection.field), ("INVALID_ARGUMENT", "command.body"));
    }
    pipeline.say_raw(0, None).await;
    assert_eq!(pipeline.rejection().await.field, "command.body");
    let forged = v1::Command { principal: "somebody else".into(), gate: None, body: enqueue("", "q") };
    pipeline.say_raw(0, Some(forged)).await;
    assert_eq!(pipeline.rejection().await.field, "command.principal");
    let judged = v1::Command { principal: String::new(), gate: Some(Box::default()), body: enqueue("", "q") };
    pipeline.say_raw(0, Some(judged)).await;
    assert_eq!(pipeline.rejection().await.field, "command.gate");

    pipeline.say(7, enqueue("", "q")).await;
    assert!(matches!(pipeline.outcome().await, outcome::Body::Enqueue(_)));
    node.running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_answers_what_it_took_and_ends_the_stream() {
    let node = node().await;
    let mut pipeline = Pipeline::open(&node).await;
    pipeline.say(1, enqueue("", "q")).await;
    assert!(matches!(pipeline.outcome().await, outcome::Body::Enqueue(_)));
    // The client keeps its side open: the shutdown must not wait for it.
    tokio::time::timeout(PATIENCE, node.running.shutdown()).await.expect("a shutdown that ends");
    while let Ok(Some(_)) = pipeline.receive.message().await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_takes_commands_and_says_who_leads() {
    let nodes = cluster(3).await;
    eventually(|| async { nodes.iter().all(|node| leader_of(node).is_some()) }).await;
    let (leader, _) = leader_of(&nodes[0]).unwrap();
    for node in &nodes {
        let mut pipeline = Pipeline::open(node).await;
        pipeline.say(1, enqueue("", "q")).await;
        let answer = pipeline.hear().await;
        assert!(matches!(answer.outcome.unwrap().body, Some(outcome::Body::Enqueue(_))));
        let listed = node.queues().list_queues(v1::ListQueuesRequest::default()).await.unwrap();
        let header = listed.metadata().get(LEADER_HEADER).map(|value| value.to_str().unwrap().to_owned());
        let told = (node.running.node_id() != leader).then(|| leader_of(node).unwrap().1);
        assert_eq!(header, told);
        assert_eq!(answer.leader, told.unwrap_or_default());
    }
    for node in nodes {
        node.running.shutdown().await;
    }
}

fn leader_of(node: &Node) -> Option<(u64, String)> {
    let leadership = node.running.consensus().leadership();
    let leader = leadership.borrow().leader.clone();
    leader.map(|peer| (peer.id, peer.address))
}
