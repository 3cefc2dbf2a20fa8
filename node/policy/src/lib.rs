#![doc = include_str!("../README.md")]

mod answer;
mod bundle;
mod cache;
mod check;
mod compiled;
mod diff;
mod error;
mod input;
mod json;
pub mod limits;
mod policies;
mod ration;
mod reads;
mod rego;
mod replay;
mod verdict;

pub use bundle::{Bundle, Digest, FORMAT, Manifest, SIGNATURE_PREFIX, SignedBundle, Trust};
pub use check::{Report, Test};
pub use compiled::Compiled;
pub use diff::{Changes, Diff};
pub use error::{Error, Problem};
pub use input::{Clock, Cluster, ContextGrant, Document, Grants, Input, Native, Payload, Resource, Task, Wasm};
pub use policies::{CacheStats, Decision, Policies};
pub use ration::Rationed;
pub use replay::{Change, StoredDecision, StoredOutcome, Summary, replay};
/// Semantic versions, as manifests name them.
pub use semver::Version;
pub use verdict::{Failure, FailureKind, Severity, UnknownSeverity, Verdict, Violation};

/// Cuts a text to at most `limit` bytes, at a character's edge, with a sign that it was cut.
pub(crate) fn cut(text: &mut String, limit: usize) {
    const SIGN: char = '…';
    if text.len() > limit {
        let mut end = limit.saturating_sub(SIGN.len_utf8());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push(SIGN);
    }
}
