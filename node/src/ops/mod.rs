//! For people and their tools: is the node alive, is it ready, what does it count, what does it say.
//!
//! - `http`: `/livez`, `/readyz`, `/metrics` over plain HTTP. Nothing here is secret, and nothing can be changed from here.
//! - `metrics`: every metric, in one place. The tenant and the queue may be labels, a task never.
//! - `readiness`: the named checks behind `/readyz`.
//! - `logs`: structured lines on standard error.

mod http;
mod logs;
mod metrics;
mod readiness;
mod sample;

pub use http::serve;
pub use logs::{LogError, init as init_logs};
pub use metrics::Metrics;
pub(crate) use metrics::{DriverTurn, FederationBytes, FederationErrand, FederationLink, FederationRefused};
pub(crate) use metrics::{KeyFile, KeyFileRead, Refused, Run};
pub use readiness::{Check, Readiness};
pub use sample::Sampler;
