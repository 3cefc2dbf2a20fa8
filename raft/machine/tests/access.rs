//! Who may do what, at the edges: every limit of the access domain, much that expires at once, and what whoever judges holds meanwhile.

mod support;

use std::collections::BTreeSet;

use bytes::Bytes;
use support::{Rig, command};
use tarn_machine::{check, limits};
use tarn_proto::CommandBody;
use tarn_proto::v1::*;

/// A cluster that knows roles.
fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.ok(RaiseVersion { version: 2, ..Default::default() });
    rig
}

fn rule() -> Rule {
    Rule { verbs: vec!["read".into()], resources: vec!["queue/mail-*".into()] }
}

fn put_role(name: impl Into<String>) -> PutRoleRequest {
    PutRoleRequest { name: name.into(), rules: vec![rule()], ..Default::default() }
}

fn delete_role(name: &str) -> DeleteRoleRequest {
    DeleteRoleRequest { name: name.into(), ..Default::default() }
}

/// A binding of a built-in role in the namespace of this number.
fn binding(principal: usize, namespace: usize) -> Option<Binding> {
    Some(Binding { principal: format!("user/u{principal}"), role: "viewer".into(), namespace: format!("n{namespace}") })
}

fn put_binding(principal: usize, namespace: usize) -> PutBindingRequest {
    PutBindingRequest { binding: binding(principal, namespace), ..Default::default() }
}

fn delete_binding(principal: usize, namespace: usize) -> DeleteBindingRequest {
    DeleteBindingRequest { binding: binding(principal, namespace), ..Default::default() }
}

/// A token whose secret has this number.
fn put_token(number: usize, ttl_ms: u64) -> PutTokenRequest {
    PutTokenRequest { secret_hash: hash(number).to_vec().into(), principal: "user/robot".into(), ttl_ms, ..Default::default() }
}

fn hash(number: usize) -> [u8; 32] {
    let mut hash = [0; 32];
    hash[..8].copy_from_slice(&(number as u64).to_be_bytes());
    hash
}

fn revoke_certificate(number: usize, expires_at_ms: u64) -> RevokeCertificateRequest {
    RevokeCertificateRequest { serial: format!("{number:x}"), expires_at_ms, ..Default::default() }
}

/// Carries out many commands, all of which must succeed, without comparing indices after each.
fn many<R: CommandBody>(rig: &mut Rig, requests: impl Iterator<Item = R>) {
    let requests: Vec<Command> = requests.map(command).collect();
    carry_out(rig, &requests);
}

/// The same, in somebody's name.
fn many_by<R: CommandBody>(rig: &mut Rig, principal: &str, requests: impl Iterator<Item = R>) {
    let by = |request| Command { principal: principal.to_owned(), ..command(request) };
    let requests: Vec<Command> = requests.map(by).collect();
    carry_out(rig, &requests);
}

fn carry_out(rig: &mut Rig, requests: &[Command]) {
    for some in requests.chunks(1_000) {
        for outcome in rig.apply_unchecked(some.to_vec()).outcomes {
            let refused = matches!(outcome.body, Some(outcome::Body::Rejected(_)));
            assert!(!refused, "{outcome:?}");
        }
    }
}

/// Lets time pass without comparing indices after each entry; gives the number of entries.
fn pass_to(rig: &mut Rig, now_ms: u64) -> usize {
    rig.now_ms = now_ms;
    let mut entries = 0;
    while rig.machine.next_wake_ms().is_some_and(|at| at <= now_ms) {
        rig.apply_unchecked(Vec::new());
        entries += 1;
        assert!(entries < 10_000, "time does not get anywhere");
    }
    entries
}

/// One command that must succeed, without comparing indices: where there is much, that is done at restarts.
fn ok<R: CommandBody>(rig: &mut Rig, request: R) {
    many(rig, std::iter::once(request));
}

/// One command that must be refused, the same way; gives the reason.
fn refused<R: CommandBody>(rig: &mut Rig, request: R) -> String {
    let applied = rig.apply_unchecked(vec![command(request)]);
    match &applied.outcomes[0].body {
        Some(outcome::Body::Rejected(rejection)) => rejection.reason.clone(),
        other => panic!("it must be refused: {other:?}"),
    }
}

