//! Bad input at the machine's door: noise, damaged entries, fields from the future, commands filled at random.
//!
//! Whatever comes, the machine answers with an outcome for each command, or stops with [`Fatal::Malformed`] or [`Fatal::UnknownVersion`] and
//! leaves the disk as it was. It never panics, and never says that its own state contradicts itself.

#[allow(dead_code, reason = "shared with the test of the model, which throws in more ways")]
#[path = "model/dice.rs"]
mod dice;

use std::collections::BTreeMap;
use std::sync::Arc;

use dice::Dice;
use prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use tarn_machine::ids::Id;
use tarn_machine::{Applied, Fatal, Machine, Refusal, STATE, Versions, check, limits};
use tarn_proto::v1::*;
use tarn_storage::{Batch, MemoryEngine};

/// A machine that survives what is thrown at it.
struct Target {
    engine: Arc<MemoryEngine>,
    machine: Machine,
    /// Entries that it has applied.
    log: Vec<Vec<u8>>,
}

impl Target {
    fn new() -> Self {
        let engine = Arc::new(MemoryEngine::with_keyspaces(&[STATE]));
        let machine = Machine::open(engine.clone(), Versions::CURRENT).expect("an empty engine opens");
        Target {
            engine,
            machine,
            log: Vec::new(),
        }
    }

    /// Throws an entry at the machine. If it stops, its disk is as it was, and it starts again.
    fn throw(&mut self, entry: &[u8]) -> Option<Applied> {
        let index = self.log.len() as u64 + 1;
        let before = (self.machine.digest(), self.machine.now_ms());
        match self.machine.apply(index, entry, &Batch::new()) {
            Ok(applied) => {
                self.log.push(entry.to_vec());
                let entry = Entry::decode(entry).expect("the machine could decode it");
                check_outcomes(&entry.commands, &applied.outcomes);
                Some(applied)
            }
            Err(Fatal::Malformed { detail, .. }) => {
                assert!(!detail.is_empty(), "it says what is wrong");
                assert_eq!((self.machine.digest(), self.machine.now_ms()), before);
                None
            }
            Err(Fatal::UnknownVersion { .. }) => {
                self.machine = Machine::open(self.engine.clone(), Versions::CURRENT).expect("it opens again");
                assert_eq!(
                    (self.machine.digest(), self.machine.now_ms()),
                    before,
                    "the disk is as it was"
                );
                None
            }
            Err(fatal) => panic!("entry {index} made the machine say: {fatal}\n{entry:02x?}"),
        }
    }

    fn tell(&mut self, body: command::Body) -> outcome::Body {
        let command = Command {
            principal: "tester".to_owned(),
            body: Some(body),
        };
        let entry = Entry {
            version: 1,
            now_ms: self.machine.now_ms(),
            commands: vec![command],
        };
        let mut applied = self.throw(&entry.encode_to_vec()).expect("the entry is well formed");
        applied.outcomes.remove(0).body.expect("an outcome has a body")
    }

    /// The indices are what the rows say, and another machine that gets the same entries arrives at the same digest.
    fn check(&self) {
        let rebuilt = self.machine.rebuilt_indices().expect("the state can be read");
        assert!(self.machine.indices() == &rebuilt, "live and rebuilt indices differ");
        let mut other = Target::new();
        for (place, entry) in self.log.iter().enumerate() {
            other
                .machine
                .apply(place as u64 + 1, entry, &Batch::new())
                .expect("it was applied before");
        }
        assert_eq!(other.machine.digest(), self.machine.digest());
    }
}

/// Each command has its outcome; what can be refused without the state is refused as the gate would refuse it.
fn check_outcomes(commands: &[Command], outcomes: &[Outcome]) {
    assert_eq!(commands.len(), outcomes.len());
    for (command, outcome) in commands.iter().zip(outcomes) {
        let body = outcome.body.as_ref().expect("an outcome has a body");
        if let outcome::Body::Rejected(rejection) = body {
            assert!(rejection.code != 0 && !rejection.reason.is_empty(), "{rejection:?}");
            assert!(
                rejection.message.len() < 1_000,
                "a sentence, not an echo of the input: {}",
                rejection.message
            );
        }
        match (check::validate(command), body) {
            (Ok(()), _) => {}
            (Err(expected), outcome::Body::Rejected(found)) if found.reason != "ENTRY_FULL" => {
                assert_eq!(&expected, found)
            }
            (Err(_), outcome::Body::Rejected(_)) => {}
            (Err(expected), found) => panic!("{expected:?} was to be expected, and {found:?} came"),
        }
    }
}

