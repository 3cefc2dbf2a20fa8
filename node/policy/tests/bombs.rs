//! Policies that try to take the node down: each is refused, within its budget, and the process lives.

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{bundle, compiled, input, try_bundle};
use tarn_policy::{Compiled, Error, FailureKind, Input, limits};

/// What policies get here.
const BUDGET: Duration = Duration::from_millis(50);
/// Beyond the budget: the grace, and a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// Evaluates within the budget, and returns why there was no answer.
fn defused(body: &str) -> FailureKind {
    defused_within(body, BUDGET)
}

fn defused_within(body: &str, budget: Duration) -> FailureKind {
    let policy = compiled(&format!("package tarn\n\n{body}\n"));
    let start = Instant::now();
    let verdict = policy.evaluate(&input(), budget);
    let took = start.elapsed();
    assert!(took < budget + SLACK, "took {took:?}: {body:.200}");
    assert!(!verdict.allowed, "a policy that gives no answer refuses: {body:.200}");
    let failure = verdict.error.unwrap_or_else(|| panic!("it should fail: {body:.200}"));
    assert!(!failure.message.is_empty());
    failure.kind
}

/// Tries to compile, and returns what is said against it.
fn refused(text: &str) -> String {
    let start = Instant::now();
    let error = Compiled::new(&bundle(text)).unwrap_err();
    assert!(start.elapsed() < limits::COMPILE_BUDGET + SLACK);
    assert_eq!(error.reason(), "POLICY_DOES_NOT_COMPILE");
    error.to_string()
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn endless_loops_run_out_of_time() {
    let four = "a := numbers.range(1, 10000)\n";
    for body in [
        "deny contains \"x\" if { some i in a; some j in a; some k in a; i + j + k == -1 }",
        "deny contains \"x\" if count([1 | a[_]; a[_]; a[_]]) == 0",
        "deny contains \"x\" if count({[i, j, k] | some i in a; some j in a; some k in a}) == 0",
        "deny contains \"x\" if count({[i, j, k]: 1 | some i in a; some j in a; some k in a}) == 0",
        "deny contains \"x\" if every i in a { every j in a { every k in a { i + j + k > 0 } } }",
        "f(x) := count([1 | a[_]; a[_]; x])\ndeny contains \"x\" if f(1) == 0",
        "deny contains \"x\" if not count([1 | a[_]; a[_]; a[_]]) == 0",
    ] {
        assert_eq!(defused(&format!("{four}{body}")), FailureKind::PolicyOverBudget, "{body}");
    }
}

#[test]
fn what_needs_itself_does_not_compile() {
    for body in [
        "f(x) := f(x + 1)\ndeny contains \"x\" if f(1) == 1",
        "f(x) := g(x)\ng(x) := f(x)\ndeny contains \"x\" if f(1) == 1",
        "a := b\nb := a\ndeny contains \"x\" if a == 1",
        "deny contains \"x\" if count(deny) == 0",
        "deny contains \"x\" if count(data.tarn) == 0",
        "a[x] := y if { some x in [1]; y := data.tarn[\"b\"] }\nb := a[1]\ndeny contains \"x\" if b == 1",
        "f(x) := y if { y := [z | z := g(x)][0] }\ng(x) := f(x)\nallow := f(1)",
    ] {
        let said = refused(&format!("package tarn\n\n{body}\n"));
        assert!(said.contains("needs itself"), "{body}: {said}");
    }
    // Through names that are only known when it runs.
    for hidden in [
        "deny contains \"x\" if { some name in [\"deny\"]; count(data[\"tarn\"][name]) == 0 }",
        "deny contains \"x\" if { some name in [\"tarn\"]; count(data[name].deny) == 0 }",
    ] {
        assert!(refused(&format!("package tarn\n\n{hidden}\n")).contains("needs itself"), "{hidden}");
    }
}

#[test]
fn long_chains_do_not_compile() {
    let mut text = String::from("package tarn\n\nf0(x) := x\n");
    for index in 1..5_000 {
        text += &format!("f{index}(x) := f{}(x)\n", index - 1);
    }
    text += "deny contains \"x\" if f4999(1) == 2\n";
    assert!(refused(&text).contains("in a chain of more than"));
}

#[test]
fn the_longest_chain_that_compiles_has_stack() {
    // Each link nests about as deep as the parser lets it, and holds loops.
    let mut text = String::from("package tarn\n\nid(x) := x\n\nf0(x) := [x]\n");
    for index in 1..limits::CALL_DEPTH_MAX - 2 {
        let before = index - 1;
        let (open, close) = ("id(".repeat(20), ")".repeat(20));
        text += &format!("f{index}(x) := y if {{\n\tsome a in [x]\n\ty := {open}[z | some z in [f{before}(a)]]{close}\n}}\n");
    }
    text += &format!("deny contains \"x\" if f{}(1) == 2\n", limits::CALL_DEPTH_MAX - 3);
    let verdict = compiled(&text).evaluate(&input(), Duration::from_secs(1));
    assert_eq!(verdict.error, None);
    assert!(verdict.allowed);
}

#[test]
fn deep_text_does_not_compile() {
    let nested = format!("package tarn\n\nallow := {}1{}\n", "[".repeat(400), "]".repeat(400));
    assert!(refused(&nested).contains("nest deeper"));
    let calls = format!("package tarn\n\nf(x) := x\n\nallow := {}1{}\n", "f(".repeat(300), ")".repeat(300));
    refused(&calls);
    // A chain of operators is as deep as it is long, though no bracket is.
    let mut long = String::from("package tarn\n\nallow := 1 == 1");
    for _ in 0..20_000 {
        long += " +\n\t1";
    }
    refused(&long);
    let mut many = String::from("package tarn\n\nallow if {\n");
    for index in 0..5_000 {
        many += &format!("\tsome x{index} in [1]\n");
    }
    many += "}\n";
    assert!(refused(&many).contains("statements"));
    let brackets = format!("package tarn\n\nallow if input{} == 1\n", "[\n\"a\"\n]".repeat(20_000));
    let _ = Compiled::new(&bundle(&brackets));
}

#[test]
fn strings_cannot_be_blown_up() {
    let mut doubling = String::from("s0 := \"0123456789abcdef\"\n");
    for index in 1..60 {
        doubling += &format!("s{index} := concat(\"\", [s{}, s{}])\n", index - 1, index - 1);
    }
    assert_eq!(defused(&format!("{doubling}deny contains \"x\" if s59 == \"\"")), FailureKind::PolicyTooLarge);
    let long = "a := concat(\"\", [\"0123456789\" | numbers.range(1, 10000)[_]])\n";
    for body in [
        "deny contains \"x\" if concat(a, [c | some c in split(a, \"0\")]) == \"\"",
        "deny contains \"x\" if replace(a, \"0\", a) == \"\"",
        "deny contains \"x\" if strings.replace_n({\"0\": a, \"1\": a}, a) == \"\"",
        "deny contains \"x\" if regex.replace(a, \"[0-9]\", a) == \"\"",
        "deny contains \"x\" if sprintf(\"%4000000000d\", [1]) == \"\"",
        "deny contains \"x\" if count(numbers.range(1, 1000000000000)) == 0",
        "deny contains \"x\" if bits.lsh(1, 1000000000000) == 0",
        "deny contains \"x\" if to_number(\"1e999999999\") == 0",
        "deny contains \"x\" if units.parse(\"1e999999999\") == 0",
        "deny contains \"x\" if json.marshal([a, a, a, a]) == \"\"",
    ] {
        // Time enough to come to the call, on any machine.
        let kind = defused_within(&format!("{long}{body}"), limits::BUDGET_MAX);
        assert_eq!(kind, FailureKind::PolicyTooLarge, "{body}");
    }
}

#[test]
fn memory_stays_bounded() {
    let before = resident_mib();
    // A value that is small, and huge for whoever looks at all of it.
    let mut shared = String::from("v0 := [1, 2]\n");
    for index in 1..60 {
        shared += &format!("v{index} := [v{}, v{}]\n", index - 1, index - 1);
    }
    for body in [
        "deny contains \"x\" if json.marshal(v59) == \"\"",
        "deny contains \"x\" if sprintf(\"%v\", [v59]) == \"\"",
        "deny contains \"x\" if count(array.concat(v59, v59)) == 0",
        "deny contains \"x\" if sort([v59, v58]) == 0",
    ] {
        assert_eq!(defused(&format!("{shared}{body}")), FailureKind::PolicyTooLarge, "{body}");
    }
    // What a bundle answers is weighed before it is read.
    let kind = defused(&format!("{shared}deny contains {{\"message\": \"m\", \"code\": v59}}"));
    assert_eq!(kind, FailureKind::PolicyFailed);
    // As much as fits into the time.
    let kind = defused("a := numbers.range(1, 10000)\ndeny contains \"x\" if count([[i, j] | some i in a; some j in a]) == 0");
    assert_eq!(kind, FailureKind::PolicyOverBudget);
    let grown = resident_mib().saturating_sub(before);
    assert!(grown < 1_024, "{grown} MiB more than before");
}

#[test]
fn giant_numbers_end() {
    let mut squares = String::from("n0 := 99999999999999999999\n");
    for index in 1..60 {
        squares += &format!("n{index} := n{} * n{}\n", index - 1, index - 1);
    }
    defused(&format!("{squares}deny contains \"x\" if n59 == 0"));
    defused(&format!("{squares}deny contains \"x\" if sprintf(\"%d\", [n40]) == \"\""));
}

#[test]
fn regular_expressions_are_bounded() {
    for body in [
        "deny contains \"x\" if regex.match(`(((a{100}){100}){100}){100}`, \"a\")",
        "deny contains \"x\" if regex.match(`(\\pL{500}){500}`, \"a\")",
    ] {
        defused(body);
    }
    let long = "p := concat(\"\", [\"a?\" | numbers.range(1, 2000)[_]])\ndeny contains \"x\" if regex.match(p, \"a\")";
    assert_eq!(defused_within(long, limits::BUDGET_MAX), FailureKind::PolicyTooLarge);
    // What makes engines with backtracking explode takes linear time here.
    let verdict =
        compiled("package tarn\n\nallow if not regex.match(`^(a+)+$`, \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab\")\n");
    assert!(verdict.evaluate(&input(), Duration::from_secs(1)).allowed);
}

#[test]
fn values_that_nest_as_deep_as_time_allows_have_stack() {
    // Each call nests ten levels; calls within calls multiply.
    let mut text = String::from("f0(x) := [[[[[[[[[[x]]]]]]]]]]\n");
    for index in 1..20 {
        let before = index - 1;
        text += &format!("f{index}(x) := f{before}(f{before}(f{before}(f{before}(f{before}(x)))))\n");
    }
    assert_eq!(defused(&format!("{text}deny contains \"x\" if f19(1) == f19(2)")), FailureKind::PolicyOverBudget);
    // As deep as the longest budget allows, and then compared and dropped.
    let deep = compiled(&format!("package tarn\n\n{text}deny contains \"x\" if f6(1) == f6(2)\n"));
    let verdict = deep.evaluate(&input(), limits::BUDGET_MAX);
    assert!(verdict.allowed || verdict.error.is_some());
    let deepest = compiled(&format!("package tarn\n\n{text}deny contains \"x\" if f19(1) == f19(2)\n"));
    assert!(!deepest.evaluate(&input(), limits::BUDGET_MAX).allowed);
}

/// The one thing that cannot be stopped: a comparison of two values that are small, and huge for whoever looks at all of them.
#[test]
fn what_cannot_be_stopped_is_left_behind() {
    let mut text = String::from("package tarn\n\nv0 := [1, input.task.priority]\nw0 := [1, input.task.priority]\n");
    for index in 1..50 {
        for name in ["v", "w"] {
            text += &format!("{name}{index} := [{name}{}, {name}{}]\n", index - 1, index - 1);
        }
    }
    text += "deny contains \"x\" if v49 == w49\n";
    let policy = compiled(&text);
    let start = Instant::now();
    let first = policy.evaluate(&input(), BUDGET);
    assert_eq!(first.error.unwrap().kind, FailureKind::PolicyOverBudget);
    assert!(start.elapsed() < BUDGET + SLACK);
    // It is not tried again while that runs.
    let start = Instant::now();
    let second = policy.clone().evaluate(&input(), BUDGET);
    assert_eq!(second.error.unwrap().kind, FailureKind::PolicyStuck);
    assert!(start.elapsed() < Duration::from_secs(1));
    // Others are not held up.
    assert!(compiled("package tarn\n\nallow if input.verb == \"create\"\n").evaluate(&input(), Duration::from_secs(1)).allowed);
}

#[test]
fn bombs_in_tests_fail_the_tests() {
    let modules = [
        ("policy.rego", "package tarn\n\nallow := true\n"),
        (
            "policy_test.rego",
            "package tarn_test\n\na := numbers.range(1, 10000)\n\ntest_bomb if count([1 | a[_]; a[_]; a[_]]) == 0\n\ntest_good if true\n",
        ),
    ];
    let report = try_bundle(&modules, &json!({})).unwrap().check().unwrap();
    assert_eq!((report.tests.len(), report.failed()), (2, 1));
    assert!(report.tests[0].message.contains("longer than"), "{:?}", report.tests[0]);
}

#[test]
fn large_inputs_are_judged() {
    let mut fields = serde_json::Map::new();
    for index in 0..10_000 {
        fields.insert(format!("field{index}"), json!([index, "value", {"x": index}]));
    }
    let large = Input::from_json(json!({"verb": "create", "task": fields}).to_string().as_bytes()).unwrap();
    let policy = compiled("package tarn\n\ndeny contains \"x\" if { some v in input.task; v[0] == 9999 }\n");
    let verdict = policy.evaluate(&large, Duration::from_secs(1));
    assert!(!verdict.allowed && verdict.error.is_none(), "{verdict:?}");
}

#[test]
fn many_problems_are_cut() {
    let mut text = String::from("package tarn\n\n");
    for index in 0..500 {
        text += &format!("deny contains \"x\" if nothing{index}(1)\n");
    }
    match Compiled::new(&bundle(&text)) {
        Err(Error::Compile(problems)) => assert_eq!(problems.len(), limits::PROBLEMS_MAX),
        other => panic!("{other:?}"),
    }
}