fn reason<R: CommandBody>(request: R) -> String {
    let refused = check::validate(&command(request)).err();
    refused.map_or_else(String::new, |rejection| rejection.reason)
}

#[test]
fn there_are_so_many_roles_and_no_more() {
    let mut rig = rig();
    many(&mut rig, (0..limits::ROLES_MAX).map(|n| put_role(format!("r{n}"))));
    assert_eq!(rig.refused(put_role("another")), "TOO_MANY_ROLES");
    // One that is there can be changed, and one that goes makes room.
    rig.ok(put_role("r7"));
    rig.ok(delete_role("r7"));
    rig.ok(put_role("another"));
    assert_eq!(rig.refused(put_role("r7")), "TOO_MANY_ROLES");
    rig.restart();
    assert_eq!(rig.refused(put_role("r7")), "TOO_MANY_ROLES");
}

#[test]
fn one_principal_has_so_many_bindings_and_all_together_have_so_many() {
    let mut rig = rig();
    let each = limits::BINDINGS_OF_ONE_MAX;
    many(&mut rig, (0..each).map(|n| put_binding(0, n)));
    assert_eq!(refused(&mut rig, put_binding(0, each)), "TOO_MANY_BINDINGS");
    ok(&mut rig, put_binding(0, 3));
    ok(&mut rig, delete_binding(0, 3));
    ok(&mut rig, put_binding(0, each));
    assert_eq!(refused(&mut rig, put_binding(0, 3)), "TOO_MANY_BINDINGS");

    let rest = each..limits::BINDINGS_MAX;
    many(&mut rig, rest.map(|n| put_binding(n / each, n % each)));
    let (last, free) = (limits::BINDINGS_MAX / each, limits::BINDINGS_MAX % each);
    assert_eq!(refused(&mut rig, put_binding(last, free)), "TOO_MANY_BINDINGS");
    assert_eq!(refused(&mut rig, put_binding(last + 1, 0)), "TOO_MANY_BINDINGS");
    ok(&mut rig, put_binding(last, 0));
    ok(&mut rig, delete_binding(1, 0));
    ok(&mut rig, put_binding(last + 1, 0));
    rig.restart();
    assert_eq!(refused(&mut rig, put_binding(1, 0)), "TOO_MANY_BINDINGS");
    let all = rig.machine.list_bindings(&ListBindingsRequest::default()).unwrap();
    assert_eq!(all.bindings.len(), limits::BINDINGS_MAX);
    let of_one = ListBindingsRequest { principal: "user/u0".into() };
    assert_eq!(rig.machine.list_bindings(&of_one).unwrap().bindings.len(), each);
}

#[test]
fn nobody_takes_every_place() {
    let mut rig = rig();
    let max = limits::TOKENS_OF_ONE_MAX;
    many(&mut rig, (0..max).map(|n| put_token(n, 60_000)));
    assert_eq!(refused(&mut rig, put_token(max, 60_000)), "TOO_MANY_TOKENS");
    many_by(&mut rig, "user/other", std::iter::once(put_token(max, 60_000)));

    let worker = || RegisterWorkerRequest { ttl_ms: 60_000, ..Default::default() };
    let max = limits::WORKERS_OF_ONE_MAX;
    many(&mut rig, (0..max).map(|_| worker()));
    assert_eq!(refused(&mut rig, worker()), "TOO_MANY_WORKERS");
    many_by(&mut rig, "user/other", std::iter::once(worker()));
}

