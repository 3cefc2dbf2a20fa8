//! Reads of roles, bindings, tokens and revocations.

use std::sync::Arc;

use tarn_proto::v1::{
    Binding, ListBindingsRequest, ListBindingsResponse, ListRevocationsRequest, ListRevocationsResponse, ListRolesRequest,
    ListRolesResponse, ListTokensRequest, ListTokensResponse, Revocation, Role,
};

use crate::domain::access::token;
use crate::error::Refusal;
use crate::{Access, Machine};

impl Machine {
    /// Who may do what, as it is now. Holding it does not hold up anything: what changes is copied.
    pub fn access(&self) -> Arc<Access> {
        self.ix.access.clone()
    }

    /// The roles that are not built in, by name.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn list_roles(&self, _request: &ListRolesRequest) -> Result<ListRolesResponse, Refusal> {
        let roles = self.ix.access.roles.iter().map(|(name, rules)| Role { name: name.to_string(), rules: rules.clone(), built_in: false });
        Ok(ListRolesResponse { roles: roles.collect(), revision: self.applied_index() })
    }

    /// Bindings, by principal.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn list_bindings(&self, request: &ListBindingsRequest) -> Result<ListBindingsResponse, Refusal> {
        let wanted = |principal: &str| request.principal.is_empty() || request.principal == principal;
        let of_wanted = self.ix.access.bindings.iter().filter(|(principal, _)| wanted(principal));
        let bindings = of_wanted.flat_map(|(principal, of_one)| {
            of_one.iter().map(|(role, namespace)| Binding {
                principal: principal.to_string(),
                role: role.to_string(),
                namespace: namespace.to_string(),
            })
        });
        Ok(ListBindingsResponse { bindings: bindings.collect(), revision: self.applied_index() })
    }

    /// Tokens that have not expired, oldest first. Their secrets are nowhere.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn list_tokens(&self, request: &ListTokensRequest) -> Result<ListTokensResponse, Refusal> {
        let wanted = |principal: &str| request.principal.is_empty() || request.principal == principal;
        let of_wanted = self.ix.access.tokens.iter().filter(|(_, row)| wanted(&row.principal));
        Ok(ListTokensResponse { tokens: of_wanted.map(|(id, row)| token(*id, row)).collect(), revision: self.applied_index() })
    }

    /// Revoked certificates that have not expired, by serial number.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn list_revocations(&self, _request: &ListRevocationsRequest) -> Result<ListRevocationsResponse, Refusal> {
        let revocations = self.ix.access.revoked.iter().map(|(serial, row)| Revocation {
            serial: serial.to_string(),
            reason: row.reason.clone(),
            revoked_by: row.revoked_by.clone(),
            revoked_at_ms: row.revoked_at_ms,
            expires_at_ms: row.expires_at_ms,
        });
        Ok(ListRevocationsResponse { revocations: revocations.collect(), revision: self.applied_index() })
    }
}
