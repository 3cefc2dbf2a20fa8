//! Commands filled at random, field by field.

use std::collections::BTreeMap;

use prost::Message;
use prost_reflect::{Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use tarn_machine::ids::Id;
use tarn_machine::{Machine, Refusal, check, limits};
use tarn_proto::v1::*;

use crate::dice::Dice;
use crate::target::Target;
use crate::valid::{commands, populated};

fn wrap(field: &FieldDescriptor, body: DynamicMessage) -> Command {
    let mut command = DynamicMessage::new(field.parent_message().clone());
    command.set_field(field, Value::Message(body));
    command.transcode_to().expect("the contract's own message")
}

#[test]
fn a_command_that_says_nothing_is_refused_by_its_first_missing_field() {
    let mut target = Target::new();
    // To leave the federation there is nothing to say.
    let commands = commands().into_iter().filter(|field| field.name() != "leave_federation");
    let reasons = commands.map(|field| {
        let Kind::Message(request) = field.kind() else { panic!("{} is no message", field.name()) };
        let command = wrap(&field, DynamicMessage::new(request));
        let digest = target.machine.digest();
        let refused = check::validate(&command).err();
        let said = target.tell(command.body.expect("it has a body"));
        assert_ne!(digest, target.machine.digest(), "the entry itself is in the chain");
        match said {
            outcome::Body::Rejected(rejection) => {
                assert_eq!(Some(&rejection), refused.as_ref());
                (field.name().to_owned(), format!("{} {}", rejection.reason, rejection.field))
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
        ("update_namespace", "INVALID_NAME name"),
        ("raise_version", "OUT_OF_RANGE version"),
        ("put_join_token", "INVALID_HASH key_hash"),
        ("consume_join_token", "INVALID_HASH key_hash"),
        ("put_role", "INVALID_NAME name"),
        ("delete_role", "INVALID_NAME name"),
        ("put_binding", "NO_BINDING binding"),
        ("delete_binding", "NO_BINDING binding"),
        ("put_token", "INVALID_HASH secret_hash"),
        ("revoke_token", "INVALID_ID token_id"),
        ("revoke_certificate", "INVALID_SERIAL serial"),
        ("record_decisions", "NO_DECISIONS decisions"),
        ("put_audit_settings", "NO_SETTINGS settings"),
        ("put_bundle", "INVALID_NAME environment"),
        ("activate_bundle", "INVALID_NAME environment"),
        ("rollback_bundle", "INVALID_NAME environment"),
        ("deactivate_bundle", "INVALID_NAME environment"),
        ("delete_bundle", "INVALID_NAME environment"),
        ("put_policy_handler", "INVALID_NAME name"),
        ("delete_policy_handler", "INVALID_NAME name"),
        ("put_policy_settings", "NO_SETTINGS settings"),
        ("record_violations", "NO_VIOLATIONS violations"),
        ("acknowledge_escalations", "INVALID_NAME handler"),
        ("place_tasks", "NO_PLACEMENTS placements"),
        ("put_scheduler_settings", "NO_SETTINGS settings"),
        ("put_key", "INVALID_NAME namespace"),
        ("delete_key", "INVALID_NAME namespace"),
        ("snapshot_context", "INVALID_NAME namespace"),
        ("restore_context", "INVALID_NAME namespace"),
        ("delete_snapshot", "INVALID_NAME namespace"),
        ("delete_context", "INVALID_NAME namespace"),
        ("install_driver", "INVALID_NAME namespace"),
        ("upgrade_driver", "INVALID_NAME namespace"),
        ("remove_driver", "INVALID_NAME namespace"),
        ("advance_driver", "INVALID_NAME namespace"),
        ("put_driver_settings", "NO_SETTINGS settings"),
        ("start_federation", "NO_IDENTITY identity"),
        ("write_shared", "NOTHING_TO_WRITE writes"),
        ("commit_replica", "NOTHING_TO_COMMIT rows"),
        ("put_invitation", "INVALID_HASH key_hash"),
        ("consume_invitation", "INVALID_HASH key_hash"),
        ("share_context", "INVALID_NAME namespace"),
        ("accept_transfer", "NO_TRANSFER transfer"),
        ("confirm_transfer", "INVALID_TRANSFER_ID transfer_id"),
        ("extend_transfer", "INVALID_TRANSFER_ID transfer_id"),
        ("close_transfer", "INVALID_TRANSFER_ID transfer_id"),
        ("batch", "NO_COMMAND batch.commands"),
    ];
    assert_eq!(reasons, expected.map(|(name, reason)| (name.to_owned(), reason.to_owned())));
    target.check();
}

#[test]
fn commands_filled_at_random_get_an_outcome() {
    let (mut target, worker, task) = populated();
    let mut filler = Filler { dice: Dice::new(3), words: vec![worker, task, Id(5).to_string()] };
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
        let fields: Vec<FieldDescriptor> = (0..filler.dice.between(1, 3)).map(|_| filler.dice.pick(&commands)).collect();
        let mut entry = Entry { version: 1, now_ms, commands: Vec::new() };
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
            if let Some(outcome::Body::PutToken(PutTokenResponse { token: Some(token) })) = &outcome.body {
                filler.learn(&token.token_id);
            }
        }
        if round % 20 == 0 {
            read_at_random(&target.machine, &mut filler);
        }
    }
    println!("accepted: {accepted:?}");
    assert!(accepted.len() >= 31, "most commands are accepted now and then: {accepted:?}");
    target.check();
}

/// Reads with the same kind of words: an answer or a refusal, never more.
#[allow(clippy::needless_update, reason = "some of the requests have more fields than are filled here")]
fn read_at_random(machine: &Machine, filler: &mut Filler) {
    let mut refusals = Vec::new();
    macro_rules! read {
        ($method:ident($request:ident { $($field:ident: $name:literal),* })) => {
            let request = $request { $($field: filler.text($name),)* ..$request::default() };
            refusals.extend(machine.$method(&request).err());
        };
    }
    read!(get_task(GetTaskRequest { namespace: "namespace", task_id: "task_id" }));
    read!(list_tasks(ListTasksRequest { namespace: "namespace", queue: "queue", page_token: "page_token" }));
    read!(task_logs(GetTaskLogsRequest { namespace: "namespace", task_id: "task_id" }));
    read!(get_queue(GetQueueRequest { namespace: "namespace", queue: "queue" }));
    read!(list_queues(ListQueuesRequest { namespace: "namespace" }));
    read!(get_lease(GetLeaseRequest { namespace: "namespace", name: "name" }));
    read!(list_leases(ListLeasesRequest { namespace: "namespace", page_token: "page_token" }));
    read!(get_timer(GetTimerRequest { namespace: "namespace", timer_id: "timer_id" }));
    read!(list_timers(ListTimersRequest { namespace: "namespace", page_token: "page_token" }));
    read!(list_bindings(ListBindingsRequest { principal: "principal" }));
    read!(list_tokens(ListTokensRequest { principal: "principal" }));
    read!(get_bundle(GetBundleRequest { environment: "environment", name: "name", version: "version" }));
    read!(list_bundles(ListBundlesRequest { name: "name" }));
    read!(list_violations(ListViolationsRequest { namespace: "namespace", page_token: "page_token" }));
    read!(list_drivers(ListDriversRequest { namespace: "namespace" }));
    read!(get_driver(GetDriverRequest { namespace: "namespace", name: "name" }));
    machine.driver_standing(&filler.text("namespace"), &filler.text("name"));
    let escalations = machine.escalations(&filler.text("handler"), filler.number(), filler.dice.below(3) as usize);
    refusals.extend(escalations.err());
    refusals.extend(machine.events_after(filler.number(), filler.dice.below(3) as usize).err());
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
                    | "binding"
                    | "principal"
                    | "role"
                    | "secret_hash"
                    | "verbs"
                    | "resources"
                    | "serial"
                    | "token_id"
                    | "environment"
                    | "version"
                    | "content"
                    | "url"
                    | "min_severity"
                    | "severity"
                    | "secret"
                    | "violations"
                    | "policy"
                    | "count"
                    | "handler"
                    | "up_to"
                    | "settings"
                    | "context"
                    | "key"
                    | "snapshot"
                    | "spec"
                    | "artifact"
                    | "signature"
                    | "signer"
            );
            if !self.dice.chance(if needed { 97 } else { 20 }) {
                continue;
            }
            if field.is_map() {
                let key = MapKey::String(self.text("annotation"));
                message.set_field(&field, Value::Map([(key, Value::String(self.text("annotation")))].into()));
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
                    "key_hash" | "node_key_hash" | "secret_hash" if self.dice.chance(90) => 32,
                    "content" if self.dice.chance(90) => 3,
                    _ => self.dice.pick(&[0, 1, 1_025, limits::LOGS_BYTES_MAX + 1]),
                };
                Value::Bytes(vec![fill; length].into())
            }
            Kind::Bool => Value::Bool(self.dice.chance(50)),
            Kind::Uint32 if field.name() == "count" => Value::U32(self.dice.between(1, 9) as u32),
            Kind::Uint32 if self.dice.chance(70) => Value::U32(self.dice.below(4) as u32),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(self.number() as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(self.number()),
            Kind::Sint32 => Value::I32(self.number() as i32),
            Kind::Sint64 => Value::I64(self.number() as i64),
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
                .pick(&["", "\0", "../..", "Ünïcödé ☃", "default\n", "a b", "{}", "0000000000000", "zzzzzzzzzzzzz"])
                .to_owned();
        }
        if self.dice.chance(1) {
            return "x".repeat(self.dice.pick(&[65, 129, 257, 70_000]));
        }
        match field {
            "namespace" | "namespaces" => self.dice.pick(&["default", "default", "team"]).to_owned(),
            "name" | "role" | "handler" | "secret" | "policy" | "queue" | "queues" | "context" | "snapshot" => {
                self.dice.pick(&["team", "q", "r"]).to_owned()
            }
            "runtime" | "artifact" => self.dice.pick(&["", "wasm"]).to_owned(),
            "task_id" | "task_ids" | "after" | "worker_id" | "timer_id" | "token_id" | "page_token" | "up_to" => {
                self.dice.pick(&self.words.clone())
            }
            "principal" => self.dice.pick(&["user/ada", "node/1", "tester"]).to_owned(),
            "verbs" | "resources" => self.dice.pick(&["*", "read", "queue/q*"]).to_owned(),
            "environment" => self.dice.pick(&["prod", "dev"]).to_owned(),
            "version" | "expected" => self.dice.pick(&["1.0.0", "2.0.0", "2.0.0-rc.1"]).to_owned(),
            "url" => self.dice.pick(&["https://a/b", "http://a"]).to_owned(),
            "serial" => self.dice.pick(&["a", "0b", "ff"]).to_owned(),
            "reason" => "REASON".to_owned(),
            "request_id" => self.dice.pick(&["", "r1", "r2"]).to_owned(),
            "key" => self.dice.pick(&["a", "b", "b/c"]).to_owned(),
            _ => self.dice.pick(&["", "a", "b"]).to_owned(),
        }
    }
}