#[test]
fn a_namespaces_name_gives_its_workers_nothing_when_another_bears_it() {
    let mut rig = rig();
    let create = |name: &str| CreateNamespaceRequest { name: name.into(), ..Default::default() };
    let delete = |name: &str| DeleteNamespaceRequest { name: name.into(), ..Default::default() };
    many(&mut rig, ["one", "other"].into_iter().map(create));
    for namespaces in [vec!["one".to_owned()], vec!["one".to_owned(), "other".to_owned()]] {
        let capabilities = Some(WorkerCapabilities { namespaces, ..Default::default() });
        let request = RegisterWorkerRequest { capabilities, ttl_ms: 60_000, ..Default::default() };
        ok(&mut rig, request);
    }
    ok(&mut rig, delete("one"));
    ok(&mut rig, create("one"));
    let listed = rig.machine.list_workers(&ListWorkersRequest::default()).unwrap();
    let states: Vec<_> = listed.workers.iter().map(|worker| (worker.state(), worker.capabilities.clone().unwrap().namespaces)).collect();
    assert_eq!(states, [(WorkerState::Draining, vec!["one".to_owned()]), (WorkerState::Active, vec!["other".to_owned()])]);
}

#[test]
fn there_are_so_many_tokens_and_all_expire_at_once() {
    let mut rig = rig();
    let max = limits::TOKENS_MAX;
    let each = limits::TOKENS_OF_ONE_MAX;
    for maker in 0..max / each {
        let of_one = (maker * each..(maker + 1) * each).map(|n| put_token(n, 60_000));
        many_by(&mut rig, &format!("user/m{maker}"), of_one);
    }
    assert_eq!(refused(&mut rig, put_token(max, 60_000)), "TOO_MANY_TOKENS");
    assert_eq!(refused(&mut rig, put_token(5, 60_000)), "TOKEN_EXISTS");
    let (id, row) = rig.machine.access().token(&hash(5)).map(|(id, row)| (id, row.clone())).expect("it is known by its secret");
    assert_eq!((row.principal.as_str(), row.expires_at_ms), ("user/robot", 61_000));
    ok(&mut rig, RevokeTokenRequest { token_id: tarn_machine::ids::Id(id).to_string(), ..Default::default() });
    assert!(rig.machine.access().token(&hash(5)).is_none());
    ok(&mut rig, put_token(max, 120_000));
    rig.restart();

    let entries = pass_to(&mut rig, 61_000);
    assert_eq!(entries, (max - 1).div_ceil(limits::WAKES_PER_ENTRY_MAX));
    rig.check();
    let left = rig.machine.list_tokens(&ListTokensRequest::default()).unwrap().tokens;
    assert_eq!(left.len(), 1, "the one that lives longer");
    assert!(rig.machine.access().token(&hash(max)).is_some());
    assert_eq!(rig.machine.access().secrets.len(), 1);
}

#[test]
fn there_are_so_many_revocations_and_each_is_forgotten_when_its_certificate_has_expired() {
    let mut rig = rig();
    let max = limits::REVOCATIONS_MAX;
    many(&mut rig, (0..max - 1).map(|n| revoke_certificate(n, 50_000)));
    ok(&mut rig, revoke_certificate(max - 1, 0));
    assert_eq!(refused(&mut rig, revoke_certificate(max, 50_000)), "TOO_MANY_REVOCATIONS");
    // Revoking again changes nothing, and takes no room.
    assert!(rig.tell(revoke_certificate(3, 0)).1.is_empty());
    rig.restart();
    assert_eq!(pass_to(&mut rig, 49_999), 0);
    pass_to(&mut rig, 50_000);
    rig.check();
    let left = rig.machine.list_revocations(&ListRevocationsRequest {}).unwrap();
    let serials: Vec<&str> = left.revocations.iter().map(|r| r.serial.as_str()).collect();
    assert_eq!(serials, [format!("{:x}", max - 1)]);
    assert_eq!(left.revocations[0].expires_at_ms, 1_000 + limits::REVOCATION_MS_DEFAULT);
    ok(&mut rig, revoke_certificate(max, 60_000));
}

#[test]
fn a_revocation_ends_neither_before_now_nor_later_than_any_certificate() {
    let mut rig = rig();
    rig.now_ms = 5_000;
    rig.ok(revoke_certificate(1, 1));
    rig.ok(revoke_certificate(2, limits::TIME_MS_MAX));
    let revoked = |rig: &Rig| {
        let access = rig.machine.access();
        let ends = access.revoked.iter().map(|(serial, row)| (serial.to_string(), row.expires_at_ms));
        ends.collect::<Vec<_>>()
    };
    let longest = ("2".to_owned(), 5_000 + limits::REVOCATION_MS_DEFAULT);
    // The first has been forgotten by the entry that came after it.
    assert_eq!(revoked(&rig), std::slice::from_ref(&longest));
    rig.restart();
    assert_eq!(revoked(&rig), [longest]);
}

