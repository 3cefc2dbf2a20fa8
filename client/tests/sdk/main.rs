//! The SDK against a fake cluster, over real connections with real certificates.

mod batching;
mod calls;
mod fake;
mod locking;
mod questions;
mod together;
mod watching;
mod working;

/// The example of the crate's page, run as it stands there.
#[allow(dead_code)]
#[path = "../../examples/greetings.rs"]
mod greetings;
