//! Large contexts: no command does more than another, and what is left to do is spread over entries.

use prost::Message;
use tarn_machine::keys::Key;
use tarn_machine::{STATE, limits};
use tarn_proto::v1::*;
use tarn_storage::{Batch, Durability, Engine, Range};

use crate::support::{Rig, command};
use crate::{put, rig};

/// More keys than an entry may change.
const KEYS: usize = 2 * limits::SWEEPS_PER_ENTRY_MAX + 100;

fn fill(rig: &mut Rig, context: &str, value: &str) {
    for first in (0..KEYS).step_by(500) {
        let keys = (first..KEYS.min(first + 500)).map(|number| format!("key-{number:05}"));
        rig.apply_unchecked(keys.map(|key| command(put(context, &key, value))).collect());
    }
}

fn get(rig: &Rig, key: &str) -> Option<String> {
    let request = GetKeyRequest { namespace: "default".into(), context: "m".into(), key: key.into(), ..Default::default() };
    let found = rig.machine.get_key(&request).ok()?;
    Some(String::from_utf8(found.value.to_vec()).expect("the value is text"))
}

fn keys(rig: &Rig) -> usize {
    let mut request = ListKeysRequest { namespace: "default".into(), context: "m".into(), ..Default::default() };
    request.page_size = 1_000;
    let mut found = 0;
    loop {
        let page = rig.machine.list_keys(&request).expect("keys are listed");
        found += page.keys.len();
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

fn rows(rig: &Rig, kind: u8) -> usize {
    rig.engine.scan(STATE, Range::prefix(&[kind])).count()
}

fn context<R>(make: impl FnOnce(String, String) -> R) -> R {
    make("default".into(), "m".into())
}

fn snapshot(name: &str) -> SnapshotContextRequest {
    context(|namespace, context| SnapshotContextRequest { namespace, context, snapshot: name.into(), ..Default::default() })
}

fn restore(name: &str) -> RestoreContextRequest {
    context(|namespace, context| RestoreContextRequest { namespace, context, snapshot: name.into(), ..Default::default() })
}

fn delete_snapshot(name: &str) -> DeleteSnapshotRequest {
    context(|namespace, context| DeleteSnapshotRequest { namespace, context, snapshot: name.into(), ..Default::default() })
}

#[test]
fn a_large_restore_is_seen_at_once_and_written_over_several_entries() {
    let mut rig = rig();
    fill(&mut rig, "m", "old");
    rig.ok(snapshot("s"));
    fill(&mut rig, "m", "new");
    rig.ok(put("m", "made", "later"));
    assert_eq!(rig.ok(restore("s")).keys, KEYS as u64);
    assert_eq!(rig.refused(restore("s")), "RESTORE_UNDER_WAY");
    let mut entries = 0;
    while rig.machine.next_wake_ms() == Some(0) {
        let last = format!("key-{:05}", KEYS - 1);
        assert_eq!((get(&rig, "key-00000"), get(&rig, &last)), (Some("old".into()), Some("old".into())));
        assert_eq!((get(&rig, "made"), keys(&rig)), (None, KEYS));
        rig.apply(Vec::new());
        rig.restart();
        entries += 1;
    }
    assert_eq!(entries, 2, "the refused command's entry was the first of three");
    // What is written while a restore is under way stays; what a deleted snapshot held goes.
    rig.ok(snapshot("t"));
    fill(&mut rig, "m", "newer");
    rig.ok(restore("t"));
    rig.ok(put("m", "key-02100", "mine"));
    rig.ok(delete_snapshot("t"));
    rig.ok(delete_snapshot("s"));
    rig.pass_to(5_000);
    assert_eq!((get(&rig, "key-02100"), get(&rig, "key-02101")), (Some("mine".into()), Some("old".into())));
    // Old, new, newer, and once mine; what a restore brings back is not written again.
    assert_eq!(rows(&rig, 0x73), 3 * KEYS + 1);
    rig.check();
}

#[test]
fn a_large_context_goes_over_several_entries_and_leaves_nothing() {
    let mut rig = rig();
    fill(&mut rig, "m", "old");
    rig.ok(snapshot("s"));
    fill(&mut rig, "m", "new");
    rig.ok(context(|namespace, context| DeleteContextRequest { namespace, context, ..Default::default() }));
    let usage = |rig: &Rig| {
        let request = GetNamespaceRequest { name: "default".into() };
        rig.machine.get_namespace(&request).expect("it is there").usage.expect("it is told")
    };
    assert_eq!((usage(&rig).stored_bytes, usage(&rig).contexts), (0, 0));
    rig.ok(put("m", "key-00000", "another"));
    let mut left = rows(&rig, 0x72) + rows(&rig, 0x73);
    while rig.machine.next_wake_ms() == Some(0) {
        rig.apply(Vec::new());
        rig.restart();
        let now = rows(&rig, 0x72) + rows(&rig, 0x73);
        assert!(left - now <= limits::SWEEPS_PER_ENTRY_MAX + limits::KEY_VERSIONS_KEPT, "{left} {now}");
        left = now;
    }
    let kinds = [0x70, 0x71, 0x72, 0x73, 0x74];
    assert_eq!(kinds.map(|kind| rows(&rig, kind)), [1, 0, 1, 1, 0], "what is left is the new one");
    assert_eq!(get(&rig, "key-00000"), Some("another".into()));
}

#[test]
fn a_namespace_that_goes_takes_its_contexts_along() {
    let mut rig = rig();
    rig.ok(CreateNamespaceRequest { name: "team".into(), ..Default::default() });
    for number in 0..limits::SWEEPS_PER_ENTRY_MAX + 10 {
        let request = PutKeyRequest { namespace: "team".into(), ..put(&format!("c{number}"), "k", "v") };
        rig.apply_unchecked(vec![command(request)]);
    }
    let refused = rig.refused(DeleteNamespaceRequest { name: "team".into(), ..Default::default() });
    assert_eq!(refused, "NAMESPACE_NOT_EMPTY");
    rig.ok(DeleteNamespaceRequest { name: "team".into(), drain: true, ..Default::default() });
    rig.pass_to(10_000);
    let request = GetNamespaceRequest { name: "team".into() };
    assert!(rig.machine.get_namespace(&request).is_err(), "it is gone");
    assert_eq!([0x70, 0x71, 0x72, 0x73, 0x74].map(|kind| rows(&rig, kind)), [0; 5]);
}

#[test]
fn every_limit_is_met_with_its_own_reason() {
    let mut rig = rig();
    rig.ok(put("m", "k", "v"));
    for number in 0..limits::SNAPSHOTS_MAX {
        rig.ok(snapshot(&format!("s{number}")));
    }
    assert_eq!(rig.refused(snapshot("more")), "TOO_MANY_SNAPSHOTS");
    rig.ok(delete_snapshot("s0"));
    rig.ok(snapshot("more"));

    let contexts = (1..limits::CONTEXTS_MAX).map(|number| command(put(&format!("c{number}"), "k", "v")));
    rig.apply_unchecked(contexts.collect());
    assert_eq!(rig.refused(put("one-more", "k", "v")), "TOO_MANY_CONTEXTS");
    rig.ok(put("m", "k", "w"));
}

#[test]
fn a_context_takes_no_more_keys_than_it_may_have() {
    let mut rig = rig();
    rig.ok(put("m", "k", "v"));
    // A million keys take their time: the row says that they are there. The last word counts in a row.
    let key = Key::Context { ns: 1, name: "m" }.encode();
    let mut row = rig.engine.get(STATE, &key).expect("it can be read").expect("it is there");
    let keys = ContextInfo { keys: limits::CONTEXT_KEYS_MAX, ..Default::default() }.encode_to_vec();
    // The field of the contract has another number than the row's, by one.
    row.push(keys[0] - (1 << 3));
    row.extend(&keys[1..]);
    let mut batch = Batch::new();
    batch.put(STATE, key, row);
    rig.engine.write(batch, Durability::Buffered).expect("memory does not fail");
    assert_eq!(rig.refused(put("m", "more", "v")), "TOO_MANY_KEYS");
    rig.ok(put("m", "k", "changed"));
    rig.ok(context(|namespace, context| DeleteKeyRequest { namespace, context, key: "k".into(), ..Default::default() }));
    rig.ok(put("m", "more", "v"));
}
