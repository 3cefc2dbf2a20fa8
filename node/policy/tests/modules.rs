//! Bundles say the same however their rules are spread over modules. The interpreter looks rules up module by module, and mistakes there
//! are silent: a rule is not found, and what should refuse passes.

mod support;

use proptest::prelude::*;
use serde_json::json;
use support::{BUDGET, input, manifest};
use tarn_policy::{Bundle, Compiled, Verdict};

/// Rules that use each other in all the ways that there are, across packages too.
const RULES: &[&str] = &[
    "deny contains sprintf(\"teams %v\", [teams]) if count(teams) > 0",
    "deny contains \"chain\" if step_one",
    "step_one if step_two(input.task.queue)",
    "step_two(name) if { some known in queues; known == name }",
    "queues := [queue | some queue in data.known.queues]",
    "teams contains team if { some team, members in data.known.teams; input.principal in members }",
    "warn contains sprintf(\"limit %d\", [limit(\"gpu\")])",
    "default limit(_) := 1",
    "limit(kind) := size if { some entry in data.known.limits; entry.kind == kind; size := entry.size }",
    "warn contains {\"message\": name} if { some name, _ in by_name; startswith(name, \"a\") }",
    "by_name[name] := size if { some entry in data.known.limits; name := concat(\"-\", [\"a\", entry.kind]); size := entry.size }",
    "warn contains \"nested\" if every queue in queues { count([1 | some other in queues; other == queue]) == 1 }",
    "default fallback := \"none\"",
    "warn contains fallback if not step_one",
    "warn contains level if { level := {\"low\": \"calm\", \"high\": \"steep\"}[wanted] }",
    "wanted := \"high\" if input.cluster.nodes > 2 else := \"low\"",
    "deny contains \"lib\" if library.says(input.verb)",
    "warn contains sprintf(\"%v\", [{word | some word in library.words; library.says(word)}])",
];

/// A package that others import.
const LIBRARY: &[&str] = &[
    "says(word) if { some known in words; known == word }",
    "words contains word if some word in data.known.verbs",
    "words contains word if { some entry in first; word := lower(entry) }",
    "first := [upper(verb) | some verb in data.known.verbs]",
];

fn judge(modules: Vec<(String, String)>) -> Verdict {
    let data = json!({"known": {
        "queues": ["training", "mail"],
        "teams": {"vision": ["user/ann"], "speech": ["user/eve"]},
        "limits": [{"kind": "gpu", "size": 8}, {"kind": "cpu", "size": 64}],
        "verbs": ["create", "delete"],
    }});
    let bundle = Bundle::new(manifest("spread"), modules, &data).unwrap();
    let compiled = Compiled::new(&bundle).unwrap_or_else(|error| panic!("{error}"));
    compiled.evaluate(&input(), BUDGET)
}

/// Puts each rule into the module with its number; the module's name decides about its place.
fn spread(package: &str, head: &str, rules: &[&str], places: &[usize], names: &[String]) -> Vec<(String, String)> {
    let mut modules: Vec<(String, String)> = Vec::new();
    for (rule, place) in rules.iter().zip(places) {
        let path = format!("{}.rego", names[*place]);
        let at = modules.iter().position(|(known, _)| *known == path).unwrap_or_else(|| {
            modules.push((path, format!("package {package}\n\n{head}\n")));
            modules.len() - 1
        });
        modules[at].1 += &format!("\n{rule}\n");
    }
    modules
}

fn names(prefix: &str) -> Vec<String> {
    (0..4).map(|index| format!("{prefix}{index}")).collect()
}

#[test]
fn the_rules_say_something() {
    let places = [0; 18];
    let mut modules = spread("tarn", "import data.library", RULES, &places, &names("a"));
    modules.extend(spread("library", "", LIBRARY, &places, &names("b")));
    let verdict = judge(modules);
    assert_eq!(verdict.error, None);
    let messages: Vec<_> = verdict.violations.iter().map(|violation| violation.message.as_str()).collect();
    assert_eq!(
        messages,
        ["chain", "lib", "teams {\"vision\"}", "a-cpu", "a-gpu", "limit 8", "nested", "steep", "{\"create\", \"delete\"}"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn spread_over_modules_they_say_the_same(
        places in proptest::collection::vec(0..4_usize, RULES.len()),
        library_places in proptest::collection::vec(0..4_usize, LIBRARY.len()),
        order in Just((0..8).collect::<Vec<_>>()).prop_shuffle(),
        alias in any::<bool>(),
    ) {
        let whole = [0; 18];
        let mut together = spread("tarn", "import data.library", RULES, &whole, &names("a"));
        together.extend(spread("library", "", LIBRARY, &whole, &names("b")));
        let shuffled: Vec<String> = order.iter().map(|place| format!("m{place}")).collect();
        let head = if alias { "import data.library as library" } else { "import data.library" };
        let mut apart = spread("tarn", head, RULES, &places, &shuffled[..4]);
        apart.extend(spread("library", "", LIBRARY, &library_places, &shuffled[4..]));
        let (one, other) = (judge(together), judge(apart));
        prop_assert_eq!(one.violations, other.violations);
        prop_assert_eq!((one.allowed, one.error), (other.allowed, other.error));
    }
}
