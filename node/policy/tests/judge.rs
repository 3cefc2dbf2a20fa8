//! What bundles say: the convention of `deny`, `warn` and `allow`, what they are shown, and the decisions that are remembered.

mod support;

use std::time::Duration;

use serde_json::json;
use support::{BUDGET, compiled, document, input, manifest};
use tarn_policy::{Bundle, Compiled, Error, FailureKind, Input, Policies, Severity, Verdict, Version};

fn judge(text: &str) -> Verdict {
    compiled(text).evaluate(&input(), BUDGET)
}

fn failure(text: &str) -> (FailureKind, String) {
    let verdict = judge(text);
    assert!(!verdict.allowed, "what fails refuses");
    let failure = verdict.error.expect("it should fail");
    (failure.kind, failure.message)
}

#[test]
fn messages_and_objects_deny() {
    let verdict = judge(
        r#"package tarn
        deny contains "plain" if input.verb == "create"
        deny contains {"code": "TOO_MUCH", "message": "rich", "severity": "critical"} if input.task.queue == "training"
        deny contains "never" if input.verb == "read"
        warn contains {"message": "careful"}
        "#,
    );
    assert!(!verdict.allowed);
    assert_eq!((verdict.reason(), verdict.rule.as_str()), (Some("POLICY_DENIED"), "tarn.deny"));
    assert_eq!((&*verdict.bundle, &*verdict.version), ("example", "1.0.0"));
    let said: Vec<_> = verdict
        .violations
        .iter()
        .map(|violation| (violation.code.as_str(), violation.message.as_str(), violation.severity, violation.blocking))
        .collect();
    assert_eq!(
        said,
        [
            ("DENIED", "plain", Severity::Medium, true),
            ("TOO_MUCH", "rich", Severity::Critical, true),
            ("WARNED", "careful", Severity::Low, false),
        ]
    );
    assert_eq!(verdict.sentence().unwrap(), "the policy example 1.0.0 refuses it: plain (and 1 more)");
}

#[test]
fn warnings_let_pass() {
    let verdict = judge("package tarn\nwarn contains \"careful\"\ndeny contains \"x\" if false\n");
    assert!(verdict.allowed && verdict.reason().is_none() && verdict.sentence().is_none());
    assert_eq!(verdict.violations.len(), 1);
}

#[test]
fn allow_must_be_true_where_it_is_there() {
    assert!(judge("package tarn\nallow if input.verb == \"create\"\n").allowed);
    assert!(judge("package tarn\ndefault allow := false\nallow if input.verb == \"create\"\n").allowed);
    for refusing in ["allow if input.verb == \"read\"", "default allow := false\nallow if false", "allow := false"] {
        let verdict = judge(&format!("package tarn\n{refusing}\n"));
        assert_eq!((verdict.allowed, verdict.rule.as_str(), verdict.error), (false, "tarn.allow", None), "{refusing}");
    }
    let both = judge("package tarn\nallow := true\ndeny contains \"no\"\n");
    assert_eq!((both.allowed, both.rule.as_str()), (false, "tarn.deny"));
    assert_eq!(failure("package tarn\nallow := \"yes\"\n").0, FailureKind::PolicyFailed);
}

#[test]
fn deny_may_be_a_single_value() {
    assert!(!judge("package tarn\ndeny if input.verb == \"create\"\n").allowed);
    assert!(judge("package tarn\ndeny if input.verb == \"read\"\n").allowed);
    assert_eq!(judge("package tarn\ndeny := [\"a\", \"b\"]\n").violations.len(), 2);
    assert_eq!(judge("package tarn\ndeny := \"a\"\n").violations[0].message, "a");
}

#[test]
fn what_has_the_wrong_form_refuses() {
    for wrong in [
        "deny contains 7",
        "deny contains {\"code\": \"X\"}",
        "deny contains {\"message\": 7}",
        "deny contains {\"message\": \"m\", \"severity\": \"awful\"}",
        "deny contains {\"message\": \"m\", \"code\": \"lower case\"}",
        "deny contains {\"message\": \"m\", \"sevrity\": \"high\"}",
        "warn contains 7",
        "deny := 7",
    ] {
        assert_eq!(failure(&format!("package tarn\n{wrong}\n")).0, FailureKind::PolicyFailed, "{wrong}");
    }
}

