//! Batches: they do what their commands would do one by one, are remembered as a whole, and hold only what belongs into them.

#[allow(dead_code, reason = "shared with the test of the model, which throws in more ways")]
#[path = "../model/dice.rs"]
mod dice;
mod singly;
#[path = "../support/mod.rs"]
mod support;

use bytes::Bytes;
use prost::Message;
use support::{Rig, answer, command, spec};
use tarn_machine::keys::Key;
use tarn_machine::{BATCHES, Fatal, STATE, check, limits};
use tarn_proto::v1::command::Body as B;
use tarn_proto::v1::outcome::Body as O;
use tarn_proto::v1::*;
use tarn_storage::{Batch, Engine, Range};

fn ns() -> String {
    "default".to_owned()
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.ok(RaiseVersion { version: BATCHES, ..Default::default() });
    rig
}

fn batch(request_id: &str, bodies: Vec<B>) -> CommandBatch {
    let commands = bodies.into_iter().map(|body| Command { body: Some(body), ..Command::default() }).collect();
    CommandBatch { request_id: request_id.to_owned(), commands }
}

fn enqueue(tasks: Vec<TaskSpec>) -> B {
    B::Enqueue(EnqueueRequest { namespace: ns(), tasks, ..Default::default() })
}

fn acquire(name: &str, holder: &str) -> B {
    B::AcquireLease(AcquireLeaseRequest { namespace: ns(), name: name.to_owned(), holder: holder.to_owned(), ..Default::default() })
}

fn release(name: &str, token: u64) -> B {
    B::ReleaseLease(ReleaseLeaseRequest { namespace: ns(), name: name.to_owned(), token, ..Default::default() })
}

fn put(key: &str, value: &str, expected_version: Option<u64>) -> B {
    let value = Bytes::copy_from_slice(value.as_bytes());
    B::PutKey(PutKeyRequest { namespace: ns(), context: "memory".into(), key: key.into(), value, expected_version, ..Default::default() })
}

fn reason(outcome: &Outcome) -> &str {
    match outcome.body.as_ref().expect("an outcome has a body") {
        O::Rejected(rejection) => &rejection.reason,
        _ => "ok",
    }
}

/// What the state holds, without where the machine stands.
fn rows(rig: &Rig) -> Vec<(Vec<u8>, Vec<u8>)> {
    let all = rig.engine.scan(STATE, Range::all()).map(|entry| entry.expect("memory does not fail"));
    all.filter(|(key, _)| *key != Key::Meta.encode() && *key != Key::Digest.encode()).collect()
}

/// Rows of request ids.
fn remembered(rig: &Rig) -> Vec<Vec<u8>> {
    let is_request = |key: &[u8]| matches!(Key::decode(key), Some(Key::Request { .. }));
    rows(rig).into_iter().filter(|(key, _)| is_request(key)).map(|(_, row)| row).collect()
}

fn outcomes(rig: &mut Rig, batch: CommandBatch) -> Vec<Outcome> {
    rig.ok(batch).outcomes
}

#[test]
fn what_is_refused_in_a_batch_leaves_no_trace_and_the_others_go_on() {
    let mut rig = rig();
    rig.ok(batch("", vec![acquire("door", "ann"), put("k", "v", None)]));
    let before = rows(&rig);
    let no = [acquire("door", "bob"), put("k", "w", Some(7)), put("", "w", None), enqueue(vec![]), enqueue(vec![spec("No")])];
    let expected = ["LEASE_HELD", "VERSION_CONFLICT", "INVALID_KEY", "NO_TASKS", "INVALID_NAME"];
    assert!(outcomes(&mut rig, batch("", no.to_vec())).iter().map(reason).eq(expected));
    assert_eq!(rows(&rig), before);

    let mixed = no.iter().flat_map(|no| [no.clone(), enqueue(vec![spec("q")])]).collect();
    let (answer, events) = rig.tell(batch("", mixed));
    let answer = answer.unwrap().outcomes;
    assert!(answer.iter().map(reason).eq(expected.iter().flat_map(|no| [*no, "ok"])));
    assert_eq!(events.len(), expected.len());
    // Each works on what those before it left.
    let chain = vec![put("n", "1", Some(0)), put("n", "2", Some(0)), acquire("gate", "ann"), acquire("gate", "ann")];
    assert!(outcomes(&mut rig, batch("", chain)).iter().map(reason).eq(["ok", "VERSION_CONFLICT", "ok", "LEASE_HELD"]));
}

