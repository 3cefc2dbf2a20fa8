//! What several tests need.
#![allow(dead_code, reason = "no test uses all of it")]

use std::time::Duration;

use serde_json::{Value, json};
use tarn_policy::{Bundle, Cluster, Compiled, Document, Error, Input, Manifest, Resource, Task, Version};

/// Far more than any of these evaluations takes, also on a busy machine.
pub const BUDGET: Duration = Duration::from_secs(1);

pub fn manifest(name: &str) -> Manifest {
    Manifest::new(name, Version::new(1, 0, 0), "prod")
}

pub fn try_bundle(modules: &[(&str, &str)], data: &Value) -> Result<Bundle, Error> {
    let owned = modules.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    Bundle::new(manifest("example"), owned, data)
}

pub fn bundle(text: &str) -> Bundle {
    try_bundle(&[("policy.rego", text)], &json!({})).unwrap()
}

pub fn compiled(text: &str) -> Compiled {
    Compiled::new(&bundle(text)).unwrap_or_else(|error| panic!("{error}"))
}

/// A developer's task on a Tuesday at ten.
pub fn document() -> Document {
    Document {
        principal: "user/ann".into(),
        method: "certificate".into(),
        roles: vec!["developer".into()],
        verb: "create".into(),
        resource: Resource { kind: "task".into(), ..Resource::default() },
        namespace: "vision".into(),
        environment: "prod".into(),
        task: Some(Task { queue: "training".into(), priority: "normal".into(), ..Task::default() }),
        cluster: Cluster { nodes: 3, version: 2, time_ms: 1_772_532_000_123, ..Cluster::default() },
    }
}

pub fn input() -> Input {
    Input::new(&document()).unwrap()
}
