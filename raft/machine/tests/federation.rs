//! The federation: what a small model says of the outbox and of shared contexts, and every limit that the state has on them.

#[allow(dead_code, reason = "shared with the test of the model, which throws in more ways")]
#[path = "model/dice.rs"]
mod dice;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use dice::Dice;
use support::{Rig, answer};
use tarn_machine::limits;
use tarn_proto::CommandBody;
use tarn_proto::v1::*;

fn card(number: u8) -> ClusterCard {
    ClusterCard {
        cluster_id: vec![number; limits::CLUSTER_ID_BYTES].into(),
        name: format!("cluster-{number}"),
        public_key: vec![number; limits::PUBLIC_KEY_BYTES].into(),
        ca_certificate: "PEM".to_owned(),
        addresses: vec!["10.0.0.1:7613".to_owned()],
    }
}

fn identity(number: u8) -> FederationIdentity {
    FederationIdentity {
        federation_id: vec![7; 32].into(),
        card: Some(card(number)),
        secret_seed: vec![number; 32].into(),
        scope: sections(),
        ..FederationIdentity::default()
    }
}

fn sections() -> Vec<String> {
    limits::SHARED_SECTIONS.map(str::to_owned).to_vec()
}

fn start(number: u8) -> StartFederation {
    StartFederation { identity: Some(identity(number)), ..StartFederation::default() }
}

/// A cluster in a federation, with a context.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.ok(RaiseVersion { version: 5, ..RaiseVersion::default() });
    rig.ok(start(1));
    rig.ok(put("memory", "first", b"1"));
    rig
}

fn put(context: &str, key: &str, value: &[u8]) -> PutKeyRequest {
    PutKeyRequest {
        namespace: "default".to_owned(),
        context: context.to_owned(),
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value),
        ..PutKeyRequest::default()
    }
}

fn delete(context: &str, key: &str) -> DeleteKeyRequest {
    let (namespace, context, key) = ("default".to_owned(), context.to_owned(), key.to_owned());
    DeleteKeyRequest { namespace, context, key, ..DeleteKeyRequest::default() }
}

fn share(context: &str, shared: bool) -> ShareContextRequest {
    ShareContextRequest { namespace: "default".to_owned(), context: context.to_owned(), shared, ..ShareContextRequest::default() }
}

fn get(rig: &Rig, context: &str, key: &str) -> Option<Vec<u8>> {
    let (namespace, context, key) = ("default".to_owned(), context.to_owned(), key.to_owned());
    let found = rig.machine.get_key(&GetKeyRequest { namespace, context, key, ..GetKeyRequest::default() });
    found.ok().map(|found| found.value.to_vec())
}

fn entry(key: &str, value: Option<&[u8]>) -> SharedEntry {
    SharedEntry { key: key.to_owned(), value: value.map(Bytes::copy_from_slice) }
}

fn row(key: &[u8], value: Option<&[u8]>) -> ReplicaRow {
    ReplicaRow { key: Bytes::copy_from_slice(key), value: value.map(Bytes::copy_from_slice) }
}

/// In the name of a node.
fn as_node<R: CommandBody>(rig: &mut Rig, request: R) -> Result<R::Response, Rejection> {
    let mut applied = rig.apply(vec![Command { principal: "node/1".to_owned(), gate: None, body: Some(request.into_body()) }]);
    answer::<R>(applied.outcomes.remove(0))
}

fn commit(rig: &mut Rig, change: CommitReplica) -> Result<ReplicaCommitted, Rejection> {
    let expected_revision = rig.machine.federation().expect("a member").revision;
    as_node(rig, CommitReplica { expected_revision, ..change })
}

fn outbox(rig: &Rig) -> Vec<(String, Option<Vec<u8>>)> {
    let found = rig.machine.outbox(0, usize::MAX).expect("the state can be read");
    found.into_iter().map(|(_, entry)| (entry.key, entry.value.map(Into::into))).collect()
}

