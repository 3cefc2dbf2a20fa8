//! What a bundle says about an input.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Digest;

/// How bad a violation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// What a `deny` has that names none.
    Medium,
    /// Worth someone's attention.
    High,
    /// Escalates at once.
    Critical,
}

impl Severity {
    /// Its name in policies: `low`, `medium`, `high` or `critical`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = UnknownSeverity;

    fn from_str(name: &str) -> Result<Self, UnknownSeverity> {
        [Self::Low, Self::Medium, Self::High, Self::Critical].into_iter().find(|severity| severity.as_str() == name).ok_or(UnknownSeverity)
    }
}

/// A name that is no severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a severity is low, medium, high or critical")]
pub struct UnknownSeverity;

/// One thing that a bundle does not like.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Violation {
    /// Stable, for programs. `DENIED` or `WARNED` where the policy names none.
    pub code: String,
    /// One sentence for people.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
    /// Whether it refuses (from `deny`), or is only recorded (from `warn`).
    pub blocking: bool,
}

/// Why an evaluation gave no answer. Whoever asked is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureKind {
    /// The policy made an error: a function got what it cannot take, a rule had two values, a result has the wrong form.
    PolicyFailed,
    /// It took longer than its budget.
    PolicyOverBudget,
    /// It asked for more memory than an evaluation may have.
    PolicyTooLarge,
    /// An earlier evaluation of it does not end; it is not asked again until that one has.
    PolicyStuck,
    /// All evaluating threads were busy. Nothing is wrong with the policy.
    PolicyBusy,
}

impl FailureKind {
    /// A stable name for programs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::PolicyFailed => "POLICY_FAILED",
            Self::PolicyOverBudget => "POLICY_OVER_BUDGET",
            Self::PolicyTooLarge => "POLICY_EVALUATION_TOO_LARGE",
            Self::PolicyStuck => "POLICY_STUCK",
            Self::PolicyBusy => "POLICY_BUSY",
        }
    }
}

/// An evaluation that gave no answer, with a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Why.
    pub kind: FailureKind,
    /// What happened and what to do, with the place in the policy where it is known.
    pub message: String,
}

/// What one bundle says about one input. An evaluation that fails refuses and says so in `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether this bundle lets it pass.
    pub allowed: bool,
    /// What it does not like, in ascending order of code and message, `deny` before `warn`.
    pub violations: Vec<Violation>,
    /// Violations beyond [`VIOLATIONS_MAX`](crate::limits::VIOLATIONS_MAX) that are not listed.
    pub omitted: usize,
    /// The rule that decided: `tarn.deny`, `tarn.allow`, or empty if nothing refused.
    pub rule: String,
    /// The bundle's name.
    pub bundle: Arc<str>,
    /// The bundle's version.
    pub version: Arc<str>,
    /// The bundle's digest.
    pub digest: Digest,
    /// Why there is no answer, if there is none.
    pub error: Option<Failure>,
    /// Time that the evaluation took.
    #[serde(serialize_with = "micros")]
    pub elapsed: Duration,
}

impl Verdict {
    /// A stable reason for a refusal: `POLICY_DENIED`, or that of the failure. None if it is allowed.
    pub fn reason(&self) -> Option<&'static str> {
        match &self.error {
            Some(failure) => Some(failure.kind.reason()),
            None if self.allowed => None,
            None => Some("POLICY_DENIED"),
        }
    }

    /// One sentence for whoever was refused. None if it is allowed.
    pub fn sentence(&self) -> Option<String> {
        if self.allowed {
            return None;
        }
        let Self { bundle, version, .. } = self;
        if let Some(failure) = &self.error {
            return Some(format!("the policy {bundle} {version} gave no answer, so the request is refused: {failure}"));
        }
        let mut blocking = self.violations.iter().filter(|violation| violation.blocking);
        let Some(first) = blocking.next() else {
            return Some(format!("the policy {bundle} {version} does not allow it"));
        };
        let further = blocking.count() + self.omitted;
        let more = if further > 0 { format!(" (and {further} more)") } else { String::new() };
        Some(format!("the policy {bundle} {version} refuses it: {}{more}", first.message))
    }
}

fn micros<S: serde::Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
}
