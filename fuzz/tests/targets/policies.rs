//! Policies, and what they are asked about.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use tarn_policy::{Bundle, Compiled, Input, Manifest, Policies, Version};

use crate::target;

const BUDGET: Duration = Duration::from_millis(100);

static EXAMPLE: LazyLock<Policies> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/policy/examples/guardrails");
    let bundle = Bundle::from_directory(&folder).expect("the example is well formed");
    Policies::new(vec![Compiled::new(&bundle).expect("the example compiles")]).expect("one is not too many")
});

/// An input is judged, or is no input. What is kept of it is judged the same.
fn input(bytes: &[u8]) {
    let Ok(input) = Input::from_json(bytes) else { return };
    let first = EXAMPLE.decide(&input, BUDGET);
    assert!(!first.allowed() || first.failure().is_none());
    let kept = Input::from_json(input.json().as_bytes()).expect("it was an input before");
    assert_eq!(EXAMPLE.decide(&kept, BUDGET).input_digest, first.input_digest);
}

/// A policy is refused, or judges within its budget; where it gave no answer, nothing passes.
fn module(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let manifest = Manifest::new("fuzz", Version::new(1, 0, 0), "prod");
    let modules = [("policy.rego".to_owned(), text.to_owned())];
    let Ok(bundle) = Bundle::new(manifest, modules, &serde_json::json!({})) else {
        return;
    };
    let Ok(compiled) = Compiled::new(&bundle) else { return };
    let input = Input::from_json(br#"{"verb":"create","principal":"user/ada"}"#).expect("it is an input");
    let verdict = compiled.evaluate(&input, BUDGET);
    assert!(!verdict.allowed || verdict.error.is_none());
}

target!(any_input, input);
target!(any_module, module);