#[test]
fn a_repeat_gets_the_first_outcomes_and_changes_nothing() {
    let mut rig = rig();
    let O::AcquireLease(held) = outcomes(&mut rig, batch("", vec![acquire("door", "ann")])).remove(0).body.unwrap() else { panic!() };
    let bodies = || vec![enqueue(vec![spec("q"), spec("r")]), acquire("door", "bob"), put("k", "v", None)];
    let first = outcomes(&mut rig, batch("b", bodies()));
    assert!(first.iter().map(reason).eq(["ok", "LEASE_HELD", "ok"]));
    // Now it would succeed; but the batch is one request, and that is over.
    rig.ok(batch("", vec![release("door", held.lease.unwrap().token)]));
    let before = rows(&rig);
    let mut again = batch("b", bodies());
    for round in 0..3 {
        // Nor does the gate say the same of a repeat.
        again.commands.iter_mut().for_each(|command| {
            command.gate = Some(Box::new(GateFacts { trace: round.to_string(), ..GateFacts::default() }));
        });
        let (answer, events) = rig.tell(again.clone());
        let mut repeated = answer.unwrap().outcomes;
        assert!(events.is_empty() && rows(&rig) == before, "nothing happens, and nothing is recorded");
        // All but the sentence of what was refused, which may read differently in another build.
        let (Some(O::Rejected(was)), Some(O::Rejected(is))) = (&first[1].body, &mut repeated[1].body) else { panic!() };
        assert!(is.message.contains("LEASE_HELD") && is.message != was.message);
        is.message.clone_from(&was.message);
        assert_eq!(repeated, first);
        rig.restart();
    }
    let sentence = b"is held by";
    assert!(!rows(&rig).iter().any(|(_, row)| row.windows(sentence.len()).any(|part| part == sentence)), "no sentence is in the state");

    // The id belongs to these commands in this order, and to who sent them.
    let reversed = bodies().into_iter().rev().collect();
    for other in [batch("b", bodies()[..2].to_vec()), batch("b", reversed), batch("b", [bodies(), bodies()].concat())] {
        assert_eq!(rig.refused(other), "REQUEST_ID_REUSED");
    }
    let alone = EnqueueRequest { request_id: "b".to_owned(), namespace: ns(), tasks: vec![spec("q")] };
    assert_eq!(rig.refused(alone), "REQUEST_ID_REUSED");
    let by_bob = Command { principal: "bob".to_owned(), ..command(batch("b", bodies())) };
    let answer = answer::<CommandBatch>(rig.apply(vec![by_bob]).outcomes.remove(0)).unwrap();
    assert!(answer.outcomes.iter().map(reason).eq(["ok"; 3]));

    rig.pass_to(rig.now_ms + limits::REQUEST_RETENTION_MS + 2 * limits::SWEEP_DELAY_MS);
    assert!(remembered(&rig).is_empty(), "the window is over");
}

