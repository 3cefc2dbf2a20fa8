//! Policies against a small model: which bundles there are, which of them judge, where a rollback leads, what signatures allow, how far
//! each handler has been told. And the bounds: every limit that the state has on them.

#[allow(dead_code, reason = "shared with the test of the model, which throws in more ways")]
#[path = "../model/dice.rs"]
mod dice;
mod reference;
#[path = "../support/mod.rs"]
mod support;

use dice::Dice;
use reference::{ENVIRONMENTS, NAMES, Reference, VERSIONS, public_key, signer};
use support::Rig;
use tarn_machine::{ids::Id, limits};
use tarn_proto::v1::*;

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.ok(RaiseVersion { version: 2, ..Default::default() });
    rig
}

fn put(name: &str, version: &str, content: &str) -> PutBundleRequest {
    PutBundleRequest {
        environment: "prod".into(),
        name: name.into(),
        version: version.into(),
        content: content.to_owned().into(),
        ..Default::default()
    }
}

fn activate(name: &str, version: &str) -> ActivateBundleRequest {
    ActivateBundleRequest { environment: "prod".into(), name: name.into(), version: version.into(), ..Default::default() }
}

fn violation(severity: PolicySeverity) -> Violation {
    Violation {
        namespace: "default".into(),
        environment: "prod".into(),
        policy: "night".into(),
        version: "1.0.0".into(),
        severity: severity.into(),
        code: "CODE".into(),
        message: "a sentence".into(),
        principal: "user/ada".into(),
        verb: "submit".into(),
        resource: "queue/mail".into(),
        count: 1,
        ..Default::default()
    }
}

fn record(violations: Vec<Violation>) -> RecordViolations {
    RecordViolations { violations, ..Default::default() }
}

fn handler(name: &str, min_severity: PolicySeverity) -> PutPolicyHandlerRequest {
    PutPolicyHandlerRequest {
        name: name.into(),
        url: "https://pager.example/".into(),
        min_severity: min_severity.into(),
        secret: "pager".into(),
        ..Default::default()
    }
}

/// A step that the model predicts: the machine says the same, and afterwards holds the same.
fn step(rig: &mut Rig, model: &mut Reference, dice: &mut Dice) -> bool {
    let (environment, name) = (dice.pick(&ENVIRONMENTS).to_owned(), dice.pick(&NAMES).to_owned());
    let version = dice.pick(&VERSIONS).to_owned();
    let expected = match dice.below(4) {
        0 => Some(dice.pick(&["", "1.0.0", "2.0.0"]).to_owned()),
        _ => None,
    };
    let (found, wanted) = match dice.below(100) {
        0..30 => {
            let key = dice.pick(&[None, None, Some(b'a'), Some(b'b')]);
            let request = PutBundleRequest {
                environment,
                name,
                version,
                content: dice.pick(&["x", "x", "x", "y"]).to_owned().into(),
                signature: key.map_or(Vec::new(), |key| vec![key; limits::SIGNATURE_BYTES]).into(),
                signer: key.map_or(Vec::new(), signer).into(),
                ..Default::default()
            };
            (rig.tell(request.clone()).0.map(drop), model.put(&request))
        }
        30..60 => {
            let request = ActivateBundleRequest { environment, name, version, expected, ..Default::default() };
            let answer = rig.tell(request.clone()).0;
            let (found, previous) = (answer.clone().map(drop), answer.map(|answer| answer.previous));
            let wanted = model.activate(&request);
            if let (Ok(previous), Ok(known)) = (&previous, &wanted) {
                assert_eq!(previous, known);
            }
            (found, wanted.map(drop))
        }
        60..75 => {
            let request = RollbackBundleRequest { environment, name, expected, ..Default::default() };
            let answer = rig.tell(request.clone()).0;
            let version = answer.clone().map(|answer| answer.bundle.expect("a rollback leads somewhere").version);
            let wanted = model.rollback(&request);
            if let (Ok(version), Ok(known)) = (&version, &wanted) {
                assert_eq!(version, known);
            }
            (answer.map(drop), wanted.map(drop))
        }
        75..82 => {
            let request = DeactivateBundleRequest { environment, name, expected, ..Default::default() };
            (rig.tell(request.clone()).0.map(drop), model.deactivate(&request))
        }
        82..92 => {
            let request = DeleteBundleRequest { environment, name, version, ..Default::default() };
            (rig.tell(request.clone()).0.map(drop), model.delete(&request))
        }
        _ => {
            let keys = dice.pick(&["", "a", "b", "ab"]);
            let signers = keys.bytes().map(|key| PolicySigner { name: char::from(key).to_string(), public_key: public_key(key).into() });
            let settings = PolicySettings { require_signed: !keys.is_empty() && dice.chance(40), signers: signers.collect() };
            let request = PutPolicySettingsRequest { settings: Some(settings.clone()), ..Default::default() };
            (rig.tell(request).0.map(drop), model.settings(settings))
        }
    };
    let found = found.map_err(|rejection| rejection.reason);
    assert_eq!(found, wanted.map_err(str::to_owned), "the machine and the model disagree");
    found.is_ok()
}