// --- Valid input, to be spoilt ---------------------------------------------------------------------------------------------------------

/// A command of every kind. Ids are those of [`populated`].
fn every_body(worker: &str, task: &str) -> Vec<command::Body> {
    use command::Body as B;
    let ns = || "default".to_owned();
    let spec = TaskSpec {
        queue: "q".to_owned(),
        handler: "h".to_owned(),
        payload: "payload".into(),
        priority: Priority::High.into(),
        not_before_at_ms: 5,
        retry: Some(RetryPolicy {
            max_attempts: 3,
            ..RetryPolicy::default()
        }),
        after: vec![task.to_owned()],
        requires: vec!["gpu".to_owned()],
        annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        ..TaskSpec::default()
    };
    let wasm = WasmSpec {
        artifact: "a".to_owned(),
        args: vec!["x".to_owned()],
        ..WasmSpec::default()
    };
    let wasm = TaskSpec {
        queue: "q".to_owned(),
        runtime: "wasm".to_owned(),
        wasm: Some(wasm),
        after_in_batch: vec![0],
        ..TaskSpec::default()
    };
    let action = Some(TimerAction {
        action: Some(timer_action::Action::Enqueue(TaskSpec {
            after: Vec::new(),
            ..spec.clone()
        })),
    });
    let lease = TaskLease {
        namespace: ns(),
        task_id: task.to_owned(),
        token: 9,
    };
    let capabilities = WorkerCapabilities {
        labels: vec!["gpu".to_owned()],
        ..WorkerCapabilities::default()
    };
    let error = Some(TaskError {
        reason: "NO".to_owned(),
        message: "no".to_owned(),
    });
    let hash = bytes::Bytes::from_static(&[7; 32]);
    vec![
        B::Enqueue(EnqueueRequest {
            request_id: "r".to_owned(),
            namespace: ns(),
            tasks: vec![spec, wasm],
        }),
        B::CancelTask(CancelTaskRequest {
            namespace: ns(),
            task_id: task.to_owned(),
            force: true,
            ..Default::default()
        }),
        B::RequeueDead(RequeueDeadRequest {
            namespace: ns(),
            queue: "q".to_owned(),
            task_ids: vec![task.to_owned()],
            ..Default::default()
        }),
        B::PurgeQueue(PurgeQueueRequest {
            namespace: ns(),
            queue: "q".to_owned(),
            states: vec![6, 1],
            ..Default::default()
        }),
        B::LeaseTasks(LeaseTasksRequest {
            worker_id: worker.to_owned(),
            max_tasks: 3,
            lease_ms: 5_000,
            wait_ms: 9,
            ..Default::default()
        }),
        B::HeartbeatTasks(HeartbeatTasksRequest {
            worker_id: worker.to_owned(),
            leases: vec![lease.clone(), lease],
            lease_ms: 2_000,
        }),
        B::CompleteTask(CompleteTaskRequest {
            namespace: ns(),
            task_id: task.to_owned(),
            token: 9,
            result: "r".into(),
            logs: "l".into(),
            ..Default::default()
        }),
        B::FailTask(FailTaskRequest {
            namespace: ns(),
            task_id: task.to_owned(),
            token: 9,
            kind: 2,
            error,
            logs: "l".into(),
            ..Default::default()
        }),
        B::RegisterWorker(RegisterWorkerRequest {
            name: "w".to_owned(),
            capabilities: Some(capabilities),
            ttl_ms: 3_600_000,
            ..Default::default()
        }),
        B::HeartbeatWorker(HeartbeatWorkerRequest {
            worker_id: worker.to_owned(),
        }),
        B::DrainWorker(DrainWorkerRequest {
            worker_id: worker.to_owned(),
            ..Default::default()
        }),
        B::AcquireLease(AcquireLeaseRequest {
            namespace: ns(),
            name: "l".to_owned(),
            holder: "h".to_owned(),
            ttl_ms: 5_000,
            ..Default::default()
        }),
        B::RenewLease(RenewLeaseRequest {
            namespace: ns(),
            name: "l".to_owned(),
            token: 4,
            ..Default::default()
        }),
        B::ReleaseLease(ReleaseLeaseRequest {
            namespace: ns(),
            name: "l".to_owned(),
            token: 4,
            ..Default::default()
        }),
        B::ScheduleTimer(ScheduleTimerRequest {
            namespace: ns(),
            delay_ms: 5,
            action,
            ..Default::default()
        }),
        B::CancelTimer(CancelTimerRequest {
            namespace: ns(),
            timer_id: task.to_owned(),
            ..Default::default()
        }),
        B::CreateNamespace(CreateNamespaceRequest {
            name: "team".to_owned(),
            weight: 5,
            ..Default::default()
        }),
        B::DeleteNamespace(DeleteNamespaceRequest {
            name: "team".to_owned(),
            ..Default::default()
        }),
        B::RaiseVersion(RaiseVersion { version: 1 }),
        B::PutJoinToken(PutJoinToken {
            key_hash: hash.clone(),
            ttl_ms: 5_000,
            ..Default::default()
        }),
        B::ConsumeJoinToken(ConsumeJoinToken {
            key_hash: hash.clone(),
            node_key_hash: hash,
            node_id_min: 3,
        }),
    ]
}

