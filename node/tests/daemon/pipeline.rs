//! Commands over a standing stream: each with an answer of its own, whatever becomes of its neighbours.

use std::collections::BTreeMap;

use tarn_proto::v1::command::Body;
use tarn_proto::v1::command_service_client::CommandServiceClient;
use tarn_proto::v1::{answer, outcome, question};
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
        let request = v1::PipelineRequest { correlation, timeout_ms: 20_000, command, ..v1::PipelineRequest::default() };
        self.send.send(request).await.unwrap();
    }

    async fn ask(&mut self, questions: Vec<v1::Question>) -> v1::PipelineResponse {
        let request = v1::PipelineRequest { correlation: 1, questions, ..v1::PipelineRequest::default() };
        self.send.send(request).await.unwrap();
        self.hear().await
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

fn get(key: &str) -> v1::Question {
    let request = v1::GetKeyRequest { context: "memory".into(), key: key.into(), ..v1::GetKeyRequest::default() };
    v1::Question { body: Some(question::Body::GetKey(request)) }
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_in_one_message_have_each_their_answer() {
    let cluster = cluster(3).await;
    let mut put_at = Pipeline::open(&cluster[0]).await;
    // A batch, so that all are there before anybody asks; its answer is what makes them certain.
    put_at.say(1, batch("keys", (0..20).map(|number| put(&format!("k{number}"), None)))).await;
    assert_eq!(outcomes(put_at.outcome().await).len(), 20);
    for node in &cluster {
        let mut pipeline = Pipeline::open(node).await;
        let mut questions: Vec<_> = (0..20).map(|number| get(&format!("k{number}"))).collect();
        questions[7] = get("absent");
        questions[9] = v1::Question::default();
        let answers = pipeline.ask(questions).await;
        assert!(answers.outcome.is_none() && !answers.trace.is_empty());
        assert_eq!(answers.answers.len(), 20);
        for (number, answer) in answers.answers.into_iter().enumerate() {
            match (number, answer.body.unwrap()) {
                (7, answer::Body::Rejected(rejection)) => assert_eq!(rejection.reason, "KEY_NOT_FOUND"),
                (9, answer::Body::Rejected(rejection)) => assert_eq!(rejection.reason, "INVALID_ARGUMENT"),
                (_, answer::Body::GetKey(found)) => assert_eq!(&found.value[..], b"v"),
                (number, other) => panic!("{number}: {other:?}"),
            }
        }
    }
    for node in cluster {
        node.running.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_questions_and_too_large_answers_are_refused() {
    let node = node().await;
    let mut pipeline = Pipeline::open(&node).await;
    let reason = |answer: v1::Answer| match answer.body.unwrap() {
        answer::Body::Rejected(rejection) => rejection.reason,
        answer::Body::GetKey(_) | answer::Body::GetTask(_) => String::new(),
    };
    let refused = pipeline.ask(vec![get("k"); 257]).await;
    assert!(refused.answers.is_empty());
    assert!(matches!(refused.outcome.unwrap().body, Some(outcome::Body::Rejected(rejection)) if rejection.reason == "INVALID_ARGUMENT"));

    let value = bytes::Bytes::from(vec![1; 512 << 10]);
    let large = v1::PutKeyRequest { context: "memory".into(), key: "large".into(), value, ..v1::PutKeyRequest::default() };
    pipeline.say(2, Some(Body::PutKey(large))).await;
    assert!(matches!(pipeline.outcome().await, outcome::Body::PutKey(_)));
    let answers = pipeline.ask(vec![get("large"); 10]).await.answers;
    let reasons: Vec<String> = answers.into_iter().map(reason).collect();
    assert!(reasons[..3].iter().all(String::is_empty), "{reasons:?}");
    assert!(reasons[3..].iter().all(|reason| reason == "ANSWERS_TOO_LARGE"), "{reasons:?}");
    node.running.shutdown().await;
}

/// More than a stream's commands under way at once.
const WAITS: u64 = 1_100;

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_for_a_task_keep_no_command_from_its_turn() {
    let node = node().await;
    let mut pipeline = Pipeline::open(&node).await;
    pipeline.say(0, enqueue("", "q")).await;
    let outcome::Body::Enqueue(enqueued) = pipeline.outcome().await else { panic!("it is refused") };
    let task_id = enqueued.task_ids[0].clone();
    let wait = |wait_ms| {
        let request = v1::GetTaskRequest { task_id: task_id.clone(), wait_ms, ..v1::GetTaskRequest::default() };
        v1::Question { body: Some(question::Body::GetTask(request)) }
    };
    let state = |answer: v1::PipelineResponse| match answer.answers.into_iter().next().unwrap().body.unwrap() {
        answer::Body::GetTask(found) => Ok(found.task.unwrap().state()),
        answer::Body::Rejected(rejection) => Err(rejection.reason),
        other @ answer::Body::GetKey(_) => panic!("{other:?}"),
    };
    assert_eq!(state(pipeline.ask(vec![wait(0)]).await), Ok(v1::TaskState::Ready));
    assert_eq!(state(pipeline.ask(vec![wait(1), wait(0)]).await), Err("INVALID_ARGUMENT".to_owned()), "one that waits is alone");
    assert_eq!(state(pipeline.ask(vec![wait(60_001)]).await), Err("INVALID_ARGUMENT".to_owned()));

    for correlation in 1..=WAITS {
        let request = v1::PipelineRequest { correlation, questions: vec![wait(50_000)], ..v1::PipelineRequest::default() };
        pipeline.send.send(request).await.unwrap();
    }
    let cancel = v1::CancelTaskRequest { task_id: task_id.clone(), ..v1::CancelTaskRequest::default() };
    pipeline.say(0, Some(Body::CancelTask(cancel))).await;
    let mut answered = Vec::new();
    for _ in 0..=WAITS {
        let answer = pipeline.hear().await;
        answered.push(answer.correlation);
        if answer.correlation > 0 {
            // Who finds no room among those that come at one moment asks by a call.
            match state(answer) {
                Ok(state) => assert_eq!(state, v1::TaskState::Cancelled),
                Err(reason) => assert_eq!(reason, "TOO_MANY_WAITS"),
            }
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..=WAITS).collect::<Vec<_>>());
    node.running.shutdown().await;
}

/// What a client reads that has said everything, and what a node's stop leaves of an open stream.
#[tokio::test(flavor = "multi_thread")]
async fn the_answers_end_with_the_requests_and_with_the_node() {
    let node = node().await;
    let mut pipeline = Pipeline::open(&node).await;
    pipeline.say(0, enqueue("", "q")).await;
    let outcome::Body::Enqueue(enqueued) = pipeline.outcome().await else { panic!("it is refused") };
    let request = v1::GetTaskRequest { task_id: enqueued.task_ids[0].clone(), wait_ms: 300, ..v1::GetTaskRequest::default() };
    let questions = vec![v1::Question { body: Some(question::Body::GetTask(request)) }];
    pipeline.send.send(v1::PipelineRequest { correlation: 7, questions, ..v1::PipelineRequest::default() }).await.unwrap();
    let Pipeline { send, mut receive } = pipeline;
    drop(send);
    let last = tokio::time::timeout(PATIENCE, receive.message()).await.expect("silence").unwrap();
    assert_eq!(last.map(|answer| answer.correlation), Some(7), "who waits has its answer");
    let end = tokio::time::timeout(PATIENCE, receive.message()).await.expect("the stream goes on").unwrap();
    assert_eq!(end, None);

    let mut open = Pipeline::open(&node).await;
    open.say(1, enqueue("", "q")).await;
    open.hear().await;
    let stopping = tokio::spawn(node.running.shutdown());
    let end = tokio::time::timeout(PATIENCE, open.receive.message()).await.expect("the stream outlives the node's wish to stop");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    stopping.await.unwrap();
}