fn write(key: &str, value: &[u8]) -> WriteShared {
    WriteShared { writes: vec![entry(key, Some(value))], ..WriteShared::default() }
}

#[test]
fn what_is_written_here_waits_until_it_is_signed() {
    let mut rig = rig();
    rig.ok(write("directory/01", b"a"));
    rig.ok(write("directory/01", b"b"));
    let wanted = |value: &[u8]| ("directory/01".to_owned(), Some(value.to_vec()));
    assert_eq!(outbox(&rig), [wanted(b"a"), wanted(b"b")]);
    assert_eq!(rig.machine.shared_entries("directory/").unwrap(), [("directory/01".to_owned(), b"b".to_vec())]);
    // What comes in for the key is earlier than what waits.
    let late = vec![entry("directory/01", Some(b"late"))];
    commit(&mut rig, CommitReplica { entries: late.clone(), taken: 1, ..CommitReplica::default() }).unwrap();
    assert_eq!(outbox(&rig), [wanted(b"b")]);
    assert_eq!(rig.machine.shared_entries("").unwrap(), [("directory/01".to_owned(), b"b".to_vec())]);
    commit(&mut rig, CommitReplica { entries: late, taken: 2, ..CommitReplica::default() }).unwrap();
    assert_eq!(rig.machine.shared_entries("").unwrap(), [("directory/01".to_owned(), b"late".to_vec())]);
    assert!(!rig.machine.has_unsigned());
    // Numbers are not given again.
    rig.ok(write("directory/02", b"c"));
    assert_eq!(rig.machine.outbox(0, 9).unwrap()[0].0, 3);
    rig.restart();
}

/// What the copy of the document says of this cluster.
fn stand(rig: &mut Rig, standing: FederationStanding) {
    commit(rig, CommitReplica { standing: Some(standing), ..CommitReplica::default() }).unwrap();
}

/// Two hubs that believe in one revision: what the one began the other does not end.
#[test]
fn pieces_of_two_hubs_are_not_mixed() {
    let mut rig = rig();
    let piece = |hub: u64, number: u32, more: bool| {
        let rows = vec![row(&[hub as u8, number as u8], Some(b"row"))];
        CommitReplica { rows, hub, piece: number, more, ..CommitReplica::default() }
    };
    commit(&mut rig, piece(1, 0, true)).unwrap();
    commit(&mut rig, piece(2, 0, true)).unwrap();
    assert_eq!(commit(&mut rig, piece(1, 1, false)).unwrap_err().reason, "REPLICA_CHANGED");
    commit(&mut rig, piece(2, 1, false)).unwrap();
    assert_eq!(rig.machine.replica_rows(b"", 9).unwrap().len(), 2);
}

#[test]
fn what_would_reach_nobody_is_refused() {
    let mut rig = rig();
    rig.ok(put("reader", "own", b"1"));
    rig.ok(share_context("memory"));
    rig.apply(Vec::new());
    let waits = outbox(&rig).len();
    let stands = |scope: &[&str], removed: bool, room: u64| FederationStanding {
        scope: scope.iter().map(ToString::to_string).collect(),
        removed,
        room,
    };
    stand(&mut rig, stands(&["policy"], false, 1_000));
    rig.restart();
    assert_eq!(rig.refused(put("memory", "k", b"v")), "OUT_OF_SCOPE");
    assert_eq!(rig.refused(delete("memory", "first")), "OUT_OF_SCOPE");
    assert_eq!(rig.refused(write("agent/a", b"v")), "OUT_OF_SCOPE");
    assert_eq!(rig.refused(share_context("reader")), "OUT_OF_SCOPE", "what it holds would stay here alone");
    rig.ok(share_context("new"));
    rig.ok(write("policy/p", b"v"));
    stand(&mut rig, stands(&["context", "policy"], false, 1_000));
    assert_eq!(rig.refused(put("memory", "large", &[0; 1_000])), "DOCUMENT_FULL");
    rig.ok(delete("memory", "first"));
    rig.ok(write("directory/01", &[0; 1_000]));
    stand(&mut rig, stands(&["context", "policy"], true, 1_000_000));
    rig.restart();
    assert!(rig.machine.federation().unwrap().removed);
    assert_eq!(rig.refused(put("memory", "k", b"v")), "REMOVED_FROM_FEDERATION");
    assert_eq!(rig.refused(write("directory/01", b"v")), "REMOVED_FROM_FEDERATION");
    rig.ok(share("memory", false));
    rig.ok(put("memory", "k", b"v"));
    assert_eq!(outbox(&rig).len(), waits + 3);
}