/// A machine with a worker and a task, and their ids.
fn populated() -> (Target, String, String) {
    let mut target = Target::new();
    let register = RegisterWorkerRequest {
        ttl_ms: 3_600_000,
        ..RegisterWorkerRequest::default()
    };
    let outcome::Body::RegisterWorker(worker) = target.tell(command::Body::RegisterWorker(register)) else {
        panic!()
    };
    let tasks = vec![TaskSpec {
        queue: "q".to_owned(),
        ..TaskSpec::default()
    }];
    let enqueue = EnqueueRequest {
        namespace: "default".to_owned(),
        tasks,
        ..EnqueueRequest::default()
    };
    let outcome::Body::Enqueue(answer) = target.tell(command::Body::Enqueue(enqueue)) else {
        panic!()
    };
    (target, worker.worker_id, answer.task_ids[0].clone())
}

fn entry(bodies: &[command::Body]) -> Vec<u8> {
    let command = |body: &command::Body| Command {
        principal: "p".to_owned(),
        body: Some(body.clone()),
    };
    Entry {
        version: 1,
        now_ms: 1_000,
        commands: bodies.iter().map(command).collect(),
    }
    .encode_to_vec()
}

#[test]
fn commands_of_every_kind_are_well_formed_before_they_are_spoilt() {
    let (mut target, worker, task) = populated();
    let bodies = every_body(&worker, &task);
    assert_eq!(bodies.len(), commands().len(), "a new command belongs into the list");
    let applied = target.throw(&entry(&bodies)).expect("they are well formed");
    let bad: Vec<_> = applied
        .outcomes
        .iter()
        .filter_map(|outcome| match &outcome.body {
            Some(outcome::Body::Rejected(rejection)) if rejection.code == 3 => Some(rejection),
            _ => None,
        })
        .collect();
    assert!(bad.is_empty(), "none is refused as invalid: {bad:?}");
    target.check();
}

// --- Bytes -----------------------------------------------------------------------------------------------------------------------------

#[test]
fn noise_is_refused_and_changes_nothing() {
    let (mut target, ..) = populated();
    let mut dice = Dice::new(1);
    let mut applied = 0;
    for _ in 0..30_000 {
        let length = dice.below(80);
        let mut bytes: Vec<u8> = (0..length).map(|_| dice.next() as u8).collect();
        if dice.chance(50) {
            // The beginning of an entry of version 1, so that not all is lost at the first byte.
            bytes.splice(0..0, [0x08, 0x01]);
        }
        applied += u32::from(target.throw(&bytes).is_some());
    }
    println!("{applied} of 30,000 were entries after all");
    target.check();
}