#[test]
fn what_a_role_says_is_bounded() {
    let with = |rules: Vec<Rule>| PutRoleRequest { rules, ..put_role("r") };
    let verbs = |verbs: Vec<String>| with(vec![Rule { verbs, ..rule() }]);
    assert_eq!(reason(with(vec![rule(); limits::RULES_MAX])), "");
    assert_eq!(reason(with(vec![rule(); limits::RULES_MAX + 1])), "TOO_MANY_RULES");
    assert_eq!(reason(with(vec![])), "", "a role may allow nothing");
    assert_eq!(reason(verbs(vec!["v".into(); limits::PATTERNS_MAX])), "");
    assert_eq!(reason(verbs(vec!["v".into(); limits::PATTERNS_MAX + 1])), "TOO_MANY_PATTERNS");
    assert_eq!(reason(verbs(vec!["v".repeat(limits::PATTERN_BYTES_MAX)])), "");
    assert_eq!(reason(verbs(vec!["v".repeat(limits::PATTERN_BYTES_MAX + 1)])), "PATTERN_TOO_LONG");
    assert_eq!(reason(verbs(vec![])), "NO_PATTERN");

    // Within each of these, and too much together.
    let long = Rule { verbs: vec!["v".repeat(limits::PATTERN_BYTES_MAX); 8], ..rule() };
    let fitting = limits::ROLE_BYTES_MAX / prost::Message::encoded_len(&long);
    assert_eq!(reason(with(vec![long.clone(); fitting])), "");
    assert_eq!(reason(with(vec![long.clone(); fitting + 1])), "RULES_TOO_LARGE");
    let scopes = |count| PutTokenRequest { scopes: vec![rule(); count], ..put_token(1, 0) };
    let fitting = limits::SCOPES_BYTES_MAX / prost::Message::encoded_len(&rule());
    assert_eq!(reason(scopes(fitting)), "");
    assert_eq!(reason(scopes(fitting + 1)), "RULES_TOO_LARGE");
}

#[test]
fn names_of_tokens_and_reasons_of_revocations_are_bounded() {
    let named = |length: usize| PutTokenRequest { name: "n".repeat(length), ..put_token(1, 0) };
    assert_eq!(reason(named(limits::LABEL_BYTES_MAX)), "");
    assert_eq!(reason(named(limits::LABEL_BYTES_MAX + 1)), "NAME_TOO_LONG");
    for (ttl_ms, expected) in [
        (limits::TOKEN_MS.0 - 1, "OUT_OF_RANGE"),
        (limits::TOKEN_MS.0, ""),
        (limits::TOKEN_MS.1, ""),
        (limits::TOKEN_MS.1 + 1, "OUT_OF_RANGE"),
    ] {
        assert_eq!(reason(put_token(1, ttl_ms)), expected, "{ttl_ms}");
    }
    for length in [0, 31, 33] {
        let request = PutTokenRequest { secret_hash: Bytes::from(vec![1; length]), ..put_token(1, 0) };
        assert_eq!(reason(request), "INVALID_HASH");
    }
    let because = |length: usize| RevokeCertificateRequest { reason: "r".repeat(length), ..revoke_certificate(1, 0) };
    assert_eq!(reason(because(limits::REVOCATION_REASON_BYTES_MAX)), "");
    assert_eq!(reason(because(limits::REVOCATION_REASON_BYTES_MAX + 1)), "REASON_TOO_LONG");
    let serial = |length: usize| RevokeCertificateRequest { serial: "a".repeat(length), ..revoke_certificate(1, 0) };
    assert_eq!(reason(serial(limits::SERIAL_BYTES_MAX)), "");
    assert_eq!(reason(serial(limits::SERIAL_BYTES_MAX + 1)), "INVALID_SERIAL");
}