#[test]
fn errors_of_functions_refuse_and_name_their_place() {
    let (kind, message) = failure("package tarn\n\ndeny contains \"x\" if {\n\tto_number(input.verb) > 3\n}\n");
    assert_eq!(kind, FailureKind::PolicyFailed);
    assert!(message.starts_with("policy.rego:4:"), "{message}");
    let (_, message) = failure("package tarn\nv := 1 if input.verb\nv := 2 if input.principal\ndeny contains \"x\" if v == 3\n");
    assert!(!message.is_empty());
    // Also within a function and a negation, where an error could pass for "not true".
    for hidden in [
        "f(x) := to_number(x)\ndeny contains \"x\" if f(input.verb) == 1",
        "deny contains \"x\" if not to_number(input.verb)",
        "f(x) if to_number(x)\nallow if not f(input.verb)",
        "deny contains \"x\" if count([y | y := to_number(input.verb)]) == 7",
        "deny contains \"x\" if { some y in [input.verb]; to_number(y) > 1 }",
        "deny contains \"x\" if every y in [input.verb] { to_number(y) > 1 }",
    ] {
        assert_eq!(failure(&format!("package tarn\n{hidden}\n")).0, FailureKind::PolicyFailed, "{hidden}");
    }
}

#[test]
fn missing_fields_are_undefined_and_not_errors() {
    assert!(judge("package tarn\ndeny contains \"x\" if to_number(input.nothing.there) > 3\n").allowed);
}

#[test]
fn long_lists_and_messages_are_cut() {
    let verdict = judge("package tarn\ndeny contains m if { some i in numbers.range(1, 100); m := sprintf(\"%d\", [i]) }\n");
    assert_eq!((verdict.violations.len(), verdict.omitted), (64, 36));
    let verdict = judge("package tarn\ndeny contains concat(\"\", [\"ä\" | numbers.range(1, 900)[_]])\n");
    let message = &verdict.violations[0].message;
    assert!(message.len() <= 1024 && message.ends_with('…'), "{}", message.len());
}

#[test]
fn data_functions_and_imports_work() {
    let text = r#"package tarn
        import data.limits
        import data.lib.names
        deny contains names.sentence(input.principal) if input.cluster.nodes > limits.nodes
        deny contains "pattern" if not regex.match(`^user/[a-z]+$`, input.principal)
        deny contains "digits" if regex.match(`^\d+$`, input.principal)
        deny contains "glob" if not glob.match("user/*", ["/"], input.principal)
        deny contains "version" if semver.compare("1.2.3", "1.10.0") != -1
        "#;
    let lib = "package lib.names\n\nsentence(who) := concat(\" \", [who, \"has too many\"])\n";
    let bundle = support::try_bundle(&[("a.rego", text), ("lib/names.rego", lib)], &json!({"limits": {"nodes": 2}})).unwrap();
    let verdict = Compiled::new(&bundle).unwrap().evaluate(&input(), BUDGET);
    assert_eq!(verdict.error, None);
    let messages: Vec<_> = verdict.violations.iter().map(|violation| violation.message.as_str()).collect();
    assert_eq!(messages, ["user/ann has too many"]);
}