#[test]
fn the_outbox_has_a_bound_in_bytes() {
    let mut rig = rig();
    stand(&mut rig, FederationStanding { scope: sections(), removed: false, room: u64::MAX });
    let large = vec![7; limits::SHARED_VALUE_BYTES_MAX];
    let mut taken = 0;
    let full = loop {
        let writes = (0..40).map(|number| entry(&format!("policy/{taken}-{number}"), Some(&large))).collect();
        match rig.tell(WriteShared { writes, ..WriteShared::default() }).0 {
            Ok(_) => taken += 40 * large.len() as u64,
            Err(refused) => break refused.reason,
        }
    };
    assert_eq!(full, "OUTBOX_FULL");
    assert!(taken < limits::OUTBOX_BYTES_MAX && taken + 41 * large.len() as u64 > limits::OUTBOX_BYTES_MAX, "{taken}");
}

#[test]
fn every_entry_of_a_section_is_read() {
    let mut rig = rig();
    let entries: Vec<SharedEntry> = (0..1_500).map(|number| entry(&format!("removed/{number:05}"), Some(b""))).collect();
    commit(&mut rig, CommitReplica { entries, ..CommitReplica::default() }).unwrap();
    assert_eq!(rig.machine.shared_entries("removed/").unwrap().len(), 1_500);
}

#[test]
fn rows_belong_to_who_read_them_last() {
    let mut rig = rig();
    let rows = vec![row(b"h", Some(b"head")), row(b"c1", Some(b"one"))];
    commit(&mut rig, CommitReplica { rows, ..CommitReplica::default() }).unwrap();
    rig.restart();
    let now = rig.machine.federation().unwrap().revision;
    let late = CommitReplica { rows: vec![row(b"h", None)], expected_revision: now - 1, ..CommitReplica::default() };
    let refused = as_node(&mut rig, late.clone()).unwrap_err();
    assert_eq!((refused.reason.as_str(), refused.actual_version), ("REPLICA_CHANGED", now));
    let refused = rig.refused(CommitReplica { expected_revision: now, ..late });
    assert_eq!(refused, "NODES_ONLY");
    let all = [(b"c1".to_vec(), b"one".to_vec()), (b"h".to_vec(), b"head".to_vec())];
    assert_eq!(rig.machine.replica_rows(b"", 9).unwrap(), all);
    assert_eq!(rig.machine.replica_rows(b"", 1).unwrap(), all[..1]);
    assert_eq!(rig.machine.replica_rows(b"c1", 9).unwrap(), all[1..]);
    commit(&mut rig, CommitReplica { rows: vec![row(b"c1", None)], ..CommitReplica::default() }).unwrap();
    assert_eq!(rig.machine.replica_rows(b"", 9).unwrap(), all[1..]);
}