#[test]
fn damaged_entries_never_do_more_than_entries_may() {
    let (mut target, worker, task) = populated();
    let bodies = every_body(&worker, &task);
    let mut dice = Dice::new(2);
    let (mut applied, mut refused) = (0, 0);
    for round in 0..20_000 {
        let count = dice.between(1, 3);
        let some: Vec<command::Body> = (0..count).map(|_| dice.pick(&bodies)).collect();
        let mut bytes = entry(&some);
        for _ in 0..dice.between(1, 3) {
            damage(&mut dice, &mut bytes);
        }
        match target.throw(&bytes) {
            Some(_) => applied += 1,
            None => refused += 1,
        }
        if round % 5_000 == 0 {
            target.check();
        }
    }
    assert!(
        applied > 1_000 && refused > 1_000,
        "both happen: {applied} applied, {refused} refused"
    );
    target.check();
}

fn damage(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let place = dice.below(bytes.len() as u64 + 1) as usize;
    match dice.below(6) {
        0 if place < bytes.len() => bytes[place] ^= 1 << dice.below(8),
        1 if place < bytes.len() => bytes[place] = dice.pick(&[0, 1, 0x7f, 0x80, 0xff]),
        2 => bytes.insert(place, dice.next() as u8),
        3 if place < bytes.len() => drop(bytes.remove(place)),
        4 => bytes.truncate(place),
        _ => {
            // A piece said twice.
            let end = (place + dice.between(1, 12) as usize).min(bytes.len());
            let piece = bytes[place.min(end)..end].to_vec();
            bytes.splice(place..place, piece);
        }
    }
}

#[test]
fn a_field_from_the_future_stops_the_machine_wherever_it_stands() {
    let (mut target, worker, task) = populated();
    // Field 99, the number 1; and field 98, a text.
    for unknown in [&[0x98, 0x06, 0x01][..], &[0x92, 0x06, 0x02, b'h', b'i'][..]] {
        let plain = entry(&[]);
        assert!(target.throw(&[&plain[..], unknown].concat()).is_none(), "in the entry");
        for body in every_body(&worker, &task) {
            let bytes = Command {
                principal: "p".to_owned(),
                body: Some(body.clone()),
            }
            .encode_to_vec();
            let in_command = [&plain[..], &field(3, &[&bytes[..], unknown].concat())].concat();
            assert!(
                target.throw(&in_command).is_none(),
                "in the command around {}",
                body.name()
            );
            let number = commands()
                .into_iter()
                .find(|field| field.name() == snake(body.name()))
                .expect("it is one")
                .number();
            let mut alone = Vec::new();
            body.encode(&mut alone);
            // What is encoded is the field in the command; its content begins after key and length.
            let content = strip(&alone);
            let in_body = [&plain[..], &field(3, &field(number, &[content, unknown].concat()))].concat();
            assert!(target.throw(&in_body).is_none(), "in {}", body.name());
            let twice = [
                &plain[..],
                &field(3, &[field(number, content), field(number, content)].concat()),
            ]
            .concat();
            assert!(
                target.throw(&twice).is_none() || content.is_empty(),
                "{} said twice in one command",
                body.name()
            );
        }
        let spec = TaskSpec {
            queue: "q".to_owned(),
            ..TaskSpec::default()
        }
        .encode_to_vec();
        let in_spec = field(
            3,
            &field(
                10,
                &[field(2, b"default"), field(3, &[&spec[..], unknown].concat())].concat(),
            ),
        );
        assert!(target.throw(&[&plain[..], &in_spec].concat()).is_none(), "in a task");
    }
    // The same built by hand without anything unknown is fine: it is the field that stops it.
    let spec = TaskSpec {
        queue: "q".to_owned(),
        ..TaskSpec::default()
    }
    .encode_to_vec();
    let fine = field(3, &field(10, &[field(2, b"default"), field(3, &spec)].concat()));
    let applied = target
        .throw(&[entry(&[]), fine].concat())
        .expect("nothing in it is unknown");
    assert!(
        matches!(applied.outcomes[0].body, Some(outcome::Body::Enqueue(_))),
        "{applied:?}"
    );
    target.check();
}

