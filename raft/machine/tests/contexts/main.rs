//! Contexts against a small model of them, in random scripts with restarts; and what large ones cost.

#[path = "../model/dice.rs"]
#[allow(dead_code, reason = "shared with the test of the model, which throws in more ways")]
mod dice;
#[path = "../support/mod.rs"]
mod support;

mod large;
mod reference;

use std::collections::BTreeMap;

use bytes::Bytes;
use dice::Dice;
use reference::{Context, Keys};
use support::{Rig, command};
use tarn_machine::keys::Key;
use tarn_machine::{Refusal, STATE};
use tarn_proto::v1::*;
use tarn_storage::{Engine, Range};

/// Scripts in one run of the suite, and commands in each.
const SCRIPTS: u64 = 120;
const STEPS: u64 = 250;

const CONTEXTS: [&str; 2] = ["memory", "plans"];
const KEYS: [&str; 5] = ["a", "a/b", "a/c", "b", "ü"];
const SNAPSHOTS: [&str; 3] = ["one", "two", "three"];

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.ok(RaiseVersion { version: 4, ..Default::default() });
    rig
}

fn put(context: &str, key: &str, value: &str) -> PutKeyRequest {
    PutKeyRequest {
        namespace: "default".into(),
        context: context.into(),
        key: key.into(),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    }
}

/// One script: the machine and the model side by side.
struct Script {
    rig: Rig,
    dice: Dice,
    model: BTreeMap<String, Context>,
    last_version: u64,
    /// How often each thing came about.
    seen: BTreeMap<String, u64>,
}

impl Script {
    fn new(seed: u64) -> Self {
        Script { rig: rig(), dice: Dice::new(seed), model: BTreeMap::new(), last_version: 0, seen: BTreeMap::new() }
    }

    fn step(&mut self) {
        let context = self.dice.pick(&CONTEXTS).to_owned();
        match self.dice.weighted(&[40, 12, 8, 7, 6, 1, 6, 20]) {
            0 => self.put(&context),
            1 => self.delete(&context),
            2 => self.snapshot(&context),
            3 => self.restore(&context),
            4 => self.delete_snapshot(&context),
            5 => self.delete_context(&context),
            6 => self.rig.restart(),
            _ => drop(self.rig.apply(Vec::new())),
        }
        self.compare();
        if self.rig.machine.next_wake_ms() != Some(0) {
            self.compare_at_rest();
        }
    }

    fn tell<R: tarn_proto::CommandBody>(&mut self, request: R) -> Result<R::Response, String> {
        let said = self.rig.tell(request).0.map_err(|rejection| rejection.reason);
        let what = said.as_ref().err().cloned().unwrap_or_else(|| "ok".to_owned());
        *self.seen.entry(what).or_default() += 1;
        said
    }

    fn newer(&mut self, version: u64) -> u64 {
        assert!(version > self.last_version, "versions only grow");
        self.last_version = version;
        version
    }

    /// Mostly none; otherwise the present version, or another one. With whether it fits.
    fn expected(&mut self, context: &str, key: &str) -> (Option<u64>, bool) {
        let is = self.model.get(context).map_or(0, |context| context.version(key));
        match self.dice.below(10) {
            0..6 => (None, true),
            6..9 => (Some(is), true),
            _ => (Some(is + 1), false),
        }
    }

    fn put(&mut self, context: &str) {
        let key = self.dice.pick(&KEYS);
        let (expected_version, fits) = self.expected(context, key);
        let value = "v".repeat(self.dice.below(9) as usize);
        let said = self.tell(PutKeyRequest { expected_version, ..put(context, key, &value) });
        match fits {
            false => assert_eq!(said.unwrap_err(), "VERSION_CONFLICT"),
            true => {
                let version = self.newer(said.expect("it fits").version);
                let context = self.model.entry(context.to_owned()).or_default();
                context.write(key, version, Some((version, value.into())));
            }
        }
    }

    fn delete(&mut self, context: &str) {
        let key = self.dice.pick(&KEYS);
        let (expected_version, fits) = self.expected(context, key);
        let said = self.tell(DeleteKeyRequest {
            namespace: "default".into(),
            context: context.into(),
            key: key.into(),
            expected_version,
            ..Default::default()
        });
        if !fits {
            assert_eq!(said.unwrap_err(), "VERSION_CONFLICT");
            return;
        }
        let there = self.model.get_mut(context).filter(|context| context.version(key) != 0);
        assert_eq!(said.expect("it fits").deleted, there.is_some());
        if let Some(context) = there {
            // Its version is not told; it is newer than what was.
            context.write(key, self.last_version + 1, None);
            self.last_version += 1;
        }
    }