#[test]
fn a_commit_in_pieces_takes_effect_with_its_last_one() {
    let mut rig = rig();
    let piece = |number: u32, more: bool| CommitReplica {
        rows: vec![row(&[number as u8], Some(b"row"))],
        entries: vec![entry(&format!("agent/{number}"), Some(b"agent"))],
        piece: number,
        more,
        ..CommitReplica::default()
    };
    let before = rig.machine.federation().unwrap().revision;
    for number in 0..3 {
        assert_eq!(commit(&mut rig, piece(number, true)).unwrap().revision, before);
    }
    // Somebody else begins again, and is as far as its own pieces.
    commit(&mut rig, piece(0, true)).unwrap();
    assert_eq!(commit(&mut rig, piece(2, true)).unwrap_err().reason, "REPLICA_CHANGED");
    rig.restart();
    assert!(rig.machine.replica_rows(b"", 9).unwrap().is_empty() && rig.machine.shared_entries("agent/").unwrap().is_empty());
    assert_eq!(commit(&mut rig, piece(1, false)).unwrap().revision, before + 1);
    assert_eq!(rig.machine.replica_rows(b"", 9).unwrap().len(), 2);
    assert_eq!(rig.machine.shared_entries("agent/").unwrap().len(), 2);
    // What is begun and never ended is in nobody's way.
    commit(&mut rig, piece(0, true)).unwrap();
    commit(&mut rig, CommitReplica { rows: vec![row(b"h", Some(b"head"))], ..CommitReplica::default() }).unwrap();
    assert_eq!(commit(&mut rig, piece(1, false)).unwrap_err().reason, "REPLICA_CHANGED");
    let endless = CommitReplica { piece: limits::COMMIT_PIECES_MAX, ..piece(0, true) };
    assert_eq!(commit(&mut rig, endless).unwrap_err().reason, "REPLICA_CHANGED");
    rig.ok(LeaveFederationRequest::default());
    rig.pass_to(rig.now_ms);
}

#[test]
fn a_cluster_is_in_one_federation_and_its_secret_stays_here() {
    let mut rig = rig();
    rig.ok(start(1));
    assert_eq!(rig.refused(start(2)), "FEDERATION_EXISTS");
    let shown = rig.machine.federation().unwrap().identity;
    assert!(shown.secret_seed.is_empty() && shown.card == Some(card(1)));
    assert_eq!(rig.machine.federation_secret(), Some([1; 32]));
    rig.ok(share_context("memory"));
    rig.ok(write("directory/01", b"a"));
    let rows: Vec<ReplicaRow> = (0..2_000_u32).map(|number| row(&number.to_be_bytes(), Some(b"row"))).collect();
    commit(&mut rig, CommitReplica { rows, ..CommitReplica::default() }).unwrap();
    rig.ok(LeaveFederationRequest::default());
    assert!(rig.machine.federation().is_none() && rig.machine.federation_secret().is_none());
    assert_eq!(rig.refused(start(2)), "FEDERATION_LEAVING");
    rig.restart();
    rig.pass_to(rig.now_ms);
    assert!(rig.machine.replica_rows(b"", 9).unwrap().is_empty() && rig.machine.shared_entries("").unwrap().is_empty());
    assert!(!rig.machine.has_unsigned() && rig.machine.shared_contexts().is_empty());
    assert_eq!(get(&rig, "memory", "first").as_deref(), Some(&b"1"[..]), "contexts keep what they hold");
    assert_eq!(rig.refused(write("directory/01", b"a")), "NO_FEDERATION");
    rig.ok(start(2));
}

fn share_context(name: &str) -> ShareContextRequest {
    share(name, true)
}