#[test]
fn no_name_can_be_written_in_two_ways() {
    let principal = |text: &str| PutBindingRequest {
        binding: Some(Binding { principal: text.into(), role: "viewer".into(), namespace: "*".into() }),
        ..Default::default()
    };
    let longest = format!("user/{}", "a".repeat(limits::PRINCIPAL_BYTES_MAX - 5));
    for fine in [
        "user/ada",
        "node/3",
        "jwt/https://issuer/x",
        "user/a@b.c",
        // Everybody of a kind.
        "user/*",
        longest.as_str(),
    ] {
        assert_eq!(reason(principal(fine)), "", "{fine}");
    }
    assert_eq!(reason(principal(&format!("{longest}a"))), "PRINCIPAL_TOO_LONG");
    for bad in [
        "",
        "/",
        "ada",
        "user/",
        "/ada",
        "User/ada",
        "user1/ada",
        "us er/ada",
        "user/a da",
        "user/a*",
        "user/*/x",
        "user/**",
        "/*",
        "*",
        "*/*",
        "user/ada\n",
        "user/ada\0",
        "user/\u{430}da",
        "user/ad\u{61}\u{301}",
        "user/\u{200b}ada",
        "\u{ff55}ser/ada",
    ] {
        assert_eq!(reason(principal(bad)), "INVALID_PRINCIPAL", "{bad:?}");
    }
    let namespace = |text: &str| PutBindingRequest {
        binding: Some(Binding { principal: "user/ada".into(), role: "viewer".into(), namespace: text.into() }),
        ..Default::default()
    };
    for fine in ["*", "team", "team-*", "t*", "0"] {
        assert_eq!(reason(namespace(fine)), "", "{fine}");
    }
    let long = format!("{}*", "a".repeat(65));
    for bad in ["", "**", "*team", "te*am", "te**", "Team", "../etc", "a/b", "t\u{0435}am", "-*", " ", long.as_str()] {
        assert_eq!(reason(namespace(bad)), "INVALID_NAME", "{bad:?}");
    }
}

#[test]
fn a_token_never_acts_as_a_node() {
    // Nodes prove who they are by their certificates, and are trusted with more than any user.
    for principal in ["node/1", "node/x"] {
        let request = PutTokenRequest { principal: principal.into(), ..put_token(1, 0) };
        assert_eq!(reason(request), "INVALID_PRINCIPAL", "{principal}");
    }
}

#[test]
fn who_judges_by_the_access_of_a_moment_is_not_disturbed_by_what_changes() {
    let mut rig = rig();
    rig.ok(put_role("pilot"));
    rig.ok(put_token(1, 60_000));
    let before = rig.machine.access();
    let copy = (*before).clone();
    rig.ok(delete_role("pilot"));
    rig.ok(put_binding(1, 1));
    rig.ok(revoke_certificate(1, 0));
    rig.pass_to(61_000);
    assert_eq!(*before, copy);
    let after = rig.machine.access();
    assert!(after.roles.is_empty() && after.tokens.is_empty() && after.revoked.len() == 1);
    assert!(std::sync::Arc::ptr_eq(&after, &rig.machine.access()), "nothing changed: nothing is copied");
}

#[test]
fn what_belongs_to_nobody_is_told_to_everybody_who_watches() {
    let mut rig = rig();
    let mut kinds = BTreeSet::new();
    let mut tell = |events: Vec<Event>| {
        for event in &events {
            assert_eq!(event.kind(), EventKind::AccessChanged);
            assert!(event.namespace.is_empty() && event.queue.is_empty());
        }
        kinds.extend(events.into_iter().map(|event| event.subject));
    };
    tell(rig.tell(put_role("pilot")).1);
    tell(rig.tell(put_binding(1, 1)).1);
    tell(rig.tell(put_token(1, 60_000)).1);
    tell(rig.tell(revoke_certificate(10, 0)).1);
    assert!(kinds.contains("role/pilot") && kinds.contains("binding/user/u1") && kinds.contains("certificate/a"));
    assert_eq!(kinds.len(), 4);
}
