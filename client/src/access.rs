//! Who may do what: roles, bindings, tokens and revocations.

use crate::client::{Client, rpc};
use crate::error::Error;
use crate::proto::{self, access_service_client::AccessServiceClient};

impl Client {
    /// Who the cluster takes this client for, by which proof, and with which roles.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn who_am_i(&self) -> Result<proto::WhoAmIResponse, Error> {
        self.read(proto::WhoAmIRequest {}, rpc!(AccessServiceClient.who_am_i)).await
    }

    /// Whether this client, or the principal that the request names, may do something, and why.
    ///
    /// # Errors
    /// [`Error::Refused`] for somebody else's rights, without the right to read bindings; see [`Error`].
    pub async fn can_i(&self, request: proto::CanIRequest) -> Result<proto::CanIResponse, Error> {
        self.read(request, rpc!(AccessServiceClient.can_i)).await
    }

    /// Makes a role, or replaces its rules.
    ///
    /// # Errors
    /// [`Error::Refused`] for a built-in role, a malformed rule, or rules beyond what this client may do; see [`Error`].
    pub async fn put_role(&self, name: impl Into<String>, rules: Vec<proto::Rule>) -> Result<(), Error> {
        let request = proto::PutRoleRequest { request_id: String::new(), name: name.into(), rules };
        self.command(request, rpc!(AccessServiceClient.put_role)).await.map(drop)
    }

    /// Deletes a role that nobody has.
    ///
    /// # Errors
    /// [`Error::Refused`] where somebody has it, or where there is none; see [`Error`].
    pub async fn delete_role(&self, name: impl Into<String>) -> Result<(), Error> {
        let request = proto::DeleteRoleRequest { request_id: String::new(), name: name.into() };
        self.command(request, rpc!(AccessServiceClient.delete_role)).await.map(drop)
    }

    /// Lists all roles, the built-in ones first.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_roles(&self) -> Result<Vec<proto::Role>, Error> {
        let answer = self.read(proto::ListRolesRequest {}, rpc!(AccessServiceClient.list_roles));
        Ok(answer.await?.roles)
    }

    /// Gives a role to a principal in the namespaces of a pattern. Giving it again changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such role, or where it allows more than this client may do; see [`Error`].
    pub async fn put_binding(&self, binding: proto::Binding) -> Result<(), Error> {
        let request = proto::PutBindingRequest { request_id: String::new(), binding: Some(binding) };
        self.command(request, rpc!(AccessServiceClient.put_binding)).await.map(drop)
    }

    /// Takes a role from a principal. What it is doing on open connections is refused from then on, too.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such binding; see [`Error`].
    pub async fn delete_binding(&self, binding: proto::Binding) -> Result<(), Error> {
        let request = proto::DeleteBindingRequest { request_id: String::new(), binding: Some(binding) };
        self.command(request, rpc!(AccessServiceClient.delete_binding)).await.map(drop)
    }

    /// Lists the bindings of a principal, or everybody's where it is empty.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_bindings(&self, principal: impl Into<String>) -> Result<Vec<proto::Binding>, Error> {
        let request = proto::ListBindingsRequest { principal: principal.into() };
        Ok(self.read(request, rpc!(AccessServiceClient.list_bindings)).await?.bindings)
    }

    /// Makes a token known, by the hash of its secret, which [`ApiToken`](crate::ApiToken) keeps.
    ///
    /// # Errors
    /// [`Error::Refused`] where the token would allow more than this client may do; see [`Error`].
    pub async fn put_token(&self, request: proto::PutTokenRequest) -> Result<proto::Token, Error> {
        let answer = self.command(request, rpc!(AccessServiceClient.put_token)).await?;
        answer.token.ok_or_else(|| Error::Transport("the node answered without the token".into()))
    }

    /// Ends a token on every node.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is no such token; see [`Error`].
    pub async fn revoke_token(&self, token_id: impl Into<String>) -> Result<(), Error> {
        let request = proto::RevokeTokenRequest { request_id: String::new(), token_id: token_id.into() };
        self.command(request, rpc!(AccessServiceClient.revoke_token)).await.map(drop)
    }

    /// Lists the tokens of a principal, or everybody's where it is empty. Secrets are nowhere.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_tokens(&self, principal: impl Into<String>) -> Result<Vec<proto::Token>, Error> {
        let request = proto::ListTokensRequest { principal: principal.into() };
        Ok(self.read(request, rpc!(AccessServiceClient.list_tokens)).await?.tokens)
    }

    /// Ends a certificate on every node, by its serial number.
    ///
    /// # Errors
    /// [`Error::Refused`] for what is no serial number; see [`Error`].
    pub async fn revoke_certificate(&self, request: proto::RevokeCertificateRequest) -> Result<(), Error> {
        self.command(request, rpc!(AccessServiceClient.revoke_certificate)).await.map(drop)
    }

    /// Lists the revoked certificates that have not expired.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_revocations(&self) -> Result<Vec<proto::Revocation>, Error> {
        let answer = self.read(proto::ListRevocationsRequest {}, rpc!(AccessServiceClient.list_revocations));
        Ok(answer.await?.revocations)
    }
}
