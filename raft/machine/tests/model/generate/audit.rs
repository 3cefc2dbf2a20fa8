//! What the gate says about commands, and commands about the records themselves.

use tarn_proto::v1::*;

use super::{Generator, HOUR};
use crate::reference::Model;

impl Generator {
    /// What the gate of some node says about a command; mostly nothing.
    pub(super) fn gate(&mut self, model: &Model) -> Option<GateFacts> {
        // A node that knows better leaves it out while the cluster has the lower version.
        let given = self.dice.below(1_000) < if model.version < 2 { 5 } else { 250 };
        given.then(|| self.gate_facts())
    }

    fn gate_facts(&mut self) -> GateFacts {
        let mut facts = GateFacts {
            trace: format!("{:04x}", self.dice.below(1 << 16)),
            method: self.dice.pick(&["certificate", "token", "jwt"]).to_owned(),
            node: self.dice.between(1, 3),
            ..GateFacts::default()
        };
        if self.dice.chance(50) {
            facts.environment = "prod".to_owned();
            facts.policies = vec![PolicyVersion { name: self.dice.pick(&["limits", "names"]).to_owned(), version: "1.0.0".to_owned() }];
            facts.input_digest = self.hash();
            facts.facts = r#"{"verb":"submit"}"#.into();
        }
        facts
    }

    /// A node's report of what its gate refused, new settings, or the version from which on there are records.
    pub(super) fn audit(&mut self, model: &Model) -> Command {
        use command::Body as B;
        let principal = self.dice.pick(&["node/1", "node/2", "ann"]).to_owned();
        let body = match self.dice.below(4) {
            _ if model.version < 2 && self.dice.chance(70) => B::RaiseVersion(RaiseVersion { version: 2, keep_access: false }),
            0 => B::PutAuditSettings(PutAuditSettingsRequest {
                request_id: self.request_id(),
                settings: Some(AuditSettings {
                    retention_ms: self.dice.pick(&[0, HOUR, 24 * HOUR]),
                    records_max: self.dice.pick(&[0, 1_000]),
                    bytes_max: self.dice.pick(&[0, 1 << 20]),
                }),
            }),
            _ => B::RecordDecisions(RecordDecisions {
                request_id: self.request_id(),
                decisions: (0..self.dice.between(1, 3)).map(|_| self.refusal()).collect(),
                dropped: self.dice.pick(&[0, 0, 9]),
            }),
        };
        let gate = self.gate(model).map(Box::new);
        Command { principal, gate, body: Some(body) }
    }

    fn refusal(&mut self) -> Decision {
        Decision {
            principal: self.dice.pick(&["user/eve", "jwt/bot"]).to_owned(),
            action: self.dice.pick(&["Enqueue", "ListTasks"]).to_owned(),
            resource: "queue/mail".to_owned(),
            namespace: self.dice.pick(&["default", "blue", "nowhere"]).to_owned(),
            reason: self.dice.pick(&["PERMISSION_DENIED", "POLICY_DENIED"]).to_owned(),
            step: self.dice.pick(&["role", "policy"]).to_owned(),
            gate: self.dice.chance(50).then(|| self.gate_facts()),
            count: self.dice.below(4) as u32,
            ..Decision::default()
        }
    }
}
