//! Commands about who may do what. Few roles, few principals, few secrets, so that they meet.

use bytes::Bytes;
use tarn_machine::ids::Id;
use tarn_proto::v1::*;

use super::{Generator, HOUR, MINUTE, SECOND};
use crate::reference::Model;

const ROLES: [&str; 3] = ["mailer", "pilot", "baker"];
const BUILT_IN: [&str; 3] = ["admin", "viewer", "worker"];
const PRINCIPALS: [&str; 4] = ["user/ada", "user/bob", "service/mail", "jwt/robot"];
const WHERE: [&str; 4] = ["*", "default", "blue", "b*"];
const SERIALS: [&str; 4] = ["0a", "0b", "ff00", "1"];

impl Generator {
    pub(super) fn put_role(&mut self) -> PutRoleRequest {
        PutRoleRequest { request_id: self.request_id(), name: self.role(), rules: self.rules() }
    }

    pub(super) fn delete_role(&mut self) -> DeleteRoleRequest {
        DeleteRoleRequest { request_id: self.request_id(), name: self.role() }
    }

    pub(super) fn put_binding(&mut self) -> PutBindingRequest {
        PutBindingRequest { request_id: self.request_id(), binding: Some(self.binding()) }
    }

    /// Mostly of one that is there.
    pub(super) fn delete_binding(&mut self, model: &Model) -> DeleteBindingRequest {
        let known = model.view_bindings("");
        let binding = match self.dice.one(&known).cloned() {
            Some(binding) if self.dice.chance(75) => binding,
            _ => self.binding(),
        };
        DeleteBindingRequest { request_id: self.request_id(), binding: Some(binding) }
    }

    pub(super) fn put_token(&mut self) -> PutTokenRequest {
        PutTokenRequest {
            request_id: self.request_id(),
            secret_hash: Bytes::from(vec![self.dice.below(6) as u8; 32]),
            name: self.dice.pick(&["", "ci"]).to_owned(),
            principal: self.dice.pick(&PRINCIPALS).to_owned(),
            scopes: self.rules(),
            ttl_ms: self.dice.pick(&[0, MINUTE, 2 * MINUTE, HOUR]),
        }
    }

    pub(super) fn revoke_token(&mut self, model: &Model) -> RevokeTokenRequest {
        let ids: Vec<u64> = model.tokens.keys().copied().collect();
        let id = match self.dice.one(&ids) {
            Some(id) if self.dice.chance(85) => *id,
            _ => self.dice.below(1 << 30),
        };
        RevokeTokenRequest { request_id: self.request_id(), token_id: Id(id).to_string() }
    }

    /// Of certificates that live for ever, that end soon, and that have ended.
    pub(super) fn revoke_certificate(&mut self, model: &Model) -> RevokeCertificateRequest {
        RevokeCertificateRequest {
            request_id: self.request_id(),
            serial: self.dice.pick(&SERIALS).to_owned(),
            reason: self.dice.pick(&["", "lost"]).to_owned(),
            expires_at_ms: match self.dice.below(8) {
                0 => 0,
                1 => 1,
                _ => super::nameable(model.now + self.dice.pick(&[1, SECOND, MINUTE, HOUR])),
            },
        }
    }

    fn role(&mut self) -> String {
        match self.dice.chance(92) {
            true => self.dice.pick(&ROLES).to_owned(),
            false => self.dice.pick(&BUILT_IN).to_owned(),
        }
    }

    fn binding(&mut self) -> Binding {
        let role = match self.dice.chance(70) {
            true => self.dice.pick(&ROLES),
            false => self.dice.pick(&BUILT_IN),
        };
        Binding { principal: self.dice.pick(&PRINCIPALS).to_owned(), role: role.to_owned(), namespace: self.dice.pick(&WHERE).to_owned() }
    }

    fn rules(&mut self) -> Vec<Rule> {
        let count = self.dice.below(3);
        let rule = |_| Rule {
            verbs: vec![self.dice.pick(&["submit", "read", "*"]).to_owned()],
            resources: vec![self.dice.pick(&["*", "queue/mail", "queue/m*", "task/*"]).to_owned()],
        };
        (0..count).map(rule).collect()
    }
}
