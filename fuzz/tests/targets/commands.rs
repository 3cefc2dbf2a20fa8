//! Commands and entries as they come over the wire.

use std::sync::Arc;

use prost::Message as _;
use tarn_machine::{Fatal, Machine, STATE, Versions, check};
use tarn_proto::v1::Command;
use tarn_storage::{Batch, MemoryEngine};

use crate::target;

/// What may be proposed is bounded and says what it is; anything else is told why not.
fn command(bytes: &[u8]) {
    let Ok(command) = Command::decode(bytes) else { return };
    if let Err(rejection) = check::validate(&command) {
        assert!(!rejection.reason.is_empty() && !rejection.message.is_empty());
    }
}

/// A machine applies an entry, or stops before it changed anything.
fn entry(bytes: &[u8]) {
    let engine = Arc::new(MemoryEngine::with_keyspaces(&[STATE]));
    let mut machine = Machine::open(engine, Versions::CURRENT).expect("an empty engine opens");
    let before = machine.digest();
    match machine.apply(1, bytes, &Batch::new()) {
        Ok(_) => assert!(machine.indices() == &machine.rebuilt_indices().expect("the state can be read")),
        Err(Fatal::Malformed { .. } | Fatal::UnknownVersion { .. }) => assert_eq!(machine.digest(), before),
        Err(fatal) => panic!("the state contradicts itself: {fatal}"),
    }
}

target!(any_command, command);
target!(any_entry, entry);