#[test]
fn reports_are_repeated_without_an_id() {
    let mut rig = rig();
    let worker_id = rig.ok(RegisterWorkerRequest { ttl_ms: 60_000, ..Default::default() }).worker_id;
    rig.ok(EnqueueRequest { namespace: ns(), tasks: vec![spec("q"); 8], ..Default::default() });
    let leased = rig.ok(LeaseTasksRequest { worker_id, max_tasks: 8, ..Default::default() }).tasks;
    let report = |(place, LeasedTask { task_id, token, .. }): (usize, LeasedTask)| match place % 4 {
        0 | 1 => {
            let token = token + (place % 4) as u64;
            B::CompleteTask(CompleteTaskRequest { namespace: ns(), task_id, token, result: "done".into(), ..Default::default() })
        }
        kind => B::FailTask(FailTaskRequest { namespace: ns(), task_id, token, kind: kind as i32, ..Default::default() }),
    };
    let reports: Vec<B> = leased.into_iter().enumerate().map(report).collect();
    let first = outcomes(&mut rig, batch("", reports.clone()));
    assert!(first.iter().map(reason).eq(["ok", "STALE_TOKEN", "ok", "CANCEL_NOT_REQUESTED"].repeat(2)), "{first:?}");
    for _ in 0..2 {
        let (again, events) = rig.tell(batch("", reports.clone()));
        // What was refused is refused again; nobody remembers it.
        assert!(again.unwrap().outcomes == first && events.is_empty() && remembered(&rig).is_empty());
        rig.restart();
    }
}

#[test]
fn each_command_is_recorded_with_the_id_of_the_batch_and_its_own_gate() {
    let mut rig = rig();
    let mut batch = batch("b", vec![enqueue(vec![spec("q")]), enqueue(vec![spec("r")]), acquire("No", "ann"), acquire("door", "ann")]);
    batch.commands.extend([batch.commands[3].clone(), batch.commands[3].clone()]);
    for (place, command) in batch.commands.iter_mut().enumerate().filter(|(place, _)| *place != 3 && *place != 5) {
        command.gate = Some(Box::new(GateFacts { trace: format!("t{place}"), ..GateFacts::default() }));
    }
    rig.ok(batch);
    let request = ListDecisionsRequest { after_index: rig.index - 1, ..Default::default() };
    let found = rig.machine.list_decisions(&request).unwrap().decisions;
    let plain = |record: &Decision| {
        assert_eq!((record.principal.as_str(), record.request_id.as_str()), ("tester", "b"));
        let trace = record.gate.as_ref().map_or("", |gate| &gate.trace);
        format!("{} {:?} {} {}", record.action, record.kind(), record.resource, trace)
    };
    let found: Vec<String> = found.iter().map(plain).collect();
    // Not what can never succeed, nor traffic that the gate had nothing to say about, nor the batch itself.
    assert_eq!(found, ["Enqueue Admitted queue/q t0", "Enqueue Admitted queue/r t1", "AcquireLease Refused lease/door t4"]);
}