#[test]
fn an_invitation_lets_one_cluster_in() {
    let mut rig = rig();
    let hash = Bytes::from(vec![9; 32]);
    let invitation = PutInvitation { key_hash: hash.clone(), ttl_ms: 5_000, scope: vec!["context".to_owned()], ..PutInvitation::default() };
    rig.ok(invitation.clone());
    assert_eq!(rig.refused(invitation), "INVITATION_EXISTS");
    assert_eq!(rig.machine.invitation_scope(&[9; 32]), Some(vec!["context".to_owned()]));
    let consume = |cluster: u8| ConsumeInvitation {
        key_hash: hash.clone(),
        cluster_id: vec![cluster; limits::CLUSTER_ID_BYTES].into(),
        writes: vec![entry("member/02/01", Some(b"key"))],
        expected_admitted: 0,
    };
    assert_eq!(rig.refused(consume(2)), "NODES_ONLY");
    as_node(&mut rig, consume(2)).unwrap();
    as_node(&mut rig, consume(2)).unwrap();
    assert_eq!(outbox(&rig).len(), 1, "a repeat writes nothing");
    assert_eq!(as_node(&mut rig, consume(3)).unwrap_err().reason, "INVITATION_USED");
    // Whoever looked whether the name is free before the first one came looks again.
    let other = PutInvitation { key_hash: vec![8; 32].into(), ttl_ms: 5_000, ..PutInvitation::default() };
    rig.ok(other.clone());
    let late = ConsumeInvitation { key_hash: other.key_hash, ..consume(4) };
    let refused = as_node(&mut rig, late.clone()).unwrap_err();
    assert_eq!((refused.reason.as_str(), refused.actual_version), ("ADMITTED_MEANWHILE", 1));
    let expected_admitted = rig.machine.federation().unwrap().admitted;
    as_node(&mut rig, ConsumeInvitation { expected_admitted, ..late }).unwrap();
    rig.restart();
    rig.pass_to(6_001);
    assert_eq!(as_node(&mut rig, consume(2)).unwrap_err().reason, "INVITATION_INVALID");
    assert_eq!(rig.machine.invitation_scope(&[9; 32]), None);
}

#[test]
fn a_context_that_is_shared_brings_what_it_holds() {
    let mut rig = rig();
    for number in 0..150 {
        rig.ok(put("large", &format!("k{number:03}"), b"v"));
    }
    rig.ok(share_context("large"));
    // What is written meanwhile is not lost, whichever comes first.
    rig.ok(put("large", "k149", b"later"));
    rig.ok(delete("large", "k000"));
    rig.restart();
    // Time alone brings the rest: nothing else need happen in the cluster.
    rig.pass_to(rig.now_ms);
    let mut last: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
    last.extend(outbox(&rig));
    assert_eq!(last.len(), 150);
    assert_eq!(last["context/default/large/k149"].as_deref(), Some(&b"later"[..]));
    assert_eq!(last["context/default/large/k000"], None);
    assert_eq!(last["context/default/large/k001"].as_deref(), Some(&b"v"[..]));
    for refused in [
        rig.refused(DeleteContextRequest { namespace: "default".to_owned(), context: "large".to_owned(), ..Default::default() }),
        rig.refused(RestoreContextRequest {
            namespace: "default".to_owned(),
            context: "large".to_owned(),
            snapshot: "s".to_owned(),
            ..Default::default()
        }),
    ] {
        assert!(["CONTEXT_IS_SHARED", "SNAPSHOT_NOT_FOUND"].contains(&refused.as_str()), "{refused}");
    }
    rig.ok(share("large", false));
    let before = outbox(&rig).len();
    rig.ok(put("large", "k001", b"own again"));
    assert_eq!(outbox(&rig).len(), before);
    rig.ok(DeleteContextRequest { namespace: "default".to_owned(), context: "large".to_owned(), ..Default::default() });
}

/// A context that is shared again has values of its own: they are later than what the document has.
#[test]
fn what_is_on_its_way_out_is_later_than_what_comes() {
    let mut rig = rig();
    for number in 0..150 {
        rig.ok(put("large", &format!("k{number:03}"), b"own"));
    }
    assert!(!rig.machine.lacks_shared("context/default/large/k149", b"theirs").unwrap());
    // In one log entry, so that nothing has been walked through.
    let shared = support::command(share("large", true));
    let entries = vec![entry("context/default/large/k149", Some(b"theirs")), entry("context/default/large/new", Some(b"theirs"))];
    let expected_revision = rig.machine.federation().unwrap().revision;
    let body = Some(CommitReplica { expected_revision, entries, ..CommitReplica::default() }.into_body());
    rig.apply(vec![shared, Command { principal: "node/1".to_owned(), gate: None, body }]);
    assert_eq!(get(&rig, "large", "k149").as_deref(), Some(&b"own"[..]));
    assert_eq!(get(&rig, "large", "new").as_deref(), Some(&b"theirs"[..]));
    assert!(rig.machine.lacks_shared("context/default/large/other", b"theirs").unwrap());
    assert!(!rig.machine.lacks_shared("context/default/large/new", b"theirs").unwrap());
    assert!(!rig.machine.lacks_shared("context/default/nowhere/k", b"theirs").unwrap());
    assert!(!rig.machine.lacks_shared("context/nowhere/large/k", b"theirs").unwrap());
    rig.pass_to(rig.now_ms);
    assert!(outbox(&rig).contains(&("context/default/large/k149".to_owned(), Some(b"own".to_vec()))));
}

