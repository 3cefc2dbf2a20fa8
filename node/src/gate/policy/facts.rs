//! What a decision rested on, for its record.

use tarn_machine::limits;
use tarn_policy::{Decision, Input};
use tarn_proto::v1::{GateFacts, PolicyVersion};

/// Warnings that a record keeps, and bytes of each. All violations are recorded by themselves.
const WARNINGS_MAX: usize = 8;
const WARNING_BYTES_MAX: usize = 256;

/// Gathers what was decided about all parts of one request.
#[derive(Default)]
pub(super) struct Facts {
    gate: Option<GateFacts>,
    digests: blake3::Hasher,
    parts: usize,
    inputs: Vec<String>,
    bytes: usize,
}

impl Facts {
    pub fn add(&mut self, environment: &str, input: &Input, decision: &Decision) {
        let gate = self.gate.get_or_insert_default();
        if gate.environment.is_empty() {
            gate.environment = environment.to_owned();
        }
        for verdict in decision.verdicts() {
            let known = gate.policies.iter().any(|policy| *policy.name == *verdict.bundle);
            if !known {
                gate.policies.push(PolicyVersion { name: verdict.bundle.to_string(), version: verdict.version.to_string() });
            }
        }
        if let Some(verdict) = decision.refusal() {
            gate.rule.clone_from(&verdict.rule);
        }
        for (_, violation) in decision.violations().filter(|(_, violation)| !violation.blocking) {
            if gate.warnings.len() < WARNINGS_MAX {
                gate.warnings.push(cut(&violation.message, WARNING_BYTES_MAX));
            }
        }
        self.parts += 1;
        self.digests.update(&decision.input_digest.0);
        if self.parts == 1 {
            gate.input_digest = decision.input_digest.0.to_vec().into();
        }
        // Equal tasks of a batch follow each other.
        if self.bytes <= limits::FACTS_BYTES_MAX && self.inputs.last().is_none_or(|last| last != input.json()) {
            self.bytes += input.json().len() + 1;
            self.inputs.push(input.json().to_owned());
        }
    }

    /// All of it; `None` if no policy was asked. Several inputs are a JSON list; ones that are too large together are left out.
    pub fn finish(self) -> Option<GateFacts> {
        let mut gate = self.gate?;
        if self.parts > 1 {
            gate.input_digest = self.digests.finalize().as_bytes().to_vec().into();
        }
        let facts = match self.inputs.as_slice() {
            [only] => only.clone(),
            several => format!("[{}]", several.join(",")),
        };
        if facts.len() <= limits::FACTS_BYTES_MAX {
            gate.facts = facts.into();
        }
        Some(gate)
    }
}

/// At most so many bytes of a text, up to the end of a character.
pub(super) fn cut(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("añb", 2), "a");
        assert_eq!(cut("añb", 3), "añ");
        assert_eq!(cut("añb", 9), "añb");
    }
}