#[test]
fn bundles_do_what_the_model_says() {
    for seed in 0..20 {
        let (mut rig, mut model, mut dice) = (rig(), Reference::default(), Dice::new(seed));
        let mut done = 0;
        for round in 0..300 {
            done += u32::from(step(&mut rig, &mut model, &mut dice));
            model.compare(&rig.machine);
            if round % 50 == 49 {
                rig.restart();
                model.compare(&rig.machine);
            }
        }
        assert!(done > 60, "seed {seed}: only {done} of 300 steps did something");
    }
}

#[test]
fn the_revision_grows_whenever_what_judges_changes_and_only_then() {
    let mut rig = rig();
    rig.ok(put("night", "1.0.0", "a"));
    assert_eq!(rig.machine.policies().revision, 0, "nothing judges yet");
    rig.ok(activate("night", "1.0.0"));
    let held = rig.machine.policies();
    assert_eq!(held.revision, rig.index);
    rig.ok(activate("night", "1.0.0"));
    rig.ok(put("night", "2.0.0", "b"));
    rig.ok(record(vec![violation(PolicySeverity::Low)]));
    assert_eq!(rig.machine.policies().revision, held.revision, "the same version judges");
    rig.ok(activate("night", "2.0.0"));
    assert_eq!(rig.machine.policies().revision, rig.index);
    assert_eq!(&*held.active["prod"]["night"].version, "1.0.0", "who holds a snapshot keeps it");
    rig.ok(DeactivateBundleRequest { environment: "prod".into(), name: "night".into(), ..Default::default() });
    assert_eq!(rig.machine.policies().revision, rig.index);
    assert!(rig.machine.policies().active.is_empty());
    rig.restart();
    assert_eq!(rig.machine.policies().revision, rig.index);
}

#[test]
fn a_signature_can_be_added_to_the_same_bytes_and_then_they_may_judge() {
    let mut rig = rig();
    rig.ok(put("night", "1.0.0", "a"));
    rig.ok(PutPolicySettingsRequest {
        settings: Some(PolicySettings {
            require_signed: true,
            signers: vec![PolicySigner { name: "ann".into(), public_key: public_key(b'a').into() }],
        }),
        ..Default::default()
    });
    assert_eq!(rig.refused(activate("night", "1.0.0")), "POLICY_NOT_SIGNED");
    let signed =
        PutBundleRequest { signature: vec![1; limits::SIGNATURE_BYTES].into(), signer: signer(b'a').into(), ..put("night", "1.0.0", "a") };
    assert!(rig.ok(signed.clone()).existed);
    let by_another = PutBundleRequest { signer: signer(b'b').into(), ..signed.clone() };
    assert_eq!(rig.refused(by_another), "POLICY_NOT_SIGNED");
    let other_bytes = PutBundleRequest { content: "b".into(), ..signed };
    assert_eq!(rig.refused(other_bytes), "BUNDLE_VERSION_EXISTS");
    rig.ok(activate("night", "1.0.0"));
    let question = GetBundleRequest { environment: "prod".into(), name: "night".into(), version: String::new() };
    let answer = rig.machine.get_bundle(&question).expect("it is active");
    assert_eq!((answer.content.as_ref(), answer.signature.len()), (&b"a"[..], limits::SIGNATURE_BYTES));
}

#[test]
fn each_handler_is_told_what_it_asked_for_from_where_it_was_told_last() {
    let mut rig = rig();
    rig.ok(record(vec![violation(PolicySeverity::Critical)]));
    rig.ok(handler("all", PolicySeverity::Low));
    rig.ok(PutPolicyHandlerRequest { policy: "night".into(), environment: "prod".into(), ..handler("critical", PolicySeverity::Critical) });
    rig.ok(PutPolicyHandlerRequest { policy: "day".into(), ..handler("day", PolicySeverity::Low) });
    rig.ok(record(vec![violation(PolicySeverity::Low), violation(PolicySeverity::Critical), violation(PolicySeverity::High)]));
    let told = |rig: &Rig, name: &str, after, max| rig.machine.escalations(name, after, max).expect("it can be read");
    assert_eq!(told(&rig, "all", 0, 10).violations.len(), 3, "not what came before it was made");
    assert_eq!(told(&rig, "critical", 0, 10).violations.len(), 1);
    let day = told(&rig, "day", 0, 10);
    assert!(day.violations.is_empty() && day.looked_up_to > 0, "{day:?}");
    assert_eq!(told(&rig, "day", day.looked_up_to, 10), day, "nothing is looked at twice");
    assert!(told(&rig, "nobody", 0, 10).violations.is_empty());

    let first = told(&rig, "all", 0, 2);
    assert_eq!(first.violations.len(), 2);
    assert_eq!(Id(first.looked_up_to).to_string(), first.violations[1].violation_id);
    rig.ok(AcknowledgeEscalations { handler: "all".into(), up_to: first.violations[1].violation_id.clone() });
    rig.restart();
    let rest = told(&rig, "all", 0, 10);
    assert_eq!(rest.violations.len(), 1);
    assert_eq!(rest.violations[0].severity(), PolicySeverity::High);
}