#[test]
fn what_does_not_fit_is_refused_before_anything_changes() {
    let mut rig = rig();
    rig.ok(share_context("memory"));
    let large = vec![0; limits::SHARED_VALUE_BYTES_MAX + 1];
    assert_eq!(rig.refused(put("memory", "k", &large)), "SHARED_VALUE_TOO_LARGE");
    rig.ok(put("own", "k", &large));
    assert_eq!(rig.refused(share("nothing", false)), "CONTEXT_NOT_FOUND");
    assert_eq!(rig.refused(write("context/default/memory/k", b"x")), "INVALID_SECTION");
    assert_eq!(rig.refused(write("seal/01", b"x")), "INVALID_SECTION");
    assert_eq!(rig.refused(WriteShared::default()), "NOTHING_TO_WRITE");
    assert_eq!(rig.refused(write(&format!("agent/{}", "k".repeat(limits::SHARED_KEY_BYTES_MAX)), b"x")), "KEY_TOO_LONG");
    assert_eq!(rig.refused(write("agent/k", &large)), "VALUE_TOO_LARGE");
    let many = vec![entry("agent/k", None); limits::SHARED_WRITES_MAX + 1];
    assert_eq!(rig.refused(WriteShared { writes: many, ..WriteShared::default() }), "TOO_MANY_WRITES");
    let rows = vec![row(&vec![0; limits::REPLICA_KEY_BYTES_MAX + 1], None)];
    assert_eq!(commit(&mut rig, CommitReplica { rows, ..CommitReplica::default() }).unwrap_err().reason, "KEY_TOO_LONG");
    let mut wrong = start(1);
    wrong.identity.as_mut().unwrap().secret_seed = Bytes::new();
    assert_eq!(rig.refused(wrong), "INVALID_LENGTH");
    assert_eq!(rig.refused(StartFederation::default()), "NO_IDENTITY");
    let mut young = Rig::new();
    young.ok(RaiseVersion { version: 4, ..RaiseVersion::default() });
    assert_eq!(young.refused(start(1)), "CLUSTER_VERSION_TOO_LOW");
}

