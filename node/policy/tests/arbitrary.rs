//! Fuzz: arbitrary inputs and arbitrary policies never bring the process down, and never pass where a policy gave no answer.

mod support;

use proptest::prelude::*;
use serde_json::{Value, json};
use support::{bundle, compiled};
use tarn_policy::{Bundle, Compiled, Input, Policies, limits};

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            // Often the names that policies ask for.
            proptest::collection::btree_map(name(), inner, 0..8).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(vec![
            "principal",
            "roles",
            "verb",
            "resource",
            "kind",
            "environment",
            "task",
            "requires",
            "annotations",
            "cluster",
            "clock",
            "hour",
            "weekday",
            "time_ms",
            "attempt_timeout_ms",
            "priority",
        ])
        .prop_map(String::from),
        ".{0,10}",
    ]
}

/// Words that make up Rego, in any order.
fn any_policy() -> impl Strategy<Value = String> {
    let words = proptest::sample::select(vec![
        "package tarn",
        "allow",
        "deny",
        "contains",
        "if",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        ":=",
        "=",
        "==",
        "|",
        "&",
        "+",
        "-",
        "*",
        "/",
        "%",
        "not",
        "some",
        "every",
        "in",
        "with",
        "as",
        "default",
        "else",
        "import",
        "data",
        "input",
        ".",
        ",",
        ";",
        ":",
        "_",
        "\n",
        " ",
        "\"x\"",
        "`x`",
        "1",
        "1e9",
        "x",
        "y",
        "f",
        "true",
        "null",
        "set()",
        "count",
        "sprintf",
        "walk",
        "\t",
        "#",
        "é",
        "rego.v1",
        "\"",
        "\\",
    ]);
    proptest::collection::vec(words, 0..60).prop_map(|words| format!("package tarn\n{}", words.join(" ")))
}

fn policies() -> &'static Policies {
    static POLICIES: std::sync::LazyLock<Policies> = std::sync::LazyLock::new(|| {
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/guardrails");
        let guardrails = Bundle::from_directory(example.as_ref()).unwrap();
        let whole = compiled("package tarn\n\nwarn contains sprintf(\"%v\", [input]) if count(input) > 3\n");
        Policies::new(vec![Compiled::new(&guardrails).unwrap(), whole]).unwrap()
    });
    &POLICIES
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_input(document in proptest::collection::btree_map(name(), any_json(), 0..8)) {
        let text = Value::Object(document.into_iter().collect()).to_string();
        let input = Input::from_json(text.as_bytes()).unwrap();
        let first = policies().decide(&input, limits::BUDGET_MAX);
        prop_assert!(!first.allowed() || first.failure().is_none());
        prop_assert_eq!(first.allowed(), first.refusal().is_none());
        // What is remembered, what is kept and what comes out are one.
        let kept = Input::from_json(input.json().as_bytes()).unwrap();
        let second = policies().decide(&kept, limits::BUDGET_MAX);
        prop_assert_eq!(second.input_digest, first.input_digest);
        prop_assert_eq!(second.allowed(), first.allowed());
    }

    #[test]
    fn any_bytes_as_input(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(input) = Input::from_json(&bytes) {
            policies().decide(&input, limits::BUDGET_MAX);
        }
    }

    #[test]
    fn any_text_as_policy(text in any_policy()) {
        if let Ok(compiled) = Compiled::new(&bundle(&text)) {
            let verdict = compiled.evaluate(&support::input(), limits::BUDGET_MAX);
            prop_assert!(!verdict.allowed || verdict.error.is_none());
        }
        let bundle = support::try_bundle(&[("a.rego", "package tarn\nallow := true\n"), ("a_test.rego", &text)], &json!({})).unwrap();
        let _ = bundle.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Engines are used again: what one input leaves behind never shows in the next.
    #[test]
    fn used_engines_judge_as_new_ones(documents in proptest::collection::vec(proptest::collection::btree_map(name(), any_json(), 0..8), 2..6)) {
        let policy = "package tarn\n\nnames[key] := value if { some key, value in input }\n\ntwice(x) := [y | some y in x]\n\n\
                      warn contains sprintf(\"%v %v\", [names, twice(input.roles)])\n\n\
                      warn contains sprintf(\"%v\", [n]) if n := count(names) with input as {\"a\": input}\n\n\
                      deny contains \"task\" if { some x in input.task; x == 1 }\n";
        let used = compiled(policy);
        for document in documents {
            let text = Value::Object(document.into_iter().collect()).to_string();
            let input = Input::from_json(text.as_bytes()).unwrap();
            let (one, other) = (used.evaluate(&input, limits::BUDGET_MAX), compiled(policy).evaluate(&input, limits::BUDGET_MAX));
            prop_assert_eq!(one.violations, other.violations);
            prop_assert_eq!((one.allowed, one.error), (other.allowed, other.error));
        }
    }
}