#[test]
fn the_oldest_violations_make_room() {
    let mut rig = rig();
    let batch = || record(vec![violation(PolicySeverity::Low); limits::BATCH_VIOLATIONS_MAX]);
    let batches = limits::VIOLATIONS_MAX / limits::BATCH_VIOLATIONS_MAX + 1;
    let mut dropped = 0;
    for _ in 0..batches {
        let applied = rig.apply_unchecked(vec![support::command(batch())]);
        let answer = support::answer::<RecordViolations>(applied.outcomes.into_iter().next().expect("one outcome"));
        dropped += answer.expect("it is recorded").dropped as usize;
    }
    assert_eq!(dropped, batches * limits::BATCH_VIOLATIONS_MAX - limits::VIOLATIONS_MAX);
    rig.check();
    let (mut token, mut seen) = (String::new(), Vec::new());
    loop {
        let request = ListViolationsRequest { page_size: 1_000, page_token: token, ..Default::default() };
        let page = rig.machine.list_violations(&request).expect("a page");
        seen.extend(page.violations.into_iter().map(|found| found.violation_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), limits::VIOLATIONS_MAX);
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "newest first, none twice");
    rig.pass_to(rig.now_ms + limits::VIOLATION_KEPT_MS);
    rig.restart();
    assert_eq!(rig.machine.next_wake_ms(), None, "nothing is left of them");
}

#[test]
fn what_the_state_may_hold_of_policies_is_bounded() {
    let mut rig = rig();
    for version in 0..limits::BUNDLE_VERSIONS_MAX {
        rig.ok(put("night", &format!("1.{version}.0"), "a"));
    }
    assert_eq!(rig.refused(put("night", "2.0.0", "a")), "TOO_MANY_VERSIONS");
    assert!(rig.ok(put("night", "1.0.0", "a")).existed, "what is there is there");
    for active in 0..limits::ACTIVE_BUNDLES_MAX {
        rig.ok(put(&format!("p{active}"), "1.0.0", "a"));
        rig.ok(activate(&format!("p{active}"), "1.0.0"));
    }
    assert_eq!(rig.refused(activate("night", "1.0.0")), "TOO_MANY_ACTIVE_BUNDLES");
    rig.ok(put("p0", "2.0.0", "b"));
    rig.ok(activate("p0", "2.0.0"));
    let held = limits::BUNDLE_VERSIONS_MAX + limits::ACTIVE_BUNDLES_MAX + 1;
    for bundle in held..limits::BUNDLES_MAX {
        rig.apply_unchecked(vec![support::command(put(&format!("q{bundle}"), "1.0.0", "a"))]);
    }
    assert_eq!(rig.refused(put("one-more", "1.0.0", "a")), "TOO_MANY_BUNDLES");
    for name in 0..limits::POLICY_HANDLERS_MAX {
        rig.ok(handler(&format!("h{name}"), PolicySeverity::High));
    }
    assert_eq!(rig.refused(handler("one-more", PolicySeverity::High)), "TOO_MANY_HANDLERS");
    rig.ok(handler("h0", PolicySeverity::Low));
}

#[test]
fn all_bundles_together_are_bounded_in_bytes() {
    let mut rig = rig();
    let large = "x".repeat(limits::BUNDLE_BYTES_MAX);
    let fit = limits::BUNDLES_BYTES_MAX as usize / limits::BUNDLE_BYTES_MAX;
    for name in 0..fit {
        let applied = rig.apply_unchecked(vec![support::command(put(&format!("p{name}"), "1.0.0", &large))]);
        assert!(!matches!(applied.outcomes[0].body, Some(outcome::Body::Rejected(_))));
    }
    let (refused, _) = rig.tell(put("one-more", "1.0.0", "a"));
    assert_eq!(refused.expect_err("there is no room").limit, limits::BUNDLES_BYTES_MAX);
    rig.ok(DeleteBundleRequest { environment: "prod".into(), name: "p0".into(), version: "1.0.0".into(), ..Default::default() });
    rig.ok(put("one-more", "1.0.0", "a"));
}
