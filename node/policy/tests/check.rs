//! A bundle's own tests.

mod support;

use serde_json::json;
use support::try_bundle;
use tarn_policy::{Bundle, Error, Report};

const POLICY: &str = "package tarn\n\ndeny contains \"no\" if input.verb == \"drop\"\n";

fn check(tests: &[(&str, &str)]) -> Report {
    let modules = [&[("policy.rego", POLICY)], tests].concat();
    try_bundle(&modules, &json!({})).unwrap().check().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_example_passes() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/guardrails");
    let report = Bundle::from_directory(example.as_ref()).unwrap().check().unwrap_or_else(|error| panic!("{error}"));
    let failed: Vec<_> = report.tests.iter().filter(|test| !test.passed).collect();
    assert!(report.passed() && failed.is_empty(), "{failed:#?}");
    assert_eq!(report.tests.len(), 12);
    assert!(report.tests.iter().all(|test| test.name.starts_with("tarn_test.test_") && test.file == "guardrails_test.rego"));
    assert_eq!(report.warnings, Vec::<String>::new());
    assert!(report.inputs.contains(&"input.cluster.clock".to_owned()), "{:?}", report.inputs);
    assert!(!report.inputs.iter().any(|path| path.contains("time_ms")));
}

#[test]
fn a_bundle_without_tests_says_so() {
    let report = check(&[]);
    assert!(report.passed());
    assert_eq!(report.tests.len(), 0);
}

#[test]
fn every_test_is_reported() {
    let report = check(&[
        (
            "policy_test.rego",
            r#"package tarn_test
import data.tarn
test_true if count(tarn.deny) == 1 with input as {"verb": "drop"}
test_undefined if count(tarn.deny) == 1 with input as {"verb": "keep"}
test_false := false
test_text := "yes"
test_failing if to_number("x") == 1
helper := true
todo_test_later := false
"#,
        ),
        // By its package, whatever its file.
        ("more.rego", "package more_test\n\ntest_more if true\n"),
        // By its file, whatever its package.
        ("in_test.rego", "package tarn\n\ntest_inside if count(deny) == 1 with input as {\"verb\": \"drop\"}\n"),
        ("no.rego", "package other\n\ntest_not_a_test := false\n"),
    ]);
    let passed: Vec<_> = report.tests.iter().map(|test| (test.name.as_str(), test.passed)).collect();
    assert_eq!(
        passed,
        [
            ("more_test.test_more", true),
            ("tarn.test_inside", true),
            ("tarn_test.test_failing", false),
            ("tarn_test.test_false", false),
            ("tarn_test.test_text", false),
            ("tarn_test.test_true", true),
            ("tarn_test.test_undefined", false),
        ]
    );
    assert_eq!((report.passed(), report.failed()), (false, 4));
    assert!(report.tests.iter().all(|test| test.passed == test.message.is_empty() && test.line > 0));
    let failing = &report.tests[2];
    assert!(failing.message.contains("policy_test.rego:7:"), "{failing:?}");
}

#[test]
fn tests_that_do_not_compile_are_an_error() {
    let modules = [("policy.rego", POLICY), ("policy_test.rego", "package tarn_test\n\ntest_x if nothing(1)\n")];
    match try_bundle(&modules, &json!({})).unwrap().check() {
        Err(Error::Compile(problems)) => {
            assert_eq!((problems[0].file.as_str(), problems[0].line), ("policy_test.rego", 3))
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_judges_does_not_rest_on_tests() {
    let modules =
        [("policy.rego", "package tarn\n\nallow := data.help_test.yes\n"), ("help_test.rego", "package help_test\n\nyes := true\n")];
    let bundle = try_bundle(&modules, &json!({})).unwrap();
    let verdict = tarn_policy::Compiled::new(&bundle).unwrap().evaluate(&support::input(), support::BUDGET);
    assert!(!verdict.allowed, "a test's rule is not there when it counts");
}

#[test]
fn unknown_fields_of_the_input_are_pointed_out() {
    let policy =
        "package tarn\n\ndeny contains \"x\" if input.principle == \"user/ann\"\n\ndeny contains \"y\" if input.task.annotations.x\n";
    let report = try_bundle(&[("policy.rego", policy)], &json!({})).unwrap().check().unwrap();
    assert_eq!(report.warnings, ["input.principle is not a field that tarn fills in"]);
}