/// A field with a length, as protobuf writes it.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number) << 3 | 2, &mut bytes);
    prost::encoding::encode_varint(content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// The content of a field with a length.
fn strip(mut bytes: &[u8]) -> &[u8] {
    prost::encoding::decode_varint(&mut bytes).expect("a key");
    prost::encoding::decode_varint(&mut bytes).expect("a length");
    bytes
}

fn snake(camel: &str) -> String {
    let mut out = String::new();
    for c in camel.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}

// --- Messages --------------------------------------------------------------------------------------------------------------------------

/// The commands of the contract, as fields of the message that wraps them.
fn commands() -> Vec<FieldDescriptor> {
    let pool = DescriptorPool::decode(tarn_proto::DESCRIPTORS).expect("the contract's descriptors are valid");
    let command = pool
        .get_message_by_name("tarn.v1.Command")
        .expect("the contract has commands");
    command
        .fields()
        .filter(|field| matches!(field.kind(), Kind::Message(_)))
        .collect()
}

fn wrap(field: &FieldDescriptor, body: DynamicMessage) -> Command {
    let mut command = DynamicMessage::new(field.parent_message().clone());
    command.set_field(field, Value::Message(body));
    command.transcode_to().expect("the contract's own message")
}

#[test]
fn a_command_that_says_nothing_is_refused_by_its_first_missing_field() {
    let mut target = Target::new();
    let reasons = commands().into_iter().map(|field| {
        let Kind::Message(request) = field.kind() else {
            panic!("{} is no message", field.name())
        };
        let command = wrap(&field, DynamicMessage::new(request));
        let digest = target.machine.digest();
        let refused = check::validate(&command).err();
        let said = target.tell(command.body.expect("it has a body"));
        assert_ne!(digest, target.machine.digest(), "the entry itself is in the chain");
        match said {
            outcome::Body::Rejected(rejection) => {
                assert_eq!(Some(&rejection), refused.as_ref());
                (
                    field.name().to_owned(),
                    format!("{} {}", rejection.reason, rejection.field),
                )
            }
            _ => (field.name().to_owned(), "accepted".to_owned()),
        }
    });
    let reasons: Vec<(String, String)> = reasons.collect();
    let expected = [
        ("enqueue", "INVALID_NAME namespace"),
        ("cancel_task", "INVALID_NAME namespace"),
        ("requeue_dead", "INVALID_NAME namespace"),
        ("purge_queue", "INVALID_NAME namespace"),
        ("lease_tasks", "INVALID_ID worker_id"),
        ("heartbeat_tasks", "INVALID_ID worker_id"),
        ("complete_task", "INVALID_NAME namespace"),
        ("fail_task", "INVALID_NAME namespace"),
        ("register_worker", "accepted"),
        ("heartbeat_worker", "INVALID_ID worker_id"),
        ("drain_worker", "INVALID_ID worker_id"),
        ("acquire_lease", "INVALID_NAME namespace"),
        ("renew_lease", "INVALID_NAME namespace"),
        ("release_lease", "INVALID_NAME namespace"),
        ("schedule_timer", "INVALID_NAME namespace"),
        ("cancel_timer", "INVALID_NAME namespace"),
        ("create_namespace", "INVALID_NAME name"),
        ("delete_namespace", "INVALID_NAME name"),
        ("raise_version", "OUT_OF_RANGE version"),
        ("put_join_token", "INVALID_HASH key_hash"),
        ("consume_join_token", "INVALID_HASH key_hash"),
    ];
    assert_eq!(
        reasons,
        expected.map(|(name, reason)| (name.to_owned(), reason.to_owned()))
    );
    target.check();
}

#[test]
fn commands_filled_at_random_get_an_outcome() {
    let (mut target, worker, task) = populated();
    let mut filler = Filler {
        dice: Dice::new(3),
        words: vec![worker, task, Id(5).to_string()],
    };
    let commands = commands();
    let mut accepted: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..20_000 {
        let now_ms = match filler.dice.below(50) {
            0 => u64::MAX,
            1..3 => 0,
            _ => target.machine.now_ms().saturating_add(filler.dice.below(5_000)),
        };
        // The end of time comes only near the end of the test.
        let now_ms = if round < 18_000 { now_ms.min(1 << 40) } else { now_ms };
        let fields: Vec<FieldDescriptor> = (0..filler.dice.between(1, 3))
            .map(|_| filler.dice.pick(&commands))
            .collect();
        let mut entry = Entry {
            version: 1,
            now_ms,
            commands: Vec::new(),
        };
        for field in &fields {
            let Kind::Message(request) = field.kind() else { continue };
            let mut command = wrap(field, filler.message(&request, 0));
            command.principal = filler.text("principal");
            entry.commands.push(command);
        }
        let Some(applied) = target.throw(&entry.encode_to_vec()) else {
            continue;
        };
        for (field, outcome) in fields.iter().zip(&applied.outcomes) {
            if !matches!(outcome.body, Some(outcome::Body::Rejected(_))) {
                *accepted.entry(field.name().to_owned()).or_default() += 1;
            }
            if let Some(outcome::Body::Enqueue(answer)) = &outcome.body {
                filler.learn(&answer.task_ids[0]);
            }
            if let Some(outcome::Body::ScheduleTimer(answer)) = &outcome.body {
                filler.learn(&answer.timer_id);
            }
            if let Some(outcome::Body::RegisterWorker(answer)) = &outcome.body {
                filler.learn(&answer.worker_id);
            }
        }
        if round % 20 == 0 {
            read_at_random(&target.machine, &mut filler);
        }
    }
    println!("accepted: {accepted:?}");
    assert!(
        accepted.len() >= 15,
        "most commands are accepted now and then: {accepted:?}"
    );
    target.check();
}

/// Reads with the same kind of words: an answer or a refusal, never more.
#[allow(
    clippy::needless_update,
    reason = "some of the requests have more fields than are filled here"
)]
fn read_at_random(machine: &Machine, filler: &mut Filler) {
    let mut refusals = Vec::new();
    macro_rules! read {
        ($method:ident($request:ident { $($field:ident: $name:literal),* })) => {
            let request = $request { $($field: filler.text($name),)* ..$request::default() };
            refusals.extend(machine.$method(&request).err());
        };
    }
    read!(get_task(GetTaskRequest {
        namespace: "namespace",
        task_id: "task_id"
    }));
    read!(list_tasks(ListTasksRequest {
        namespace: "namespace",
        queue: "queue",
        page_token: "page_token"
    }));
    read!(task_logs(GetTaskLogsRequest {
        namespace: "namespace",
        task_id: "task_id"
    }));
    read!(get_queue(GetQueueRequest {
        namespace: "namespace",
        queue: "queue"
    }));
    read!(list_queues(ListQueuesRequest { namespace: "namespace" }));
    read!(get_lease(GetLeaseRequest {
        namespace: "namespace",
        name: "name"
    }));
    read!(list_leases(ListLeasesRequest {
        namespace: "namespace",
        page_token: "page_token"
    }));
    read!(get_timer(GetTimerRequest {
        namespace: "namespace",
        timer_id: "timer_id"
    }));
    read!(list_timers(ListTimersRequest {
        namespace: "namespace",
        page_token: "page_token"
    }));
    refusals.extend(
        machine
            .events_after(filler.number(), filler.dice.below(3) as usize)
            .err(),
    );
    for refusal in refusals {
        assert!(matches!(refusal, Refusal::Rejected(_)), "{refusal}");
    }
    machine.has_ready_task_for(&filler.text("worker_id"));
}