    fn snapshot(&mut self, context: &str) {
        let name = self.dice.pick(&SNAPSHOTS);
        let said = self.tell(SnapshotContextRequest {
            namespace: "default".into(),
            context: context.into(),
            snapshot: name.into(),
            ..Default::default()
        });
        let Some(of) = self.model.get_mut(context) else {
            return assert_eq!(said.unwrap_err(), "CONTEXT_NOT_FOUND");
        };
        if of.snapshots.contains_key(name) {
            return assert_eq!(said.unwrap_err(), "SNAPSHOT_EXISTS");
        }
        let snapshot = said.expect("the name is free").snapshot.expect("it is told");
        assert_eq!((snapshot.name.as_str(), snapshot.keys), (name, of.keys().len() as u64));
        of.snapshot(name, snapshot.version);
        self.newer(snapshot.version);
    }

    fn restore(&mut self, context: &str) {
        let name = self.dice.pick(&SNAPSHOTS);
        let said = self.tell(RestoreContextRequest {
            namespace: "default".into(),
            context: context.into(),
            snapshot: name.into(),
            ..Default::default()
        });
        let Some(of) = self.model.get_mut(context) else {
            return assert_eq!(said.unwrap_err(), "CONTEXT_NOT_FOUND");
        };
        if !of.snapshots.contains_key(name) {
            return assert_eq!(said.unwrap_err(), "SNAPSHOT_NOT_FOUND");
        }
        // An entry writes more keys than there are here, so no restore is under way when the next comes.
        let restored = said.expect("there is such a snapshot");
        of.restore(name, restored.version);
        assert_eq!(restored.keys, of.keys().len() as u64);
        self.newer(restored.version);
    }

    fn delete_snapshot(&mut self, context: &str) {
        let name = self.dice.pick(&SNAPSHOTS);
        let said = self.tell(DeleteSnapshotRequest {
            namespace: "default".into(),
            context: context.into(),
            snapshot: name.into(),
            ..Default::default()
        });
        match self.model.get_mut(context) {
            None => assert_eq!(said.unwrap_err(), "CONTEXT_NOT_FOUND"),
            Some(of) if !of.snapshots.contains_key(name) => assert_eq!(said.unwrap_err(), "SNAPSHOT_NOT_FOUND"),
            Some(of) => {
                said.expect("there is such a snapshot");
                of.delete_snapshot(name);
            }
        }
    }

    fn delete_context(&mut self, context: &str) {
        let said = self.tell(DeleteContextRequest { namespace: "default".into(), context: context.into(), ..Default::default() });
        match self.model.remove(context) {
            None => assert_eq!(said.unwrap_err(), "CONTEXT_NOT_FOUND"),
            Some(_) => drop(said.expect("there is such a context")),
        }
    }

    /// What everybody sees, at any time.
    fn compare(&self) {
        let request = ListContextsRequest { namespace: "default".into(), ..Default::default() };
        let contexts = self.rig.machine.list_contexts(&request).expect("contexts are listed").contexts;
        assert!(contexts.iter().map(|context| &context.name).eq(self.model.keys()));
        for (told, (name, context)) in contexts.iter().zip(&self.model) {
            assert_eq!(told.keys, context.keys().len() as u64, "keys of {name}");
            assert_eq!(told.snapshots as usize, context.snapshots.len());
            self.compare_keys(name, "", &context.keys());
            for (snapshot, (_, keys)) in &context.snapshots {
                self.compare_keys(name, snapshot, keys);
            }
        }
    }

    fn compare_keys(&self, context: &str, snapshot: &str, expected: &Keys) {
        let mut request = ListKeysRequest {
            namespace: "default".into(),
            context: context.into(),
            snapshot: snapshot.into(),
            page_size: 2,
            ..Default::default()
        };
        let mut found = Vec::new();
        loop {
            let page = self.rig.machine.list_keys(&request).expect("keys are listed");
            found.extend(page.keys);
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
        }
        assert!(found.iter().map(|key| &key.key).eq(expected.keys()), "{context} {snapshot}: {found:?} {expected:?}");
        for key in KEYS {
            let request = GetKeyRequest {
                namespace: "default".into(),
                context: context.into(),
                key: key.into(),
                snapshot: snapshot.into(),
                ..Default::default()
            };
            match (self.rig.machine.get_key(&request), expected.get(key)) {
                (Ok(found), Some((version, _, value))) => {
                    assert_eq!((found.version, &found.value), (*version, value), "{context} {snapshot} {key}");
                }
                (Err(Refusal::Rejected(rejection)), None) => assert_eq!(rejection.reason, "KEY_NOT_FOUND"),
                (found, expected) => panic!("{context} {snapshot} {key}: {found:?}, and {expected:?} was expected"),
            }
        }
    }