#[test]
fn what_may_not_stand_in_a_batch_is_refused_with_a_reason() {
    let mut rig = rig();
    let before = rows(&rig);
    let one = || batch("b", vec![enqueue(vec![spec("q")])]);
    let with = |change: &dyn Fn(&mut Command)| {
        let mut batch = one();
        batch.commands.insert(0, batch.commands[0].clone());
        change(&mut batch.commands[1]);
        batch
    };
    let after = TaskSpec { after: vec!["0000000000zzz".to_owned(); limits::DEPENDENCIES_MAX], ..spec("q") };
    let too_many = limits::BATCH_DEPENDENCIES_MAX / limits::DEPENDENCIES_MAX + 1;
    let lease = B::LeaseTasks(LeaseTasksRequest { worker_id: "0000000000zzz".to_owned(), max_tasks: 1, ..Default::default() });
    for (bad, expected) in [
        (batch("b", vec![]), "NO_COMMAND"),
        (batch("b", vec![acquire("a", "b"); limits::BATCH_COMMANDS_MAX + 1]), "TOO_MANY_COMMANDS"),
        (batch("b", vec![enqueue(vec![spec("q"); 501]), enqueue(vec![spec("q"); 500])]), "TOO_MANY_TASKS"),
        (batch("b", vec![enqueue(vec![after]); too_many]), "TOO_MANY_DEPENDENCIES"),
        (batch(&"b".repeat(limits::REQUEST_ID_BYTES_MAX + 1), vec![acquire("a", "b")]), "REQUEST_ID_TOO_LONG"),
        (with(&|command| command.body = None), "NOT_FOR_A_BATCH"),
        (with(&|command| command.body = Some(lease.clone())), "NOT_FOR_A_BATCH"),
        (with(&|command| command.body = Some(B::RaiseVersion(RaiseVersion { version: 1, ..Default::default() }))), "NOT_FOR_A_BATCH"),
        (with(&|command| command.body = Some(B::Batch(one()))), "NOT_FOR_A_BATCH"),
        (with(&|command| command.principal = "user/admin".to_owned()), "NOT_FOR_A_BATCH"),
        (with(&|command| command.body.as_mut().unwrap().ensure_request_id(|| "own".to_owned())), "NOT_FOR_A_BATCH"),
    ] {
        let refused = check::validate(&command(bad.clone())).expect_err("it costs no entry");
        assert_eq!((refused.reason.as_str(), refused.code), (expected, 3));
        assert_eq!(rig.refused(bad), expected);
        assert_eq!(rows(&rig), before);
    }
    let most = [vec![enqueue(vec![spec("q"); limits::BATCH_TASKS_MAX])], vec![acquire("a", "b"); limits::BATCH_COMMANDS_MAX - 1]].concat();
    assert_eq!(outcomes(&mut rig, batch("b", most)).iter().filter(|outcome| reason(outcome) == "ok").count(), 2);
}

#[test]
fn a_batch_in_a_batch_as_deep_as_messages_go_is_refused_before_the_log() {
    let mut rig = rig();
    let mut nested = B::Batch(batch("", vec![acquire("a", "b")]));
    for depth in 1..60 {
        nested = B::Batch(batch("", vec![nested]));
        let command = Command { body: Some(nested.clone()), ..Command::default() };
        assert_eq!(check::validate(&command).unwrap_err().reason, "NOT_FOR_A_BATCH");
        let entry = Entry { version: 1, now_ms: 1_000, commands: vec![command] }.encode_to_vec();
        match rig.machine.apply(rig.index + 1, &entry, &Batch::new()) {
            Ok(applied) => assert_eq!(reason(&applied.outcomes[0]), "NOT_FOR_A_BATCH"),
            // Deeper than the decoder goes: this is why the gate must not let it through.
            Err(Fatal::Malformed { .. }) => return assert!(depth > 40),
            Err(fatal) => panic!("{fatal}"),
        }
        rig.index += 1;
    }
}

#[test]
fn before_their_version_batches_are_not_known() {
    let mut rig = Rig::new();
    for version in 1..BATCHES {
        rig.ok(RaiseVersion { version, ..Default::default() });
        let request = batch("b", vec![acquire("a", "b")]);
        assert_eq!(check::supported(&command(request.clone()), version).unwrap_err().reason, "CLUSTER_VERSION_TOO_LOW");
        assert_eq!(rig.refused(request), "CLUSTER_VERSION_TOO_LOW");
    }
    rig.ok(RaiseVersion { version: BATCHES, ..Default::default() });
    rig.ok(batch("b", vec![acquire("a", "b")]));
}

#[test]
fn what_is_remembered_of_a_batch_is_bounded() {
    let mut rig = rig();
    // The longest answers there are, and refusals whose sentences are many times as long as what was said.
    let name = |number: usize| format!("{number:064}");
    let long = "\u{7f}".repeat(limits::HOLDER_BYTES_MAX);
    let bodies: Vec<B> = (0..limits::BATCH_COMMANDS_MAX).map(|number| acquire(&name(number), &long)).collect();
    for request_id in ["accepted", "refused"] {
        rig.ok(batch(request_id, bodies.clone()));
    }
    let sizes: Vec<usize> = remembered(&rig).iter().map(Vec::len).collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 120 << 10), "{sizes:?}");
}