/// Fills messages with what is mostly wrong, and right often enough to get somewhere.
struct Filler {
    dice: Dice,
    /// Ids that exist, or did.
    words: Vec<String>,
}

impl Filler {
    fn learn(&mut self, id: &str) {
        self.words.push(id.to_owned());
        if self.words.len() > 20 {
            self.words.remove(0);
        }
    }

    fn message(&mut self, descriptor: &MessageDescriptor, depth: u32) -> DynamicMessage {
        let mut message = DynamicMessage::new(descriptor.clone());
        for field in descriptor.fields() {
            let needed = matches!(
                field.name(),
                "namespace"
                    | "name"
                    | "queue"
                    | "worker_id"
                    | "task_id"
                    | "tasks"
                    | "token"
                    | "max_tasks"
                    | "key_hash"
                    | "node_key_hash"
                    | "action"
                    | "timer_id"
                    | "states"
            );
            if !self.dice.chance(if needed { 97 } else { 20 }) {
                continue;
            }
            if field.is_map() {
                let key = MapKey::String(self.text("annotation"));
                message.set_field(
                    &field,
                    Value::Map([(key, Value::String(self.text("annotation")))].into()),
                );
            } else if field.cardinality() == Cardinality::Repeated {
                let count = self.dice.pick(&[1, 1, 2, 5]);
                let list = (0..count).map(|_| self.value(&field, depth)).collect();
                message.set_field(&field, Value::List(list));
            } else {
                let value = self.value(&field, depth);
                message.set_field(&field, value);
            }
        }
        message
    }

