//! Bad input at the machine's door: noise, damaged entries, fields from the future, commands filled at random.
//!
//! Whatever comes, the machine answers with an outcome for each command, or stops with [`Fatal::Malformed`] or [`Fatal::UnknownVersion`] and
//! leaves the disk as it was. It never panics, and never says that its own state contradicts itself.

mod damaged;
#[allow(dead_code, reason = "shared with the test of the model, which throws in more ways")]
#[path = "../model/dice.rs"]
mod dice;
mod drivers;
mod federation;
mod filled;
mod policies;
mod target;
mod transfers;
mod valid;

use prost::Message;
use target::Target;
use tarn_machine::limits;
use tarn_proto::v1::*;
use valid::{commands, entry, every_body, populated};

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

/// The commands of machine version 1. This list never changes.
const FIRST: [&str; 21] = [
    "Enqueue",
    "CancelTask",
    "RequeueDead",
    "PurgeQueue",
    "LeaseTasks",
    "HeartbeatTasks",
    "CompleteTask",
    "FailTask",
    "RegisterWorker",
    "HeartbeatWorker",
    "DrainWorker",
    "AcquireLease",
    "RenewLease",
    "ReleaseLease",
    "ScheduleTimer",
    "CancelTimer",
    "CreateNamespace",
    "DeleteNamespace",
    "RaiseVersion",
    "PutJoinToken",
    "ConsumeJoinToken",
];

#[test]
fn what_an_older_node_does_not_know_is_refused_until_the_version_is_raised() {
    let mut target = Target::new();
    let id = "0000000000001";
    for body in every_body(id, id) {
        let name = body.name();
        let said = target.tell(body);
        let refused = match &said {
            outcome::Body::Rejected(rejection) if rejection.reason == "CLUSTER_VERSION_TOO_LOW" => {
                assert!(rejection.message.contains("tarn cluster upgrade"), "{rejection:?}");
                assert_eq!(rejection.code, 9, "a failed precondition: it may be allowed later");
                true
            }
            _ => false,
        };
        assert_eq!(refused, !FIRST.contains(&name), "{name}: {said:?}");
    }
    assert_eq!(target.machine.version(), 1);
    target.check();
}

#[test]
fn what_is_too_large_is_refused_by_its_size_alone() {
    let (mut target, worker, task) = populated();
    let huge = || "x".repeat(limits::COMMAND_BYTES_MAX);
    for body in every_body(&worker, &task) {
        let entry = Entry { version: 1, now_ms: 1_000, commands: vec![Command { principal: huge(), gate: None, body: Some(body) }] };
        let applied = target.throw(&entry.encode_to_vec()).expect("large, but well formed");
        let Some(outcome::Body::Rejected(rejection)) = &applied.outcomes[0].body else { panic!("it is accepted") };
        assert_eq!((rejection.reason.as_str(), rejection.limit), ("COMMAND_TOO_LARGE", limits::COMMAND_BYTES_MAX as u64));
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