    /// What is kept, when nothing is left to be done in the background.
    fn compare_at_rest(&self) {
        let (mut keys, mut values, mut bytes, mut snapshots) = (0, 0, 0, 0);
        for (name, context) in &self.model {
            for key in KEYS {
                let request = ListVersionsRequest { namespace: "default".into(), context: name.clone(), key: key.into() };
                let found = self.rig.machine.list_versions(&request).map_or_else(|_| Vec::new(), |found| found.versions);
                let history = context.history(key);
                assert_eq!(found.len(), history.len(), "versions of {key} in {name}: {found:?} {history:?}");
                for (found, expected) in found.iter().rev().zip(history) {
                    assert_eq!(found.deleted, expected.value.is_none());
                    // Only of what was told is the version known.
                    assert!(found.deleted || found.version == expected.version);
                }
            }
            let (of_keys, of_values) = context.rows();
            keys += of_keys;
            values += of_values;
            snapshots += context.snapshots.len();
            bytes += context.bytes();
        }
        let request = GetNamespaceRequest { name: "default".into() };
        let usage = self.rig.machine.get_namespace(&request).expect("it is there").usage.expect("it is told");
        assert_eq!((usage.stored_bytes, usage.contexts), (bytes, self.model.len() as u64));
        let mut rows = [0, 0, 0, 0];
        for entry in self.rig.engine.scan(STATE, Range::all()) {
            let (key, _) = entry.expect("rows can be read");
            match Key::decode(&key) {
                Some(Key::ContextKey { .. }) => rows[0] += 1,
                Some(Key::ContextValue { .. }) => rows[1] += 1,
                Some(Key::Snapshot { .. }) => rows[2] += 1,
                Some(Key::GoneContext { .. }) => rows[3] += 1,
                _ => {}
            }
        }
        assert_eq!(rows, [keys, values, snapshots, 0], "keys, values, snapshots, contexts that go");
    }
}

#[test]
fn contexts_do_what_the_model_says() {
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..SCRIPTS {
        let mut script = Script::new(seed);
        for step in 0..STEPS {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| script.step()));
            assert!(result.is_ok(), "seed {seed} fails in step {step}");
        }
        for (what, count) in script.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    let expected = ["CONTEXT_NOT_FOUND", "SNAPSHOT_EXISTS", "SNAPSHOT_NOT_FOUND", "VERSION_CONFLICT", "ok"];
    assert!(seen.keys().map(String::as_str).eq(expected), "{seen:?}");
}

#[test]
fn several_commands_of_one_entry_see_each_other() {
    let mut rig = rig();
    let name = || ("default".to_owned(), "memory".to_owned());
    let snapshot = |snapshot: &str| {
        let (namespace, context) = name();
        SnapshotContextRequest { namespace, context, snapshot: snapshot.into(), ..Default::default() }
    };
    let restore = |snapshot: &str| {
        let (namespace, context) = name();
        RestoreContextRequest { namespace, context, snapshot: snapshot.into(), ..Default::default() }
    };
    let (namespace, context) = name();
    let applied = rig.apply(vec![
        command(put("memory", "k", "one")),
        command(snapshot("s")),
        command(put("memory", "k", "two")),
        command(restore("s")),
        command(put("memory", "l", "three")),
        command(DeleteContextRequest { namespace, context, ..Default::default() }),
        command(put("memory", "k", "anew")),
        command(restore("s")),
    ]);
    let reasons: Vec<String> = applied
        .outcomes
        .into_iter()
        .map(|outcome| match outcome.body {
            Some(outcome::Body::Rejected(rejection)) => rejection.reason,
            _ => "ok".to_owned(),
        })
        .collect();
    assert_eq!(reasons[..7], ["ok"; 7]);
    assert_eq!(reasons[7], "SNAPSHOT_NOT_FOUND");
    rig.pass_to(2_000);
    let rows = rig.engine.scan(STATE, Range::prefix(&[0x73]));
    assert_eq!(rows.count(), 1, "of the values only the last is left");
}