    fn value(&mut self, field: &FieldDescriptor, depth: u32) -> Value {
        match field.kind() {
            Kind::String => Value::String(self.text(field.name())),
            Kind::Bytes => {
                let fill = self.dice.below(3) as u8;
                let length = match field.name() {
                    "key_hash" | "node_key_hash" if self.dice.chance(90) => 32,
                    _ => self.dice.pick(&[0, 1, 1_025, limits::LOGS_BYTES_MAX + 1]),
                };
                Value::Bytes(vec![fill; length].into())
            }
            Kind::Bool => Value::Bool(self.dice.chance(50)),
            Kind::Uint32 if self.dice.chance(70) => Value::U32(self.dice.below(4) as u32),
            Kind::Uint32 => Value::U32(self.number() as u32),
            Kind::Uint64 => Value::U64(self.number()),
            Kind::Enum(_) if self.dice.chance(80) => Value::EnumNumber(self.dice.between(1, 3) as i32),
            Kind::Enum(_) => Value::EnumNumber(self.number() as i32),
            Kind::Message(inner) if depth < 4 => Value::Message(self.message(&inner, depth + 1)),
            Kind::Message(inner) => Value::Message(DynamicMessage::new(inner)),
            kind => panic!("the contract has a new kind of field: {kind:?}"),
        }
    }

    fn number(&mut self) -> u64 {
        match self.dice.below(10) {
            0 => u64::MAX,
            1 => self.dice.next() >> self.dice.below(64),
            2 => limits::TIME_MS_MAX + self.dice.below(2),
            3..7 => 0,
            _ => self.dice.between(1, 100_000),
        }
    }

    fn text(&mut self, field: &str) -> String {
        if self.dice.chance(5) {
            return self
                .dice
                .pick(&[
                    "",
                    "\0",
                    "../..",
                    "Ünïcödé ☃",
                    "default\n",
                    "a b",
                    "{}",
                    "0000000000000",
                    "zzzzzzzzzzzzz",
                ])
                .to_owned();
        }
        if self.dice.chance(1) {
            return "x".repeat(self.dice.pick(&[65, 129, 257, 70_000]));
        }
        match field {
            "namespace" | "namespaces" => self.dice.pick(&["default", "default", "team"]).to_owned(),
            "name" | "queue" | "queues" => self.dice.pick(&["team", "q", "r"]).to_owned(),
            "runtime" | "artifact" => self.dice.pick(&["", "wasm"]).to_owned(),
            "task_id" | "task_ids" | "after" | "worker_id" | "timer_id" | "page_token" => {
                self.dice.pick(&self.words.clone())
            }
            "reason" => "REASON".to_owned(),
            "request_id" => self.dice.pick(&["", "r1", "r2"]).to_owned(),
            _ => self.dice.pick(&["", "a", "b"]).to_owned(),
        }
    }
}

// --- Size ------------------------------------------------------------------------------------------------------------------------------

#[test]
fn what_is_too_large_is_refused_by_its_size_alone() {
    let (mut target, worker, task) = populated();
    let huge = || "x".repeat(limits::COMMAND_BYTES_MAX);
    for body in every_body(&worker, &task) {
        let entry = Entry {
            version: 1,
            now_ms: 1_000,
            commands: vec![Command {
                principal: huge(),
                body: Some(body),
            }],
        };
        let applied = target.throw(&entry.encode_to_vec()).expect("large, but well formed");
        let Some(outcome::Body::Rejected(rejection)) = &applied.outcomes[0].body else {
            panic!("it is accepted")
        };
        assert_eq!(
            (rejection.reason.as_str(), rejection.limit),
            ("COMMAND_TOO_LARGE", limits::COMMAND_BYTES_MAX as u64)
        );
        assert!(applied.events.is_empty());
    }
    target.check();
}

#[test]
fn an_entry_of_a_thousand_commands_gets_a_thousand_outcomes() {
    let (mut target, worker, task) = populated();
    let bodies = every_body(&worker, &task);
    let many: Vec<command::Body> = (0..1_000).map(|place| bodies[place % bodies.len()].clone()).collect();
    let applied = target.throw(&entry(&many)).expect("it is well formed");
    assert_eq!(applied.outcomes.len(), 1_000);
    target.check();
}