/// What comes from other clusters goes into shared contexts and no others, and whatever cannot be is left out.
#[test]
fn what_comes_in_reaches_shared_contexts_alone() {
    let mut rig = rig();
    // One that is not here yet begins with being shared.
    rig.ok(share("fresh", true));
    rig.pass_to(rig.now_ms);
    let large = vec![1; limits::SHARED_VALUE_BYTES_MAX];
    let entries = vec![
        entry("context/default/memory/first", Some(b"stranger")),
        entry("context/default/fresh/a", Some(&large)),
        entry("context/default/fresh/gone", None),
        entry("context/nowhere/fresh/a", Some(b"x")),
        entry("context/default/unheard/a", Some(b"x")),
        entry("context/default/fresh/", Some(b"no key")),
        entry("context/default/Bad name/a", Some(b"x")),
        entry("context/default", Some(b"x")),
        entry("agent/one", Some(b"agent")),
    ];
    commit(&mut rig, CommitReplica { entries: entries.clone(), ..CommitReplica::default() }).unwrap();
    assert_eq!(get(&rig, "memory", "first").as_deref(), Some(&b"1"[..]), "it is this cluster's own");
    assert_eq!(get(&rig, "fresh", "a").as_deref(), Some(&large[..]));
    assert_eq!(rig.machine.shared_contexts(), [("default".to_owned(), "fresh".to_owned())]);
    // Nothing that came in goes out again, and what is there already is no change.
    assert!(!rig.machine.has_unsigned());
    let version = |rig: &Rig| {
        let request = GetKeyRequest { namespace: "default".into(), context: "fresh".into(), key: "a".into(), ..GetKeyRequest::default() };
        rig.machine.get_key(&request).unwrap().version
    };
    let before = version(&rig);
    commit(&mut rig, CommitReplica { entries, ..CommitReplica::default() }).unwrap();
    assert_eq!(version(&rig), before);
    // A namespace takes its shared contexts with it.
    rig.ok(CreateNamespaceRequest { name: "team".to_owned(), ..CreateNamespaceRequest::default() });
    rig.ok(ShareContextRequest { namespace: "team".to_owned(), ..share("fresh", true) });
    let entries = vec![entry("context/team/fresh/a", Some(b"x"))];
    commit(&mut rig, CommitReplica { entries, ..CommitReplica::default() }).unwrap();
    assert_eq!(rig.machine.shared_contexts().len(), 2);
    rig.ok(DeleteNamespaceRequest { name: "team".to_owned(), drain: true, ..DeleteNamespaceRequest::default() });
    rig.pass_to(2_000);
    rig.apply(Vec::new());
    assert_eq!(rig.machine.shared_contexts().len(), 1);
}

/// Random writes, commits, shares, restarts: the context and the outbox are what a few maps say.
#[test]
fn a_model_says_what_is_seen_and_what_waits() {
    for seed in 0..24 {
        let mut dice = Dice::new(seed);
        let mut rig = rig();
        let mut shared = false;
        let mut seen: BTreeMap<String, Vec<u8>> = BTreeMap::from([("first".to_owned(), b"1".to_vec())]);
        let mut waits: Vec<(String, Option<Vec<u8>>)> = Vec::new();
        let mut taken = 0_u64;
        for step in 0..120_u32 {
            let key = format!("k{}", dice.below(4));
            let value = step.to_be_bytes().to_vec();
            let full = format!("context/default/memory/{key}");
            match dice.below(8) {
                0..=2 => {
                    rig.ok(put("memory", &key, &value));
                    seen.insert(key, value.clone());
                    waits.extend(shared.then_some((full, Some(value))));
                }
                3 => {
                    rig.ok(delete("memory", &key));
                    let was = seen.remove(&key).is_some();
                    waits.extend((shared && was).then_some((full, None)));
                }
                4 | 5 => {
                    let take = dice.below(waits.len() as u64 + 1);
                    let arrives = dice.below(2) == 0;
                    let entries = if arrives { vec![entry(&full, Some(&value))] } else { Vec::new() };
                    if arrives || taken + take > 0 {
                        commit(&mut rig, CommitReplica { entries, taken: taken + take, ..CommitReplica::default() }).unwrap();
                    }
                    taken += take;
                    waits.drain(..take as usize);
                    let pending: BTreeSet<&String> = waits.iter().map(|(key, _)| key).collect();
                    if arrives && shared && !pending.contains(&full) {
                        seen.insert(key, value);
                    }
                }
                6 if !shared => {
                    rig.ok(share_context("memory"));
                    rig.apply(Vec::new());
                    shared = true;
                    waits.extend(seen.iter().map(|(key, value)| (format!("context/default/memory/{key}"), Some(value.clone()))));
                }
                6 => {
                    rig.ok(share("memory", false));
                    shared = false;
                }
                _ => rig.restart(),
            }
            let found: BTreeMap<String, Vec<u8>> =
                ["first", "k0", "k1", "k2", "k3"].iter().filter_map(|key| Some(((*key).to_owned(), get(&rig, "memory", key)?))).collect();
            assert_eq!(found, seen, "seed {seed}, step {step}");
            assert_eq!(outbox(&rig), waits, "seed {seed}, step {step}");
        }
    }
}
