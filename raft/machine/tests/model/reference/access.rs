//! Roles, bindings, tokens, revoked certificates.

use tarn_machine::ids::Id;
use tarn_machine::limits;
use tarn_proto::v1::{
    self, Binding, DeleteBindingRequest, DeleteBindingResponse, DeleteRoleRequest, DeleteRoleResponse, Event, EventKind, PutBindingRequest,
    PutBindingResponse, PutRoleRequest, PutRoleResponse, PutTokenRequest, PutTokenResponse, Revocation, RevokeCertificateRequest,
    RevokeCertificateResponse, RevokeTokenRequest, RevokeTokenResponse, Role,
};

use super::{Flaw, Model, number, or_default};

/// The roles that nobody can make, change or delete.
const BUILT_IN: [&str; 6] = ["admin", "operator", "developer", "worker", "viewer", "auditor"];

/// A token as it is listed, and what the list does not say.
pub struct ApiToken {
    pub shown: v1::Token,
    pub secret_hash: Vec<u8>,
}

impl Model {
    pub(super) fn put_role(&mut self, request: PutRoleRequest) -> Result<PutRoleResponse, &'static str> {
        if BUILT_IN.contains(&request.name.as_str()) {
            return Err("ROLE_BUILT_IN");
        }
        self.tell_access(format!("role/{}", request.name), "put");
        self.roles.insert(request.name, request.rules);
        Ok(PutRoleResponse {})
    }

    pub(super) fn delete_role(&mut self, request: DeleteRoleRequest) -> Result<DeleteRoleResponse, &'static str> {
        if BUILT_IN.contains(&request.name.as_str()) {
            return Err("ROLE_BUILT_IN");
        }
        if !self.roles.contains_key(&request.name) {
            return Err("ROLE_NOT_FOUND");
        }
        let held = self.bindings.iter().any(|binding| binding.1 == request.name);
        if held && !self.has(Flaw::HeldRolesGo) {
            return Err("ROLE_IN_USE");
        }
        self.roles.remove(&request.name);
        self.tell_access(format!("role/{}", request.name), "deleted");
        Ok(DeleteRoleResponse {})
    }

    pub(super) fn put_binding(&mut self, request: PutBindingRequest) -> Result<PutBindingResponse, &'static str> {
        let (principal, role, namespace) = parts(request.binding);
        if !BUILT_IN.contains(&role.as_str()) && !self.roles.contains_key(&role) {
            return Err("ROLE_NOT_FOUND");
        }
        if self.bindings.insert((principal.clone(), role.clone(), namespace.clone())) {
            self.tell_access(format!("binding/{principal}"), &format!("{role} in {namespace}"));
        }
        Ok(PutBindingResponse {})
    }

    pub(super) fn delete_binding(&mut self, request: DeleteBindingRequest) -> Result<DeleteBindingResponse, &'static str> {
        let (principal, role, namespace) = parts(request.binding);
        let gone = match self.has(Flaw::NamespaceOfBindingIgnored) {
            false => self.bindings.remove(&(principal.clone(), role.clone(), namespace.clone())),
            true => {
                let before = self.bindings.len();
                self.bindings.retain(|binding| (&binding.0, &binding.1) != (&principal, &role));
                self.bindings.len() < before
            }
        };
        if !gone {
            return Err("BINDING_NOT_FOUND");
        }
        self.tell_access(format!("binding/{principal}"), &format!("no {role} in {namespace}"));
        Ok(DeleteBindingResponse {})
    }

    pub(super) fn put_token(&mut self, maker: &str, request: PutTokenRequest) -> Result<PutTokenResponse, &'static str> {
        let known = |token: &ApiToken| token.secret_hash == request.secret_hash;
        if self.tokens.values().any(known) {
            return Err("TOKEN_EXISTS");
        }
        let id = self.next_id();
        let shown = v1::Token {
            token_id: Id(id).to_string(),
            name: request.name,
            principal: request.principal,
            scopes: request.scopes,
            created_at_ms: self.now,
            expires_at_ms: self.now + or_default(request.ttl_ms, limits::TOKEN_MS_DEFAULT),
            created_by: maker.to_owned(),
        };
        let token = ApiToken { shown: shown.clone(), secret_hash: request.secret_hash.to_vec() };
        self.tokens.insert(id, token);
        self.tell_access(format!("token/{}", Id(id)), "made");
        Ok(PutTokenResponse { token: Some(shown) })
    }

    pub(super) fn revoke_token(&mut self, request: RevokeTokenRequest) -> Result<RevokeTokenResponse, &'static str> {
        let id = number(&request.token_id);
        self.tokens.remove(&id).ok_or("TOKEN_NOT_FOUND")?;
        self.tell_access(format!("token/{}", Id(id)), "revoked");
        Ok(RevokeTokenResponse {})
    }

    pub(super) fn token_over(&mut self, id: u64) {
        self.tokens.remove(&id);
        self.tell_access(format!("token/{}", Id(id)), "expired");
    }

    pub(super) fn revoke_certificate(&mut self, by: &str, request: RevokeCertificateRequest) -> RevokeCertificateResponse {
        if self.revocations.contains_key(&request.serial) {
            return RevokeCertificateResponse {};
        }
        let longest = self.now + limits::REVOCATION_MS_DEFAULT;
        let until = or_default(request.expires_at_ms, longest);
        let revocation = Revocation {
            serial: request.serial.clone(),
            reason: request.reason,
            revoked_by: by.to_owned(),
            revoked_at_ms: self.now,
            expires_at_ms: until.max(self.now).min(longest),
        };
        self.tell_access(format!("certificate/{}", request.serial), "revoked");
        self.revocations.insert(request.serial, revocation);
        RevokeCertificateResponse {}
    }

    pub(super) fn tell_access(&mut self, subject: String, detail: &str) {
        let event = Event { subject, detail: detail.to_owned(), ..Event::default() };
        self.tell(EventKind::AccessChanged, event);
    }

    // --- As clients read it -------------------------------------------------------------------------------------------------------------

    pub fn view_roles(&self) -> Vec<Role> {
        let view = |(name, rules): (&String, &Vec<v1::Rule>)| Role { name: name.clone(), rules: rules.clone(), built_in: false };
        self.roles.iter().map(view).collect()
    }

    /// Bindings of one principal, or everybody's if it is empty.
    pub fn view_bindings(&self, of: &str) -> Vec<Binding> {
        let fitting = self.bindings.iter().filter(|binding| of.is_empty() || binding.0 == of);
        let view = |(principal, role, namespace): &(String, String, String)| Binding {
            principal: principal.clone(),
            role: role.clone(),
            namespace: namespace.clone(),
        };
        fitting.map(view).collect()
    }

    /// Tokens of one principal, or everybody's if it is empty.
    pub fn view_tokens(&self, of: &str) -> Vec<v1::Token> {
        let shown = self.tokens.values().map(|token| token.shown.clone());
        shown.filter(|token| of.is_empty() || token.principal == of).collect()
    }

    pub fn view_revocations(&self) -> Vec<Revocation> {
        self.revocations.values().cloned().collect()
    }
}

fn parts(binding: Option<Binding>) -> (String, String, String) {
    let binding = binding.expect("a binding that was not spoilt is there");
    (binding.principal, binding.role, binding.namespace)
}