fn problems(text: &str) -> Vec<tarn_policy::Problem> {
    match Compiled::new(&support::bundle(text)) {
        Err(Error::Compile(problems)) => problems,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn compile_errors_name_the_place() {
    let found = problems("package tarn\n\nallow := true\n\ndeny contains \"x\" if {\n\tinput.verb === 3\n}\n");
    assert_eq!((found[0].file.as_str(), found[0].line), ("policy.rego", 6));
    assert!(found[0].column > 0);
    assert_eq!(found[0].source, "\tinput.verb === 3");
    let text = Error::Compile(found).to_string();
    assert!(text.contains("policy.rego:6:") && text.contains("input.verb === 3") && text.contains('^'), "{text}");

    let modules = [("a.rego", "package tarn\nallow := \n"), ("b.rego", "package tarn\ndeny contains := \n")];
    let both = support::try_bundle(&modules, &json!({})).unwrap();
    match Compiled::new(&both) {
        Err(Error::Compile(problems)) => assert_eq!(problems.len(), 2, "one of each module"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_does_not_exist_is_found_when_compiling() {
    for (text, part) in [
        ("deny contains \"x\" if nothing.like.it(1)", "no function nothing.like.it"),
        ("deny contains \"x\" if unknown_variable == 1", "unknown_variable"),
        ("help := 1", "decides nothing"),
        ("deny(x) := 1", "decides nothing"),
    ] {
        let found = problems(&format!("package tarn\n\n{text}\n"));
        assert!(found[0].message.contains(part), "{text}: {found:?}");
    }
    assert!(problems("package other\n\nallow := true\n")[0].message.contains("decides nothing"));
    assert!(problems("package __tarn\n\nallow := true\n")[0].message.contains("__"));
}

#[test]
fn nothing_reaches_out_of_the_policy() {
    for call in [
        "http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1\"})",
        "opa.runtime()",
        "time.now_ns()",
        "rand.intn(\"x\", 10)",
        "uuid.rfc4122(\"x\")",
        "net.lookup_ip_addr(\"example.org\")",
        "io.jwt.decode(\"x\")",
        "walk(input)",
        "print(\"x\")",
        "trace(\"x\")",
    ] {
        let found = problems(&format!("package tarn\n\ndeny contains \"x\" if {call}\n"));
        assert!(found[0].message.contains("no function"), "{call}: {found:?}");
        assert_eq!(found[0].line, 3, "{call}");
    }
    let replaced = "package tarn\n\nf(x, y) := 1\n\ndeny contains \"x\" if f(\"x\", 9) == 3 with f as rand.intn\n";
    assert!(problems(replaced)[0].message.contains("rand.intn"));
    let aliased = "package tarn\nimport data.rand\ndeny contains \"x\" if rand.intn(\"x\", 9) == 3\n";
    assert!(problems(aliased)[0].message.contains("rand.intn"));
}

#[test]
fn bundles_see_only_what_they_read() {
    let reads = compiled(
        r#"package tarn
        import input.task as job
        deny contains "x" if input.resource.kind == "secret"
        deny contains "y" if job.queue == "secret"
        deny contains "z" if input.cluster["version"] == 9
        "#,
    );
    assert_eq!(reads.inputs(), ["input.cluster.version", "input.resource.kind", "input.task.queue"]);
    let every = compiled("package tarn\ndeny contains \"x\" if { some k; input[k] == 7 }\n");
    assert_eq!(every.inputs(), ["input"]);
    let helper = compiled("package tarn\nf(x) := x.verb\ndeny contains \"x\" if f(input) == 7\n");
    assert_eq!(helper.inputs(), ["input"]);
    // With every field hidden that it does not name, it decides the same.
    let verdict = helper.evaluate(&input(), BUDGET);
    assert!(verdict.allowed && verdict.error.is_none());
}

/// Packages may be spread over modules, in any order of their names, and be imported.
#[test]
fn imports_of_packages_in_several_modules_work() {
    let modules = [
        (
            "a.rego",
            "package tarn\nimport data.lib\nimport data.lib as other\ndeny contains sprintf(\"%v\", [lib.members]) if other.known(input.principal)\n",
        ),
        ("m.rego", "package lib\nimport data.gpu\nmembers contains m if { some m in first }\nknown(x) if x in gpu.teams.vision\n"),
        ("z.rego", "package lib\nimport data.gpu as g\nfirst := [m | some m in g.teams.vision]\n"),
    ];
    let data = json!({"gpu": {"teams": {"vision": ["user/ann"]}}});
    let compiled = Compiled::new(&support::try_bundle(&modules, &data).unwrap()).unwrap_or_else(|error| panic!("{error}"));
    let verdict = compiled.evaluate(&input(), BUDGET);
    assert_eq!(verdict.error, None);
    assert_eq!(verdict.violations[0].message, r#"{"user/ann"}"#);
    // As a whole it would be seen in part, so it may not be.
    for whole in ["count(data.lib) == 1", "count(lib) == 1", "some x; data.lib[x] == 1", "data[\"lib\"] == 1", "f(lib)"] {
        let text = format!("package tarn\nimport data.lib\nf(x) := 1\ndeny contains \"x\" if {{ {whole} }}\n");
        match Compiled::new(&support::try_bundle(&[("a.rego", &text), modules[1], modules[2]], &data).unwrap()) {
            Err(Error::Compile(problems)) => {
                assert!(problems[0].message.contains("several modules"), "{whole}: {problems:?}")
            }
            other => panic!("{whole}: {other:?}"),
        }
    }
}

#[test]
fn variables_with_the_name_of_an_import_are_refused() {
    for body in [
        "x := 1 if { lib := 3; lib > 2 }",
        "f(lib) := lib",
        "f([a, lib]) := a",
        "x := 1 if { some lib in [1] }",
        "x := 1 if { some lib; [1][lib] == 1 }",
        "x := 1 if { every lib in [1] { lib > 0 } }",
    ] {
        let found = problems(&format!("package tarn\nimport data.lib\nallow := true\n{body}\n"));
        assert!(found[0].message.contains("name of an import"), "{body}: {found:?}");
        assert_eq!(found[0].line, 4, "{body}");
    }
}

#[test]
fn places_are_those_of_the_text_that_was_written() {
    let text = "package tarn\nimport data.a_long_name as l\ndeny contains \"x\" if { l.x; l.y; to_number(input.verb) > l.z }\n";
    let data = json!({"a_long_name": {"x": true, "y": true, "z": 1}});
    let compiled = Compiled::new(&support::try_bundle(&[("p.rego", text)], &data).unwrap()).unwrap();
    let message = compiled.evaluate(&input(), BUDGET).error.unwrap().message;
    let column = text.lines().nth(2).unwrap().find("to_number").unwrap() + 1;
    let place: Vec<u32> = message.split(':').skip(1).take(2).map(|part| part.parse().unwrap()).collect();
    assert_eq!(place[0], 3);
    assert!((column..column + 20).contains(&(place[1] as usize)), "{message}");
}

fn policies(texts: &[(&str, &str)]) -> Policies {
    let bundles = texts.iter().map(|(name, text)| {
        let bundle = Bundle::new(manifest(name), [("p.rego".to_owned(), (*text).to_owned())], &json!({})).unwrap();
        Compiled::new(&bundle).unwrap()
    });
    Policies::new(bundles.collect()).unwrap()
}

#[test]
fn decisions_are_remembered_by_what_they_rest_on() {
    let policies = policies(&[("one", "package tarn\ndeny contains \"x\" if input.cluster.clock.hour >= 22\n")]);
    let mut document = document();
    let ask = |document: &_| policies.decide(&Input::new(document).unwrap(), BUDGET);
    let first = ask(&document);
    assert!(first.allowed() && !first.cached);
    // Who asks, what for and the minute do not matter to this bundle.
    document.principal = "user/bob".into();
    document.task = None;
    document.cluster.time_ms += 60_000;
    let second = ask(&document);
    assert!(second.cached && second.input_digest == first.input_digest);
    document.cluster.time_ms += 12 * 3_600_000;
    let night = ask(&document);
    assert!(!night.cached && !night.allowed() && night.input_digest != first.input_digest);
    assert_eq!(night.refusal().unwrap().sentence().unwrap(), "the policy one 1.0.0 refuses it: x");
    let stats = policies.cache_stats();
    assert_eq!((stats.entries, stats.hits, stats.misses), (2, 1, 2));
    assert!(policies.remembered(&Input::new(&document).unwrap()).unwrap().cached);
}

#[test]
fn the_time_is_rounded_so_that_a_second_is_asked_about_once() {
    let policies = policies(&[("one", "package tarn\ndeny contains \"x\" if input.cluster.time_ms % 1000 != 0\n")]);
    let mut document = document();
    let ask = |document: &_| policies.decide(&Input::new(document).unwrap(), BUDGET);
    document.cluster.time_ms = 1_772_532_000_000;
    assert!(ask(&document).allowed());
    document.cluster.time_ms += 999;
    assert!(ask(&document).cached);
    document.cluster.time_ms += 1;
    assert!(!ask(&document).cached);
}

#[test]
fn all_bundles_must_agree() {
    let policies = policies(&[
        ("b", "package tarn\ndeny contains \"b\" if input.verb == \"create\"\n"),
        ("a", "package tarn\nwarn contains \"a\"\n"),
        ("c", "package tarn\ndeny contains \"c\" if input.verb == \"create\"\n"),
    ]);
    let decision = policies.decide(&input(), BUDGET);
    assert!(!decision.allowed());
    let names: Vec<_> = decision.violations().map(|(verdict, violation)| (&*verdict.bundle, violation.message.as_str())).collect();
    assert_eq!(names, [("a", "a"), ("b", "b"), ("c", "c")]);
    assert_eq!(&*decision.refusal().unwrap().bundle, "b");
    assert!(Policies::none().decide(&input(), BUDGET).allowed());
}

#[test]
fn two_versions_of_one_name_are_refused() {
    let text = "package tarn\nallow := true\n";
    let one = compiled(text);
    let mut later = manifest("example");
    later.version = Version::new(2, 0, 0);
    let two = Bundle::new(later, [("p.rego".to_owned(), text.to_owned())], &json!({})).unwrap();
    let error = Policies::new(vec![one, Compiled::new(&two).unwrap()]).unwrap_err();
    assert_eq!(error.reason(), "POLICY_MALFORMED");
}

#[test]
fn other_bundles_have_other_digests() {
    let input = input();
    let one = policies(&[("one", "package tarn\nallow := true\n")]);
    let two = policies(&[("one", "package tarn\nallow := false\n")]);
    assert_ne!(one.versions(), two.versions());
    assert_ne!(one.decide(&input, BUDGET).input_digest, two.decide(&input, BUDGET).input_digest);
}

#[test]
fn failures_are_not_remembered() {
    let policies = policies(&[("one", "package tarn\ndeny contains \"x\" if to_number(input.verb) > 3\n")]);
    for _ in 0..2 {
        let decision = policies.decide(&input(), BUDGET);
        assert!(!decision.allowed() && !decision.cached);
        assert_eq!(decision.failure(), Some(FailureKind::PolicyFailed));
    }
    assert_eq!(policies.cache_stats().entries, 0);
}

#[test]
fn many_threads_decide_alike() {
    let policies = policies(&[("one", "package tarn\ndeny contains \"x\" if input.principal == \"user/7\"\n")]);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for number in 0..200 {
                    let mut document = document();
                    document.principal = format!("user/{}", number % 50);
                    let decision = policies.decide(&Input::new(&document).unwrap(), Duration::from_secs(1));
                    assert_eq!(decision.failure(), None);
                    assert_eq!(decision.allowed(), number % 50 != 7);
                }
            });
        }
    });
    assert_eq!(policies.cache_stats().entries, 50);
}

#[test]
fn inputs_are_bounded() {
    let reason = |bytes: &[u8]| Input::from_json(bytes).unwrap_err().reason();
    assert_eq!(reason(b"[1]"), "POLICY_MALFORMED");
    assert_eq!(reason(b"{"), "POLICY_JSON");
    assert_eq!(reason(format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100)).as_bytes()), "POLICY_JSON");
    assert_eq!(reason(&vec![b' '; tarn_policy::limits::INPUT_BYTES_MAX + 1]), "POLICY_TOO_LARGE");
    let mut document = document();
    document.principal = "x".repeat(tarn_policy::limits::INPUT_BYTES_MAX);
    assert_eq!(Input::new(&document).unwrap_err().reason(), "POLICY_TOO_LARGE");
}

#[test]
fn kept_facts_judge_as_the_document_did() {
    let input = input();
    let kept = Input::from_json(input.json().as_bytes()).unwrap();
    assert_eq!(kept, input);
    let reader = compiled("package tarn\ndeny contains sprintf(\"%v\", [input])\n");
    assert_eq!(reader.evaluate(&kept, BUDGET).violations, reader.evaluate(&input, BUDGET).violations);
}
